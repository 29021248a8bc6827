"""The command line: verbs and `--set`, nothing more. Each verb calls the function of its name; torch loads inside."""

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segdistill.mistakes import Mistake, nearest

if TYPE_CHECKING:  # they bring torch, and --help would wait for it
    from segdistill.types import Findings, Table

HELP = """Distil a large driving-scene segmentation network into one small enough for a car, and know that it worked.

Every verb takes --plugin PACKAGE (a recipe may then name that package's parts, as package.module:Class) and --debug
(where a failure comes from)."""

WIDE = 140
"""Characters of a table in a log."""

# Help in plain text: rich's frames would cost more than everything else that --help waits for.
app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=HELP
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, check and analyse data.")
app.add_typer(data_app, name="data")

OVERRIDE = "Override a key of the recipe; null takes a loss, a model or a probe out."
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=OVERRIDE)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Which = Annotated[Literal["best", "last"], typer.Option(help="The best weights by validation mIoU, or the last.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the runs and the report go.")] = Path("runs/demo"),
    settings: Sets = None,
) -> None:
    """Teach, distil, measure and report on procedural street scenes; minutes on two cores."""
    from segdistill.demonstration import demo as work

    table, page = work(out, settings or ())
    _print(table)
    print(f"Open the report: {page}")


@app.command()
def train(
    recipe: Path,
    run: Annotated[Path | None, typer.Option(help="The run directory; default runs/<folder>-<recipe>.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint; begin where there is none.")
    ] = False,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="With --resume: a key that may differ from the run; may be repeated."),
    ] = None,
    settings: Sets = None,
) -> None:
    """Train what a recipe describes."""
    from segdistill.training import train as work

    try:
        done = work(recipe, run, settings=settings or (), resume=resume, allow_change=allow_change or ())
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "stopped at once; --resume goes on from the last checkpoint, if there is one"
        print(f"\nsegdistill: {said}", file=sys.stderr)
        raise typer.Exit(130) from interrupt
    if os.environ.get("RANK", "0") == "0":
        measured = done.last_findings("measure")
        for name, value in measured.numbers.items() if measured else ():
            if name.endswith("/mean_iou"):
                print(f"{name.removesuffix('/mean_iou')}: mIoU {value:.1%}")
        print(f"The run: {done.path}")


@app.command()
def plan(recipe: Path, settings: Sets = None, as_json: Json = False) -> None:
    """A dry run: stages, shapes, adapters, first losses, gradient norms, memory and time."""
    from segdistill.planning import plan as work
    from segdistill.types import Table

    found = work(recipe, tuple(settings or ()))
    if as_json:
        tables = {name: _rows(table) for name, table in found._asdict().items() if isinstance(table, Table)}
        said = {"connections": found.connections, "warnings": found.warnings, "numbers": found.numbers}
        print(json.dumps({**tables, **said, "device": found.device}))
        return
    for table in (found.models, found.stages, found.classes, found.edges):
        _print(table)
    for line in found.connections:
        print(line)
    for sentence in found.warnings:
        print(f"warning: {sentence}")
    print(found.device)
    n = found.numbers
    print(
        f"{n['train_images']:.0f} training and {n['val_images']:.0f} validation images; {n['epochs']:.1f} epochs; "
        f"{n['seconds_per_step']:.2f} s a step, {n['seconds_per_epoch']:.0f} s an epoch, "
        f"{n['seconds_in_all'] / 60:.0f} min in all; peak memory {n['peak_memory_bytes'] / 2**30:.2f} GiB; "
        f"{n['threads']:.0f} threads"
    )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run, or RUN@step-N; with --recipe a folder of predicted class maps.")],
    split: Annotated[str | None, typer.Option(help="Default: the split the run was validated on.")] = None,
    model: Annotated[str | None, typer.Option(help="Which network, where the run trained several.")] = None,
    which: Which = "best",
    recipe: Annotated[Path | None, typer.Option(help="Whose data the class maps in a folder are of.")] = None,
    ids: Annotated[Literal["train", "raw"], typer.Option(help="What the values of such class maps are.")] = "train",
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """mIoU, the table per class and calibration of a trained network, or of class maps in files, on a split."""
    from segdistill.evaluation import evaluate as work
    from segdistill.evaluation import evaluate_files

    if recipe is not None:
        if model is not None:
            raise Mistake(f"evaluate: --model {model} names a network of a run; with --recipe, {run} holds class maps")
        found = evaluate_files(run, recipe, split, ids=ids, settings=settings or ())
    else:
        found = work(run, split, model=model, which=which, settings=settings or ())
    if as_json:
        print(json.dumps(_findings(found)))
        return
    for table in found.tables.values():
        _print(table)
    for name, value in found.numbers.items():
        print(f"{name}: {value:.6g}")


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="A run, or RUN@step-N for a checkpoint that is kept.")],
    split: Annotated[str | None, typer.Option(help="Default: the split the run was validated on.")] = None,
    model: Annotated[str | None, typer.Option(help="Which network, where the run trained several.")] = None,
    which: Which = "best",
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Find the temperature that makes a network's probabilities right; models.X.temperature: calibrated uses it."""
    from segdistill.calibrating import calibrate as work

    found, file = work(run, split, model=model, which=which, settings=settings or ())
    if as_json:
        print(json.dumps({**_findings(found), "file": str(file)}))
        return
    _print(found.tables["calibration"])
    told = f"{found.numbers['pixels']:,.0f} labelled pixels of '{json.loads(file.read_text())['split']}'"
    print(f"Over {told}, which was looked at {found.numbers['looks']:.0f} times. Written: {file}")


@app.command()
def replay(
    run: Path,
    step: Annotated[int | None, typer.Option(help="Which skipped update; default: the first that was kept.")] = None,
    as_json: Json = False,
) -> None:
    """Look again at an update that was skipped because its loss or gradient was not finite."""
    from segdistill.replaying import replay as work

    found = work(run, step)
    if as_json:
        print(json.dumps(_findings(found)))
        return
    for table in found.tables.values():
        _print(table)
    print(f"{found.numbers['not_finite']:.0f} of {len(found.tables['losses'].rows)} losses are not finite")


@app.command()
def report(
    runs: list[Path],
    out: Annotated[Path | None, typer.Option(help="Default: report.html in the last run named.")] = None,
) -> None:
    """One HTML file about one run, or about a teacher, a baseline and a student."""
    from segdistill.reporting import report as work
    from segdistill.run import Run

    page = work([Run(path).require() for path in runs], out or runs[-1] / "report.html")
    print(f"Open the report: {page}")


@app.command()
def analyse(
    kind: Annotated[str, typer.Argument(help="Which analysis, such as class_results; see `list analyses`.")],
    runs: list[Path],
    out: Annotated[Path | None, typer.Option(help="The folder written; default runs/analysis-<kind>.")] = None,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Look across finished runs: tables, a page, and what they say. --set takes data.… and analysis.…"""
    from segdistill.analysing import analyse as work

    with _interruptible():
        found, page = work(kind, runs, out, settings or ())
    _print_analysis(found, page, as_json)


@app.command()
def compare(
    study: Annotated[Path, typer.Argument(help="A YAML file of recipes/studies, or one like them.")],
    out: Annotated[Path | None, typer.Option(help="The folder written; default runs/<study>.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs beside each other.")] = 1,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Train every run of a study that is not finished, then say what each arm is worth.

    --set seeds=[0,1] for the study, --set set.steps=100 for every run of it, --set arms.ARM.set.steps=100 for one.
    """
    from segdistill.comparing import compare as work

    with _interruptible():
        table, sentences, folder, pages = work(study, out, settings=settings or (), at_once=jobs)
    if as_json:
        said = {"arms": _rows(table), "said": list(sentences)}
        print(json.dumps({**said, "folder": str(folder), "pages": [str(page) for page in pages]}))
        return
    _print(_with_intervals(table))
    print("\n".join(sentences))
    for page in (folder / "comparison.csv", *pages):
        print(f"Open: {page}")


@app.command(name="list")
def list_parts(
    shelf: Annotated[str | None, typer.Argument(help="datasets, models, losses, metrics, probes or analyses.")] = None,
    part: Annotated[str | None, typer.Argument(help="One of its parts: everything there is to say about it.")] = None,
    as_json: Json = False,
) -> None:
    """The parts on the shelves, and what a recipe may say to each."""
    from inspect import getdoc

    from segdistill import parts
    from segdistill.types import Table

    if shelf is not None and shelf not in parts.SHELVES:
        raise Mistake(f"list: there is no shelf '{shelf}'; there are {', '.join(parts.SHELVES)}"
                      f"{nearest(shelf, parts.SHELVES)}")  # fmt: skip
    if shelf is not None and part is not None:
        found = parts.find(shelf, part, "list")
        print(f"{part}({', '.join(str(p) for p in parts.signature(found).values())})\n\n{getdoc(found) or ''}")
        return
    rows: list[tuple[str, str, str, str]] = []
    for name in [shelf] if shelf else parts.SHELVES:
        for kind in parts.names(name):
            each = parts.find(name, kind, kind)
            said = ", ".join(str(p) for p in parts.signature(each).values())
            rows.append((name, kind, said, (getdoc(each) or "").split("\n")[0]))
    table = Table(["shelf", "part", "what a recipe may say", "what it is"], rows)
    if as_json:
        print(json.dumps(_rows(table)))
    else:
        _print(table)


@data_app.command("make")
def data_make(
    out: Annotated[Path, typer.Option(help="The new root folder.")],
    layout: Annotated[Literal["cityscapes", "bdd100k"], typer.Option(help="Whose folder layout.")] = "cityscapes",
    count: Annotated[int, typer.Option(min=1, help="Training images; validation gets a quarter.")] = 200,
    size: Annotated[tuple[int, int], typer.Option(help="Height and width.")] = (512, 1024),
    label_type: Annotated[Literal["labelIds", "labelTrainIds", "both"], typer.Option()] = "labelIds",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Write procedural street scenes in the exact folder layout of a real data set."""
    from segdistill.make_data import make

    for split, written in make(out, layout, count, size, label_type, seed).items():
        print(f"{split}: {written} images with labels in {out}")


@data_app.command("frames")
def data_frames(
    video: Annotated[Path, typer.Argument(help="A video, or a folder with videos below it.")],
    out: Annotated[Path, typer.Option(help="The folder that data.frames.path is to name.")],
    every: Annotated[int, typer.Option(min=1, help="One picture of so many frames.")] = 30,
) -> None:
    """Take pictures out of videos, for training on images without labels."""
    from segdistill.extracting import extract

    done = extract(video, out, every)
    print(f"{sum(done.values())} pictures of {len(done)} video{'s' * (len(done) > 1)} in {out}")


@data_app.command("check")
def data_check(
    recipe: Path,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write which samples data.quarantine is to leave out.")
    ] = None,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """Read every image and label of a recipe's splits; a sentence for each finding, exit code 1 if one is an error."""
    from segdistill.checking import check

    found = check(recipe, settings or (), quarantine)
    errors, warnings = found.of("error"), found.of("warning")
    if as_json:
        said = {"bad": [each._asdict() for each in errors], "warnings": [each._asdict() for each in warnings]}
        print(json.dumps({**said, "classes": _rows(found.classes)}))
    else:
        if found.classes.rows:  # there are none where no split could be opened
            _print(found.classes)
        for sentence in found.sentences():
            print(sentence)
        print(f"{len(errors)} errors, {len(warnings)} warnings")
    if errors:
        raise typer.Exit(1)


@data_app.command("analyse")
def data_analyse(
    recipe: Path,
    out: Annotated[
        Path | None, typer.Option(help="The folder written; default runs/analysis-<folder>-<recipe>.")
    ] = None,
    settings: Sets = None,
    as_json: Json = False,
) -> None:
    """What the splits show, how they differ, and what to set because of it. --set also takes analysis.…"""
    from segdistill.analysing import analyse_data as work

    with _interruptible():
        found, page = work(recipe, out, settings or ())
    _print_analysis(found, page, as_json)


@contextmanager
def _interruptible() -> Generator[None]:
    """Ctrl-C ends with 130; what was counted is kept."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print("\nsegdistill: stopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from interrupt


def _print_analysis(found: "Findings", page: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**_findings(found), "page": str(page)}))
        return
    for name in ("splits", "advice"):
        if name in found.tables:
            _print(found.tables[name])
    print(f"Open the page: {page}")


def _print(table: "Table") -> None:
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid(box=None, header_style="bold", pad_edge=False)
    numeric = [any(isinstance(row[i], int | float) for row in table.rows) for i in range(len(table.columns))]
    for column, right in zip(table.columns, numeric, strict=True):
        grid.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(_cell(value) for value in row))
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE).print(grid, markup=False)


def _with_intervals(table: "Table") -> "Table":
    """With `± x` and `from`, `to` in the cells of what they are of, and without columns of which nothing is known."""
    from segdistill.types import Table

    rows: list[dict[str, object]] = []
    for row in _rows(table):
        for name in [name for name in row if name.startswith("±")]:
            of = name.removeprefix("±").strip() or "mIoU %"
            half = row.pop(name)
            row[of] = f"{row[of]:.2f} ± {half:.2f}" if half is not None else row[of]
        low, high = row.pop("from %"), row.pop("to %")
        if low is not None:
            row["recovered %"] = f"{row['recovered %']:.0f} ({low:.0f} … {high:.0f})"
        rows.append(row)
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return Table(known, [[_cell(row[name]) for name in known] for row in rows])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _rows(table: "Table") -> list[dict[str, object]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _findings(found: "Findings") -> dict[str, object]:
    return {"numbers": dict(found.numbers), "tables": {name: _rows(table) for name, table in found.tables.items()}}


def _allow_plugins(words: Sequence[str]) -> list[str]:
    """The words without `--plugin PACKAGE`, wherever it stands; those packages may be named by recipes from now on."""
    rest: list[str] = []
    given = iter(words)
    for word in given:
        name, equals, value = word.partition("=")
        if name != "--plugin":
            rest.append(word)
            continue
        from segdistill.parts import allow_plugin  # brings pydantic

        package = value if equals else next(given, "")
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # a package beside the recipe, as `python -m` finds it
        allow_plugin(package)
    return rest


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit codes: 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted with the checkpoint written."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        words = _allow_plugins([word for word in words if word != "--debug"])
        app(words, prog_name="segdistill")
    except Mistake as mistake:
        if debug:
            raise
        print(f"segdistill: {mistake}", file=sys.stderr)
        sys.exit(2)
    except (OSError, RuntimeError, FloatingPointError, ValueError) as error:
        if debug:
            raise
        print(f"segdistill: {error} (--debug shows where)", file=sys.stderr)
        sys.exit(1)

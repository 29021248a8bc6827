"""One HTML page about one or several runs: what distillation brought, what it cost, and how it looks.

The page is a single file without scripts or links to anything; it opens from a disk, a mail or a wiki.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segdistill.mistakes import Mistake
from segdistill.reporting.cast import Group, Reading, cast, read
from segdistill.reporting.notes import notes
from segdistill.reporting.pictures import gallery
from segdistill.reporting.plots import Curve, plot
from segdistill.reporting.tables import per_class, provenance, summary
from segdistill.reporting.verdict import compare, judge
from segdistill.run import Run, write_text

SERIES = 6
"""Experiments that the curves, classes and pictures show; the summary shows all."""


def report(runs: Sequence[Run], out: Path) -> Path:
    """Write the page about these runs and give its path back.

        report([Run("runs/teacher"), Run("runs/baseline"), Run("runs/distilled")], Path("report.html"))

    Roles are read off the recipes: a run whose weights another one's frozen model took is its teacher, and a run on
    labels alone with the student's architecture is the baseline.
    """
    if not runs:
        raise Mistake("report: expected at least one run directory")
    readings = [read(run) for run in runs]
    groups = cast(readings)
    found = compare(groups)
    leading = [group for group in (found.teacher, found.baseline, found.distilled) if group is not None]
    shown = [group for group in groups if group in leading]
    shown = sorted((shown + [group for group in groups if group not in leading])[:SERIES], key=groups.index)
    pictures = gallery(shown)
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("template.html.jinja").render(
        names=[run.name for run in runs],
        verdict=judge(groups, found),
        notes=notes(readings, groups, found),
        rows=summary(groups),
        shown=shown,
        series=[groups.index(group) for group in shown],
        compared=found.baseline is not None and found.distilled is not None,
        classes=per_class(shown, found, dict(pictures.legend)),
        validation=_validation(groups),
        losses=_plots(readings, groups, _edges(readings)),
        health=_plots(readings, groups, {name: name.replace("_", " ") for name in HEALTH}),
        gallery=pictures,
        runs=[(reading.run.name, provenance(reading), reading.run.recipe_file.read_text()) for reading in readings],
    )
    write_text(out, page)
    return out


HEALTH = ("loss", "learning_rate", "gradient_norm", "seconds_per_step")
"""What one looks at when training went wrong."""


def _edges(readings: Sequence[Reading]) -> dict[str, str]:
    names = {name: None for reading in readings for line in reading.log for name in line if name.startswith("loss/")}
    return {name: name.removeprefix("loss/") for name in names}


def _validation(groups: Sequence[Group]) -> Markup | None:
    """mIoU of every contender against steps, in one picture."""
    curves = [
        Curve(series, [(step, 100 * value) for step, value in member.history()])
        for series, group in enumerate(groups)
        for member in group.members
        if member.history()
    ]
    return Markup(plot("validation", curves, "validation mIoU, %", (5.0, 2.8))) if curves else None


def _plots(readings: Sequence[Reading], groups: Sequence[Group], titles: dict[str, str]) -> list[tuple[str, Markup]]:
    """(title, picture) of each logged number that any run has, all runs in one picture."""
    plots: list[tuple[str, Markup]] = []
    for name, title in titles.items():
        curves = [
            Curve(_series(reading, groups), points)
            for reading in readings
            if (points := [(int(line["step"]), line[name]) for line in reading.log if name in line])
        ]
        if curves:
            plots.append((title, Markup(plot(name.replace("/", "-"), curves, title, (4.2, 2.7)))))
    return plots


def _series(reading: Reading, groups: Sequence[Group]) -> int:
    """The place of the run's own experiment, a student's rather than an online teacher's."""
    own = [index for index, group in enumerate(groups) if any(member.reading is reading for member in group.members)]
    trained = [i for i in own if groups[i].first.model in groups[i].first.reading.recipe.trained()]
    return trained[-1]

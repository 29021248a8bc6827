"""The main job on procedural street scenes: a teacher, a baseline, a distilled student, one report."""

from collections.abc import Sequence
from pathlib import Path

from segdistill.assemble import load, open_split
from segdistill.mistakes import Mistake
from segdistill.probes.speed import Speed
from segdistill.recipe import read
from segdistill.reporting import report
from segdistill.run import Run
from segdistill.training import train
from segdistill.types import Findings, Table

ARMS = ("teacher", "baseline", "distilled")


def demo(out: Path, settings: Sequence[str] = ()) -> tuple[Table, Path]:
    """Train the three recipes of recipes/streets, then compare; an arm that is finished is not trained again.

    Returns:
        A table with one row per arm, and the path of the report.
    """
    runs: list[Run] = []
    for arm in ARMS:
        teacher = [f"models.teacher.weights={out / 'teacher'}"] if arm == "distilled" else []
        recipe = read(recipes() / "streets" / f"{arm}.yaml", [*teacher, *settings])
        runs.append(train(recipe, out / arm, resume=True))
    _time(runs)
    rows = [_row(run) for run in runs]
    page = report(runs, out / "report.html")
    return Table(["run", "parameters", "GMAC", "mIoU %", "best mIoU %", "ms per image"], rows), page


def _time(runs: Sequence[Run]) -> None:
    """Time the networks again, in turns in one process; what each run measured by itself does not compare."""
    recipe = read(runs[0].recipe_file)
    dataset = open_split(recipe.data, recipe.data.validate_on)
    found = Speed(60, input_size=recipe.data.size)({run.name: load(run.path) for run in runs}, dataset)
    for run in runs:
        name, steps = read(run.recipe_file).trained()[0], read(run.recipe_file).steps
        mine = {
            k.replace(f"{run.name}/", f"{name}/"): v for k, v in found.numbers.items() if k.startswith(f"{run.name}/")
        }
        run.write_findings("speed", steps, Findings({**mine, "threads": found.numbers["threads"]}))


def recipes() -> Path:
    """The recipes: beside the package where it is installed, at the root of a checkout."""
    here = Path(__file__).parent
    installed = here / "recipes"
    return installed if installed.is_dir() else here.parent.parent / "recipes"


def _row(run: Run) -> list[str | int | float | None]:
    """A run's one trained network."""
    name = read(run.recipe_file).trained()[0]
    measured, speed = run.last_findings("measure"), run.last_findings("speed")
    if measured is None or speed is None:
        raise Mistake("probes: the demo's table needs measure and speed")
    best = max(found.numbers[f"{name}/mean_iou"] for _, found in run.findings("measure"))
    cost = speed.numbers
    return [
        run.name,
        int(cost[f"{name}/parameters"]),
        cost[f"{name}/gmac"],
        100 * measured.numbers[f"{name}/mean_iou"],
        100 * best,
        cost[f"{name}/milliseconds"],
    ]

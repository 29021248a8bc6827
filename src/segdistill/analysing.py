"""`analyse` and `data analyse`: an analysis looks at data or runs; its findings, tables and a page are written.

The folder written: `<analysis>.html`, `findings/<analysis>/00000000/` (as a run's findings), `tables/*.csv`, and
`partial/`, from which a second call goes on where the first was stopped.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segdistill import parts
from segdistill.analyses import Analysis, Subject
from segdistill.assemble import open_split
from segdistill.datasets import Dataset
from segdistill.frames import sources
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec, Recipe, override, parse, read
from segdistill.reporting import alignment, bias_variance, class_results, dark_knowledge, dataset
from segdistill.run import Run, provenance, write_text
from segdistill.types import Findings, Table

Facts = Sequence[tuple[str, str]]
PAGES: Mapping[str, Callable[[Findings, str, Facts], str]] = {
    "dataset": dataset.page,
    "class_results": class_results.page,
    "dark_knowledge": dark_knowledge.page,
    "bias_variance": bias_variance.page,
    "alignment": alignment.page,
}


class Analysed(NamedTuple):
    findings: Findings
    page: Path


def analyse_data(recipe: Path | str, out: Path | None = None, settings: Sequence[str] = ()) -> Analysed:
    """The analysis `dataset` of the splits that a recipe trains and validates on.

    Args:
        out: the folder written; default `runs/analysis-<folder>-<recipe>`.
        settings: `data.x=…` for the recipe, `analysis.x=…` for the analysis.
    """
    own, rest = _parted(settings)
    file = Path(recipe)
    folder = out or Path("runs") / f"analysis-{file.resolve().parent.name}-{file.stem}"
    return _analyse("dataset", own, read(recipe, rest), (), folder, str(recipe))


def analyse(kind: str, runs: Sequence[Path], out: Path | None = None, settings: Sequence[str] = ()) -> Analysed:
    """An analysis by name, of finished runs and the data that the first of them saw.

    Args:
        out: the folder written; default `runs/analysis-<kind>`.
        settings: `data.x=…` for the first run's recipe, `analysis.x=…` for the analysis.
    """
    if not runs:
        raise Mistake("analyse: expected at least one run directory")
    own, rest = _parted(settings)
    for setting in rest:
        if not setting.startswith("data."):
            raise Mistake(f"--set {setting}: expected data.… (of the first run's recipe) or analysis.…")
    directories = [Run(path).require() for path in runs]
    content = read(directories[0].recipe_file).model_dump(mode="json", exclude_none=True)
    seen = parse(override(content, rest))
    title = ", ".join(run.name for run in directories)
    return _analyse(kind, own, seen, directories, out or Path("runs") / f"analysis-{kind}", title)


def _parted(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What is set for the analysis, and what for the recipe."""
    own = [setting.removeprefix("analysis.") for setting in settings if setting.startswith("analysis.")]
    return override({}, own), [setting for setting in settings if not setting.startswith("analysis.")]


def _analyse(
    kind: str, settings: Mapping[str, Any], recipe: Recipe, runs: Sequence[Run], folder: Path, title: str
) -> Analysed:
    data = recipe.data
    part = parts.find("analyses", kind, "analyse")
    analysis: Analysis = parts.build(part, parts.settings(part, settings, "analysis"))
    splits = {split: open_split(data, split) for split in dict.fromkeys((data.train, data.validate_on))}
    if data.train != data.validate_on:
        splits[data.train] = _trained(splits[data.train], data, recipe.seed)
    found = analysis.analyse(Subject(data, splits, runs, folder / "partial"))
    Run(folder).write_findings(kind, 0, found)
    for name, table in found.tables.items():
        write_text(folder / "tables" / f"{name.replace('/', '_')}.csv", _csv(table))
    info = provenance(seed=0)
    facts = [(name, str(info[name])) for name in ("command", "date", "commit")]
    facts += [(f"{split} data", samples.fingerprint()) for split, samples in splits.items()]
    page = folder / f"{kind}.html"
    if kind not in PAGES:  # an analysis of somebody's own: its findings and tables are written
        return Analysed(found, folder / "tables")
    write_text(page, PAGES[kind](found, title, facts))
    return Analysed(found, page)


def _trained(split: Dataset, data: DataSpec, seed: int) -> Dataset:
    """The training split as a run sees it; a folder of frames has no labels to look at, and may be gone."""
    elsewhere = data.frames is not None and data.frames.path is not None
    return sources(split, data.model_copy(update={"frames": None}) if elsewhere else data, seed).train


def _csv(table: Table) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return written.getvalue()

"""Measure a finished run on a split, or class maps that any program wrote as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from segdistill.assemble import built, difference, open_split, run_and_step, weights
from segdistill.checkpoint import Weights
from segdistill.datasets import Dataset
from segdistill.metrics import Metric
from segdistill.metrics.confusion import Confusion
from segdistill.mistakes import Mistake
from segdistill.prediction_files import Ids, find, pairs
from segdistill.probes.measure import Measure, scores
from segdistill.recipe import DataSpec, Recipe, override, parse, read, take
from segdistill.run import Run
from segdistill.types import Findings, Table

METRICS = ("confusion", "calibration")


def evaluate(
    run: Path | str,
    split: str | None = None,
    *,
    model: str | None = None,
    which: str = "best",
    settings: Sequence[str] = (),
) -> Findings:
    """mIoU, the table per class and the calibration of a run's network, on its own data or on what `settings` make of
    its recipe.

    Args:
        run: a run directory, or RUN@step-N for the network as it was in a checkpoint that is kept.
        split: a split of the dataset; default: the one the run was validated on.
        model: which network; needed where the run trained several.
        which: best (by validation mIoU) or last.
        settings: `data.x=…` overrides of the run's recipe, such as `data.root=…`.
    """
    subject = opened(run, split, model, which, settings)
    spec, found = subject.data, subject.weights
    probe = Measure(METRICS, classes=found.card.classes, input_size=spec.size, bad_share=spec.bad_share)
    network = built(found)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    measured = probe({found.model: network}, subject.dataset)
    reliability = {f"{name}/reliability": _reliability(totals["calibration"]) for name, totals in probe.totals.items()}
    return measured._replace(tables={**measured.tables, **reliability})


class Subject(NamedTuple):
    """A network of a run, and a split to look at."""

    weights: Weights
    data: DataSpec
    split: str
    dataset: Dataset


def opened(run: Path | str, split: str | None, model: str | None, which: str, settings: Sequence[str]) -> Subject:
    """What `evaluate` and others of its arguments look at.

    Raises:
        Mistake: no such run, network or split, a setting of something else than the data, or data of other classes.
    """
    for setting in settings:
        if not setting.startswith("data."):
            raise Mistake(f"--set {setting}: only data.… can be changed when a finished run is evaluated")
    directory = Run(run_and_step(run)[0]).require()
    content = override(read(directory.recipe_file).model_dump(mode="json", exclude_none=True), settings)
    spec = parse(content).data
    split = split or spec.validate_on
    dataset = open_split(spec, split)
    found = weights(run, model, which)
    if found.card.classes.names != dataset.classes.names:
        said = difference(found.card.classes.names, dataset.classes)
        raise Mistake(f"{found.file} knows other classes than the data: {said}")
    return Subject(found, spec, split, dataset)


def _reliability(metric: Metric) -> Table:
    """How often the network is right where it is so sure."""
    result = metric.result()
    columns = [values for key in ("share", "confidence", "accuracy") if isinstance(values := result[key], list)]
    bins = len(columns[0])
    rows = [
        [b / bins, (b + 1) / bins, *(None if value != value else value for value in values)]
        for b, values in enumerate(zip(*columns, strict=True))
    ]
    return Table(["surer than", "up to", "share", "confidence", "accuracy"], rows)


def evaluate_files(
    predictions: Path | str,
    recipe: Recipe | Path | str,
    split: str | None = None,
    *,
    ids: Ids = "train",
    settings: Sequence[str] = (),
) -> Findings:
    """mIoU and the table per class of predicted class maps, by the labels of a recipe's data.

    `predictions/unanswered` is the share of the labelled pixels that were called nothing; they count as misses.

    Args:
        predictions: a folder with an image file for every sample; its name begins with the sample's.
        split: default: the one that the recipe validates on.
        ids: what the values are: train ids (255: nothing), or raw ids as in the data's label files.
        settings: overrides of the recipe, such as `data.root=…`.
    """
    spec = take(recipe, settings).data
    dataset = open_split(spec, split or spec.validate_on)
    total = Confusion(num_classes=len(dataset.classes.names))
    total.add_pairs(pairs(dataset, find(Path(predictions), dataset), ids))
    found = scores({"predictions": total}, dataset.classes)
    labelled = total.counts.sum() + total.unanswered.sum()
    unanswered = (total.unanswered.sum() / labelled).item()
    return found._replace(numbers={**found.numbers, "predictions/unanswered": unanswered})

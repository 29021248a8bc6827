"""Measure a finished run on a split, or class maps that any program wrote as files."""

from collections.abc import Sequence
from pathlib import Path

import torch

from segdistill.assemble import difference, load, open_split, weights_file
from segdistill.checkpoint import read_card
from segdistill.metrics.confusion import Confusion
from segdistill.mistakes import Mistake
from segdistill.prediction_files import Ids, find, pairs
from segdistill.probes.measure import Measure, scores
from segdistill.recipe import Recipe, override, parse, read, take
from segdistill.run import Run
from segdistill.types import Findings


def evaluate(
    run: Path | str,
    split: str | None = None,
    *,
    model: str | None = None,
    which: str = "best",
    settings: Sequence[str] = (),
) -> Findings:
    """mIoU and the table per class of a run's network, on its own data or on what `settings` make of its recipe.

    Args:
        run: a run directory.
        split: a split of the dataset; default: the one the run was validated on.
        model: which network; needed where the run trained several.
        which: best (by validation mIoU) or last.
        settings: `data.x=…` overrides of the run's recipe, such as `data.root=…`.
    """
    for setting in settings:
        if not setting.startswith("data."):
            raise Mistake(f"--set {setting}: only data.… can be changed when a finished run is evaluated")
    directory = Run(run).require()
    content = override(read(directory.recipe_file).model_dump(mode="json", exclude_none=True), settings)
    spec = parse(content).data
    dataset = open_split(spec, split or spec.validate_on)
    file = weights_file(run, model, which)
    classes = read_card(file).classes
    if classes.names != dataset.classes.names:
        found = difference(classes.names, dataset.classes)
        raise Mistake(f"{file} knows other classes than the data: {found}")
    probe = Measure(classes=classes, input_size=spec.size, bad_share=spec.bad_share)
    network = load(file)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    return probe({file.stem: network}, dataset)


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

"""Measure a finished run on a split."""

from collections.abc import Sequence
from pathlib import Path

import torch

from segdistill.assemble import difference, load, open_split, weights_file
from segdistill.checkpoint import read_card
from segdistill.mistakes import Mistake
from segdistill.probes.measure import Measure
from segdistill.recipe import override, parse, read
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

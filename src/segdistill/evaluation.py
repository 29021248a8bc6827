"""Measure a finished run, or any weights file, on a split."""

from collections.abc import Sequence
from pathlib import Path

from segdistill.assemble import load, open_split, weights_file
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
        settings: `a.b=c` overrides of the run's recipe, such as `data.root=…`.
    """
    directory = Run(run).require()
    content = override(read(directory.recipe_file).model_dump(mode="json", exclude_none=True), settings)
    spec = parse(content).data
    dataset = open_split(spec, split or spec.validate_on)
    file = weights_file(run, model, which)
    classes = read_card(file).classes
    if classes.names != dataset.classes.names:
        raise Mistake(f"{file}: knows {len(classes.names)} classes, the data have other {len(dataset.classes.names)}")
    probe = Measure(classes=classes, input_size=spec.size)
    return probe({file.stem: load(file)}, dataset)

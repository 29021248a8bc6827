"""`data make` and `data check`: procedural scenes in real folder layouts, and every sample of a recipe read once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from segdistill.assemble import open_split
from segdistill.data import watched
from segdistill.datasets import Dataset
from segdistill.datasets.streets import Streets
from segdistill.layouts import write
from segdistill.mistakes import Mistake
from segdistill.recipe import read
from segdistill.types import Table


def make(
    out: Path,
    layout: Literal["cityscapes", "bdd100k"],
    count: int,
    size: tuple[int, int],
    label_type: Literal["labelIds", "labelTrainIds", "both"] = "labelIds",
    seed: int = 0,
) -> dict[str, int]:
    """Write `count` training and a quarter as many validation scenes; split -> images written.

    Raises:
        Mistake: the folder holds something already.
    """
    if out.exists() and any(out.iterdir()):
        raise Mistake(f"{out}: not empty; name a new folder")
    written: dict[str, int] = {}
    for split, number in (("train", count), ("val", max(1, count // 4))):
        scenes = Streets(count, size, val_count=max(1, count // 4), seed=seed, split=split)
        samples = (scenes[index] for index in watched(range(number), f"drawing {split}", number))
        written[split] = write(layout, samples, out, split, label_type)
    return written


def check(recipe: Path | str, settings: Sequence[str] = ()) -> tuple[list[str], Table]:
    """One sentence per sample that cannot be used, and labelled pixels per class and split."""
    spec = read(recipe, settings).data
    bad: list[str] = []
    counts: dict[str, np.ndarray] = {}
    classes: tuple[str, ...] = ()
    for split in dict.fromkeys((spec.train, spec.validate_on)):
        dataset = open_split(spec, split)
        classes = dataset.classes.names
        counts[split] = np.zeros(256, np.int64)
        for index in watched(range(len(dataset)), f"reading {split}", len(dataset)):
            counts[split] += _count(dataset, index, bad)
    rows = [[name, *(int(count[i]) for count in counts.values())] for i, name in enumerate(classes)]
    rows.append(["void", *(int(count[255]) for count in counts.values())])
    return bad, Table(["class", *(f"{split} pixels" for split in counts)], rows)


def _count(dataset: Dataset, index: int, bad: list[str]) -> np.ndarray:
    try:
        return np.bincount(dataset[index].labels.numpy().ravel(), minlength=256)
    except Mistake as mistake:
        bad.append(str(mistake))
        return np.zeros(256, np.int64)

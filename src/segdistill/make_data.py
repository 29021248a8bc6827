"""`data make`: procedural scenes in real folder layouts."""

from pathlib import Path
from typing import Literal

from segdistill.data import watched
from segdistill.datasets.streets import Streets
from segdistill.layouts import write
from segdistill.mistakes import Mistake


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

"""Samples as files: the layouts of Cityscapes and BDD100K, for data of our own making and for other tools to read."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from segdistill.labels import CITYSCAPES, CITYSCAPES_19, to_label_ids
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE, Sample

LabelType = Literal["labelIds", "labelTrainIds", "both"]

_COLOURS = np.zeros((256, 4), np.uint8)
_COLOURS[: len(CITYSCAPES) - 1] = [(*label.colour, 255) for label in CITYSCAPES if label.id >= 0]


def write(
    layout: Literal["cityscapes", "bdd100k"],
    samples: Iterable[Sample],
    root: Path,
    split: str,
    label_type: LabelType = "both",
) -> int:
    """Write samples with Cityscapes train ids as one split of a data set below `root`; how many there were.

    `label_type` says which label files Cityscapes gets; BDD100K's masks always hold train ids. Its images are JPEG, so
    their pixels change a little; labels never do.
    """
    count = 0
    taken: set[str] = set()
    for count, sample in enumerate(samples, 1):
        labels = sample.labels.numpy()
        beyond = labels[(labels >= len(CITYSCAPES_19.names)) & (labels != IGNORE)]
        if beyond.size:
            raise Mistake(f"{sample.key}: label {beyond[0]} has no place in {layout}; accepted are 0…18 and 255")
        name = _cityscapes_name(sample.key, split, count - 1) if layout == "cityscapes" else _file_name(sample.key)
        if name in taken:
            raise Mistake(f"{sample.key}: two samples would be written to '{name}'; expected keys that differ")
        taken.add(name)
        image = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
        if layout == "cityscapes":
            _write_cityscapes(image, labels, root, split, name, label_type)
        else:
            _write_bdd100k(image, labels, root, split, name)
    return count


def _write_cityscapes(
    image: Image.Image, labels: np.ndarray, root: Path, split: str, name: str, label_type: LabelType
) -> None:
    """All that the official download has but polygons; things are instance-less regions (`id`, not `id * 1000 + n`)."""
    place = Path(split, name.split("_")[0])
    ids = to_label_ids(labels)
    _save(image, root / "leftImg8bit" / place / f"{name}_leftImg8bit.png")
    files: dict[str, Callable[[], np.ndarray]] = {
        "labelIds": lambda: ids,
        "labelTrainIds": lambda: labels,
        "color": lambda: _COLOURS[ids],
        "instanceIds": lambda: ids.astype(np.uint16),
    }
    for kind, content in files.items():
        if kind in ("color", "instanceIds") or label_type in (kind, "both"):
            _save(Image.fromarray(content()), root / "gtFine" / place / f"{name}_gtFine_{kind}.png")


def _write_bdd100k(image: Image.Image, labels: np.ndarray, root: Path, split: str, name: str) -> None:
    folder = root / "labels" / "sem_seg"
    _save(image, root / "images" / "10k" / split / f"{name}.jpg")
    mask = Image.fromarray(labels)
    _save(mask, folder / "masks" / split / f"{name}.png")
    mask.putpalette(CITYSCAPES_19.palette().tobytes())  # the same numbers, now with colours
    _save(mask, folder / "colormaps" / split / f"{name}.png")


def _cityscapes_name(key: str, split: str, index: int) -> str:
    """`<city>_<6 digits>_<6 digits>`: the key where it is one, else the split as the city."""
    if re.fullmatch(r"[A-Za-z-]+_\d{6}_\d{6}", key):
        return key
    return f"{split.replace('_', '-')}_000000_{index:06d}"


def _file_name(key: str) -> str:
    return re.sub(r"[^\w.-]", "_", key)


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jpg":
        image.save(file, quality=95)
    else:
        image.save(file, compress_level=1)  # twice the size of level 6 at most, several times as fast

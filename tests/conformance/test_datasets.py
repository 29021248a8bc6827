"""Every dataset on the shelf keeps the protocol of segdistill.testing, on a few street scenes in its own layout."""

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill import layouts, parts
from segdistill.datasets.streets import Streets
from segdistill.labels import to_label_ids
from segdistill.testing import DatasetSuite
from segdistill.types import Sample

COUNT = 3


def scenes(split: str) -> list[Sample]:
    streets = Streets(COUNT, (48, 64), val_count=COUNT, split=split)
    return [streets[i] for i in range(COUNT)]


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def in_layout(layout: Any) -> Callable[[Path], dict[str, Any]]:
    def write(root: Path) -> dict[str, Any]:
        for split in ("train", "val"):
            layouts.write(layout, scenes(split), root, split)
        return {"root": root}

    return write


def pairs(root: Path, images: str, labels: str, coding: Callable[[np.ndarray], np.ndarray]) -> None:
    """Image and label files by patterns with {split} and {i}."""
    for k, split in enumerate(("train", "val")):
        for i, sample in enumerate(scenes(split)):
            number = k * COUNT + i
            save(root / images.format(split=split, i=number), sample.image.permute(1, 2, 0).numpy())
            save(root / labels.format(split=split, i=number), coding(sample.labels.numpy()))


def camvid(root: Path) -> dict[str, Any]:
    pairs(root, "{split}/images/0001TP_{i}.png", "{split}/labels/0001TP_{i}.png", lambda x: x % 11)
    return {"root": root}


def kitti(root: Path) -> dict[str, Any]:
    pairs(root, "training/image_2/{i:06}_10.png", "training/semantic/{i:06}_10.png", to_label_ids)
    return {"root": root, "val_every": 2}


def folder(root: Path) -> dict[str, Any]:
    pairs(root, "{split}/images/{i}.png", "{split}/masks/{i}.png", lambda x: x)
    classes = [{"name": f"class {k}", "colour": (k, 0, 0)} for k in range(19)]
    return {"images": root / "{split}" / "images", "labels": root / "{split}" / "masks", "classes": classes}


def archive(root: Path) -> dict[str, Any]:
    for split in ("train", "val"):
        for shard in range(2):
            with tarfile.open(root / f"{split}-{shard}.tar", "w") as tar:
                for i, sample in enumerate(scenes(split)[shard::2]):
                    for ending, pixels in (
                        ("png", sample.image.permute(1, 2, 0).numpy()),
                        ("labels.png", sample.labels.numpy()),
                    ):
                        save(root / "one.png", pixels)
                        tar.add(root / "one.png", f"ulm/{shard}_{i}.{ending}")
    classes = [{"name": f"class {k}", "colour": (k, 0, 0)} for k in range(19)]
    return {"root": root, "classes": classes}


MADE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cityscapes": in_layout("cityscapes"),
    "bdd100k": in_layout("bdd100k"),
    "camvid": camvid,
    "kitti": kitti,
    "folder": folder,
    "archive": archive,
    "streets": lambda root: {"count": COUNT, "scene_size": (48, 64), "val_count": COUNT, "unlabelled": 1},
}
"""Files in the layout of a dataset below a folder -> what a recipe says about them."""


class TestDatasets(DatasetSuite):
    kinds = parts.names("datasets")

    @classmethod
    def write(cls, kind: str, folder: Path) -> Mapping[str, Any]:
        needs_files = any(p.default is p.empty for p in parts.signature(cls.part(kind)).values())
        if kind not in MADE and needs_files:
            pytest.skip(f"nothing here writes files for {kind}")
        return MADE[kind](folder) if kind in MADE else {}

"""What every dataset on the shelf has to keep, on a few street scenes written in each one's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import layouts, parts
from segdistill.data import Cached
from segdistill.datasets import Dataset
from segdistill.datasets.streets import Streets
from segdistill.labels import to_label_ids
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec
from segdistill.types import IGNORE, Sample

KINDS = parts.names("datasets")
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


MADE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cityscapes": in_layout("cityscapes"),
    "bdd100k": in_layout("bdd100k"),
    "camvid": camvid,
    "kitti": kitti,
    "folder": folder,
    "streets": lambda root: {"count": COUNT, "scene_size": (48, 64), "val_count": COUNT, "unlabelled": 1},
}
"""Files in the layout of a dataset below a folder -> what a recipe says about them."""


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """Split -> dataset."""
    part = parts.find("datasets", request.param, "data.kind")
    needs_files = any(p.default is p.empty for p in parts.signature(part).values())
    if request.param not in MADE and needs_files:
        pytest.skip(f"nothing here writes files for {request.param}")
    said = MADE[request.param](tmp_path_factory.mktemp(request.param)) if request.param in MADE else {}
    checked = parts.settings(part, said, "data")
    return lambda split: parts.build(part, checked, split=split)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_do_not_hide_what_the_recipe_says_about_feeding(kind: str) -> None:
    part = parts.find("datasets", kind, "data.kind")
    assert not set(parts.signature(part)) & set(DataSpec.model_fields)
    assert parts.facts(part) == ["split"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_samples(opened: Callable[[str], Dataset], split: str) -> None:
    dataset = opened(split)
    accepted = {*range(len(dataset.classes.names)), IGNORE}
    seen: set[int] = set()
    assert len(dataset) >= 1
    for i in range(len(dataset)):
        sample = dataset[i]
        assert isinstance(sample, Sample) and isinstance(sample.key, str)
        assert sample.image.dtype == sample.labels.dtype == torch.uint8
        assert sample.image.shape == (3, *sample.labels.shape)
        assert sample.image.is_contiguous() and sample.labels.is_contiguous()
        assert sample.image.float().std() > 1
        values = set(sample.labels.unique().tolist())
        assert values <= accepted
        seen |= values
    assert len(seen) > 3


def test_keys_are_unique_and_splits_apart(opened: Callable[[str], Dataset]) -> None:
    keys = [[dataset[i].key for i in range(len(dataset))] for dataset in (opened("train"), opened("val"))]
    assert all(len(set(each)) == len(each) for each in keys)
    train, val = (opened(split)[0] for split in ("train", "val"))
    assert not torch.equal(train.image, val.image)


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_alone_are_those_of_the_sample(opened: Callable[[str], Dataset], split: str) -> None:
    dataset = opened(split)
    for i in range(len(dataset)):
        labels = dataset.labels(i)
        assert isinstance(labels, np.ndarray) and labels.dtype == np.uint8
        assert np.array_equal(labels, dataset[i].labels.numpy())


def test_the_same_every_time(opened: Callable[[str], Dataset]) -> None:
    first, again = opened("train"), opened("train")
    assert len(first) == len(again)
    assert first.fingerprint() == again.fingerprint() == first.fingerprint()
    assert first.classes == again.classes
    for i in reversed(range(len(first))):
        one, other = first[i], again[i]
        assert torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels) and one.key == other.key


def test_a_sample_is_the_readers_own(opened: Callable[[str], Dataset]) -> None:
    """Writing into it changes no later one."""
    dataset = opened("val")
    sample = dataset[0]
    kept = sample.image.clone(), sample.labels.clone()
    sample.image.zero_()
    sample.labels.zero_()
    assert torch.equal(dataset[0].image, kept[0]) and torch.equal(dataset[0].labels, kept[1])


def test_fingerprints_are_hexadecimal_and_tell_splits_apart(opened: Callable[[str], Dataset]) -> None:
    prints = [opened(split).fingerprint() for split in ("train", "val")]
    assert prints[0] != prints[1]
    for each in prints:
        assert len(each) == 16 and int(each, 16) >= 0


def test_the_class_table_fits(opened: Callable[[str], Dataset]) -> None:
    classes = opened("train").classes
    assert len(classes.names) == len(classes.colours) == len(set(classes.names))
    assert opened("val").classes == classes


def test_cached_is_the_same(opened: Callable[[str], Dataset]) -> None:
    dataset = opened("train")
    cached = Cached(dataset)
    assert len(cached) == len(dataset)
    assert (cached.fingerprint(), cached.classes) == (dataset.fingerprint(), dataset.classes)
    for i in range(len(dataset)):
        one, other = dataset[i], cached[i]
        assert torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels) and one.key == other.key
        assert np.array_equal(cached.labels(i), dataset.labels(i))


def test_an_unknown_split_names_those_there_are(opened: Callable[[str], Dataset]) -> None:
    with pytest.raises(Mistake) as caught:
        opened("trian")
    said = str(caught.value)
    assert "'trian'" in said and "train" in said.replace("trian", "") and "val" in said
    assert said.endswith("(did you mean 'train'?)")
    assert "\n" not in said


def test_an_index_past_the_end(opened: Callable[[str], Dataset]) -> None:
    """Else a loop `for sample in dataset` would never end."""
    dataset = opened("val")
    with pytest.raises(IndexError):
        dataset[len(dataset)]

"""The KITTI reader: Cityscapes ids, a split by number, and no resizing of labels that do not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.datasets.kitti import Kitti
from segdistill.mistakes import Mistake


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(12):
        save(tmp_path / "training" / "image_2" / f"{number:06d}_10.png", np.full((2, 3, 3), number, np.uint8))
        save(tmp_path / "training" / "semantic" / f"{number:06d}_10.png", np.full((2, 3), 7 + number % 2, np.uint8))
    save(tmp_path / "training" / "image_2" / "000000_11.png", np.zeros((2, 3, 3), np.uint8))  # the next frame
    save(tmp_path / "testing" / "image_2" / "000000_10.png", np.zeros((2, 3, 3), np.uint8))
    return tmp_path


def keys(dataset: Kitti) -> list[str]:
    return [dataset[i].key for i in range(len(dataset))]


def test_every_fifth_number_is_val(root: Path) -> None:
    val, train = Kitti(root, split="val"), Kitti(root, split="train")
    assert keys(val) == ["000004_10", "000009_10"]
    assert sorted(keys(train) + keys(val)) == [f"{number:06d}_10" for number in range(12)]
    assert [set(val.labels(i).flatten().tolist()) for i in (0, 1)] == [{0}, {1}]
    assert val[1].image.flatten().tolist() == [9] * 18
    assert keys(Kitti(root, 3, split="val")) == ["000002_10", "000005_10", "000008_10", "000011_10"]


def test_an_image_stays_in_its_split_when_others_go(root: Path) -> None:
    for number in range(4):
        (root / "training" / "image_2" / f"{number:06d}_10.png").unlink()
        (root / "training" / "semantic" / f"{number:06d}_10.png").unlink()
    assert keys(Kitti(root, split="val")) == ["000004_10", "000009_10"]


def test_test_images_are_all_void(root: Path) -> None:
    assert Kitti(root, split="test").labels(0).tolist() == [[255] * 3] * 2


def test_labels_of_another_size_are_refused_not_resized(root: Path) -> None:
    save(root / "training" / "semantic" / "000004_10.png", np.full((3, 4), 7, np.uint8))
    dataset = Kitti(root, split="val")
    for read in (dataset.__getitem__, dataset.labels):
        with pytest.raises(Mistake, match=r"semantic/000004_10.png: 4x3 labels for a 3x2 image \(000004_10.png\)"):
            read(0)


def test_mistakes(root: Path) -> None:
    with pytest.raises(Mistake, match=r"there is no split 'training'; there is train, val and test .*'train'"):
        Kitti(root, split="training")
    with pytest.raises(Mistake, match="val_every: 1 leaves nothing to train on"):
        Kitti(root, 1, split="train")
    with pytest.raises(Mistake, match="split 'val' is empty, none of its 12 images falls into it"):
        Kitti(root, 100, split="val")
    save(root / "training" / "image_2" / "extra_10.png", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(Mistake, match=r"extra_10.png: the name starts with no number"):
        Kitti(root, split="train")

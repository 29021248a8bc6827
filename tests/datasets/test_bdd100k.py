"""The BDD100K reader: both layouts, both meanings of root."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.datasets.bdd100k import Bdd100k
from segdistill.mistakes import Mistake

LABELS = np.array([[0, 18, 255], [13, 10, 2]], np.uint8)
ID = "0004a4c0-d4dff0ad"


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def new_pack(root: Path, split: str = "val", labels: np.ndarray | None = LABELS) -> Path:
    save(root / "images" / "10k" / split / f"{ID}.jpg", np.full((2, 3, 3), 128, np.uint8))
    if labels is not None:
        save(root / "labels" / "sem_seg" / "masks" / split / f"{ID}.png", labels)
    return root


def old_pack(root: Path) -> Path:
    save(root / "seg" / "images" / "val" / f"{ID}.jpg", np.full((2, 3, 3), 128, np.uint8))
    save(root / "seg" / "labels" / "val" / f"{ID}_train_id.png", LABELS)
    save(root / "seg" / "color_labels" / "val" / f"{ID}_train_color.png", np.zeros((2, 3, 3), np.uint8))
    return root


@pytest.mark.parametrize("pack", [new_pack, old_pack])
@pytest.mark.parametrize("inside", ["", "bdd100k"])
def test_both_packs_in_both_places(tmp_path: Path, pack: Callable[[Path], Path], inside: str) -> None:
    pack(tmp_path / inside)
    dataset = Bdd100k(tmp_path, split="val")
    assert len(dataset) == 1
    assert dataset[0].key == ID
    assert dataset[0].labels.tolist() == LABELS.tolist()
    assert dataset[0].image.tolist() == [[[128] * 3] * 2] * 3


def test_test_images_are_all_void(tmp_path: Path) -> None:
    new_pack(tmp_path, "test", None)
    assert Bdd100k(tmp_path, split="test").labels(0).tolist() == [[255] * 3] * 2


def test_a_folder_without_the_layout(tmp_path: Path) -> None:
    with pytest.raises(Mistake) as caught:
        Bdd100k(tmp_path, split="val")
    assert str(caught.value) == (
        f"{tmp_path}: no BDD100K layout here;"
        " expected images/10k/<split>/<id>.jpg and labels/sem_seg/masks/<split>/<id>.png,"
        " or seg/images/<split>/<id>.jpg and seg/labels/<split>/<id>_train_id.png"
    )


@pytest.mark.parametrize(
    ("split", "labels", "said"),
    [
        ("vall", LABELS, "there is no split 'vall'; there is val (did you mean 'val'?)"),
        ("val", None, "masks/val: there is no such folder; expected images/10k/"),
    ],
)
def test_a_wrong_folder(tmp_path: Path, split: str, labels: np.ndarray | None, said: str) -> None:
    new_pack(tmp_path, "val", labels)
    with pytest.raises(Mistake) as caught:
        Bdd100k(tmp_path, split=split)
    assert said in str(caught.value)


def test_a_label_outside_the_table(tmp_path: Path) -> None:
    new_pack(tmp_path, "val", np.full((2, 3), 19, np.uint8))
    with pytest.raises(Mistake, match=f"{ID}.png: label values 19 in 6 pixels; accepted are 0…18 and 255"):
        Bdd100k(tmp_path, split="val")[0]


def test_an_image_without_label(tmp_path: Path) -> None:
    new_pack(tmp_path)
    save(tmp_path / "images" / "10k" / "val" / "0004a4c0-d4dff0ae.jpg", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(Mistake, match=r"1 of 2 images have no label: 0004a4c0-d4dff0ae.jpg; expected images/10k"):
        Bdd100k(tmp_path, split="val")

"""The Cityscapes reader, and what every reader of files has in common, on tiny files in the exact layout."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill import parts
from segdistill.datasets import paired
from segdistill.datasets.cityscapes import Cityscapes
from segdistill.labels import CITYSCAPES, CITYSCAPES_19, to_label_ids
from segdistill.mistakes import Mistake

ID = "frankfurt_000000_000294"
OTHER = "frankfurt_000000_000576"
IDS = np.arange(36, dtype=np.uint8).reshape(4, 9) % 34  # every id
TRAIN_IDS = [
    *[255, 255, 255, 255, 255, 255, 255, 0, 1],  # of IDS, row by row
    *[255, 255, 2, 3, 4, 255, 255, 255, 5],
    *[255, 6, 7, 8, 9, 10, 11, 12, 13],
    *[14, 15, 255, 255, 16, 17, 18, 255, 255],
]


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def mode_of(file: Path) -> str:
    with Image.open(file) as image:
        return image.mode


def image_file(root: Path, key: str = ID, split: str = "val") -> Path:
    return root / "leftImg8bit" / split / "frankfurt" / f"{key}_leftImg8bit.png"


def label_file(root: Path, kind: str = "labelIds", key: str = ID, split: str = "val") -> Path:
    return root / "gtFine" / split / "frankfurt" / f"{key}_gtFine_{kind}.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cityscapes"
    image = np.zeros((4, 9, 3), np.uint8)
    image[0, 0], image[3, 8] = (10, 20, 30), (40, 50, 60)
    save(image_file(folder), image)
    save(label_file(folder), IDS)
    return folder


def mistake(root: Path, split: str = "val", *, index: int | None = None) -> str:
    """What is said when the split is opened, or when the sample is read."""
    if index is not None:
        dataset = Cityscapes(root, split=split)
        with pytest.raises(Mistake) as caught:
            dataset[index]
    else:
        with pytest.raises(Mistake) as caught:
            Cityscapes(root, split=split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_label_ids_become_train_ids(root: Path) -> None:
    dataset = Cityscapes(root, split="val")
    sample = dataset[0]
    assert len(dataset) == 1
    assert sample.key == ID
    assert sample.labels.flatten().tolist() == TRAIN_IDS
    assert sample.image[:, 0, 0].tolist() == [10, 20, 30]
    assert sample.image[:, 3, 8].tolist() == [40, 50, 60]
    assert sample.image.is_contiguous()
    assert dataset.labels(0).tolist() == sample.labels.tolist()


def test_the_table_agrees_with_itself() -> None:
    assert [name for name in CITYSCAPES_19.names if name in ("road", "sky", "car", "bicycle")] == [
        CITYSCAPES_19.names[k] for k in (0, 10, 13, 18)
    ]
    assert CITYSCAPES_19.colours[13] == (0, 0, 142)
    evaluated = {label.train_id: label.id for label in CITYSCAPES if label.train_id != 255}
    assert to_label_ids(np.arange(19)).tolist() == [evaluated[k] for k in range(19)]
    assert to_label_ids(np.array([0, 1, 2, 18, 255], np.uint8)).tolist() == [7, 8, 11, 33, 0]


def test_the_table_is_the_official_one() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    ours = [(x.name, x.id, x.train_id, x.colour) for x in CITYSCAPES]
    theirs = [(x.name, x.id, x.trainId if x.trainId >= 0 else 255, x.color) for x in official]
    assert ours == theirs


def test_label_train_ids_are_taken_as_they_are(root: Path) -> None:
    label_file(root).unlink()
    train_ids = np.array(TRAIN_IDS, np.uint8).reshape(4, 9)
    save(label_file(root, "labelTrainIds"), train_ids)
    assert Cityscapes(root, split="val").labels(0).tolist() == train_ids.tolist()


def test_label_ids_win_over_label_train_ids(root: Path) -> None:
    save(label_file(root, "labelTrainIds"), np.full((4, 9), 3, np.uint8))
    assert Cityscapes(root, split="val").labels(0).flatten().tolist() == TRAIN_IDS


def test_coarse_labels_are_a_label_type(root: Path) -> None:
    save(root / "gtCoarse" / "val" / "frankfurt" / f"{ID}_gtCoarse_labelIds.png", np.full((4, 9), 26, np.uint8))
    assert set(Cityscapes(root, "gtCoarse", split="val").labels(0).flatten().tolist()) == {13}
    with pytest.raises(Mistake, match=r"data.label_type.*'gtFine' or 'gtCoarse'"):
        parts.settings(Cityscapes, {"root": str(root), "label_type": "gtMedium"}, "data")


def test_test_images_are_all_void(root: Path) -> None:
    save(image_file(root, split="test"), np.full((2, 3), 7, np.uint8))
    sample = Cityscapes(root, split="test")[0]
    assert sample.labels.tolist() == [[255] * 3] * 2
    assert sample.image.tolist() == [[[7] * 3] * 2] * 3  # grey became RGB
    save(label_file(root, split="test"), np.array([[0, 1, 2], [3, 3, 1]], np.uint8))  # as shipped
    assert Cityscapes(root, split="test")[0].labels.tolist() == [[255] * 3] * 2
    save(label_file(root, split="test"), np.full((2, 3), 26, np.uint8))  # whoever has real ones
    assert Cityscapes(root, split="test")[0].labels.tolist() == [[13] * 3] * 2


def test_palette_and_16_bit_labels_are_read_as_ids(root: Path) -> None:
    palette = Image.fromarray(IDS)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    palette.save(label_file(root))
    assert mode_of(label_file(root)) == "P"
    assert Cityscapes(root, split="val").labels(0).flatten().tolist() == TRAIN_IDS
    save(label_file(root), IDS.astype(np.uint16))
    assert mode_of(label_file(root)) == "I;16"
    assert Cityscapes(root, split="val").labels(0).flatten().tolist() == TRAIN_IDS


@pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
def test_images_become_rgb(root: Path, mode: str) -> None:
    colours = np.zeros((4, 9, 3), np.uint8)
    colours[:, :5] = (204, 102, 51)  # of the web palette
    image = Image.fromarray(colours).convert(mode)
    if mode == "RGBA":
        image.putalpha(3)
    if mode == "P":
        image.info["transparency"] = b"\x07\x08"
    image.save(image_file(root))
    expected = np.asarray(image.convert("RGB")) if mode == "L" else colours
    assert np.array_equal(Cityscapes(root, split="val")[0].image.permute(1, 2, 0), expected)


def test_the_fingerprint_follows_the_files(root: Path, tmp_path: Path) -> None:
    first = Cityscapes(root, split="val").fingerprint()
    assert len(first) == 16
    assert int(first, 16) >= 0
    shutil.copytree(root, tmp_path / "copy")
    assert Cityscapes(tmp_path / "copy", split="val").fingerprint() == first
    os.utime(label_file(tmp_path / "copy"), ns=(1, 1))
    assert Cityscapes(tmp_path / "copy", split="val").fingerprint() == first  # a copy by other tools is the same data
    save(label_file(root), IDS[::-1].copy())
    second = Cityscapes(root, split="val").fingerprint()
    save(image_file(root, OTHER), np.zeros((4, 9, 3), np.uint8))
    save(label_file(root, key=OTHER), IDS)
    assert len({first, second, Cityscapes(root, split="val").fingerprint()}) == 3


def test_labels_are_checked_without_decoding_the_image(root: Path) -> None:
    image_file(root).write_bytes(image_file(root).read_bytes()[:45])  # the header stands, the pixels are gone
    dataset = Cityscapes(root, split="val")
    assert dataset.labels(0).flatten().tolist() == TRAIN_IDS
    assert f"{image_file(root)}: damaged or unreadable" in mistake(root, index=0)


def test_a_missing_root(root: Path) -> None:
    message = mistake(root.with_name("citiscapes"))
    assert message.startswith(f"{root.with_name('citiscapes')}: there is no such folder (did you mean 'cityscapes'?)")
    assert "expected leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/" in message


def test_a_missing_label_folder(root: Path) -> None:
    shutil.rmtree(root / "gtFine")
    assert mistake(root).startswith(f"{root / 'gtFine' / 'val'}: there is no such folder; expected leftImg8bit/")


def test_an_unknown_split(root: Path) -> None:
    (root / "leftImg8bit" / "train").mkdir()
    expected = f"{root / 'leftImg8bit'}: there is no split 'valid'; there is train and val (did you mean 'val'?)"
    assert mistake(root, "valid") == expected


def test_an_empty_split(root: Path) -> None:
    (root / "leftImg8bit" / "train").mkdir()
    (root / "gtFine" / "train").mkdir()
    assert "train: split 'train' is empty; expected leftImg8bit/" in mistake(root, "train")


def test_an_image_without_label(root: Path) -> None:
    save(image_file(root, OTHER), np.zeros((4, 9, 3), np.uint8))
    message = mistake(root)
    assert f"1 of 2 images have no label: {OTHER}_leftImg8bit.png; expected" in message
    assert "gtFine/<split>/<city>/*_gtFine_labelIds.png" in message


def test_a_label_without_image_and_its_nearest(root: Path) -> None:
    image_file(root).rename(image_file(root, "frankfurt_000000_00294"))
    message = mistake(root)
    assert f"1 of 1 images have no label: frankfurt_000000_00294_leftImg8bit.png (did you mean 'frankfurt/{ID}'?)" in (
        message
    )
    image_file(root, "frankfurt_000000_00294").unlink()
    save(image_file(root, OTHER), np.zeros((4, 9, 3), np.uint8))
    save(label_file(root, key=OTHER), IDS)
    assert f"1 of 2 labels have no image: {ID}_gtFine_labelIds.png; expected" in mistake(root)


def test_many_orphans_are_counted_and_some_named() -> None:
    images = {f"{k}": Path(f"{k}.png") for k in range(9)}
    with pytest.raises(Mistake, match=r"val: 8 of 9 images have no label: 1.png, 2.png, 3.png, …; expected that"):
        paired(images, {"0": Path("0.png")}, Path("val"), "val", "that")


def test_a_label_outside_the_table(root: Path) -> None:
    labels = IDS.copy()
    labels[0, :3] = (34, 99, 99)
    save(label_file(root), labels)
    expected = f"{label_file(root)}: label values 34 and 99 in 3 pixels; accepted are 0…33"
    assert mistake(root, index=0) == expected
    save(label_file(root), (IDS.astype(np.uint16) * 1000))  # instance ids
    assert "label values 1000, 2000, 3000, 4000, 5000 and … in 34 pixels; accepted are 0…33" in mistake(root, index=0)


def test_train_ids_named_label_ids_are_found_out(root: Path) -> None:
    save(label_file(root), np.array(TRAIN_IDS, np.uint8).reshape(4, 9))
    assert "label values 255 in 17 pixels" in mistake(root, index=0)


def test_a_mask_of_another_size(root: Path) -> None:
    save(label_file(root), IDS.T.copy())
    assert mistake(root, index=0).startswith(f"{label_file(root)}: 4x9 labels for a 9x4 image ({ID}_leftImg8bit.png);")


def test_colours_where_ids_are_expected(root: Path) -> None:
    save(label_file(root), np.zeros((4, 9, 3), np.uint8))
    expected = f"{label_file(root)}: labels of mode RGB; accepted are 8 or 16 bit grey and palette images of ids"
    assert mistake(root, index=0) == expected


@pytest.mark.parametrize("file", [image_file, label_file])
def test_a_file_that_is_no_image(root: Path, file: Callable[[Path], Path]) -> None:
    file(root).write_text("not an image")
    assert mistake(root, index=0).startswith(f"{file(root)}: not an image; accepted are whole files of PNG")


@pytest.mark.parametrize("file", [image_file, label_file])
def test_a_truncated_file(root: Path, file: Callable[[Path], Path]) -> None:
    whole = file(root).read_bytes()
    file(root).write_bytes(whole[: len(whole) // 2 + 8])
    assert mistake(root, index=0).startswith(f"{file(root)}: damaged or unreadable (")


def test_a_file_that_went_away(root: Path) -> None:
    dataset = Cityscapes(root, split="val")
    label_file(root).unlink()
    with pytest.raises(Mistake, match=r"labelIds.png: the file is gone"):
        dataset.labels(0)


def test_a_16_bit_image(root: Path) -> None:
    save(image_file(root), np.zeros((4, 9), np.uint16))
    assert "an image of mode I;16; accepted are 8 bit RGB" in mistake(root, index=0)


def test_hidden_files_are_no_images(root: Path) -> None:
    image_file(root).with_name(f"._{ID}_leftImg8bit.png").write_bytes(b"what other systems leave behind")
    assert len(Cityscapes(root, split="val")) == 1

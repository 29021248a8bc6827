"""The CamVid reader: three layouts, two voids, whole sequences held out."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill import parts
from segdistill.datasets.camvid import Camvid
from segdistill.labels import CAMVID, CAMVID_11
from segdistill.mistakes import Mistake

STEMS = {"train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"], "val": ["0016E5_07959"]}
RAW = np.array([[0, 5, 10], [11, 255, 3]], np.uint8)
TRAIN_IDS = [[0, 5, 10], [255, 255, 3]]


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def compact(root: Path) -> Path:
    for split, stems in STEMS.items():
        for stem in stems:
            save(root / split / "images" / f"{stem}.jpg", np.zeros((2, 3, 3), np.uint8))
            save(root / split / "labels" / f"{stem}.png", RAW)
    return root


def segnet(root: Path) -> Path:
    for split, stems in STEMS.items():
        for stem in stems:
            save(root / split / f"{stem}.png", np.zeros((2, 3, 3), np.uint8))
            save(root / f"{split}annot" / f"{stem}.png", RAW)
        (root / f"{split}.txt").write_text("/SegNet/CamVid/elsewhere.png")
    return root


def original(root: Path, unknown: int = 0) -> Path:
    colours = np.array([label.colour for label in CAMVID], np.uint8).reshape(4, 8, 3)
    colours[0, :unknown] = (1, 2, 3)
    for stem in STEMS["train"]:
        save(root / "701_StillsRaw_full" / f"{stem}.png", np.zeros((4, 8, 3), np.uint8))
        save(root / "LabeledApproved_full" / f"{stem}_L.png", colours)
    return root


def keys(dataset: Camvid) -> list[str]:
    return [dataset[i].key for i in range(len(dataset))]


@pytest.mark.parametrize("layout", [compact, segnet])
def test_the_layouts_with_splits(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    root = layout(tmp_path)
    assert keys(Camvid(root, split="train")) == STEMS["train"]
    assert keys(Camvid(root, split="val")) == STEMS["val"]
    assert Camvid(root, split="val")[0].labels.tolist() == TRAIN_IDS
    with pytest.raises(Mistake, match=r"there is no split 'valid'; there is train and val \(did you mean 'val'\?\)"):
        Camvid(root, split="valid")


@pytest.mark.parametrize("layout", [compact, segnet])
def test_held_out_sequences_leave_train_whole(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    root = layout(tmp_path)
    hold_out = ("0016E5", "0001TP")
    assert keys(Camvid(root, hold_out, split="train")) == ["0006R0_f00930"]
    assert keys(Camvid(root, hold_out, split="held_out")) == ["0001TP_006690", "0016E5_00390"]
    assert keys(Camvid(root, hold_out, split="val")) == STEMS["val"]


def test_the_original_has_the_splits_of_hold_out(tmp_path: Path) -> None:
    root = original(tmp_path)
    assert keys(Camvid(root, split="train")) == STEMS["train"]
    assert keys(Camvid(root, ("0006R0",), split="train")) == ["0001TP_006690", "0016E5_00390"]
    assert keys(Camvid(root, ("0006R0",), split="val")) == ["0006R0_f00930"]
    assert keys(Camvid(root, ("0006R0",), split="held_out")) == ["0006R0_f00930"]
    with pytest.raises(Mistake, match="there is no split 'val', the original CamVid has none of its own"):
        Camvid(root, split="val")


def test_32_colours_become_11_classes(tmp_path: Path) -> None:
    labels = Camvid(original(tmp_path), split="train").labels(0).flatten().tolist()
    names = {label.name: "void" if k == 255 else CAMVID_11.names[k] for label, k in zip(CAMVID, labels, strict=True)}
    assert names["Archway"] == names["Wall"] == "building"
    assert names["LaneMkgsDriv"] == names["Road"] == "road"
    assert names["Truck_Bus"] == names["Train"] == names["SUVPickupTruck"] == "car"
    assert names["Child"] == names["Animal"] == "pedestrian"
    assert names["TrafficCone"] == "pole"
    assert names["MotorcycleScooter"] == "bicyclist"
    assert names["ParkingBlock"] == names["RoadShoulder"] == "pavement"
    assert [name for name, ours in names.items() if ours == "void"] == ["Void"]


def test_unknown_colours_become_void_with_one_counted_warning(tmp_path: Path) -> None:
    dataset = Camvid(original(tmp_path, unknown=5), split="train")
    with pytest.warns(UserWarning, match="0001TP_006690_L.png: 5 pixels with values outside the table count as void"):
        labels = dataset.labels(0)
    assert labels[0].tolist() == [255] * 5 + [8, 9, 9]
    with warnings.catch_warnings(action="error"):
        assert dataset[1].labels[0].tolist() == [255] * 5 + [8, 9, 9]


def test_unknown_ids_are_refused(tmp_path: Path) -> None:
    save(compact(tmp_path) / "val" / "labels" / "0016E5_07959.png", RAW + np.uint8(1))
    with pytest.raises(Mistake, match=r"0016E5_07959.png: label values 12 in 1 pixels; accepted are 0…11 and 255"):
        Camvid(tmp_path, split="val").labels(0)


def test_ids_where_colours_are_expected_and_the_reverse(tmp_path: Path) -> None:
    save(original(tmp_path / "a") / "LabeledApproved_full" / "0001TP_006690_L.png", np.zeros((4, 8), np.uint8))
    with pytest.raises(Mistake, match=r"_L.png: labels of mode L; accepted are RGB pictures in the classes' colours"):
        Camvid(tmp_path / "a", split="train").labels(0)
    save(compact(tmp_path / "b") / "val" / "labels" / "0016E5_07959.png", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(Mistake, match=r"07959.png: labels of mode RGB; accepted are 8 or 16 bit grey and palette"):
        Camvid(tmp_path / "b", split="val").labels(0)


def test_an_unknown_sequence(tmp_path: Path) -> None:
    said = r"hold_out: .* has no sequence '0001T'; it has 0001TP, 0006R0 and 0016E5 \(did you mean '0001TP'\?\)"
    with pytest.raises(Mistake, match=said):
        Camvid(compact(tmp_path), ("0001T",), split="train")


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="split 'train' is empty; expected some sequence to be left"):
        Camvid(compact(tmp_path), ("0001TP", "0006R0", "0016E5"), split="train")


def test_a_recipe_can_say_it(tmp_path: Path) -> None:
    given = {"root": str(compact(tmp_path)), "hold_out": ["0016E5"]}
    dataset = parts.build(Camvid, parts.settings(Camvid, given, "data"), split="held_out")
    assert keys(dataset) == ["0016E5_00390"]


def test_a_folder_without_the_layout(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"no CamVid layout here; expected <split>/images/<stem>.jpg and"):
        Camvid(tmp_path, split="train")


def test_an_original_label_without_image(tmp_path: Path) -> None:
    original(tmp_path)
    (tmp_path / "701_StillsRaw_full" / "0001TP_006690.png").unlink()
    with pytest.raises(Mistake, match=r"1 of 3 labels have no image: 0001TP_006690_L.png; expected <stem>.png and"):
        Camvid(tmp_path, split="train")

"""The reader of own folders: what a recipe can say about them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill import parts
from segdistill.datasets.folder import Folder
from segdistill.mistakes import Mistake

CLASSES = [{"name": "road", "colour": [128, 64, 128]}, {"name": "car", "colour": [0, 0, 142]}]


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def add(root: Path, stem: str, labels: np.ndarray) -> None:
    save(root / "images" / f"{stem}.jpg", np.full((*labels.shape[:2], 3), 50, np.uint8))
    save(root / "masks" / f"{stem}.png", labels)


def opened(root: Path, split: str = "train", **said: Any) -> Folder:
    """The dataset as a recipe would have it built, after a round trip through YAML."""
    given = {"images": str(root / "images"), "labels": str(root / "masks"), "classes": CLASSES} | said
    given = yaml.safe_load(yaml.safe_dump(given))
    return parts.build(Folder, parts.settings(Folder, given, "data"), split=split)


def keys(dataset: Folder) -> list[str]:
    return [dataset[i].key for i in range(len(dataset))]


def test_ids_are_positions(tmp_path: Path) -> None:
    add(tmp_path, "drive_1/000", np.array([[0, 1, 255]], np.uint8))
    dataset = opened(tmp_path)
    assert dataset.classes == (("road", "car"), ((128, 64, 128), (0, 0, 142)))
    assert dataset[0].key == "drive_1/000"
    assert dataset[0].labels.tolist() == [[0, 1, 255]]
    add(tmp_path, "drive_1/001", np.array([[0, 2, 2]], np.uint8))
    with pytest.raises(Mistake, match=r"masks/drive_1/001.png: label values 2 in 2 pixels; accepted are 0…1 and 255"):
        opened(tmp_path)[1]


def test_remap_renames_merges_and_ignores(tmp_path: Path) -> None:
    add(tmp_path, "a", np.array([[7, 26, 27, 0, 255]], np.uint8))
    remap = {7: "road", 26: "car", "27": "car", 0: "ignore"}
    assert opened(tmp_path, remap=remap).labels(0).tolist() == [[0, 1, 1, 255, 255]]
    add(tmp_path, "b", np.array([[1]], np.uint8))  # with a remap, 1 is no longer car
    with pytest.raises(Mistake, match=r"b.png: label values 1 in 1 pixels; accepted are 0, 7, 26…27 and 255"):
        opened(tmp_path, remap=remap).labels(1)
    with pytest.warns(UserWarning, match="b.png: 1 pixels with values outside the table count as void"):
        assert opened(tmp_path, remap=remap, unknown="ignore").labels(1).tolist() == [[255]]


def test_masks_in_colours(tmp_path: Path) -> None:
    labels = np.array([[(128, 64, 128), (0, 0, 142), (0, 0, 70), (0, 0, 0)]], np.uint8)
    add(tmp_path, "a", labels)
    remap = {"#000046": "car", "#000000": "ignore"}
    assert opened(tmp_path, remap=remap).labels(0).tolist() == [[0, 1, 1, 255]]
    save(tmp_path / "masks" / "a.png", np.dstack([labels, np.full((1, 4), 255, np.uint8)]))  # RGBA
    assert opened(tmp_path, remap=remap).labels(0).tolist() == [[0, 1, 1, 255]]
    said = r"a.png: label colours #000046 in 1 pixels; accepted are #804080, #00008e and #000000 \(did you mean"
    with pytest.raises(Mistake, match=said):
        opened(tmp_path, remap={"#000000": "ignore"}).labels(0)


def test_remap_changes_the_fingerprint(tmp_path: Path) -> None:
    add(tmp_path, "a", np.zeros((1, 1), np.uint8))
    prints = [opened(tmp_path, remap=remap).fingerprint() for remap in (None, {0: "car"}, {0: "ignore"}, {"0": "car"})]
    assert prints[1] == prints[3]
    assert len(set(prints)) == 3


def test_splits_by_path(tmp_path: Path) -> None:
    add(tmp_path / "day-train", "a", np.zeros((1, 1), np.uint8))
    add(tmp_path / "day-val", "b", np.ones((1, 1), np.uint8))
    (tmp_path / "night").mkdir()
    paths = {"images": f"{tmp_path}/day-{{split}}/images", "labels": f"{tmp_path}/day-{{split}}/masks"}
    assert keys(opened(tmp_path, **paths)) == ["a"]
    assert keys(opened(tmp_path, "val", **paths)) == ["b"]
    with pytest.raises(Mistake, match=r"there is no split 'valid'; there is train and val \(did you mean 'val'\?\)"):
        opened(tmp_path, "valid", **paths)
    with pytest.raises(Mistake, match=r"labels: only one of .* has {split}; expected both or neither"):
        opened(tmp_path, labels=str(tmp_path), images=paths["images"])


def test_splits_by_sequence(tmp_path: Path) -> None:
    for stem in ("drive_1/0", "drive_1/1", "drive_2/0", "drive_10/0"):
        add(tmp_path, stem, np.zeros((1, 1), np.uint8))
    assert keys(opened(tmp_path, hold_out=["drive_1"])) == ["drive_10/0", "drive_2/0"]
    assert keys(opened(tmp_path, "val", hold_out=["drive_1"])) == ["drive_1/0", "drive_1/1"]
    assert keys(opened(tmp_path, "held_out", hold_out=["drive_1"])) == ["drive_1/0", "drive_1/1"]
    with pytest.raises(Mistake, match="has no sequence 'drive_3'; it has drive_1, drive_10 and drive_2 "):
        opened(tmp_path, hold_out=["drive_3"])
    with pytest.raises(Mistake, match=r"images has no split 'val'; expected {split} where the path names it"):
        opened(tmp_path, "val")


def test_no_labels_are_all_void(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((1, 2, 3), np.uint8))
    assert opened(tmp_path, labels=None).labels(0).tolist() == [[255, 255]]


def test_endings_make_other_layouts_readable(tmp_path: Path) -> None:
    save(tmp_path / "rgb_anon" / "GOPR1" / "f_1_rgb_anon.png", np.zeros((1, 2, 3), np.uint8))
    save(tmp_path / "gt" / "GOPR1" / "f_1_gt_labelTrainIds.png", np.array([[1, 255]], np.uint8))
    save(tmp_path / "gt" / "GOPR1" / "f_1_gt_labelColor.png", np.zeros((1, 2, 3), np.uint8))
    dataset = opened(
        tmp_path,
        images=str(tmp_path / "rgb_anon"),
        labels=str(tmp_path / "gt"),
        image_ending="_rgb_anon",
        label_ending="_gt_labelTrainIds",
    )
    assert keys(dataset) == ["GOPR1/f_1"]
    assert dataset.labels(0).tolist() == [[1, 255]]


def test_masks_may_lie_among_the_images(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", np.zeros((1, 2, 3), np.uint8))
    save(tmp_path / "a_mask.png", np.array([[1, 0]], np.uint8))
    dataset = opened(tmp_path, images=str(tmp_path), labels=str(tmp_path), label_ending="_mask")
    assert keys(dataset) == ["a"]
    assert dataset.labels(0).tolist() == [[1, 0]]


def test_two_files_of_one_stem(tmp_path: Path) -> None:
    add(tmp_path, "a", np.zeros((1, 1), np.uint8))
    save(tmp_path / "images" / "a.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(Mistake, match="has the same stem; expected one file for each 'a'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (
            {"remap": {7: "raod"}},
            "remap.7: there is no class 'raod'; there is road, car and ignore (did you mean 'road'?)",
        ),
        ({"remap": {"#12": "road"}}, "remap.#12: accepted are ids of 0…255 and colours such as '#804080'"),
        ({"remap": {256: "road"}}, "remap.256: accepted are ids of 0…255 and colours such as '#804080'"),
        ({"remap": {-1: "road"}}, "remap.-1: accepted are ids of 0…255 and colours such as '#804080'"),
        ({"classes": []}, "classes: 0 of them; accepted are 1 to 254"),
        ({"classes": [*CLASSES, CLASSES[0]]}, "classes.2.name: 'road' is taken; accepted are different names, none of"),
        ({"classes": [{"name": "ignore", "colour": [1, 2, 3]}]}, "classes.0.name: 'ignore' is taken"),
        ({"classes": [{"name": "a", "colour": [1, 2, 300]}]}, "classes.0.colour: [1, 2, 300] is taken or no colour"),
        ({"classes": [*CLASSES, {"name": "b", "colour": [0, 0, 142]}]}, "classes.2.colour: [0, 0, 142] is taken"),
        ({"classes": [{"name": "road"}]}, "data.classes.0.colour: missing"),
        ({"images": "nowhere"}, "nowhere: there is no such folder; expected a folder of images"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, said: dict[str, Any], answer: str) -> None:
    add(tmp_path, "a", np.zeros((1, 1), np.uint8))
    with pytest.raises(Mistake) as caught:
        opened(tmp_path, **said)
    assert str(caught.value).startswith(answer)

"""What is written in a layout reads back as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import datasets, layouts
from segdistill.datasets.bdd100k import Bdd100k
from segdistill.datasets.cityscapes import Cityscapes
from segdistill.labels import CITYSCAPES_19
from segdistill.mistakes import Mistake
from segdistill.types import Sample


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels, each of which says something."""
    monkeypatch.setattr(datasets, "SMALLEST", 1)


def sample(key: str = "ulm_000001_000019", seed: int = 0) -> Sample:
    """Every class and void once at least; a smooth image, which JPEG keeps."""
    labels = torch.arange(24, dtype=torch.uint8).reshape(4, 6)
    labels[labels > 18] = 255
    ramp = torch.arange(4 * 6, dtype=torch.uint8).reshape(4, 6)
    return Sample(torch.stack([ramp * 2, ramp * 3, ramp * 4 + seed]), labels, key)


@pytest.mark.parametrize("label_type", ["labelIds", "labelTrainIds", "both"])
def test_cityscapes_reads_back(tmp_path: Path, label_type: layouts.LabelType) -> None:
    assert layouts.write("cityscapes", [sample()], tmp_path, "val", label_type) == 1
    back = Cityscapes(tmp_path, split="val")[0]
    assert back.key == "ulm_000001_000019"
    assert torch.equal(back.image, sample().image)
    assert torch.equal(back.labels, sample().labels)
    written = {file.name.removeprefix("ulm_000001_000019_gtFine_") for file in (tmp_path / "gtFine").rglob("*.png")}
    kinds = {"labelIds", "labelTrainIds"} if label_type == "both" else {label_type}
    assert written == {f"{kind}.png" for kind in kinds | {"color", "instanceIds"}}


def test_cityscapes_files_are_as_shipped(tmp_path: Path) -> None:
    layouts.write("cityscapes", [sample()], tmp_path, "train")
    stem = tmp_path / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine_"
    ids, instances, colours = (Image.open(f"{stem}{kind}.png") for kind in ("labelIds", "instanceIds", "color"))
    assert (ids.mode, instances.mode, colours.mode) == ("L", "I;16", "RGBA")
    assert np.asarray(ids)[0].tolist() == [7, 8, 11, 12, 13, 17]
    assert np.asarray(ids)[3].tolist() == [33, 0, 0, 0, 0, 0]  # void is unlabeled
    assert np.array_equal(np.asarray(instances), np.asarray(ids))
    assert np.asarray(colours)[0, 0].tolist() == [128, 64, 128, 255]
    assert np.asarray(colours)[3, 1].tolist() == [0, 0, 0, 255]


def test_foreign_keys_become_cityscapes_names(tmp_path: Path) -> None:
    assert layouts.write("cityscapes", [sample("streets-7"), sample("x/8", 1)], tmp_path, "val") == 2
    dataset = Cityscapes(tmp_path, split="val")
    assert [dataset[i].key for i in (0, 1)] == ["val_000000_000000", "val_000000_000001"]
    assert torch.equal(dataset[1].image, sample(seed=1).image)


def test_bdd100k_labels_read_back_and_images_nearly(tmp_path: Path) -> None:
    assert layouts.write("bdd100k", [sample("0004a4c0-d4dff0ad")], tmp_path, "train") == 1
    back = Bdd100k(tmp_path, split="train")[0]
    assert back.key == "0004a4c0-d4dff0ad"
    assert torch.equal(back.labels, sample().labels)
    assert (back.image.int() - sample().image.int()).abs().max() < 12
    colours = Image.open(tmp_path / "labels" / "sem_seg" / "colormaps" / "train" / "0004a4c0-d4dff0ad.png")
    assert colours.mode == "P"
    assert np.array_equal(np.asarray(colours), sample().labels)
    assert np.array_equal(np.asarray(colours.convert("RGB")), CITYSCAPES_19.palette()[sample().labels])


def test_a_label_without_place(tmp_path: Path) -> None:
    wrong = sample()._replace(labels=torch.full((4, 6), 19, dtype=torch.uint8))
    with pytest.raises(
        Mistake, match="ulm_000001_000019: label 19 has no place in cityscapes; accepted are 0…18 and 255"
    ):
        layouts.write("cityscapes", [wrong], tmp_path, "val")


def test_two_samples_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="a_b: two samples would be written to 'a_b'"):
        layouts.write("bdd100k", [sample("a/b"), sample("a_b")], tmp_path, "val")

"""Every real sample at hand, against what the packs' own READMEs say of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.datasets import FileDataset
from segdistill.datasets.bdd100k import Bdd100k
from segdistill.datasets.camvid import Camvid
from segdistill.datasets.kitti import Kitti
from segdistill.labels import CITYSCAPES_19
from segdistill.mistakes import Mistake

CAMVID_SHARES = {
    "train": [0.16845, 0.23259, 0.00983, 0.31658, 0.04486, 0.09724, 0.01173, 0.01127, 0.05866, 0.00639, 0.00292],
    "val": [0.09177, 0.25962, 0.00564, 0.28953, 0.08719, 0.16336, 0.00892, 0.03078, 0.01746, 0.00651, 0.02217],
}
BDD_SHARES = {
    "road": 0.198,
    "sky": 0.212,
    "vegetation": 0.154,
    "building": 0.126,
    "car": 0.086,
    "truck": 0.0147,
    "sidewalk": 0.0147,
    "bus": 0.0104,
    "pole": 0.0087,
    "fence": 0.0065,
    "terrain": 0.0046,
    "traffic sign": 0.0026,
    "wall": 0.0018,
    "person": 0.0010,
    "traffic light": 0.00057,
    "rider": 0.00017,
    "bicycle": 0.00013,
    "motorcycle": 0.00003,
    "train": 0.0,
}


def pixels(dataset: FileDataset) -> np.ndarray:
    """How many pixels have each label, over every sample read whole."""
    total = np.zeros(256, np.int64)
    for sample in map(dataset.__getitem__, range(len(dataset))):
        assert sample.image.shape[1:] == sample.labels.shape
        assert sample.image.float().std() > 10  # a photograph, not a plane
        total += np.bincount(sample.labels.numpy().ravel(), minlength=256)
    return total


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_camvid(real_data: Path, split: str, count: int) -> None:
    dataset = Camvid(real_data / "camvid", split=split)
    assert len(dataset) == count
    total = pixels(dataset)
    assert total.sum() == count * 360 * 480
    assert total[:11] / total.sum() == pytest.approx(CAMVID_SHARES[split], abs=1e-4)
    assert total[255] / total.sum() == pytest.approx({"train": 0.03948, "val": 0.01703}[split], abs=1e-4)


def test_camvid_sequences(real_data: Path) -> None:
    for sequence, count in (("0016E5", 204), ("0006R0", 101), ("0001TP", 62)):
        assert len(Camvid(real_data / "camvid", (sequence,), split="held_out")) == count
        assert len(Camvid(real_data / "camvid", (sequence,), split="train")) == 367 - count


def test_bdd100k_shares(real_data: Path) -> None:
    splits = [Bdd100k(real_data / "bdd100k", split=split) for split in ("train", "val")]
    assert [len(split) for split in splits] == [16, 8]
    total = sum(map(pixels, splits), np.zeros(256, np.int64))
    shares = dict(zip(CITYSCAPES_19.names, total / total.sum(), strict=False))
    for name, share in BDD_SHARES.items():
        digits = len(f"{share:g}".split(".")[-1]) if share >= 1e-4 else 5
        assert shares[name] == pytest.approx(share, abs=0.5 * 10**-digits + 1e-9), name
    assert total[255] / total.sum() == pytest.approx(0.159, abs=5e-4)


@pytest.mark.parametrize("split", ["train", "val"])
def test_bdd100k_masks_equal_colormaps_and_run_lengths(real_data: Path, split: str) -> None:
    dataset = Bdd100k(real_data / "bdd100k", split=split)
    folder = real_data / "bdd100k" / "labels" / "sem_seg"
    frames = json.loads((folder / "rles" / f"sem_seg_{split}.json").read_text())["frames"]
    by_name = {Path(frame["name"]).stem: frame["labels"] for frame in frames}
    assert set(by_name) == {pair.key for pair in dataset.pairs}
    for index, pair in enumerate(dataset.pairs):
        labels = dataset.labels(index)
        with Image.open(folder / "colormaps" / split / f"{pair.key}.png") as colours:
            assert np.array_equal(labels, np.asarray(colours))
            assert np.array_equal(np.asarray(colours.convert("RGB")), CITYSCAPES_19.palette()[labels])
        regions = np.full(labels.shape, 255, np.uint8)
        for label in by_name[pair.key]:
            regions[region(label["rle"]["counts"], labels.shape)] = CITYSCAPES_19.names.index(label["category"])
        assert np.array_equal(labels, regions)


def region(counts: str, shape: tuple[int, ...]) -> np.ndarray:
    """COCO's compressed run lengths, column by column, as bool [H, W]."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape[::-1]).T


def test_kitti_as_found_is_refused(real_data: Path) -> None:
    for split in ("train", "val"):
        dataset = Kitti(real_data / "kitti" / "as_found", split=split)
        for index in range(len(dataset)):
            with pytest.raises(Mistake, match=r"semantic/00000\d_10.png: 1242x375 labels for a 1224x370 image"):
                dataset[index]


def test_kitti_aligned_is_accepted(real_data: Path) -> None:
    """Instance files are another witness of the ids, and the colour files one of the classes."""
    folder = real_data / "kitti" / "aligned"
    splits = {split: Kitti(folder, split=split) for split in ("train", "val")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 4, "val": 1}
    for dataset in splits.values():
        assert pixels(dataset)[255] < 0.1 * len(dataset) * 1224 * 370
        for index, pair in enumerate(dataset.pairs):
            labels = dataset.labels(index)
            with Image.open(folder / "training" / "semantic_rgb" / f"{pair.key}.png") as file:
                colours = np.asarray(file.convert("RGB"))
            classed = labels != 255
            assert np.array_equal(colours[classed], CITYSCAPES_19.palette()[labels][classed])
            with Image.open(folder / "training" / "instance" / f"{pair.key}.png") as file:
                assert np.array_equal((np.asarray(file) // 256 == 26), labels == 13)

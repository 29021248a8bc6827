"""Street scenes: the same bits for ever, every class, the imbalance of Cityscapes, any size."""

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from segdistill.datasets import _street_plan as plan
from segdistill.datasets.streets import Streets
from segdistill.labels import CITYSCAPES_19
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE, Sample

SMALL = (48, 96)
CITYSCAPES_PERCENT = (
    36.90, 6.09, 22.81, 0.656, 0.878, 1.228, 0.208, 0.553, 15.91, 1.16,
    4.01, 1.22, 0.135, 7.00, 0.268, 0.236, 0.233, 0.099, 0.414,
)  # fmt: skip
"""Share of the labelled pixels of the training set, in the order of the train ids."""
GOLDEN_LABELS = "8895b4e771fedf48dbbb35dd245d2d02572af47202c3fb6ac4723e5f902dfa7c"


def digest(sample: Sample) -> str:
    return hashlib.sha256(sample.image.numpy().tobytes() + sample.labels.numpy().tobytes()).hexdigest()


def counts(scenes: Streets, number: int) -> np.ndarray:
    """int64 [256]: how many pixels have each label in the first scenes."""
    return sum((np.bincount(scenes.labels(i).ravel(), minlength=256) for i in range(number)), np.zeros(256, np.int64))


def assert_shares_near(pixels: np.ndarray, factor: float) -> None:
    percent = 100 * pixels[:19] / pixels[:19].sum()
    ratios = dict(zip(CITYSCAPES_19.names, percent / np.array(CITYSCAPES_PERCENT), strict=True))
    wrong = {name: round(ratio, 2) for name, ratio in ratios.items() if not 1 / factor < ratio < factor}
    assert not wrong, f"shares over those of Cityscapes: {wrong}"
    assert 0.05 < pixels[IGNORE] / pixels.sum() < 0.12


@pytest.fixture(scope="module")
def val_pixels() -> np.ndarray:
    return counts(Streets(split="val"), 100)


def test_a_scene_is_the_same_on_every_call_and_in_any_order() -> None:
    first, second = Streets(scene_size=SMALL, split="train"), Streets(scene_size=SMALL, split="train")
    forwards = [digest(first[i]) for i in (0, 1, 2)]
    backwards = [digest(second[i]) for i in (2, 1, 0)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 3


def test_a_scene_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib; from segdistill.datasets.streets import Streets;"
        f"s = Streets(scene_size={SMALL}, split='val')[3];"
        "print(hashlib.sha256(s.image.numpy().tobytes() + s.labels.numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(Streets(scene_size=SMALL, split="val")[3])


def test_scenes_do_not_drift() -> None:
    """If this changes, every number measured on these scenes does: raise _VERSION in streets.py and say why."""
    scenes = Streets(scene_size=SMALL, split="val")
    labels = b"".join(scenes.labels(i).tobytes() for i in range(4))
    assert hashlib.sha256(labels).hexdigest() == GOLDEN_LABELS


def test_labels_are_those_of_the_sample() -> None:
    scenes = Streets(scene_size=SMALL, split="train")
    sample = scenes[5]
    assert sample.key == "train-00005"
    np.testing.assert_array_equal(sample.labels.numpy(), scenes.labels(5))


def test_the_constants_are_the_train_ids() -> None:
    for train_id, name in enumerate(Streets(split="val").classes.names):
        assert getattr(plan, name.upper().replace(" ", "_")) == train_id


def test_every_class_occurs_in_the_validation_scenes(val_pixels: np.ndarray) -> None:
    assert [name for name, count in zip(CITYSCAPES_19.names, val_pixels, strict=False) if count == 0] == []


def test_classes_are_as_rare_as_in_cityscapes(val_pixels: np.ndarray) -> None:
    assert_shares_near(val_pixels + counts(Streets(split="train"), 60), 2.5)


@pytest.mark.slow
def test_classes_are_as_rare_as_in_cityscapes_over_many_scenes() -> None:
    assert_shares_near(counts(Streets(count=500, split="train"), 500), 2.0)


def test_splits_and_seeds_are_other_scenes() -> None:
    streams = [
        Streets(scene_size=SMALL, split="train"),
        Streets(scene_size=SMALL, split="val"),
        Streets(scene_size=SMALL, seed=1, split="train"),
    ]
    assert len({digest(stream[0]) for stream in streams}) == 3
    assert len({stream.fingerprint() for stream in streams}) == 3


def test_more_scenes_leave_the_first_ones_alone() -> None:
    few, many = Streets(2, SMALL, split="train"), Streets(9, SMALL, split="train")
    assert digest(few[1]) == digest(many[1])
    assert few.fingerprint() != many.fingerprint()


def test_unlabelled_scenes_are_ordinary_ones_whose_truth_is_withheld() -> None:
    half, full = Streets(3, SMALL, unlabelled=2, split="train"), Streets(5, SMALL, split="train")
    assert len(half) == len(full) == 5
    assert half.fingerprint() != full.fingerprint()
    for index in range(5):
        assert bool((half[index].image == full[index].image).all())
        assert (half[index].labels == IGNORE).all() == (index >= 3)
        np.testing.assert_array_equal(half.labels(index), half[index].labels.numpy())
    assert len(Streets(3, SMALL, unlabelled=2, val_count=7, split="val")) == 7


@pytest.mark.parametrize("size", [(48, 96), (96, 192), (97, 131), (160, 100), (512, 1024)])
def test_any_size(size: tuple[int, int]) -> None:
    sample = Streets(scene_size=size, split="val")[0]
    assert sample.image.shape == (3, *size)
    assert sample.labels.shape == size
    assert sample.image.float().std() > 10


def test_a_larger_picture_shows_the_same_scene() -> None:
    small, large = Streets(scene_size=(96, 192), split="val"), Streets(scene_size=(192, 384), split="val")
    for index in range(3):
        one, other = small.labels(index), large.labels(index)[1::2, 1::2]
        valid = (one != IGNORE) & (other != IGNORE)
        assert (one == other)[valid].mean() > 0.95


def test_a_picture_is_no_label_map() -> None:
    """Colour alone must not tell the classes: the commonest class of a colour explains few pixels of the rarer ones."""
    scenes = Streets(scene_size=SMALL, split="train")
    samples = [scenes[i] for i in range(30)]
    images = np.concatenate([sample.image.numpy().reshape(3, -1) for sample in samples], axis=1).astype(int) // 32
    labels = np.concatenate([sample.labels.numpy().ravel() for sample in samples])
    colours = (images[0] * 8 + images[1]) * 8 + images[2]
    votes = np.zeros((512, 19), int)
    valid = labels != IGNORE
    np.add.at(votes, (colours[valid], labels[valid]), 1)
    guess = votes.argmax(1)[colours]
    recall = [(guess == k)[labels == k].mean() for k in range(19) if (labels == k).any()]
    assert np.mean(recall) < 0.3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "vall"}, r"no split 'vall'; it has train and val \(did you mean 'val'\?\)"),
        ({"split": "train", "count": 0}, "data.count: streets needs at least 1, got 0"),
        ({"split": "train", "unlabelled": -1}, "data.unlabelled: streets needs at least 0, got -1"),
        ({"split": "train", "val_count": 0}, "data.val_count: streets needs at least 1, got 0"),
        ({"split": "train", "seed": -3}, "data.seed: streets needs at least 0, got -3"),
        ({"split": "train", "scene_size": (10, 192)}, "data.scene_size: .* got 10×192"),
    ],
)
def test_a_mistake_is_one_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake, match=said):
        Streets(**settings)


def test_there_is_no_scene_past_the_end() -> None:
    with pytest.raises(IndexError, match="there is no scene 2"):
        Streets(2, SMALL, split="train")[2]

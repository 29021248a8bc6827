"""The pictures show what the models say: colours, errors, captions' shares, class maps, and always the same samples."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.probes.predictions import VOID, WRONG, Predictions, error_map
from segdistill.types import IGNORE, ClassTable, Findings, Sample, Stage

CLASSES = ClassTable(("road", "car"), ((128, 64, 128), (0, 0, 142)))


class Squares(Dataset):
    """Images of one grey value; class 1 on the right half, void in the upper fifth."""

    classes = CLASSES

    def __init__(self, count: int, height: int = 20, width: int = 40) -> None:
        self.count, self.height, self.width = count, height, width

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        labels = torch.zeros(self.height, self.width, dtype=torch.uint8)
        labels[:, self.width // 2 :] = 1
        labels[: self.height // 5] = IGNORE
        return Sample(torch.full((3, self.height, self.width), index, dtype=torch.uint8), labels, f"town/{index:03d}")

    def fingerprint(self) -> str:
        return "0" * 16


class Always(Model):
    """Says one class everywhere."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.stages: Mapping[str, Stage] = {"logits": Stage(2, 1)}
        self.bias = torch.nn.Parameter(torch.eye(2)[answer])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        b, _, height, width = image.shape
        return {"logits": self.bias[None, :, None, None].expand(b, 2, height, width)}


def look(dataset: Dataset, **settings: int) -> Findings:
    probe = Predictions(**settings, classes=CLASSES, input_size=None)
    return probe({"teacher": Always(1), "student": Always(0)}, dataset)


def test_the_samples_are_spread_evenly_and_the_same_every_time() -> None:
    keys = [[name for name in look(Squares(12), count=3).images if name.count("/") == 1] for _ in range(2)]
    assert keys[0] == keys[1] == ["town/002", "town/006", "town/010"]
    assert len([n for n in look(Squares(2), count=4).images if n.count("/") == 1]) == 2


def test_panels_of_a_sample() -> None:
    images = look(Squares(1)).images
    assert list(images) == ["town/000"] + [
        f"town/000/{panel}" for panel in ("image", "teacher", "student", "labels", "teacher errors", "student errors")
    ]
    student, labels, errors = (images[f"town/000/{n}"].pixels for n in ("student", "labels", "student errors"))
    assert student.shape == (160, 320, 3), "40 pixels wide: every pixel became 8 × 8"
    assert (student == CLASSES.colours[0]).all()
    assert (labels[:32] == 0).all() and (labels[32:, :160] == CLASSES.colours[0]).all()
    assert (labels[32:, 160:] == CLASSES.colours[1]).all()
    assert (errors[:32] == VOID).all() and (errors[32:, 160:] == WRONG).all() and (errors[32:, :160] >= 190).all()


def test_class_maps_lie_on_the_photograph() -> None:
    montage = look(Squares(1, height=64, width=600), width=300).images["town/000"]
    assert montage.photograph is not None and montage.photograph.shape == (32, 300, 3)
    assert list(montage.masks) == ["labels", "teacher", "student"]
    for mask in montage.masks.values():
        assert mask.shape == (32, 300) and mask.dtype == np.uint8
    assert set(np.unique(montage.masks["labels"])) == {0, 1, IGNORE}
    assert (montage.masks["teacher"] == 1).all()
    assert montage.pixels.shape[1] > 3 * 300, "image, teacher and student side by side"


def test_error_map_of_a_right_answer_has_no_red() -> None:
    labels = np.array([[0, 1, IGNORE]], np.uint8)
    photograph = np.zeros((1, 3, 3), np.uint8)
    assert error_map(photograph, labels, np.array([[0, 1, 0]], np.uint8)).tolist() == [[[190] * 3, [190] * 3, [*VOID]]]
    assert error_map(photograph, labels, np.array([[1, 1, 0]], np.uint8))[0, 0].tolist() == [*WRONG]


def test_a_sample_without_labels_is_shown_too() -> None:
    class Unlabelled(Squares):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample._replace(labels=torch.full_like(sample.labels, IGNORE))

    images = look(Unlabelled(1)).images
    assert (images["town/000/student errors"].pixels == VOID).all()


def test_the_legend_names_every_class() -> None:
    legend = look(Squares(1)).tables["classes"]
    assert list(legend.rows) == [("road", "#804080"), ("car", "#00008e")]


@pytest.mark.parametrize("settings", [{"count": 0}, {"width": 3}])
def test_nonsense_is_a_mistake(settings: dict[str, int]) -> None:
    with pytest.raises(Mistake, match="expected count >= 1"):
        Predictions(**settings, classes=CLASSES, input_size=None)

"""The numbers of a split: those of one matrix over all images, whoever decodes them and when."""

import threading
from collections.abc import Mapping
from typing import final

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.datasets import Dataset
from segdistill.metrics.calibration import Calibration
from segdistill.metrics.confusion import Confusion
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.probes.measure import Measure
from segdistill.types import IGNORE, ClassTable, Sample, Stage

CLASSES = ClassTable(("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)))


@final
class Noise(Dataset):
    """Random images and labels; it notes who decodes, and what is how far ahead."""

    classes = CLASSES

    def __init__(self, count: int = 9, bad: int | None = None) -> None:
        self.count, self.bad = count, bad
        self.threads: set[int] = set()
        self.begun: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.threads.add(threading.get_ident())
        self.begun.append(index)
        if index == self.bad:
            raise Mistake("7.png: damaged")
        random = torch.Generator().manual_seed(index)
        labels = torch.randint(0, 3, (12, 16), generator=random, dtype=torch.uint8)
        labels[0] = IGNORE
        return Sample(torch.randint(0, 256, (3, 12, 16), generator=random, dtype=torch.uint8), labels, str(index))

    def key(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return "0" * 16


@final
class Channels(Model):
    """The logits are the colours."""

    def __init__(self, dataset: Noise) -> None:
        super().__init__()
        self.stages: Mapping[str, Stage] = {"logits": Stage(3, 1)}
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.dataset = dataset
        self.ahead: list[int] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.ahead.append(len(self.dataset.begun) - len(self.ahead))
        return {"logits": image * self.scale}


def measured(dataset: Noise, **more: float) -> tuple[Measure, Mapping[str, float], Channels]:
    model = Channels(dataset)
    probe = Measure(classes=CLASSES, input_size=None, **more)
    return probe, probe({"net": model}, dataset).numbers, model


def test_counts_of_single_images_add_up_to_the_matrix() -> None:
    """In the order of the keys, whoever decodes when; a sample that cannot be read has none."""
    for bad, keys in ((None, range(9)), (4, [0, 1, 2, 3, 5, 6, 7, 8])):
        dataset = Noise(bad=bad)
        probe, numbers, _ = measured(dataset, bad_share=0.5)
        counts = probe.by_image["net"]
        assert counts.dtype == np.uint32 and counts.shape == (len(keys), 3, 3)
        for row, index in zip(counts, keys, strict=True):
            sample = Noise()[index]
            alone = Confusion(num_classes=3)
            alone.update(sample.image[None].float(), sample.labels[None])
            assert row.tolist() == alone.margins().tolist()
        hits, labels, said = counts.astype(np.int64).sum(0)
        assert numbers["net/mean_iou"] == pytest.approx(float((hits / (labels + said - hits)).mean()), abs=1e-15)


def test_the_numbers_are_those_of_one_matrix() -> None:
    dataset = Noise()
    total = Confusion(num_classes=3)
    for index in range(9):
        sample = dataset[index]
        total.update(sample.image[None].float(), sample.labels[None])
    result = total.result()
    _, numbers, _ = measured(Noise())
    for name in ("mean_iou", "frequency_weighted_iou", "pixel_accuracy"):
        assert numbers[f"net/{name}"] == pytest.approx(result[name], rel=1e-12)
    assert numbers["net/absent_classes"] == 0 and "unreadable" not in numbers


def test_others_decode_a_few_images_ahead() -> None:
    dataset = Noise(count=40)
    _, _, model = measured(dataset)
    assert sorted(dataset.begun) == list(range(40)), "every image once"
    assert threading.get_ident() not in dataset.threads and len(dataset.threads) <= 2
    assert len(model.ahead) == 40 and max(model.ahead) <= 6, "as many are held at a time"


def test_what_cannot_be_read_is_left_out_and_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    probe, numbers, _ = measured(Noise(bad=7), bad_share=0.2)
    assert numbers["unreadable"] == 1 and probe.bad == {"7": "7.png: damaged"}
    rest = measured(Noise(count=7))[1]
    without = Noise(bad=7)
    without.count = 8
    assert measured(without, bad_share=0.2)[1]["net/mean_iou"] == pytest.approx(rest["net/mean_iou"], rel=1e-12)
    assert "7 left out: 7.png: damaged" in capsys.readouterr().err
    probe({"net": Channels(Noise())}, Noise(bad=7))
    assert capsys.readouterr().err == ""
    with pytest.raises(Mistake, match="1 of 9 samples cannot be read"):
        measured(Noise(bad=7))


def test_other_metrics_have_their_numbers_beside_the_first() -> None:
    plain = measured(Noise())[1]
    probe = Measure(("confusion", "calibration"), classes=CLASSES, input_size=None)
    found = probe({"net": Channels(Noise())}, Noise())
    total = Calibration(num_classes=3)
    for index in range(9):
        sample = Noise()[index]
        total.update(sample.image[None].float() / 255, sample.labels[None])
    expected = {f"net/{name}": value for name, value in total.result().items() if isinstance(value, float)}
    assert len(expected) == 6 and "net/ece" in expected
    assert {**plain, **expected} == pytest.approx(dict(found.numbers), rel=1e-6)
    assert list(found.tables) == ["net"], "readers take every table for a network's"


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (("calibration",), "probes.measure.metrics: expected confusion among them, by which the best weights are kept"),
        (("confusion", "calibratoin"), "probes.measure.metrics: there is no metric 'calibratoin'; .*'calibration'"),
    ],
)
def test_metrics_that_cannot_be(metrics: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        Measure(metrics, classes=CLASSES, input_size=None)

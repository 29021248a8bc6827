"""The confusion matrix: a count by hand, the example of the text, and the official Cityscapes evaluation."""

import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from segdistill.labels import to_label_ids
from segdistill.metrics.confusion import ROWS, Confusion, called
from segdistill.types import IGNORE

K = 5


def maps(seed: int, k: int = K, images: int = 3, size: tuple[int, int] = (9, 11)) -> tuple[Tensor, Tensor]:
    """(predicted, labels with void) that agree on about half of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, k, (images, *size), generator=generator)
    other = torch.randint(0, k, labels.shape, generator=generator)
    predicted = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels, other)
    labels[torch.rand(labels.shape, generator=generator) < 0.15] = IGNORE
    return predicted, labels


def one_hot(predicted: Tensor, k: int = K) -> Tensor:
    return torch.nn.functional.one_hot(predicted, k).movedim(-1, 1).float()


def counted(predicted: Tensor, labels: Tensor, k: int = K) -> Confusion:
    confusion = Confusion(num_classes=k)
    confusion.update(one_hot(predicted, k), labels)
    return confusion


def test_equals_a_count_by_hand() -> None:
    predicted, labels = maps(0)
    result = counted(predicted, labels).result()
    hits, truth, said = [0] * K, [0] * K, [0] * K
    for p, y in zip(predicted.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if y != IGNORE:
            hits[y] += p == y
            truth[y] += 1
            said[p] += 1
    iou = [h / (t + s - h) for h, t, s in zip(hits, truth, said, strict=True)]
    total = sum(truth)
    expected = {
        "iou": iou,
        "mean_iou": sum(iou) / K,
        "frequency_weighted_iou": sum(t / total * v for t, v in zip(truth, iou, strict=True)),
        "pixel_accuracy": sum(hits) / total,
        "accuracy": [h / t for h, t in zip(hits, truth, strict=True)],
        "frequency": [t / total for t in truth],
    }
    assert set(result) == set(expected)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-12, abs=0), name


def test_one_matrix_over_all_images() -> None:
    """Labels 0001 and 0000, predictions 0001 and 0001: .678571, where the mean over images would be .6875."""
    labels = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 0, 0]]])
    predicted = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 0, 1]]])
    result = counted(predicted, labels, 2).result()
    assert result["iou"] == pytest.approx([6 / 7, 1 / 2], rel=1e-12)
    assert result["mean_iou"] == pytest.approx(0.678571, abs=5e-7)


def test_rows_are_the_truth() -> None:
    confusion = Confusion(num_classes=3)
    confusion.add(torch.tensor([[[2, 2, 0]]]), torch.tensor([[[1, 1, 0]]]))
    assert confusion.counts.tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert confusion.counts.dtype == torch.int64


def test_absent_classes_are_left_out_and_reported() -> None:
    """Class 2 is nowhere, class 3 only in the prediction: that is an IoU of 0, not an absence."""
    labels = torch.tensor([[[0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 1, 3]]])
    result = counted(predicted, labels, 4).result()
    iou, accuracy = result["iou"], result["accuracy"]
    assert isinstance(iou, list) and isinstance(accuracy, list)
    assert iou[:2] == [1.0, 0.5] and math.isnan(iou[2]) and iou[3] == 0
    assert accuracy[:2] == [1.0, 0.5] and math.isnan(accuracy[2]) and math.isnan(accuracy[3])
    assert result["mean_iou"] == pytest.approx(0.5, rel=1e-12)
    assert result["frequency_weighted_iou"] == pytest.approx(0.75, rel=1e-12)


def test_void_counts_nowhere() -> None:
    predicted, labels = maps(1)
    before = counted(predicted, labels)
    changed = torch.where(labels == IGNORE, (predicted + 1) % K, predicted)
    assert (changed != predicted).any()
    assert torch.equal(counted(changed, labels).counts, before.counts)
    assert int(before.counts.sum()) == int((labels != IGNORE).sum())


def test_nothing_labelled() -> None:
    labels = torch.full((1, 2, 3), IGNORE)
    result = counted(torch.zeros_like(labels), labels).result()
    assert math.isnan(result["mean_iou"])  # pyright: ignore[reportArgumentType]


def test_perfect_prediction() -> None:
    _, labels = maps(2)
    result = counted(labels.where(labels != IGNORE, 0), labels).result()
    assert result["mean_iou"] == result["pixel_accuracy"] == 1
    assert result["frequency_weighted_iou"] == pytest.approx(1, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 3))
def test_halves_add_up(seed: int, cut: int) -> None:
    predicted, labels = maps(seed)
    whole = counted(predicted, labels)
    parts = [Confusion(num_classes=K) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, cut), slice(cut, None)), strict=True):
        if len(labels[rows]):
            part.update(one_hot(predicted[rows]), labels[rows])
    kept = parts[0].counts.clone()
    assert torch.equal((parts[0] + parts[1]).counts, whole.counts)
    assert torch.equal(parts[0].counts, kept)


def test_relabelled_classes_keep_the_mean() -> None:
    predicted, labels = maps(3)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    renamed = torch.where(labels == IGNORE, IGNORE, order[labels.where(labels != IGNORE, 0)])
    before, after = counted(predicted, labels).result(), counted(order[predicted], renamed).result()
    assert after["mean_iou"] == pytest.approx(before["mean_iou"], rel=1e-12)


def test_many_pixels_do_not_overflow() -> None:
    confusion = Confusion(num_classes=2)
    confusion.counts += 3_000_000_000
    assert (confusion + confusion).result()["iou"] == pytest.approx([1 / 3, 1 / 3], rel=1e-12)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("k", [2, 19, 127, 128, 150])
def test_every_integer_type_counts_the_same(kind: torch.dtype, k: int) -> None:
    """127 classes are the last whose keys fit into 16 bits; values above them, but void, are dropped as well."""
    predicted, labels = maps(4, k)
    labels[0, 0, :3] = torch.tensor([k, 200, 254])
    labels[0, 1, :3] = k - 1
    predicted[0, 1, :3] = k - 1
    expected = np.zeros((k, k), np.int64)
    for p, y in zip(predicted.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if y < k:
            expected[y, p] += 1
    confusion = Confusion(num_classes=k)
    confusion.add(predicted.to(kind), labels.to(kind))
    assert confusion.counts.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("height", [1, ROWS, 2 * ROWS + 5])
def test_the_largest_logit_and_the_first_of_equal_ones(
    kind: torch.dtype, layout: torch.memory_format, height: int
) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 4, (2, 7, height, 6), generator=random).to(kind).contiguous(memory_format=layout)
    assert called(logits).tolist() == logits.float().numpy().argmax(1).tolist()


def test_pairs_count_as_their_class_maps_do() -> None:
    """And a labelled pixel that is called nothing is a miss of its class, nobody's false alarm."""
    predicted, labels = maps(5)
    pairs = torch.bincount((labels * 256 + predicted).flatten(), minlength=1 << 16).view(256, 256)
    confusion, whole = Confusion(num_classes=K), counted(predicted, labels)
    confusion.add_pairs(pairs)
    assert torch.equal(confusion.counts, whole.counts) and not confusion.unanswered.any()
    moved = int(pairs[0, 0])
    pairs[0, IGNORE] += moved
    pairs[0, 0] = 0
    missed = Confusion(num_classes=K)
    missed.add_pairs(pairs)
    both = missed + missed
    before, after = whole.result(), both.result()
    assert isinstance(before["iou"], list) and isinstance(after["iou"], list)
    assert after["iou"] == pytest.approx([0, *before["iou"][1:]], rel=1e-12)
    assert after["frequency"] == pytest.approx(before["frequency"], rel=1e-12)
    labelled = int((labels != IGNORE).sum())
    hits = int(((labels == predicted) & (labels != IGNORE)).sum()) - moved
    assert after["pixel_accuracy"] == pytest.approx(hits / labelled, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_official_evaluation(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cityscapesScripts on the same maps as PNGs of label ids; one class in predictions only, one nowhere."""
    pytest.importorskip("cityscapesscripts", reason="needs cityscapesscripts (the extra 'official')")
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(tmp_path))
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

    predicted, labels = maps(seed, 19, images=3, size=(24, 40))
    labels[(labels == 16) | (labels == 5)] = IGNORE
    predicted[predicted == 16] = 0
    truths, answers = [], []
    for i in range(3):
        truth, answer = (tmp_path / f"{i}_{what}.png" for what in ("gtFine_labelIds", "pred"))
        Image.fromarray(to_label_ids(labels[i].numpy().astype(np.uint8))).save(truth)
        Image.fromarray(to_label_ids(predicted[i].numpy().astype(np.uint8))).save(answer)
        truths.append(str(truth))
        answers.append(str(answer))
    monkeypatch.setattr(official.args, "evalInstLevelScore", False)  # its code does not run with numpy 2.4
    monkeypatch.setattr(official.args, "evalPixelAccuracy", False)
    monkeypatch.setattr(official.args, "quiet", True)
    monkeypatch.setattr(official.args, "JSONOutput", False)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = official.evaluateImgLists(answers, truths, official.args)
    ours = counted(predicted, labels, 19).result()
    names = [label.name for label in official.labels if label.trainId not in (255, -1)]
    scores = [theirs["classScores"][name] for name in names]
    iou = ours["iou"]
    assert isinstance(iou, list)
    assert [math.isnan(v) for v in iou] == [math.isnan(v) for v in scores]
    assert iou[5] == 0 and math.isnan(iou[16])
    assert np.array(iou) == pytest.approx(np.array(scores), abs=1e-9, nan_ok=True)
    assert ours["mean_iou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)

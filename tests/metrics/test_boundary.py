"""Boundary IoU: the check values of the text, erosions pixel by pixel, and what must not change it."""

import math

import pytest
import torch
from torch import Tensor

from segdistill.metrics.boundary import Boundary, contour
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 3


def square(left: int = 1) -> Tensor:
    """5 x 5 pixels of class 1 in 7 x 7."""
    classes = torch.zeros(1, 7, 7, dtype=torch.int64)
    classes[:, 1:6, left : left + 5] = 1
    return classes


def logits(classes: Tensor, k: int = K) -> Tensor:
    return torch.nn.functional.one_hot(classes, k).movedim(-1, 1).float()


def counted(predicted: Tensor, labels: Tensor, ratio: float = 0.1) -> Boundary:
    metric = Boundary(ratio, num_classes=K)
    metric.update(logits(predicted), labels)
    return metric


def drawn(seed: int, images: int = 3, size: tuple[int, int] = (13, 17)) -> tuple[Tensor, Tensor]:
    """(predictions, labels with void), in patches."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, K, (2, images, -(-size[0] // 4), -(-size[1] // 4)), generator=random)
    predicted, labels = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., : size[0], : size[1]].clone()
    labels[torch.rand(labels.shape, generator=random) < 0.1] = IGNORE
    return predicted, labels


def eroded(mask: list[list[bool]], times: int) -> list[list[bool]]:
    """As the text says it: so often by 3 x 3, nothing beyond the border."""
    for _ in range(times):
        high, wide = len(mask), len(mask[0])
        mask = [
            [
                all(
                    0 <= y + dy < high and 0 <= x + dx < wide and mask[y + dy][x + dx]
                    for dy in (-1, 0, 1)
                    for dx in (-1, 0, 1)
                )
                for x in range(wide)
            ]
            for y in range(high)
        ]
    return mask


@pytest.mark.parametrize(("reach", "pixels"), [(1, 16), (2, 24), (3, 25)])
def test_the_contour_of_a_square(reach: int, pixels: int) -> None:
    assert int((contour(square(), reach) & (square() == 1)).sum()) == pixels


def test_a_square_that_is_shifted_by_a_column() -> None:
    """IoU is 20 of 30 pixels; of 16 pixels near each contour, 8 are both."""
    found = counted(square(2), square()).result()["boundary_iou"]
    assert isinstance(found, list) and found[1] == pytest.approx(8 / 24)
    hits, union = ((square() == 1) & (square(2) == 1)).sum(), ((square() == 1) | (square(2) == 1)).sum()
    assert float(hits / union) == pytest.approx(0.6667, abs=1e-4)


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.2])
def test_equals_erosion_of_every_mask(ratio: float) -> None:
    predicted, labels = drawn(1)
    times = max(1, round(ratio * math.hypot(13, 17)))
    sums = [[0, 0] for _ in range(K)]
    for said, truth in zip(predicted, labels, strict=True):
        said = torch.where(truth == IGNORE, IGNORE, said)
        for k in range(K):
            masks = [(each == k).tolist() for each in (truth, said)]
            near = [torch.tensor(mask) & ~torch.tensor(eroded(mask, times)) for mask in masks]
            sums[k][0] += int((near[0] & near[1]).sum())
            sums[k][1] += int((near[0] | near[1]).sum())
    found = counted(predicted, labels, ratio).result()
    assert found["boundary_iou"] == pytest.approx([hits / union for hits, union in sums])
    assert found["mean_boundary_iou"] == pytest.approx(sum(hits / union for hits, union in sums) / K)


def test_the_reach_is_a_share_of_the_diagonal() -> None:
    """The text's numbers of pixels: the contour of a mask that fills the image is as wide as that."""
    for height, width, ratio, pixels in (
        (1024, 2048, 0.005, 11),
        (720, 1280, 0.005, 7),
        (512, 1024, 0.005, 6),
        (360, 480, 0.005, 3),
        (360, 480, 0.02, 12),
    ):
        everything = torch.zeros(1, height, width, dtype=torch.int64)
        metric = Boundary(ratio, num_classes=K)
        metric.add(everything, everything)
        inner = (height - 2 * pixels) * (width - 2 * pixels)
        assert metric.counts[:, 0].tolist() == [height * width - inner] * 3


def test_what_lies_under_void_changes_nothing() -> None:
    predicted, labels = drawn(2)
    other = torch.where(labels == IGNORE, (predicted + 1) % K, predicted)
    assert torch.equal(counted(predicted, labels).counts, counted(other, labels).counts)


def test_images_and_ranks_add_up() -> None:
    predicted, labels = drawn(3, images=4)
    whole = counted(predicted, labels)
    parts = [counted(predicted[some], labels[some]) for some in (slice(0, 1), slice(1, 4))]
    assert torch.equal((parts[0] + parts[1]).counts, whole.counts) and parts[0].counts.sum() < whole.counts.sum()


def test_a_class_that_is_nowhere_is_left_out() -> None:
    found = counted(square(2), square()).result()
    ious = found["boundary_iou"]
    assert isinstance(ious, list) and math.isnan(ious[2])
    assert found["mean_boundary_iou"] == pytest.approx((ious[0] + ious[1]) / 2)
    assert counted(square(), square()).result()["mean_boundary_iou"] == 1
    nothing = torch.full((1, 7, 7), IGNORE)
    nowhere = counted(square(), nothing).result()["mean_boundary_iou"]
    assert isinstance(nowhere, float) and math.isnan(nowhere)


@pytest.mark.parametrize("ratio", [0.0, 0.5, -1.0])
def test_a_ratio_that_is_none(ratio: float) -> None:
    with pytest.raises(Mistake, match="ratio: expected 0 < share of the diagonal"):
        Boundary(ratio, num_classes=K)

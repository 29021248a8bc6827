"""Cross entropy agrees with torch's and with sums written from the formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

K = 4
PIXELS = [500, 300, 200, 0]
WEIGHTS = [0.5, 2.0, 1.0, 3.0]


def build(
    label_smoothing: float = 0.0,
    class_weights: object = None,
    pixels: list[int] | None = None,
    logit_adjustment: float = 0.0,
) -> CrossEntropy:
    counts = pixels or PIXELS
    return CrossEntropy(
        label_smoothing,
        class_weights,  # pyright: ignore[reportArgumentType]
        logit_adjustment=logit_adjustment,
        num_classes=len(counts),
        class_pixels=counts,
        class_image_pixels=[sum(counts)] * len(counts),
    )


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with void, and a mask that leaves out some labelled pixels."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, K, 5, 7, generator=generator, dtype=dtype)
    labels = torch.randint(0, K, (2, 5, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels, torch.rand(labels.shape, generator=generator) < 0.8


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS, [0.0, 1.0, 0.0, 1.0], "enet", "median_frequency"])
def test_agrees_with_torch(label_smoothing: float, class_weights: object) -> None:
    """In value and gradient, with pixels outside the mask as void."""
    loss = build(label_smoothing, class_weights)
    logits, labels, mask = example()
    logits.requires_grad_()
    ours = loss(logits, labels, labels, mask)
    theirs = F.cross_entropy(
        logits,
        labels.where(mask, IGNORE),
        weight=loss.weights.double(),
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    pair = [torch.autograd.grad(value, logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_agrees_with_a_loop(label_smoothing: float, class_weights: list[float] | None) -> None:
    """Σ_i Σ_c w_c·q_c·(−ln p_c) / Σ_i w_{y_i}, q = (1 − ε)·onehot + ε/K."""
    logits, labels, mask = example()
    weights = class_weights or [1.0] * K
    total = divisor = 0.0
    for b in range(2):
        for y in range(5):
            for x in range(7):
                label = int(labels[b, y, x])
                if label == IGNORE or not mask[b, y, x]:
                    continue
                z = [float(logits[b, c, y, x]) for c in range(K)]
                normaliser = math.log(sum(math.exp(v) for v in z))
                for c in range(K):
                    q = (1 - label_smoothing) * (c == label) + label_smoothing / K
                    total += weights[c] * q * (normaliser - z[c])
                divisor += weights[label]
    ours = build(label_smoothing, class_weights)(logits, labels, labels, mask)
    assert float(ours) == pytest.approx(total / divisor, rel=1e-12)


@pytest.mark.parametrize(("epsilon", "expected"), [(0.0, 0.169846), (0.1, 0.336513)])
def test_label_smoothing_by_hand(epsilon: float, expected: float) -> None:
    """z = (2, 0, −1), label 0."""
    logits = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64).view(1, 3, 1, 1)
    labels = torch.zeros(1, 1, 1, dtype=torch.int64)
    value = build(epsilon, pixels=[1, 1, 1])(logits, labels, labels, labels == 0)
    assert float(value) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("enet", [2.3883, 3.6019, 5.0289, 50.4983]), ("erfnet", [2.1276, 2.9720, 3.8115, 10.4921])],
)
def test_weights_by_name(name: str, expected: list[float]) -> None:
    """1 / ln(1.02 + f) and 1 / ln(1.10 + f) at f = .5, .3, .2, 0."""
    assert build(class_weights=name).weights.tolist() == pytest.approx(expected, abs=6e-5)


def test_weights_by_name_without_a_labelled_pixel() -> None:
    assert build(class_weights="enet", pixels=[0, 0]).weights.tolist() == pytest.approx([1 / math.log(1.02)] * 2)


def test_equal_weights_change_nothing() -> None:
    logits, labels, mask = example()
    plain, scaled = (build(0.1, weights)(logits, labels, labels, mask) for weights in (None, [7.0] * K))
    torch.testing.assert_close(plain, scaled, rtol=1e-12, atol=0)


def test_only_classes_of_weight_zero_give_zero() -> None:
    logits, labels, mask = example()
    labels = torch.where(labels == IGNORE, IGNORE, 0)
    value = build(class_weights=[0.0, 1.0, 1.0, 1.0])(logits.requires_grad_(), labels, labels, mask)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert not gradient.any()


def test_weights_follow_the_module_but_not_the_checkpoint() -> None:
    """They are facts of the data, made anew from the recipe."""
    loss = build(class_weights=WEIGHTS)
    assert not loss.state_dict()
    assert loss.to("meta").weights.device.type == "meta"


def test_logit_adjustment_by_hand() -> None:
    """Where the logits say nothing, the prior is all there is: −ln .2, .3, .5."""
    logits = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
    labels = torch.tensor([[[2, 1, 0]]])
    loss = build(pixels=[500, 300, 200], logit_adjustment=1.0)
    for pixel, expected in enumerate((1.609438, 1.203973, 0.693147)):
        value = loss(logits, labels, labels, torch.arange(3).view(1, 1, 3) == pixel)
        assert float(value) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_logit_adjustment_agrees_with_torch_on_moved_logits(tau: float, label_smoothing: float) -> None:
    """A class without a pixel counts as one pixel: its logit moves by a finite amount."""
    logits, labels, mask = example()
    shift = tau * torch.tensor([500 / 1001, 300 / 1001, 200 / 1001, 1 / 1001], dtype=torch.float64).log()
    ours = build(label_smoothing, WEIGHTS, logit_adjustment=tau)(logits, labels, labels, mask)
    theirs = F.cross_entropy(
        logits + shift.view(1, K, 1, 1),
        labels.where(mask, IGNORE),
        weight=torch.tensor(WEIGHTS, dtype=torch.float64),
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_logit_adjustment_of_equal_classes_changes_nothing() -> None:
    logits, labels, mask = example()
    plain, adjusted = (build(0.1, pixels=[7] * K, logit_adjustment=tau) for tau in (0.0, 1.0))
    torch.testing.assert_close(plain(logits, labels, labels, mask), adjusted(logits, labels, labels, mask))


def test_a_logit_that_learned_the_balanced_answer_is_right_when_adjusted() -> None:
    """The least loss of a pixel of which a share q is labelled c is at logits ln(q / π): Menon et al., eq. 8."""
    share, prior = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), [800, 150, 50]
    labels = torch.tensor([0] * 7 + [1] * 2 + [2]).view(1, 1, 10)
    logits = (share / torch.tensor(prior)).log().view(1, 3, 1, 1).expand(1, 3, 1, 10).clone().requires_grad_()
    value = build(pixels=prior, logit_adjustment=1.0)(logits, labels, labels, labels >= 0)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(gradient.sum(3).abs().max()) < 1e-7


def test_logit_adjustment_out_of_range() -> None:
    with pytest.raises(Mistake, match=r"^logit_adjustment: expected 0 or more, got -1.0$"):
        build(logit_adjustment=-1.0)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, 2.0])
def test_label_smoothing_out_of_range(epsilon: float) -> None:
    with pytest.raises(Mistake, match=rf"^label_smoothing: expected 0 <= ε < 1, got {epsilon}$"):
        build(epsilon)


def test_the_wrong_number_of_weights() -> None:
    with pytest.raises(Mistake, match=r"^class_weights: expected 4 numbers, none below 0, got 3: "):
        build(class_weights=[1.0, 1.0, 1.0])


def test_a_negative_weight_is_named() -> None:
    with pytest.raises(Mistake, match=r"^class_weights: expected 4 numbers, none below 0, got 4: .*-2"):
        build(class_weights=[1.0, 1.0, -2.0, 1.0])

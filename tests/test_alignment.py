"""CKA is what Gram matrices give, has the invariances of the paper, and does not mind how it was streamed."""

import itertools
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.alignment import PIXELS, Alignments, End
from segdistill.heat_map import heat_map
from segdistill.types import Stage

ONE, OTHER = End("one", "body"), End("other", "body")


def gram(x: Tensor, y: Tensor) -> float:
    """Kornblith et al. 2019, eq. 3, with HSIC of n × n Gram matrices and the centring matrix."""
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    gram_one, gram_other = (centring @ (z.double() @ z.double().T) @ centring for z in (x, y))

    def hsic(a: Tensor, b: Tensor) -> float:
        return float((a * b).sum()) / (n - 1) ** 2

    return hsic(gram_one, gram_other) / math.sqrt(hsic(gram_one, gram_one) * hsic(gram_other, gram_other))


def image(x: Tensor, height: int = 1) -> Tensor:
    """[n, C] -> [1, C, height, n / height]."""
    return x.T.reshape(1, x.shape[1], height, -1)


def both(p: int, q: int, strides: tuple[int, int] = (1, 1)) -> Alignments:
    stages = {"one": {"body": Stage(p, strides[0])}, "other": {"body": Stage(q, strides[1])}}
    return Alignments([(ONE, OTHER)], stages)


def seen(x: Tensor, y: Tensor) -> Alignments:
    found = both(x.shape[1], y.shape[1])
    found.update({"one": {"body": image(x)}, "other": {"body": image(y)}})
    return found


def cka(x: Tensor, y: Tensor) -> float:
    value = seen(x, y).cka(ONE, OTHER)
    assert value is not None
    return value


def drawn(n: int, p: int, q: int, seed: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """float64 features that have some directions in common."""
    random = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 3, generator=random, dtype=torch.float64)
    x, y = (
        shared @ torch.randn(3, width, generator=random, dtype=torch.float64)
        + torch.randn(n, width, generator=random, dtype=torch.float64)
        for width in (p, q)
    )
    return x + offset, y - 2 * offset


@pytest.mark.parametrize(("n", "p", "q"), [(2, 1, 1), (40, 5, 7), (300, 16, 3), (20, 50, 60)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_it_is_what_gram_matrices_give(n: int, p: int, q: int, offset: float) -> None:
    x, y = drawn(n, p, q, offset=offset)
    assert cka(x, y) == pytest.approx(gram(x, y), abs=1e-9)


def test_what_it_minds_and_what_not() -> None:
    x, y = drawn(500, 6, 4)
    plain = cka(x, y)
    assert 0.1 < plain < 0.9
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    shuffled = torch.randperm(500, generator=torch.Generator().manual_seed(2))
    assert cka(x @ turn, y) == pytest.approx(plain, abs=1e-12)
    assert cka(-7 * x + 3, 0.01 * y) == pytest.approx(plain, abs=1e-12)
    assert cka(x[shuffled], y[shuffled]) == pytest.approx(plain, abs=1e-12)
    assert cka(y, x) == pytest.approx(plain, abs=1e-12)
    assert cka(x, x) == pytest.approx(1, abs=1e-12) and cka(x, 5 * x) == pytest.approx(1, abs=1e-12)
    stretched = x * torch.tensor([100.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert abs(cka(stretched, y) - plain) > 0.01, "not any linear map"
    assert cka(stretched, x) < 0.9


def test_independent_features_have_what_chance_gives() -> None:
    """The mean over shuffles is exact, and near sqrt(p q) / n where channels have one variance."""
    n, p, q = 4000, 12, 5
    x, y = (torch.randn(n, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)
            for width in (p, q))  # fmt: skip
    floor = seen(x, y).by_chance(ONE, OTHER)
    assert floor is not None
    assert floor == pytest.approx(math.sqrt(p * q) / n, rel=0.01)
    assert 0 < cka(x, y) < 2 * floor < 0.004
    x, y = drawn(6, 3, 2)
    every = [cka(x, y[list(order)]) for order in itertools.permutations(range(6))]
    assert seen(x, y).by_chance(ONE, OTHER) == pytest.approx(np.mean(every), abs=1e-12)


def test_streaming_is_batch() -> None:
    n = PIXELS * 2 + 300
    x, y = drawn(n, 6, 4, offset=5)
    whole = seen(x, y)
    centred = [z - z.mean(0) for z in (x, y)]
    exact = (centred[0].T @ centred[1]).square().sum() / (
        torch.linalg.matrix_norm(centred[0].T @ centred[0]) * torch.linalg.matrix_norm(centred[1].T @ centred[1])
    )
    assert whole.cka(ONE, OTHER) == pytest.approx(float(exact), abs=1e-12)
    cuts = [(x[a:b], y[a:b]) for a, b in ((0, 7), (7, 5000), (5000, 5001), (5001, n))]
    for order in itertools.permutations(cuts):
        streamed = both(6, 4)
        for one, other in order:
            streamed.update({"one": {"body": image(one)}, "other": {"body": image(other)}})
        merged = (seen(*order[0]) + seen(*order[1])) + (seen(*order[2]) + both(6, 4) + seen(*order[3]))
        for found in (streamed, merged):
            assert found.cka(ONE, OTHER) == pytest.approx(float(exact), abs=1e-12)
            assert found.examples(ONE, OTHER) == n


def test_unlike_strides_meet_on_the_coarser_grid() -> None:
    """Cells that the border cuts are means of what lies in them."""
    random = torch.Generator().manual_seed(0)
    fine, coarse = torch.randn(2, 3, 10, 13, generator=random), torch.randn(2, 2, 3, 4, generator=random)
    found = both(3, 2, (1, 4))
    found.update({"one": {"body": fine}, "other": {"body": coarse}})
    cells = torch.stack([
        fine[b, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].double().mean((1, 2))
        for b in range(2) for i in range(3) for j in range(4)
    ])  # fmt: skip
    assert found.examples(ONE, OTHER) == 24
    assert found.cka(ONE, OTHER) == pytest.approx(gram(cells, coarse.permute(0, 2, 3, 1).reshape(24, 2)), abs=1e-7)


def test_strides_of_which_none_is_a_multiple_meet() -> None:
    random = torch.Generator().manual_seed(0)
    fine, coarse = torch.randn(1, 3, 6, 9, generator=random), torch.randn(1, 2, 4, 6, generator=random)
    found = both(3, 2, (2, 3))
    found.update({"one": {"body": fine}, "other": {"body": coarse}})
    cells = torch.nn.functional.adaptive_avg_pool2d(fine.double(), (4, 6))
    rows = [each.permute(0, 2, 3, 1).flatten(0, 2) for each in (cells, coarse)]
    assert found.cka(ONE, OTHER) == pytest.approx(gram(*rows), abs=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-20, 3e20])
def test_what_is_constant_has_none(value: float) -> None:
    """Pooled over borders too, and in several chunks."""
    x = torch.full((1, 5, 75, 201), value)
    y = torch.randn(1, 2, 38, 101, generator=torch.Generator().manual_seed(0))
    found = both(5, 2, (1, 2))
    for _ in range(2):
        found.update({"one": {"body": x}, "other": {"body": y}})
        assert found.cka(ONE, OTHER) is None and found.by_chance(ONE, OTHER) is None
    x[0, 0, 3, 3] = value * (1 + 1e-6) + 1e-20
    found = both(5, 2, (1, 2))
    found.update({"one": {"body": x}, "other": {"body": y}})
    assert found.cka(ONE, OTHER) is not None, "one pixel that differs is enough"


def test_what_is_not_known_has_none() -> None:
    x, y = drawn(40, 3, 2)
    assert both(3, 2).cka(ONE, OTHER) is None and both(3, 2).examples(ONE, OTHER) == 0
    assert seen(x[:1], y[:1]).cka(ONE, OTHER) is None, "one pixel"
    x[3, 1] = math.nan
    assert seen(x, y).cka(ONE, OTHER) is None and seen(x, y).by_chance(ONE, OTHER) is None


def test_what_was_seen_can_be_kept() -> None:
    x, y = drawn(300, 6, 4)
    half, again = seen(x[:100], y[:100]), both(6, 4)
    again.restore(half.state(), "cpu")
    again.update({"one": {"body": image(x[100:])}, "other": {"body": image(y[100:])}})
    assert again.cka(ONE, OTHER) == pytest.approx(cka(x, y), abs=1e-12)


def test_a_heat_map_shows_the_order_of_its_numbers() -> None:
    """Darker is less, what is not known is grey, and the numbers do not change the size."""
    values = [[0.0, 0.9], [None, 0.5]]
    pixels = heat_map(values, ["a", "b"], ["a", "c"], (0, 1), ("student", "teacher")).pixels
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    again = heat_map(values, ["a", "b"], ["a", "c"], (0, 1), ("student", "teacher")).pixels
    np.testing.assert_array_equal(pixels, again)
    for colour in (*(mpl.colormaps["viridis"](value)[:3] for value in (0.0, 0.5, 0.9)), (0.85,) * 3):
        assert (np.abs(pixels - 255 * np.array(colour)).max(2) <= 1).sum() > 500
    changes = heat_map([[0.2, -0.2]], ["a"], ["a", "c"], (-0.2, 0.2), ("s", "t"), is_difference=True).pixels
    assert changes.shape[0] < pixels.shape[0]

"""Memory contrast: what stands in the queues, who is compared with what, silence at first, and resuming."""

import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill.losses.memory_contrast import MemoryContrast
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

CLASSES = 3
Example = tuple[Tensor, Tensor, Tensor, Tensor]


def built(seed: int = 0, channels: int = 4, **settings: Any) -> MemoryContrast:
    torch.manual_seed(0)
    return MemoryContrast(**settings, num_classes=CLASSES, channels=channels, student_channels=5, seed=seed).double()


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(seed: int, images: int = 2) -> Example:
    """Student, target, labels with void, and a mask; 4 × 6 cells."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 1, 2, IGNORE])[torch.randint(4, (images, 4, 6), generator=generator)]
    mask = torch.rand(images, 4, 6, generator=generator) < 0.8
    return random(seed, images, 5, 4, 6), random(seed + 1000, images, 4, 4, 6), labels, mask


def held(queues: Any, k: int) -> Tensor:
    """What was put into the queue of a class."""
    return queues.vectors[k, : int(queues.held[k])]


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).mT


def test_fixture_a_queue_holds_its_own_class() -> None:
    """The published bug: indexing the first cells of the image, of any class, instead of the class's own."""
    target = torch.zeros(1, 4, 8, 6, dtype=torch.float64)
    target[:, 0, :4], target[:, 1, 4:] = 1, 1
    labels = torch.zeros(1, 8, 6, dtype=torch.int64)
    labels[:, 4:] = 1
    loss = built()
    loss(random(0, 1, 5, 8, 6), 3 * target, labels, labels >= 0)
    axes = torch.eye(4, dtype=torch.float64)
    for queues, number in ((loss.pixels, 16), (loss.regions, 1)):
        assert queues.held.tolist() == [number, number, 0]
        for k in (0, 1):
            assert torch.equal(held(queues, k), axes[k].expand(number, 4))


def test_only_labelled_cells_that_count_are_remembered_and_none_twice() -> None:
    _, target, labels, mask = example(0)
    loss = built(per_image=24)  # as many as there are cells: all are taken
    loss(random(5, 2, 5, 4, 6), target, labels, mask)
    for k in range(CLASSES):
        expected, means = list[Tensor](), list[Tensor]()
        for t, y, m in zip(target, labels, mask, strict=True):
            cells = torch.stack([t[:, i, j] / t[:, i, j].norm() for i, j in (m & (y == k)).nonzero().tolist()])
            expected += [*cells]
            means += [cells.mean(0) / cells.mean(0).norm()]
        ours, theirs = (sorted(map(tuple, torch.stack([*x]).tolist())) for x in (held(loss.pixels, k), expected))
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(held(loss.regions, k), torch.stack(means), rtol=1e-9, atol=1e-12)


def test_remembered_cells_are_drawn_from_the_whole_class() -> None:
    """Two of 24 cells of each of 600 images: every cell comes, about as often as every other."""
    target = torch.eye(24, dtype=torch.float64).view(1, 24, 4, 6).expand(600, 24, 4, 6)
    loss = built(channels=24, per_image=2, keys=3)
    labels = torch.ones(600, 4, 6, dtype=torch.int64)
    loss(random(0, 600, 5, 4, 6), target, labels, labels > 0)
    often = held(loss.pixels, 1).sum(0)
    assert often.sum() == 1200
    assert 50 - 5 * math.sqrt(50) < often.min() and often.max() < 50 + 5 * math.sqrt(50)


def test_the_ring_keeps_the_tail() -> None:
    """Against a list: the newest overwrite the oldest, also over the end of the ring."""
    loss = built(pixel_memory=7, region_memory=7, min_keys=1, channels=1)
    expected = [list[float]() for _ in range(CLASSES)]
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        vectors = torch.arange(5).double().view(1, 5, 1).expand(CLASSES, 5, 1) + 10.0 * step
        valid = torch.rand(CLASSES, 5, generator=generator) < 0.5
        loss.pixels.put(vectors, valid)
        for k in range(CLASSES):
            expected[k] = [*expected[k], *vectors[k, valid[k], 0].tolist()][-7:]
            assert sorted(held(loss.pixels, k).flatten().tolist()) == expected[k]


def test_more_than_the_ring_holds() -> None:
    loss = built(pixel_memory=3, region_memory=3, min_keys=1, channels=1)
    valid = torch.tensor([True, False, True, True, True]).expand(CLASSES, 5)
    loss.pixels.put(torch.arange(5).double().view(1, 5, 1).expand(CLASSES, 5, 1), valid)
    assert held(loss.pixels, 0).flatten().tolist() == [0, 2, 3]


def loop(loss: MemoryContrast, given: Example) -> float:
    """All cells that count against all that is remembered, as the paper's equations say."""
    student, target, _, mask = given
    total, number = 0.0, 0
    for b, y, x in mask.nonzero().tolist():
        number += 1
        ours, theirs = loss.head(student[b, :, y, x]), target[b, :, y, x]
        for queues, weight in ((loss.pixels, 1.0), (loss.regions, loss.region_weight)):
            used = [k for k in range(CLASSES) if queues.held[k] >= loss.min_keys]
            if used:
                keys = torch.cat([held(queues, k) for k in used])
                p, q = (torch.softmax(cosines(v, keys) / loss.temperature, 0).tolist() for v in (ours, theirs))
                total += weight * sum(v * math.log(v / u) for u, v in zip(p, q, strict=True))
    return total / number


def test_agrees_with_a_loop() -> None:
    loss = built(temperature=0.4, region_weight=0.5, min_keys=3)
    seen = list[float]()
    for step in range(5):
        given = example(step)
        expected = loop(loss, given)
        seen.append(float(loss(*given).detach()))
        assert seen[-1] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert seen[0] == 0 and seen[1] > 0.1
    assert loss.regions.held.tolist() == [10, 10, 10]


def test_silent_until_there_are_enough_keys() -> None:
    """0, with a gradient of 0 for the student and for the head, so that no parameter is without one."""
    loss = built(min_keys=7, per_image=2)
    for step in range(4):  # two images of at most two cells per step: 4, 8, 12
        student, *others = example(step)
        answer = loss(student.requires_grad_(), *others)
        gradients = torch.autograd.grad(answer, [student, *loss.head.parameters()])
        if step < 2:
            assert answer == 0 and not any(gradient.any() for gradient in gradients)
            assert loss.pixels.held.max() > 0
        else:
            assert answer > 1e-3 and all(gradient.isfinite().all() for gradient in gradients)
            assert gradients[0].any()


def test_a_queue_below_min_keys_is_not_used() -> None:
    """Class 2 was seen once; its vector changes nothing."""
    loss = built(min_keys=3)
    for step in range(4):
        student, target, labels, mask = example(step)
        loss(student, target, torch.where(labels == 2, IGNORE, labels), mask)
    loss.eval()
    before = loss(*example(9)).detach()
    vectors, valid = random(3, CLASSES, 1, 4), torch.tensor([[False], [False], [True]])
    loss.pixels.put(vectors, valid)
    assert before > 0
    torch.testing.assert_close(loss(*example(9)).detach(), before, rtol=1e-9, atol=0)
    loss.pixels.put(vectors, valid)
    loss.pixels.put(vectors, valid)
    assert (loss(*example(9)) - before).abs() > 1e-3


def test_what_was_never_put_in_is_never_drawn() -> None:
    loss = built(min_keys=1).eval()
    loss.pixels.put(random(0, CLASSES, 5, 4), torch.ones(CLASSES, 5, dtype=torch.bool))
    expected = loss(*example(1))
    loss.pixels.vectors[:, 5:] = 1e6
    assert expected > 0
    torch.testing.assert_close(loss(*example(1)), expected, rtol=1e-9, atol=0)  # the draw is another, the keys are not


def test_keys_are_balanced_over_the_classes_and_drawn_anew() -> None:
    loss = built(keys=10)
    count = torch.tensor([500, 40, 2])
    loss.pixels.put(random(0, CLASSES, 500, 4), torch.arange(500) < count[:, None])
    generator = torch.Generator().manual_seed(0)
    draws = list[Tensor]()
    for _ in range(2):
        keys, there = loss.pixels.drawn(torch.rand(CLASSES, 2000, generator=generator), loss.keys_per_class, 1)
        assert there.view(CLASSES, 3).sum(1).tolist() == [3, 3, 2]
        assert len(keys[there].unique(dim=0)) == 8
        for k in range(CLASSES):
            mine = keys.view(CLASSES, 3, 4)[k, : min(3, int(count[k]))]
            assert all((held(loss.pixels, k) == key).all(1).any() for key in mine)
        draws.append(keys)
    assert not torch.equal(draws[0][:3], draws[1][:3])


def test_anchors_are_cells_that_count() -> None:
    loss = built(min_keys=1, anchors=5)
    for step in range(2):
        loss(*example(step))
    student, target, labels, mask = example(2)
    mask[1] = False
    mask[1, 0, :3] = True
    loss(student.requires_grad_(), target, labels, mask).backward()
    assert student.grad is not None
    moved = student.grad.abs().sum(1) > 0
    assert moved.sum((1, 2)).tolist() == [5, 3]
    assert not moved[~mask].any()


def test_only_training_fills_the_queues() -> None:
    loss = built().eval()
    loss(*example(0))
    assert not loss.pixels.held.any() and not loss.regions.held.any()
    loss.train()
    loss(*example(0))
    assert loss.pixels.held.all() and loss.regions.held.all()


def test_resuming_goes_on_as_before() -> None:
    """Queues, positions, head and random state are in the state_dict."""
    settings = {"min_keys": 2, "pixel_memory": 20, "region_memory": 4, "keys": 9, "anchors": 6}
    loss = built(**settings)
    for step in range(3):
        loss(*example(step))
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    expected = [loss(*example(step)) for step in range(3, 8)]
    fresh = built(seed=1, **settings)
    fresh.load_state_dict(state)
    assert [fresh(*example(step)) for step in range(3, 8)] == expected
    other = built(seed=1, **settings)
    other.load_state_dict({**state, "_extra_state": other.get_extra_state()})
    assert [other(*example(step)) for step in range(3, 8)] != expected


def test_the_seed_decides() -> None:
    def values(seed: int) -> list[float]:
        loss = built(seed, min_keys=2, keys=9, anchors=6)
        return [float(loss(*example(step)).detach()) for step in range(4)]

    assert values(0) == values(0) != values(1)


def test_two_ranks_hold_the_same_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sees its own images, both remember both, in the order of one process with the larger batch."""
    barrier, here = threading.Barrier(2, timeout=20), threading.local()
    offered = dict[int, Tensor]()

    def all_gather(into: list[Tensor], block: Tensor) -> None:
        offered[here.rank] = block
        barrier.wait()
        for rank in range(2):
            into[rank].copy_(offered[rank])
        barrier.wait()

    def all_reduce(tensor: Tensor) -> None:
        offered[here.rank] = tensor.clone()
        barrier.wait()
        tensor.copy_(offered[0] + offered[1])
        barrier.wait()

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    losses = [built(per_image=24, min_keys=1) for _ in range(2)]
    answers = [list[float](), list[float]()]
    given = [example(step, images=4) for step in range(3)]

    def run(rank: int) -> None:
        here.rank = rank
        for whole in given:
            student, target, labels, mask = (x[2 * rank : 2 * rank + 2] for x in whole)
            answers[rank].append(float(losses[rank](student, target, labels, mask).detach()))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    for name, value in losses[0].state_dict().items():
        torch.testing.assert_close(value, losses[1].state_dict()[name], rtol=0, atol=0)
    one = built(per_image=24, min_keys=1)
    expected = [float(one(*whole).detach()) for whole in given]
    assert [sum(pair) / 2 for pair in zip(*answers, strict=True)] == pytest.approx(expected, rel=1e-9)
    assert one.pixels.held.tolist() == losses[0].pixels.held.tolist()
    assert torch.equal(one.regions.vectors, losses[0].regions.vectors)


def test_never_waits_for_the_device() -> None:
    """On the meta device there are no values: whoever asks for one fails."""
    loss = built().to("meta")
    student, target, labels, mask = (x.to("meta") for x in example(0))
    loss(student.requires_grad_(), target, labels, mask).backward()
    assert student.grad is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "temperature: expected more than 0, got 0.0"),
        ({"region_weight": -1.0}, "region_weight: expected at least 0, got -1.0"),
        ({"per_image": 0}, "per_image: expected at least 1, got 0"),
        ({"anchors": 0}, "anchors: expected at least 1, got 0"),
        ({"min_keys": 0}, "min_keys: expected at least 1, got 0"),
        ({"pixel_memory": 15}, "pixel_memory: expected at least min_keys, 16, got 15"),
        ({"region_memory": 15}, "region_memory: expected at least min_keys, 16, got 15"),
        ({"keys": 2}, "keys: expected at least one for each of 3 classes, got 2"),
    ],
)
def test_out_of_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake, match=f"^{said}$"):
        built(**settings)

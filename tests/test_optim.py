"""Moments of each phase's own: as two optimisers by hand, through a checkpoint, and never by chance."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW

from segdistill.checkpoint import load_state
from segdistill.mistakes import Mistake
from segdistill.optim import Moments
from segdistill.recipe import parse
from segdistill.run import Run
from segdistill.training import train
from small import content, small

RING = [{"steps": 2, "losses": ["cross_entropy"]}, {"steps": 1, "losses": ["more"]}]


def phased() -> dict[str, object]:
    losses = {
        "cross_entropy": {"student": "student"},
        "more": {"kind": "cross_entropy", "student": "student", "label_smoothing": 0.3, "weight": 9},
    }
    return {"losses": losses, "phases": [*RING, {"last": 0.2, "losses": ["cross_entropy", "more"]}]}


def tensors(run: Run, step: int | None = None) -> Mapping[str, torch.Tensor]:
    """Of a checkpoint; the newest by default."""
    found = load_state(run.checkpoints, step)
    assert found is not None
    return found[0].tensors


def test_as_two_optimisers_by_hand() -> None:
    """One parameter, gradients of two sizes in turns: each phase sees its own history only."""
    ours, *theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer, moments = AdamW([ours], lr=0.1), Moments(2)
    others = [AdamW([parameter], lr=0.1) for parameter in theirs]
    for step in range(9):
        phase = step % 3 == 2
        gradient = torch.tensor([1.0, -2.0, 0.5]) * (100.0 if phase else 1.0) * (step + 1)
        moments.turn(optimizer, int(phase))
        ours.grad = gradient.clone()
        optimizer.step()
        mine = theirs[phase]
        mine.grad = gradient.clone()
        others[phase].step()
        with torch.no_grad():  # the weights are the same ones
            theirs[1 - phase].copy_(mine)
        assert torch.equal(ours, mine)
    shared = torch.nn.Parameter(torch.ones(3))
    alone = AdamW([shared], lr=0.1)
    for step in range(9):
        shared.grad = torch.tensor([1.0, -2.0, 0.5]) * (100.0 if step % 3 == 2 else 1.0) * (step + 1)
        alone.step()
    assert not torch.allclose(ours, shared)


def test_shared_moments_are_never_exchanged() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer, moments = AdamW([parameter]), Moments(1)
    state = optimizer.state
    for phase in (0, 1, 2, 0):
        moments.turn(optimizer, phase)
        assert optimizer.state is state
    assert list(moments.each(optimizer)) == ["optimizer"]


@pytest.mark.parametrize("states", ["shared", "phases"])
def test_a_resume_amid_a_period_has_the_same_bits(tmp_path: Path, states: str) -> None:
    """From the step after the first loss's second turn, when its moments lie aside."""
    recipe = small("steps=10", "checkpoint.every=1", "checkpoint.keep=20", f"optim.states={states}", **phased())
    whole = train(recipe, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "again")
    again = Run(tmp_path / "again")
    for place in again.checkpoints.iterdir():
        if int(place.name.removeprefix("step-")) > 5:
            shutil.rmtree(place)
    train(recipe, again.path, resume=True)
    for step in range(6, 11):
        one, other = (tensors(run, step) for run in (whole, again))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    kinds = {name.split("/")[0] for name in tensors(whole) if name.startswith("optimizer")}
    assert kinds == ({"optimizer"} if states == "shared" else {"optimizer", "optimizer-1", "optimizer-2"})


def test_it_moves_other_weights_than_shared_moments_do(tmp_path: Path) -> None:
    ends: list[Mapping[str, torch.Tensor]] = []
    for states in ("shared", "phases"):
        run = train(small("steps=6", f"optim.states={states}", **phased()), tmp_path / states)
        ends.append(tensors(run))
    name = next(name for name in ends[0] if name.startswith("system/models.student") and name.endswith("weight"))
    assert not torch.equal(ends[0][name], ends[1][name])


def test_without_phases_there_is_nothing_to_keep_apart() -> None:
    with pytest.raises(Mistake, match=r"optim\.states: there are no phases"):
        parse(content(optim={"states": "phases"}))

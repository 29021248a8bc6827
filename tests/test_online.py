"""Networks that learn beside each other, by the recipes that are shipped: what one does never reaches another but by an
edge, and who rests rests."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segdistill import train
from segdistill.assemble import assemble
from segdistill.checkpoint import load_state
from segdistill.recipe import Recipe, dump, read
from segdistill.run import Run
from segdistill.training import Work, accelerate
from test_training import torchrun

Read = Callable[..., Recipe]
State = Mapping[str, Tensor]

TEACHER = "models.teacher={kind: unet, width: 6, depth: 2}"
TINY = (
    "data={kind: streets, count: 12, val_count: 4, scene_size: [48, 64], crop: [32, 48], batch: 4, cache: true}",
    "models.student={kind: unet, width: 4, depth: 2}",
    "steps=6",
    "optim.warmup=2",
    "optim.clip=0.05",  # every gradient is longer
    "log={every: 1, wandb: off}",
    "checkpoint={every: 1, keep: 9}",
    "probes={measure: {}}",
)


@pytest.fixture
def recipe(repository: Path) -> Read:
    def of(name: str, *settings: str) -> Recipe:
        teacher = () if name == "mean_teacher" else (TEACHER,)
        return read(repository / "recipes" / "camvid" / f"{name}.yaml", [*TINY, *teacher, *settings])

    return of


def steps(recipe: Recipe, folder: Path, which: range) -> dict[str, State]:
    """What the networks are after these steps of a recipe, each on the batch of its number."""
    work = Work(Run(folder), assemble(recipe), accelerate(recipe))
    batches = work.batches(0, 0)
    for step in range(which.stop):
        batch = next(batches)
        if step in which:
            assert work.update([batch], step) is not None
    return {name: {k: v.clone() for k, v in model.state_dict().items()} for name, model in work.system.models.items()}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


ALONE = (
    "models={teacher: {kind: unet, width: 6, depth: 2}}",
    "losses={teacher_labels: {kind: cross_entropy, student: teacher, class_weights: erfnet}}",
)


@pytest.mark.parametrize(
    ("name", "silenced", "turns"),
    [
        ("one_way", (), range(6)),
        ("mutual", ("losses.from_student.weight=0",), range(6)),
        ("turn_taking", ("losses.from_student.weight=0",), range(0, 6, 2)),
    ],
)
def test_a_teacher_that_nobody_teaches_learns_labels_as_if_alone(
    recipe: Read, tmp_path: Path, name: str, silenced: tuple[str, ...], turns: range
) -> None:
    """Bit for bit, BatchNorm and clipping included; and it does learn from the student where that has a weight."""
    beside = steps(recipe(name, *silenced), tmp_path / "beside", range(6))["teacher"]
    alone = steps(recipe("one_way", *ALONE), tmp_path / "alone", turns)["teacher"]
    assert same(beside, alone)
    if silenced:
        assert not same(steps(recipe(name), tmp_path / "taught", range(6))["teacher"], alone)


def test_a_student_that_hears_nothing_learns_labels_as_if_alone(recipe: Read, tmp_path: Path) -> None:
    deaf = steps(recipe("mutual", "losses.soft_targets.weight=0"), tmp_path / "deaf", range(6))["student"]
    labels = "losses={cross_entropy: {student: student, class_weights: erfnet}}"
    alone = recipe("one_way", "models={student: {kind: unet, width: 4, depth: 2}}", labels)
    assert same(deaf, steps(alone, tmp_path / "alone", range(6))["student"])


def test_turns_of_a_run(recipe: Read, tmp_path: Path) -> None:
    """One network's whole state moves in a step, the other's does not, by a bit; then the other way about."""
    work = Work(Run(tmp_path), assemble(recipe("turn_taking")), accelerate(recipe("turn_taking")))
    batches = work.batches(0, 0)
    moved: list[set[str]] = []
    for step in range(6):
        before = {name: {k: v.clone() for k, v in each.state_dict().items()} for name, each in named(work)}
        assert work.update([next(batches)], step) is not None
        moved.append({name for name, each in named(work) if not same(before[name], each.state_dict())})
        for name in moved[-1]:
            now = dict(named(work))[name].state_dict()
            counters = {k for k in now if k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
            assert counters and all(not torch.equal(before[name][k], now[k]) for k in counters)
    assert moved == [{"teacher"}, {"student"}] * 3


def named(work: Work) -> list[tuple[str, torch.nn.Module]]:
    return list(work.system.models.items())


@pytest.mark.parametrize("name", ["one_way", "mutual", "turn_taking", "mean_teacher"])
def test_a_run_resumed_amid_a_period_has_the_same_bits(recipe: Read, tmp_path: Path, name: str) -> None:
    said = recipe(name)
    whole = train(said, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "again")
    again = Run(tmp_path / "again")
    for step in (4, 5, 6):
        shutil.rmtree(again.checkpoints / f"step-{step}")
    train(said, again.path, resume=True)
    one, other = (load_state(run.checkpoints, None) for run in (whole, again))
    assert one is not None and other is not None
    assert same(one[0].tensors, other[0].tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mutual", "turn_taking"])
def test_two_processes_train_as_one(recipe: Read, tmp_path: Path, name: str) -> None:
    """Every loss to 1e-3 over eight steps; with group normalisation, as batch statistics are a process's own."""
    file = tmp_path / "recipe.yaml"
    group = [f"models.{network}.normalisation=group" for network in ("teacher", "student")]
    file.write_text(dump(recipe(name, *group, "steps=8", "data.batch=8")))
    for processes in (1, 2):
        torchrun(processes, "-m", "segdistill", "--", "train", str(file), "--run", str(tmp_path / str(processes)))
    one, two = Run(tmp_path / "1"), Run(tmp_path / "2")
    seen: set[str] = set()
    for before, after in zip(one.log(), two.log(), strict=True):
        losses = {key for key in before if key.startswith("loss")}
        seen |= losses
        assert {key: before[key] for key in losses} == pytest.approx({key: after[key] for key in losses}, rel=1e-3)
    assert {"loss/soft_targets", "loss/from_student", "loss/teacher_labels", "loss/cross_entropy"} <= seen

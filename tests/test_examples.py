"""The examples run, and say what the package says of the weights that they leave."""

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from segdistill import Mistake, allow_plugin, load, read, train
from segdistill.assemble import assemble
from segdistill.checkpoint import read_card
from segdistill.data import as_float, training_batches
from segdistill.datasets.streets import Streets
from segdistill.models.unet import UNet
from segdistill.probes.measure import Measure

TINY = ["data.count=4", "data.val_count=2", "data.scene_size=[64, 64]", "data.crop=[64, 64]", "data.batch=2"]


@pytest.fixture(scope="module")
def holistic(repository: Path) -> ModuleType:
    spec = spec_from_file_location("holistic", repository / "examples" / "holistic.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hinge(holistic: ModuleType) -> None:
    """A discriminator that answers what it is given: relu(1 − real) and relu(1 + false), and minus the mean score."""
    real, false = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(holistic.telling_apart(nn.Identity(), real, false)) == pytest.approx(
        (0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3
    )
    assert float(holistic.passing(nn.Identity(), false)) == pytest.approx(2 / 3)


def test_the_students_step_leaves_the_discriminator_alone(holistic: ModuleType) -> None:
    """Weights, gradients and the power iteration of the spectral norm; the discriminator's step moves all three."""
    torch.manual_seed(0)
    discriminator = holistic.Discriminator(3, width=4)
    teacher, student = torch.randn(2, 3, 64, 64).requires_grad_(), torch.randn(2, 3, 64, 64).requires_grad_()
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    holistic.passing(discriminator, student).backward()
    assert student.grad is not None and student.grad.any()
    assert all(p.grad is None for p in discriminator.parameters())
    for name, value in discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name

    student.grad = None
    holistic.telling_apart(discriminator, teacher, student).backward()
    assert teacher.grad is None and student.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())
    moved = [name for name, value in discriminator.state_dict().items() if not torch.equal(value, before[name])]
    assert moved and all(re.search(r"parametrizations\.weight\.0\._[uv]$", name) for name in moved)


def test_the_discriminator_learns_and_the_student_can_follow_it(holistic: ModuleType) -> None:
    """Two textures of the same size: told apart after some steps; the student's gradient raises its score."""
    torch.manual_seed(0)
    discriminator = holistic.Discriminator(3, width=4)
    opponent = torch.optim.Adam(discriminator.parameters(), lr=1e-2, betas=(0.9, 0.99))
    teacher = torch.nn.functional.interpolate(torch.randn(2, 3, 16, 16), scale_factor=4)
    student = torch.randn(2, 3, 64, 64)
    losses = list[float]()
    for _ in range(12):
        loss = holistic.telling_apart(discriminator, teacher, student)
        opponent.zero_grad()
        loss.backward()
        opponent.step()
        losses.append(float(loss.detach()))
    assert 1.5 < losses[0] < 2.5 and losses[-1] < 0.2
    student.requires_grad_()
    paid = holistic.passing(discriminator, student)
    (gradient,) = torch.autograd.grad(paid, student)
    assert holistic.passing(discriminator, student - 10 * gradient) < paid


def test_a_run_leaves_weights_of_which_it_told_the_truth(
    holistic: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = holistic.main(2, tmp_path, None, 0.001, TINY)
    assert "telling_apart" in capsys.readouterr().out
    file = tmp_path / "student.safetensors"
    val = Streets(count=4, val_count=2, scene_size=(64, 64), split="val")
    counts = Measure(classes=val.classes, input_size=None).count({"student": load(file)}, val)
    assert counts["student"].result()["mean_iou"] == pytest.approx(scores["student"], abs=1e-12)
    assert read_card(file).numbers["mean_iou"] == pytest.approx(scores["student"])
    again = holistic.main(2, tmp_path, tmp_path / "teacher", 1.0, TINY)
    assert again["teacher"] == scores["teacher"] and again["student"] != scores["student"]


def test_a_crop_too_small_for_the_discriminator(holistic: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"^data\.crop: the discriminator halves four times and needs 64 pixels, got"):
        holistic.main(2, tmp_path, tmp_path / "teacher", 0.001, [*TINY, "data.crop=[32, 64]"])


@pytest.mark.slow
def test_holistic_from_the_command_line(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "examples" / "holistic.py"), "--steps", "20", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert re.search(r"^step +20 cross_entropy \d\.\d{4} .*telling_apart \d\.\d{4}$", done.stdout, re.MULTILINE)
    found = re.search(r"validation mIoU %: student (\d+\.\d\d) teacher (\d+\.\d\d)$", done.stdout, re.MULTILINE)
    assert found is not None and 0 < float(found[1]) < 100


# A student-friendly teacher


@pytest.fixture
def friendly(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "examples"))
    allow_plugin("student_friendly")
    return import_module("student_friendly")


def test_a_branch_learns_and_so_does_the_trunk_below_it(friendly: ModuleType, repository: Path) -> None:
    """From the labels, and from the teacher's logits, on which it does not pull."""
    recipe = read(repository / "examples" / "student_friendly.yaml", TINY)
    system = assemble(recipe).system
    batch = next(training_batches(assemble(recipe).train, recipe.data, 0, start=0, batch=2, rank=0, ranks=1))
    model = system.models["teacher"]
    for edge, into in {"branch1": 0, "branch2_follows": 1}.items():
        system.zero_grad()
        said = {"teacher": model(as_float(batch.image))}
        system.edge(edge)(said, batch).backward()
        moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        branch = {name for name, _ in model.named_parameters() if name.startswith(f"branches.{into}.")}
        assert branch <= moved and not any(name.startswith(f"branches.{1 - into}.") for name in moved)
        assert {"trunk.encoder.0.0.weight", "trunk.bottleneck.0.weight"} <= moved
        assert ("trunk.decoder.0.0.weight" in moved) == (into == 1), "the second branch leaves after the first decoder"
        assert not any(name.startswith(("trunk.decoder.2.", "trunk.classifier.")) for name in moved)


def test_a_branch_is_the_student_from_there_on(friendly: ModuleType) -> None:
    """With transforms that are the identity and the student's own weights it says what the student says."""
    torch.manual_seed(0)
    student = UNet(4, 3, num_classes=5)
    for start in range(3):
        branch = friendly._Branch(student, student.stages, start)
        for transform in branch.transforms.values():
            nn.init.dirac_(transform.weight)
            nn.init.zeros_(transform.bias)
        said = student.eval()(torch.rand(1, 3, 32, 48))
        torch.testing.assert_close(branch.eval()(said), said["logits"], rtol=1e-4, atol=1e-5)


def test_a_student_friendly_teacher_trains_and_teaches_without_its_branches(
    friendly: ModuleType, repository: Path, tmp_path: Path
) -> None:
    recipe = read(repository / "examples" / "student_friendly.yaml", [*TINY, "steps=2", "log.every=1"])
    run = train(recipe, tmp_path / "friendly")
    assert {"loss/branch1", "loss/branch2_follows"} <= set(run.log()[0])
    file = tmp_path / "teacher.safetensors"
    friendly.drop_branches(f"{run.path}@step-2", file)
    image = torch.rand(1, 3, 33, 47)
    whole, plain = load(run.path, which="last"), load(file)
    assert isinstance(plain, UNet) and set(whole(image)) == {*plain.stages, "branch1", "branch2"}
    assert torch.equal(plain(image)["logits"], whole(image)["logits"])
    assert {name: tuple(value.shape[1:]) for name, value in whole(image).items() if "branch" in name} == {
        "branch1": (19, 33, 47),
        "branch2": (19, 33, 47),
    }
    for branches in (0, 4):
        with pytest.raises(Mistake, match="branches: expected 1 to 3"):
            friendly.StudentFriendly(4, 2, 3, branches, num_classes=5)

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


# Branches that learn from their ensemble


@pytest.fixture
def branches(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "examples"))
    allow_plugin("branches")
    return import_module("branches")


@pytest.mark.parametrize("normalisation", ["batch", "group"])
def test_the_ensemble_is_the_gated_sum_of_the_branches(branches: ModuleType, normalisation: str) -> None:
    torch.manual_seed(0)
    model = branches.NativeEnsemble(4, 2, 3, normalisation, num_classes=5)
    image = torch.rand(2, 3, 33, 47)
    for training in (True, False):
        said = model.train(training)(image)
        assert list(said) == list(model.stages)
        assert all(said[name].shape == (2, 5, 33, 47) for name in ("logits", "branch2", "branch3", "ensemble"))
        gate = model.gate(said["bottleneck"].mean((2, 3)))
        torch.testing.assert_close(gate.sum(1), torch.ones(2))
        assert gate.shape == (2, 3) and gate.min() > 0 and gate.std() > 1e-3, "it prefers one branch to another"
        naive = torch.stack(
            [
                mine[0] * said["logits"][i] + mine[1] * said["branch2"][i] + mine[2] * said["branch3"][i]
                for i, mine in enumerate(gate)
            ]
        )
        torch.testing.assert_close(said["ensemble"], naive)
        pull, naive_pull = (
            torch.autograd.grad(x.square().mean(), said["bottleneck"], retain_graph=True)[0]
            for x in (said["ensemble"], naive)
        )
        torch.testing.assert_close(pull, naive_pull)
        assert (said["logits"] - said["branch2"]).abs().max() > 0.1, "branches begin with weights of their own"


def test_every_branch_is_the_decoder_of_a_unet(branches: ModuleType) -> None:
    """With the first one's weights it says the same, to the bit, and so does the ensemble but for rounding."""
    model = branches.NativeEnsemble(4, 3, 3, num_classes=5).eval()
    for branch in model.branches:
        branch.load_state_dict({k: v for k, v in model.trunk.state_dict().items() if k in branch.state_dict()})
    said = model(torch.rand(1, 3, 32, 48))
    assert torch.equal(said["branch2"], said["logits"]) and torch.equal(said["branch3"], said["logits"])
    torch.testing.assert_close(said["ensemble"], said["logits"])


def test_wrong_numbers_of_branches(branches: ModuleType) -> None:
    for number in (1, 9):
        with pytest.raises(Mistake, match=rf"^branches: expected 2 to 8, the first included, got {number}$"):
            branches.NativeEnsemble(4, 2, number, num_classes=5)


SHARED, FIRST, SECOND, THIRD, GATE = (
    ("trunk.encoder.", "trunk.bottleneck."),
    ("trunk.up.", "trunk.decoder.", "trunk.classifier."),
    ("branches.0.",),
    ("branches.1.",),
    ("gate.0.weight", "gate.1."),  # the bias of the gate's linear layer is undone by the normalisation after it
)


@pytest.mark.parametrize(
    ("edge", "moved"),
    [
        ("branch1", [SHARED, FIRST]),
        ("branch3", [SHARED, THIRD]),
        ("ensemble", [SHARED, FIRST, SECOND, THIRD, GATE]),
        ("branch1_follows", [SHARED, FIRST]),
        ("branch2_follows", [SHARED, SECOND]),
        ("branch3_follows", [SHARED, THIRD]),
    ],
)
def test_what_an_edge_of_the_branches_moves(
    branches: ModuleType, repository: Path, edge: str, moved: list[tuple[str, ...]]
) -> None:
    """What a branch learns from the ensemble pulls on the branch and what all share, not on gate or other branches."""
    assembly = assemble(read(repository / "examples" / "branches.yaml", TINY))
    system, data = assembly.system, assembly.recipe.data
    batch = next(training_batches(assembly.train, data, 0, start=0, batch=2, rank=0, ranks=1))
    model = system.models["student"]
    said = {"student": model(as_float(batch.image))}
    loss = system.edge(edge)(said, batch)
    loss.backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = {name for name, _ in model.named_parameters() if name.startswith(tuple(x for part in moved for x in part))}
    assert found - {"gate.0.bias"} == wanted
    assert edge == "ensemble" or "gate.0.bias" not in found
    if edge.endswith("_follows"):
        ours = {"branch1_follows": "logits"}.get(edge, edge.removesuffix("_follows"))
        p, q = ((said["student"][stage].double() / 3).softmax(1) for stage in (ours, "ensemble"))
        assert loss.item() == pytest.approx(9 * (q * (q.log() - p.log())).sum(1).mean().item(), rel=1e-4)


def test_branches_train_and_the_first_is_deployed_alone(branches: ModuleType, repository: Path, tmp_path: Path) -> None:
    recipe = read(repository / "examples" / "branches.yaml", [*TINY, "steps=2", "log.every=1"])
    run = train(recipe, tmp_path / "branches")
    lines = [line for line in run.log() if "loss" in line]
    for step, line in enumerate(lines, 1):
        labels = sum(line[f"loss/{name}"] for name in ("branch1", "branch2", "branch3", "ensemble"))
        follows = sum(line[f"loss/branch{number}_follows"] for number in (1, 2, 3))
        assert follows > 0 and line["loss"] == pytest.approx(labels + step / 30 * follows, rel=1e-5)
    assert len(lines) == 2
    file = tmp_path / "one.safetensors"
    branches.drop_branches(f"{run.path}@step-2", file)
    whole, plain = load(run.path, which="last"), load(file)
    assert isinstance(plain, UNet)
    assert set(whole.stages) == {*plain.stages, "branch2", "branch3", "ensemble"}
    for size in ((33, 47), (64, 96)):
        image = torch.rand(1, 3, *size)
        said, alone = whole(image), plain(image)
        assert all(torch.equal(alone[name], said[name]) for name in plain.stages)
        assert not torch.equal(said["ensemble"], said["logits"])


def test_min_logit_is_what_its_paper_says(branches: ModuleType) -> None:
    """Pixel by pixel; void and padding count nowhere; the loss of a branch that is the target itself is 0."""
    torch.manual_seed(0)
    one, two = 3 * torch.randn(2, 2, 4, 3, 5).double()
    labels = torch.randint(0, 4, (2, 3, 5))
    labels[0, 0] = 255
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[1, :, 4] = False
    total, counting = torch.zeros(2).double(), 0
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        label = int(labels[b, y, x])
        if label == 255 or not mask[b, y, x]:
            continue
        said = [z[b, :, y, x].tolist() for z in (one, two)]
        lowest = torch.tensor([min(z[k] - z[label] for z in said) for k in range(4)]).double()
        q = (lowest / 2).softmax(0)
        for branch, z in enumerate(said):
            total[branch] += 4 * (q * (q.log() - (torch.tensor(z).double() / 2).log_softmax(0))).sum()
        counting += 1
    loss = branches.MinLogit(2.0)
    assert 0 < counting < 30
    assert float(loss([one, two], [one, two], labels, mask)) == pytest.approx(float(total.sum()) / counting)
    assert float(loss([one], [one, two], labels, mask)) == pytest.approx(float(total[0]) / counting)
    assert float(loss([one], [one], labels, mask)) == pytest.approx(0, abs=1e-12)


def test_min_logit_trains_by_recipe(branches: ModuleType, repository: Path, tmp_path: Path) -> None:
    recipe = read(repository / "examples" / "min_logit.yaml", [*TINY, "steps=2", "log.every=1"])
    first, *_ = train(recipe, tmp_path / "run").log()
    edges = [first[f"loss/{name}"] for name in ("branch1", "branch2", "min_logit")]
    assert min(edges) > 0 and first["loss"] == pytest.approx(sum(edges), rel=1e-5)
    with pytest.raises(Mistake, match=r"^losses\.min_logit\.temperature: expected more than 0, got -1"):
        assemble(read(repository / "examples" / "min_logit.yaml", [*TINY, "losses.min_logit.temperature=-1"]))

"""The probe says what features by hand say, finds frozen teachers in a run, and leaves everything as it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.assemble import probes
from segdistill.datasets.streets import Streets
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.models.unet import UNet
from segdistill.probes.alignment import Alignment
from segdistill.run import Run
from segdistill.training import train
from small import content, online, small

NAMES = ("student", "teacher")


def pair() -> dict[str, Model]:
    torch.manual_seed(0)
    return {"student": UNet(4, 2, num_classes=19).eval(), "teacher": UNet(6, 3, num_classes=19).eval()}


def split(count: int = 7) -> Streets:
    return Streets(6, (48, 64), val_count=count, split="val")


def by_hand(models: Mapping[str, Model], images: list[Tensor], stage: str, other: str) -> float:
    """Centred products of all pixels at once; here strides are powers of two that divide the images."""
    rows: list[np.ndarray] = []
    with torch.no_grad():
        found = [{n: m(image[None].float() / 255) for n, m in models.items()} for image in images]
    for name, one in (("student", stage), ("teacher", other)):
        stride = max(models["student"].stages[stage].stride, models["teacher"].stages[other].stride)
        cell = stride // models[name].stages[one].stride
        pooled = [torch.nn.functional.avg_pool2d(each[name][one].double(), cell) for each in found]
        flat = torch.cat([each[0].flatten(1) for each in pooled], 1).numpy()
        rows.append(flat - flat.mean(1, keepdims=True))
    x, y = rows
    return float(((x @ y.T) ** 2).sum() / np.linalg.norm(x @ x.T) / np.linalg.norm(y @ y.T))


def test_the_numbers_are_those_by_hand_and_nothing_is_changed() -> None:
    models, dataset = pair(), split()
    before = {f"{n}/{k}": v.clone() for n, m in models.items() for k, v in m.state_dict().items()}
    random, numpy_random = torch.get_rng_state(), repr(np.random.get_state())
    found = Alignment(images=3, models=NAMES, input_size=None)(models, dataset)
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(np.random.get_state()) == numpy_random
    for n, m in models.items():
        assert not any(each.training for each in m.modules())
        assert all(torch.equal(value, before[f"{n}/{k}"]) for k, value in m.state_dict().items())
        assert all(p.grad is None for p in m.parameters())

    images = [dataset[index].image for index in (1, 3, 5)]
    student, teacher = (list(models[name].stages) for name in NAMES)
    table = found.tables["cka"]
    assert list(table.columns) == ["stage", *teacher] and [row[0] for row in table.rows] == student
    for row in table.rows:
        for other, value in zip(teacher, row[1:], strict=True):
            assert value == pytest.approx(by_hand(models, images, str(row[0]), other), abs=1e-6), (row[0], other)
    cells = {(row[0], other): value for row in table.rows for other, value in zip(teacher, row[1:], strict=True)}
    shared = ["enc1", "enc2", "bottleneck", "dec2", "dec1", "logits"]
    assert found.numbers == {f"{stage}/{stage}": cells[stage, stage] for stage in shared}
    floors = [value for row in found.tables["by_chance"].rows for value in row[1:] if isinstance(value, float)]
    assert len(floors) == len(cells) and 0 < min(floors) < 0.01
    assert found.images["cka"].pixels.dtype == np.uint8


def test_a_model_beside_itself_is_aligned() -> None:
    model = pair()["student"]
    found = Alignment(images=2, models=NAMES, input_size=(24, 32))({"student": model, "teacher": model}, split())
    assert len(found.numbers) == len(model.stages)
    assert all(value == pytest.approx(1, abs=1e-12) for value in found.numbers.values())


def test_a_silent_stage_has_no_number() -> None:
    models = pair()
    with torch.no_grad():
        for name, parameter in models["student"].named_parameters():
            if name.startswith("classifier."):
                parameter.zero_()
    found = Alignment(images=1, models=NAMES, input_size=None)(models, split())
    assert "logits/logits" not in found.numbers and "dec1/dec1" in found.numbers
    assert set(found.tables["cka"].rows[-1][1:]) == {None}


def test_it_looks_while_a_frozen_teacher_teaches(tmp_path: Path) -> None:
    """Weights are those of a run that nobody looked at."""
    first = train(small("steps=2", "probes={}"), tmp_path / "teacher")
    teacher = {"weights": str(first.path), "frozen": True}
    soft = content()["losses"] | {"soft_targets": {"student": "student", "target": "teacher"}}
    graph = {"models": content()["models"] | {"teacher": teacher}, "losses": soft}
    looked: dict[str, Any] = {"measure": {}, "alignment": {"images": 2, "every": 1}}
    one = train(small("steps=3", **graph, probes=looked), tmp_path / "looked")
    other = train(small("steps=3", **graph), tmp_path / "plain")
    assert one.weights("student", "last").read_bytes() == other.weights("student", "last").read_bytes()
    found = Run(one.path).last_findings("alignment")
    assert found is not None and 0 < found.numbers["logits/logits"] <= 1
    assert sum('"alignment/logits/logits"' in line for line in one.log_file.read_text().splitlines()) == 3


def test_it_looks_at_a_teacher_that_learns(tmp_path: Path) -> None:
    settings = ("probes.alignment={images: 1, student: average}", "steps=1")
    run = train(small(*settings, **online()), tmp_path / "run")
    found = run.last_findings("alignment")
    assert found is not None and set(found.numbers) == {f"{s}/{s}" for s in UNet(4, 2, num_classes=2).stages}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images": 0}, "probes.alignment.images: expected at least 1, got 0"),
        ({"student": "studnet"}, r"alignment\.student: the run has no model 'studnet'; .* \(did you mean 'student'"),
        ({"teacher": "big"}, "alignment.teacher: the run has no model 'big'; there is student and teacher"),
        ({"teacher": "student"}, "expected two models, got 'student' as student and teacher"),
    ],
)
def test_mistakes_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        Alignment(**settings, models=NAMES, input_size=None)


def test_a_run_without_the_teacher_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="the run has no model 'teacher'; there is student"):
        train(small("probes.alignment={}"), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_teacher_spread_over_processes_cannot_be_asked_by_one() -> None:
    teacher = {"weights": "gone", "frozen": True, "shard": True}
    recipe = small("probes.alignment={}", models=content()["models"] | {"teacher": teacher})
    with pytest.raises(
        Mistake, match=r"probes.alignment: asks teachers on one process, models.teacher.shard may spread"
    ):
        probes(recipe, split().classes)

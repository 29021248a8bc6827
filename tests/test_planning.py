"""A plan: what it says of the device, and that it looks at no more of the data than it needs."""

import re

import pytest
import torch

from segdistill.datasets.streets import Streets
from segdistill.planning import Plan, chosen, measured_gains, plan
from segdistill.types import Sample
from small import small

CPU = torch.device("cpu")


def test_the_device_line_says_what_is_chosen() -> None:
    said = chosen(CPU, "fp32", {"bf16": 0.25})
    assert said.startswith("cpu (") and f"{torch.get_num_threads()} thread" in said
    assert "precision fp32 (a convolution here, against fp32: bf16 ×0.25)" in said
    for part in ("channels last", "not compiled", "fused optimiser", "memory: "):
        assert f"; {part}" in said


@pytest.mark.parametrize(
    ("precision", "gains", "better"),
    [
        ("fp32", {"bf16": 0.25}, None),
        ("fp32", {"bf16": 1.1}, None),
        ("fp32", {"bf16": 1.9}, "bf16"),
        ("fp32", {"bf16": 1.9, "fp16": 2.5}, "fp16"),
        ("bf16", {"bf16": 0.25}, "fp32"),
        ("bf16", {"bf16": 1.9, "fp16": 2.0}, None),
    ],
)
def test_advice_follows_the_measurement(precision: str, gains: dict[str, float], better: str | None) -> None:
    found = re.search("precision: (.+) would be faster", chosen(CPU, precision, gains))
    assert (found[1] if found else None) == better


def test_gains_are_measured() -> None:
    gains = measured_gains(CPU)
    assert list(gains) == ["bf16"] and 0.001 < gains["bf16"] < 100


def test_a_plan_keeps_the_precision_of_the_recipe() -> None:
    found = plan(small("precision=bf16"), steps=1)
    assert "; channels last" in found.device and "precision bf16 (" in found.device
    assert found.numbers["bf16_over_fp32"] > 0


def test_an_edge_that_comes_too_late_is_told() -> None:
    losses = {"cross_entropy": {"student": "student"}, "late": {"kind": "dice", "student": "student"}}
    late = [{"steps": 8, "losses": ["cross_entropy"]}, {"steps": 2, "losses": ["late"]}]
    shadowed = [*late, {"last": 0.5, "losses": ["cross_entropy"]}]
    for steps, phases, told in ((8, late, True), (9, late, False), (10, shadowed, True), (10, late, False)):
        found = plan(small(f"steps={steps}", losses=losses, phases=phases), steps=1)
        assert (f"losses.late: it acts in none of the {steps} steps" in found.warnings) == told


def test_a_plan_decodes_no_split_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    draw = Streets.__getitem__

    def watched(self: Streets, index: int) -> Sample:
        looked.append(index)
        return draw(self, index)

    monkeypatch.setattr(Streets, "__getitem__", watched)
    drawn: list[int] = []
    plans: list[Plan] = []
    for cache in ("true", "false"):
        looked.clear()
        plans.append(plan(small(f"data.cache={cache}", "data.count=40", "data.val_count=20"), steps=1))
        drawn.append(len(looked))
    assert drawn[0] == drawn[1] < 20
    one, other = plans
    assert one.edges == other.edges and one.classes == other.classes and one.stages == other.stages

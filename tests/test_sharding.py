"""A frozen teacher whose weights are shared out: what is a block, what is refused, and that a run stays the run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segdistill.checkpoint import Card, save_weights
from segdistill.labels import CITYSCAPES_19
from segdistill.mistakes import Mistake
from segdistill.models.unet import UNet
from segdistill.recipe import dump
from segdistill.run import Run
from segdistill.sharding import blocks
from segdistill.training import accelerate
from small import small
from test_training import torchrun

PARAMETERS = {"width": 6, "depth": 2, "normalisation": "batch", "separable": False}


def test_blocks_hold_every_weight_once_and_are_small() -> None:
    network = UNet(8, 3, num_classes=19)
    total = sum(p.numel() for p in network.parameters())
    found = list(blocks(network, total // 8))
    held = [id(p) for block in found for p in block.parameters()]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    large = [block for block in found if sum(p.numel() for p in block.parameters()) > total // 8]
    assert all(isinstance(block, torch.nn.Conv2d) for block in large)  # a single layer is not parted
    assert len(found) >= 8


@pytest.mark.parametrize("also", [{"cache": {}}, {"frozen": False}])
def test_only_a_frozen_teacher_that_is_asked_is_shared_out(also: dict[str, object]) -> None:
    teacher = {"weights": "runs/none", "frozen": True, "shard": True} | also
    student = {"kind": "unet", "width": 4, "depth": 2}
    with pytest.raises(Mistake, match=r"models.teacher.shard: only a frozen teacher without a cache is shared out"):
        small(models={"student": student, "teacher": teacher})


def test_a_launcher_that_asks_for_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate ignores the wish on a CPU without a word; on a GPU checkpoints would hold parts."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(Mistake, match=r"^launched with FSDP: .* `models.NAME.shard: true`"):
        accelerate(small())


@pytest.mark.slow
def test_two_processes_with_half_a_teacher_each_train_as_with_a_whole_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    file = tmp_path / "teacher.safetensors"
    save_weights(file, UNet(6, 2, num_classes=19), Card("unet", PARAMETERS, CITYSCAPES_19, None, 0, {}))
    for shard in (False, True):
        models = {
            "student": {"kind": "unet", "width": 4, "depth": 2},
            "teacher": {"weights": str(file), "frozen": True, "shard": shard},
        }
        losses = {"cross_entropy": {"student": "student"}, "soft_targets": {"student": "student", "target": "teacher"}}
        recipe = tmp_path / f"{shard}.yaml"
        recipe.write_text(dump(small("steps=4", models=models, losses=losses)))
        torchrun(2, "-m", "segdistill", "--", "train", str(recipe), "--run", str(tmp_path / str(shard)))
    whole, shared = Run(tmp_path / "False"), Run(tmp_path / "True")
    losses = [[row["loss"] for row in run.log() if "loss" in row] for run in (whole, shared)]
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    alone = tmp_path / "alone"  # a single process has nothing to share
    command = [sys.executable, "-m", "segdistill", "train", str(recipe), "--run", str(alone)]
    subprocess.run(command, check=True, capture_output=True)
    assert Run(alone).weights("student", "last").exists()

"""Promises 1 and 2: a run that is killed with SIGKILL, anywhere, ends with the bits of one that was not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from segdistill.make_data import make
from segdistill.recipe import dump
from segdistill.training import train
from small import small

TESTS = Path(__file__).parent


def everything(tmp_path: Path, workers: int) -> Path:
    """A recipe with every kind of memory: mutual learners, a teacher, a moving average, adapters, a memory bank, random
    masks, drawn classes, and a sample that cannot be read."""
    make(tmp_path / "data", "cityscapes", 8, (48, 64))
    bad = sorted((tmp_path / "data").rglob("train/**/*_leftImg8bit.png"))[2]
    bad.write_bytes(bad.read_bytes()[:-300])
    unet = {"kind": "unet", "width": 4, "depth": 2}
    data = {"kind": "cityscapes", "root": str(tmp_path / "data"), "batch": 4, "crop": [32, 48], "bad_share": 0.2}
    teacher = train(small("steps=1", models={"teacher": {**unet, "width": 6}},
                          losses={"cross_entropy": {"student": "teacher"}}), tmp_path / "teacher")  # fmt: skip
    graph: dict[str, Any] = {
        "data": {**data, "workers": workers, "sampling": {"kind": "class_uniform"}},
        "models": {
            "teacher": {"weights": str(teacher.path), "frozen": True},
            "one": unet,
            "other": {**unet, "width": 5},
            "average": {"follows": "one", "decay": 0.9},
        },
        "losses": {
            "of_one": {"kind": "cross_entropy", "student": "one"},
            "of_other": {"kind": "cross_entropy", "student": "other", "class_weights": "erfnet"},
            "there": {"kind": "soft_targets", "student": "one", "target": "other", "ramp": 5},
            "back": {"kind": "soft_targets", "student": "other", "target": "one"},
            "steady": {"kind": "soft_targets", "student": "other", "target": "average"},
            "hint": {"student": "one.bottleneck", "target": "teacher.bottleneck"},
            "hidden": {"kind": "masked_generation", "student": "one.dec2", "target": "teacher.dec2", "width": 8},
            "memory": {
                "kind": "memory_contrast", "student": "one.dec2", "target": "teacher.dec2", "min_keys": 2,
                "pixel_memory": 20, "region_memory": 10, "keys": 40, "anchors": 16,
            },
        },
        "probes": {"measure": {"every": 4}, "predictions": {"count": 1}},
    }  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(small("steps=10", "checkpoint.every=3", **graph)))
    return recipe


def kill(tmp_path: Path, recipe: Path, processes: int, *how: str) -> dict[str, Any]:
    command = [sys.executable, str(TESTS / "killing.py"), str(tmp_path), str(recipe), str(processes), *how]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path, workers: int, processes: int) -> None:
    recipe = everything(tmp_path, workers)
    seed = str(time.time_ns() % 10**6)
    found = kill(tmp_path, recipe, processes, "moments", seed, "6")
    print(f"seed {seed}:", *(kill["killed"] for kill in found["kills"]), sep="\n  ")
    assert [kill for kill in found["kills"] if kill["differs"]] == [], f"seed {seed}"
    assert sum(place != "ended before" for kill in found["kills"] for place in kill["killed"]) >= 6


@pytest.mark.slow
def test_killed_before_every_change_of_a_file_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Every boundary within a save of a checkpoint, of weights, of findings and of the log; one checkpoint is kept."""
    recipe = tmp_path / "recipe.yaml"
    average = {"average": {"follows": "student", "decay": 0.9}, "student": {"kind": "unet", "width": 4, "depth": 2}}
    settings = ("steps=4", "checkpoint.every=2", "checkpoint.keep=1", "probes.measure.every=2", "log.every=2")
    recipe.write_text(dump(small(*settings, "data.count=4", "data.val_count=1", models=average)))
    found = kill(tmp_path, recipe, 1, "files")
    print(*(kill["killed"] for kill in found["kills"]), sep="\n  ")
    assert [kill for kill in found["kills"] if kill["differs"]] == []
    assert len(found["kills"]) == found["files"] > 50
    assert not any("ended" in place for kill in found["kills"] for place in kill["killed"])

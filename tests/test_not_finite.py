"""Promise 4: what is not finite on any process reaches no weight on any, is named, bounded and can be replayed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.data import Order
from segdistill.make_data import make
from segdistill.recipe import dump
from segdistill.run import Run
from small import small

TESTS = Path(__file__).parent
NET = {"kind": "hooked", "module": "poisoned:Net", "taps": {"logits": ""}, "mean": [0, 0, 0], "std": [1, 1, 1],
       "multiple": 8}  # fmt: skip
GRAPHS: dict[str, dict[str, Any]] = {
    "loss": {"losses": {"poison": {"kind": "poisoned:Poison", "what": "loss", "student": "student"}}},
    "gradient": {"losses": {"poison": {"kind": "poisoned:Poison", "what": "gradient", "student": "student"}}},
    "image": {"models": {"student": NET}},
}


def recipe_with(what: str, tmp_path: Path, processes: int, steps: int = 4) -> tuple[Path, str, int]:
    """A recipe whose second update meets a poisoned sample, on the last process; its file, the sample, the step."""
    make(tmp_path / "data", "cityscapes", 8, (48, 64))
    labels = sorted((tmp_path / "data").rglob("train/**/*_labelIds.png"))[3]
    image = next((tmp_path / "data").rglob(labels.name.replace("gtFine_labelIds", "leftImg8bit")))
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(labels)
    Image.fromarray(np.full((48, 64, 3), 255, np.uint8)).save(image)
    last = range(4 + processes - 1, 8, processes)
    seed = next(s for s in range(1000) if 3 in [Order(8, 4, s).place(position)[1] for position in last])
    augment = {"scale": [1, 1], "flip": False, "jitter": 0}
    data = {"kind": "cityscapes", "root": str(tmp_path / "data"), "batch": 4, "crop": [48, 64], "augment": augment}
    content = small(f"steps={steps}", f"seed={seed}", "probes={}", data=data, **GRAPHS[what])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(content))
    return recipe, labels.name.removesuffix("_gtFine_labelIds.png"), 1


def run_it(recipe: Path, run: Path, processes: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(TESTS)}
    command = [sys.executable, *launcher, str(TESTS / "poisoned.py"), str(recipe), str(run)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def replay(run: Path, *more: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "segdistill", "replay", str(run), "--json", "--plugin", "poisoned", *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("what", GRAPHS)
def test_on_one_of_two_processes_it_reaches_the_weights_of_neither(tmp_path: Path, what: str) -> None:
    recipe, key, step = recipe_with(what, tmp_path, processes=2)
    done = run_it(recipe, tmp_path / "run", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"run.rank{rank}.json").read_text()) for rank in range(2))
    for mine, theirs in zip(one, other, strict=True):
        assert (mine["before"], mine["after"], mine["made"]) == (theirs["before"], theirs["after"], theirs["made"])
        assert mine["made"] == (mine["before"] != mine["after"])
    assert [update["made"] for update in one[:2]] == [True, False]
    assert sum(update["made"] for update in one[2:]) == 1  # the sample comes once in every epoch of two updates
    skip = json.loads((tmp_path / "run" / "skipped.json").read_text())["skipped"][0]
    assert skip["step"] == step
    assert key in skip["keys"][1][0] and key not in skip["keys"][0][0]
    assert (skip["loss"][1] == "nan") == (what != "gradient") and skip["loss"][0] != "nan"
    log = Run(tmp_path / "run").log()
    assert [line["step"] for line in log if "loss" in line] == [n + 1 for n, update in enumerate(one) if update["made"]]
    assert all(np.isfinite(value) for line in log for value in line.values())
    found = replay(tmp_path / "run", "--step", str(step))
    assert found["numbers"]["not_finite"] == 1
    (row,) = [row for row in found["tables"]["losses"] if row["finite"] == "no"]
    assert row["process"] == 1 and key in row["samples"]


@pytest.mark.slow
@pytest.mark.parametrize("what", GRAPHS)
def test_alone_it_is_named_and_replayed_with_the_same_numbers(tmp_path: Path, what: str) -> None:
    recipe, key, step = recipe_with(what, tmp_path, processes=1)
    done = run_it(recipe, tmp_path / "run", 1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"step {step}: not finite (loss " in done.stderr and f"segdistill replay {tmp_path / 'run'}" in done.stderr
    skip = json.loads((tmp_path / "run" / "skipped.json").read_text())["skipped"][0]
    found = replay(tmp_path / "run")
    rows = found["tables"]["losses"]
    (row,) = [row for row in rows if row["finite"] == "no"]
    assert key in row["samples"]
    # A loss that is nan by torch.where has no gradient: the gradient alone would not tell.
    assert str(row["gradient norm"]) == ("nan" if what != "loss" else "0.0")
    assert (skip["gradient_norm"] == "nan") == (what != "loss")
    if what == "gradient":  # finite, and the very same
        assert row["loss"] == pytest.approx(float(skip["loss"][0]), rel=1e-6)
    in_stages = {row["stage"]: row["values not finite"] for row in found["tables"]["stages"]}
    assert (in_stages["logits"] > 0) == (what == "image")


@pytest.mark.slow
def test_skips_are_bounded(tmp_path: Path) -> None:
    """The sample comes once in every epoch of two updates: half of them are skipped, and the tenth ends the run."""
    recipe, _, _ = recipe_with("loss", tmp_path, processes=1, steps=60)
    done = run_it(recipe, tmp_path / "run", 1)
    assert "FloatingPointError" in done.stderr
    assert "10 of the last 100 updates were not finite" in done.stderr
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())["skipped"]
    assert len(skipped) == 10 and 17 <= skipped[-1]["step"] <= 21
    assert len(list(Run(tmp_path / "run").skipped.glob("step-*"))) == 2

"""What is tracked is found again: in log.jsonl, in the findings, in a real W&B file, and in front of a person."""

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from segdistill import track
from segdistill.mistakes import Mistake
from segdistill.run import Run
from segdistill.track import Tracker, Wandb
from segdistill.types import IGNORE, ClassTable, Findings, Picture, Table

CLASSES = ClassTable(("road", "car"), ((128, 64, 128), (0, 0, 142)))
RECIPE = {"models": {"student": {"kind": "unet", "width": 8}}, "optim": {"lr": 0.001}, "steps": 100}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "small").mkdir()
    return Run(tmp_path / "small")


@pytest.fixture
def without_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account here, whoever runs the tests."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))


def tracker(run: Run, wandb: Wandb = "off", start: int = 0, resumed: bool = False) -> Tracker:
    return Tracker(run, RECIPE, CLASSES, wandb=wandb, steps=100, start=start, resumed=resumed)


def findings() -> Findings:
    labels = np.full((12, 16), IGNORE, np.uint8)
    labels[:6] = 1
    photograph = np.full((12, 16, 3), 77, np.uint8)
    montage = Picture(np.zeros((30, 40, 3), np.uint8), {"labels": labels, "student": labels * 0}, photograph)
    table = Table(("class", "iou"), [("road", 0.5), ("car", None)])
    return Findings({"student/mean_iou": 0.5}, {"a": montage, "a/image": Picture(photograph)}, {"student": table})


def test_the_log_holds_every_number(run: Run) -> None:
    with tracker(run) as tracked:
        tracked.log(20, {"loss": 1.5, "loss/cross_entropy": 1.5})
        tracked.findings("measure", 20, findings())
    assert run.log() == [
        {"step": 20, "loss": 1.5, "loss/cross_entropy": 1.5},
        {"step": 20, "measure/student/mean_iou": 0.5},
    ]
    found = run.last_findings("measure")
    assert found is not None and found.tables["student"].rows[1] == ["car", None]


def test_plain_lines_at_every_tenth(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(run) as tracked:
        for step in range(1, 101):
            tracked.log(step, {"loss": 1 / step, "loss/soft_targets": 0.25, "learning_rate": 0.1})
            if step == 50:
                tracked.findings("measure", step, findings())
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 11, "the first step and ten tenths"
    assert lines[0].startswith("small  1/100 (1%)") and "loss 1  soft_targets 0.25" in lines[0]
    assert "steps/s" in lines[6] and "left" in lines[6] and "mIoU student 50.0% at step 50" in lines[6]
    assert "mIoU" not in lines[4]


def test_plain_lines_after_ten_seconds(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(track.time, "monotonic", lambda: clock)
    with tracker(run, start=40, resumed=True) as tracked:
        for step in range(41, 50):
            clock += 4.0
            tracked.log(step, {"loss": 1.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["41/100", "44/100", "47/100"]
    assert "0.25 steps/s  0:03:32 left" in lines[2], "one step in four seconds, 53 to go"


def test_a_terminal_is_redrawn_and_given_back_after_an_exception(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def terminal(stderr: bool) -> Console:
        return Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"})

    monkeypatch.setattr(track, "Console", terminal)
    with pytest.raises(RuntimeError, match="out of memory"), tracker(run) as tracked:
        tracked.log(50, {"loss": 0.75, "loss/channel_wise": 0.5})
        assert "\x1b[?25l" in screen.getvalue(), "the cursor is hidden while the view lives"
        raise RuntimeError("out of memory")
    shown = screen.getvalue()
    assert "50/100 (50%)" in shown and "channel_wise 0.5" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "and visible again at the end"


def test_finish_twice(run: Run) -> None:
    tracked = tracker(run)
    tracked.finish()
    tracked.finish()


@pytest.fixture
def offline(run: Run, without_key: None) -> Iterator[Run]:
    """A run mirrored offline, interrupted and resumed, in a process of its own: W&B leaves a service running."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_track import *
import time
run = Run({str(run.path)!r})
for start in (0, 40):
    with tracker(run, "offline", start, start > 0) as tracked:
        tracked.log(start + 20, {{"loss": 1.5, "loss/cross_entropy": 1.25}})
        tracked.findings("predictions", start + 20, findings())
    time.sleep(1.1)  # W&B names a folder by the second
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stdout + done.stderr, "W&B keeps quiet"
    yield run


def inspect(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_wandb_offline_is_read_back(offline: Run) -> None:
    first, second = sorted(offline.path.glob("wandb/offline-run-*/*.wandb"))
    assert first.name == second.name, "a resumed run keeps its id"
    summary: dict[str, Any] = json.loads(inspect(second, "--summary"))
    assert summary["run_id"] == json.loads((offline.path / "wandb.json").read_text())["id"]
    assert (summary["name"], summary["step"], summary["exit_code"]) == ("small", 60, 0)
    assert summary["config"]["models"] == RECIPE["models"] and summary["config"]["optim"] == {"lr": 0.001}
    logged = summary["summary"]
    assert logged["loss"] == 1.5 and logged["loss/cross_entropy"] == 1.25
    assert logged["predictions/student/mean_iou"] == 0.5
    assert logged["predictions/student"]["_type"] == "table-file" and logged["predictions/student"]["nrows"] == 2
    image = logged["predictions/a"]
    assert (image["_type"], image["width"], image["height"]) == ("image-file", 16, 12)
    assert sorted(image["masks"]) == ["labels", "student"]
    assert "predictions/a/image" not in logged, "a panel is a part of its montage"
    records = [json.loads(line) for line in inspect(second).splitlines()]
    labels = [r["config"]["update"]["_wandb"].get("mask/class_labels") for r in records if r["type"] == "config"]
    names = next(iter(labels[0].values()))["value"]
    assert names == {"0": "road", "1": "car", "255": "void"}
    assert any(record["type"] == "stats" for record in records), "what the machine did"


def test_without_the_package(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ModuleSpec("wandb", None)  # what a folder called wandb in the working directory looks like
    for found in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        tracker(run, "auto").finish()
        assert not list(run.path.glob("wandb*"))
        for asked in ("offline", "online"):
            with pytest.raises(Mistake, match=rf"log.wandb: '{asked}' needs .* pip install segdistill\[wandb\]"):
                tracker(run, asked)


def test_online_without_a_key_is_one_sentence(run: Run, without_key: None) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_track import *
try:
    tracker(Run({str(run.path)!r}), "online")
except Mistake as mistake:
    print(mistake)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("log.wandb: 'online' needs a Weights & Biases key and found none; run `wandb login`")
    assert not run.log_file.exists()


def test_online_without_a_network_is_one_sentence(run: Run, without_key: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_track import *
track.SECONDS_FOR_NETWORK = 2.0
try:
    tracker(Run({str(run.path)!r}), "online")
except Mistake as mistake:
    print(mistake)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("log.wandb: 'online' could not start Weights & Biases")
    assert len(done.stdout.splitlines()) == 1

"""Promise 2 on a bad disk: full, read-only, forbidden or in use is one sentence, and what was good stays so."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from segdistill.checkpoint import State, load_state, save_state
from segdistill.mistakes import Mistake
from segdistill.recipe import dump
from segdistill.run import Run, Unwritten, append_json
from segdistill.training import train
from small import online, small

NOBODY = 65534
GRAPH = {**online(), "optim": {"lr": 0.01, "schedule": "constant"}}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Generator[Path]:
    """A disk of four megabytes; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk; the tests in which a disk only says it is full run anyway")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - leave))
    return filler


def say(recipe: Path, run: Path, *more: str) -> tuple[int, str]:
    """The exit code of the command, and the one line in which it says why."""
    command = [sys.executable, "-m", "segdistill", "train", str(recipe), "--run", str(run), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("segdistill: ")]
    assert len(told) == 1, done.stderr
    return done.returncode, told[0]


def tensors(run: Run) -> dict[str, torch.Tensor]:
    found = load_state(run.checkpoints)
    assert found is not None and not found[1]
    return dict(found[0].tensors)


@pytest.mark.slow
@pytest.mark.parametrize(("every", "file"), [(2, "checkpoints/step-6"), (1000, "log.jsonl")])
def test_a_full_disk_stops_the_run_and_with_room_it_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_disk: Path, every: int, file: str
) -> None:
    run, settings = Run(tiny_disk / "run"), ("data.count=8", "data.val_count=2")
    train(small("steps=4", "checkpoint.every=2", *settings, **GRAPH), run.path)
    before = tensors(run)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        dump(small("steps=100" if every > 2 else "steps=8", f"checkpoint.every={every}", *settings, **GRAPH))
    )
    more = ("--resume", "--allow-change", "steps", "--allow-change", "checkpoint")
    filler = fill(tiny_disk, leave=24 * 1024)
    code, said = say(recipe, run.path, *more)
    assert code == 1
    assert f"{run.path}/{file}: cannot be written: No space left on device (0.0 MB are free there)" in said
    assert all(torch.equal(before[name], value) for name, value in tensors(run).items())
    assert sorted(place.name for place in run.checkpoints.iterdir()) == ["step-2", "step-4"]
    filler.unlink()
    train(small("steps=8", "checkpoint.every=2", *settings, **GRAPH), run.path, resume=True,
          allow_change=["steps", "checkpoint"])  # fmt: skip
    straight = train(small("steps=8", "checkpoint.every=2", *settings, **GRAPH), tmp_path / "straight")
    assert all(torch.equal(value, tensors(straight)[name]) for name, value in tensors(run).items())
    assert [line["loss"] for line in run.log() if "loss" in line] == [
        line["loss"] for line in straight.log() if "loss" in line
    ]


@pytest.mark.parametrize("full_at", [1, 2, 3, 4])
def test_a_save_that_fails_leaves_the_checkpoints_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    state = State(3, {"system/w": torch.arange(5.0)}, {"best": {}})
    save_state(tmp_path, state, keep=1)
    synced = 0

    def full(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 2 * full_at - 1:  # after each file its folder is synced
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    if full_at < 4:
        with pytest.raises(
            Unwritten, match=r"step-5: cannot be written: No space left on device \([\d,.]+ MB are free"
        ):
            save_state(tmp_path, state._replace(step=5), keep=1)
        assert [place.name for place in tmp_path.iterdir()] == ["step-3"]
    else:  # the new one is whole and in its place when the folder cannot be flushed
        with pytest.raises(Unwritten):
            save_state(tmp_path, state._replace(step=5), keep=1)
    monkeypatch.undo()
    found = load_state(tmp_path)
    assert found is not None
    assert found[0].step == (3 if full_at < 4 else 5)
    assert torch.equal(found[0].tensors["system/w"], torch.arange(5.0))


def test_a_log_on_a_full_disk_says_so() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(Unwritten, match=r"^/dev/full: cannot be written: No space left on device"):
        append_json(full, {"step": 1})


def test_a_read_only_disk_is_one_sentence(tmp_path: Path, tiny_disk: Path) -> None:
    run = train(small("steps=1"), tiny_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    for path, resume in ((run.path, True), (tiny_disk / "new", False)):
        with pytest.raises(Mistake, match=r"cannot be written \(Read-only file system\); --run names another folder"):
            train(small("steps=1"), path, resume=resume)


def test_missing_permissions_are_one_sentence() -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in a folder that others may not enter
        home = Path(folder)
        home.chmod(0o755)
        run = train(small("steps=1"), home / "run")
        closed = home / "closed"
        closed.mkdir(mode=0o700)
        (closed / "run").mkdir()
        for place in (run.path, home):
            place.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)  # whom permissions concern
        else:
            closed.chmod(0o000)
        try:
            for path, resume in ((run.path, True), (home / "new", False), (closed / "run", False)):
                with pytest.raises(Mistake, match=r"cannot be (written|read) \(Permission denied\)"):
                    train(small("steps=1"), path, resume=resume)
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            home.chmod(0o755)
            closed.chmod(0o755)


def test_a_run_that_another_process_trains_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run"
    holding = (
        "import sys; from segdistill.run import Run\n"
        "with Run(sys.argv[1]).held(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Mistake, match=rf"run: another process \(pid {other.pid}\) is training there"):
            train(small("steps=1"), path)
        other.kill()
        other.stdin.close()
    assert not Run(path).begun()
    train(small("steps=1"), path)

"""Where the time of a step goes, and that large tensors reuse memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from segdistill.allocator import keep_memory
from segdistill.timing import Stopwatch
from segdistill.training import train
from small import online, small


def test_parts_are_summed_until_they_are_read() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for name, seconds in (("data", 0.02), ("teacher", 0.01), ("data", 0.03)):
        with watch.part(name):
            time.sleep(seconds)
    found = watch.read()
    assert found == {"data": pytest.approx(0.05, abs=0.02), "teacher": pytest.approx(0.01, abs=0.02)}
    assert watch.read() == {}


def test_a_run_logs_where_its_time_goes_and_the_parts_are_the_whole(tmp_path: Path) -> None:
    run = train(small("steps=4", "log.every=2", "probes={}", **online()), tmp_path / "run")
    for line in run.log():
        parts = {name.removeprefix("seconds/"): value for name, value in line.items() if name.startswith("seconds/")}
        assert parts.keys() == {"data", "teacher", "student", "backward", "optimiser", "other"}
        assert sum(parts.values()) == pytest.approx(line["seconds_per_step"])
        assert all(value >= 0 for value in parts.values())
        assert parts["backward"] > parts["teacher"] > 0


FAULTS = """
import resource, sys, torch
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    from segdistill.allocator import keep_memory
    keep_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16_000_000).add(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_kept_memory_is_not_faulted_in_again() -> None:
    if "kept" not in keep_memory() and "MALLOC" not in keep_memory():
        pytest.skip("needs glibc")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    faults = {
        what: int(
            subprocess.run([sys.executable, "-c", FAULTS, what], env=plain, capture_output=True, check=True).stdout
        )
        for what in ("plain", "kept")
    }
    assert faults["plain"] > 10_000  # ten times 122 MB in pages of 4 kB; 512 each where pages are huge
    assert faults["kept"] < 0.6 * faults["plain"]  # a system short of memory takes some back: 0.35 was seen


def test_who_chose_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert keep_memory() == "as MALLOC_TRIM_THRESHOLD_ says"

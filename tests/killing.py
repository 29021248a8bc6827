"""Kills real runs with SIGKILL and resumes them: `killing.py FOLDER RECIPE PROCESSES moments SEED COUNT` or `… files`.

Started by test_killed.py in a process of its own, which imports everything once and forks a child for every try, so
that one costs a second, not five. Prints one JSON document: where each run was killed, and what differed between the
run that was killed and the one that was not.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch._dynamo  # which the first optimiser of a process would spend seconds on  # pyright: ignore[reportUnusedImport]

from segdistill import training
from segdistill.checkpoint import load_state
from segdistill.recipe import read
from segdistill.run import Run

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
"""Events of what exists; files are opened and folders made beside them."""
PATIENCE = 120.0
ENDED = "ended before"


class Moment(NamedTuple):
    """When a child dies: before its n-th change of a file of the run, at the n-th call of our code, or not at all."""

    file: int = 0
    call: int = 0
    seconds: float = 0.0
    """After which its parent kills it."""

    def __str__(self) -> str:
        return (
            f"after {self.seconds:.2f} s" if self.seconds else f"file {self.file}" if self.file else f"call {self.call}"
        )


class Died(NamedTuple):
    """How a child ended: alive at the end (then how many files and calls it came to), or where it was."""

    done: bool
    said: list[str]
    seconds: float


def main(folder: str, recipe: str, processes: str, what: str, *more: str) -> None:
    warnings.simplefilter("ignore")  # gloo about addresses
    torch.set_num_threads(1)
    home, ranks = Path(folder), int(processes)
    straight = home / "straight"
    ended = attempt(Path(recipe), straight, ranks, Moment())
    files, calls = int(ended.said[0]), int(ended.said[1])
    if what == "files":
        kills = list(of_files(home, Path(recipe), ranks, files))
    else:
        kills = list(of_moments(home, Path(recipe), ranks, calls, ended.seconds, *map(int, more)))
    print(json.dumps({"files": files, "calls": calls, "kills": kills}))


def of_files(home: Path, recipe: Path, ranks: int, files: int) -> Iterator[Any]:
    """One run for every change of a file, killed just before it."""
    for number in range(1, files + 1):
        run = home / "killed"
        shutil.rmtree(run, ignore_errors=True)
        yield kill_and_resume(recipe, run, ranks, [Moment(file=number)], home / "straight")


def of_moments(
    home: Path, recipe: Path, ranks: int, calls: int, seconds: float, seed: int, count: int
) -> Iterator[Any]:
    """Runs that are killed at a random call of our code and again at a random time, until `count` kills were made."""
    dice = random.Random(seed)
    kills = 0
    for _ in range(count):
        if kills >= count:
            return
        run = home / "killed"
        shutil.rmtree(run, ignore_errors=True)
        moments = [Moment(call=dice.randrange(1, calls)), Moment(seconds=dice.uniform(0.2, 0.8) * seconds)]
        told = kill_and_resume(recipe, run, ranks, moments, home / "straight")
        kills += sum(place != ENDED for place in told["killed"])
        yield told


def kill_and_resume(recipe: Path, run: Path, ranks: int, moments: list[Moment], straight: Path) -> dict[str, Any]:
    places: list[str] = []
    newest = -1
    for moment in moments:
        died = attempt(recipe, run, ranks, moment)
        places.append(ENDED if died.done else f"{moment}: {' '.join(died.said) or 'anywhere'}")
        found = load_state(run / "checkpoints")  # the last good checkpoint always loads
        step = found[0].step if found else -1
        if step < newest:
            return {"killed": places, "differs": [f"the newest checkpoint was step {newest}, now it is step {step}"]}
        newest = step
    ended = attempt(recipe, run, ranks, Moment())
    if not ended.done:
        return {"killed": places, "differs": [f"it did not go on: {ended.said}"]}
    return {"killed": places, "newest": newest, "differs": differences(straight, run)}


def attempt(recipe: Path, run: Path, ranks: int, moment: Moment) -> Died:
    """Train in children of this process, `moment` in one of them; the others die with it, as a launcher has it."""
    began = time.monotonic()
    victim = random.Random(str(moment)).randrange(ranks)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    readers: list[int] = []
    children: list[int] = []
    for rank in range(ranks):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os.setsid()
            where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_PORT": port}
            os.environ.update(where | {"MASTER_ADDR": "127.0.0.1"} if ranks > 1 else {})
            work(recipe, run, moment if rank == victim else Moment(), writer)
        os.close(writer)
        readers.append(reader)
        children.append(child)
    deadline = began + (moment.seconds or PATIENCE)
    alive, failed = dict.fromkeys(children), False
    while alive and not failed and time.monotonic() < deadline:
        for child in list(alive):
            if os.waitpid(child, os.WNOHANG)[0]:
                del alive[child]
                failed |= os.read(readers[children.index(child)], 1) != b"+"
        time.sleep(0.005)
    done = not alive and not failed
    for child in children:  # with their groups: the workers of a loader
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for child in alive:
        os.waitpid(child, 0)
    told = [os.read(reader, 10_000).decode().split() for reader in readers]
    said = min(told, key=lambda counts: int(counts[1])) if done else told[victim]
    for reader in readers:
        os.close(reader)
    return Died(done, said, time.monotonic() - began)


def work(recipe: Path, run: Path, moment: Moment, writer: int) -> None:
    """Never returns. Says + and what it counted at the end; or − and where it was when it killed itself."""
    files = calls = 0
    place = str(run)

    def die(where: str) -> None:
        os.write(writer, f"- {where}".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal files
        if event not in CHANGES | {"open", "os.mkdir"} or not (path := str(arguments[0])).startswith(place):
            return
        written = event == "open" and str(arguments[1])[0] in "wa"
        made = event == "os.mkdir" and not Path(path).exists()
        if written or made or (event in CHANGES and os.path.lexists(path)):
            files += 1
            if files == moment.file:
                die(f"{event} {path.removeprefix(place)}")

    def on_call(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        if event != "call" or "segdistill" not in frame.f_code.co_filename:
            return
        calls += calls > 0 or frame.f_code is training.Work.run.__code__
        if calls == moment.call > 0:
            stack: list[str] = []
            at: FrameType | None = frame
            while at is not None and at.f_code is not training.Work.run.__code__:
                stack += [at.f_code.co_name] if "segdistill" in at.f_code.co_filename else []
                at = at.f_back
            die(" < ".join(stack))

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    sys.addaudithook(on_event)
    sys.setprofile(on_call)
    try:
        training.train(read(recipe), run, resume=True)
        sys.setprofile(None)
        os.write(writer, f"+ {files} {calls}".encode())
    except BaseException as error:
        os.write(writer, f"! {type(error).__name__}: {error}"[:5000].encode())
    os._exit(0)


def differences(one: Path, other: Path) -> list[str]:
    """The files in which two runs differ; times and dates aside."""
    files = {path.relative_to(run) for run in (one, other) for path in run.rglob("*") if path.is_file()}
    return [str(file) for file in sorted(files) if content(one / file) != content(other / file)]


def content(file: Path) -> object:
    if not file.exists():
        return None
    if file.name in ("run.json", ".lock"):
        return True
    if file.name == "log.jsonl":
        run = Run(file.parent)
        return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in run.log()]
    return file.read_bytes()


if __name__ == "__main__":
    main(*sys.argv[1:])

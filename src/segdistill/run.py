"""The run directory: training writes it, everything downstream only reads it."""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save

from segdistill.mistakes import Mistake, nearest
from segdistill.types import Findings, Picture, Table

_HELD: set[Path] = set()
"""Runs that this process holds: the system's locks are of processes and do not tell its threads apart."""


class Unwritten(OSError):
    """A file could not be written: one sentence with its path, the system's reason and the room that is left."""

    def __init__(self, path: Path, reason: str) -> None:
        there = next((folder for folder in path.parents if folder.is_dir()), Path())
        room = shutil.disk_usage(there).free / 1e6
        super().__init__(f"{path}: cannot be written: {reason} ({room:,.1f} MB are free there)")
        self.reason = reason


@final
class Run:
    """The files of one training run, by what they mean.

    recipe.yaml, run.json, log.jsonl, checkpoints/step-N/, best/ and last/ (<model>.safetensors), findings/<probe>/N/;
    where there was reason: bad_samples.json, skipped.json and skipped/step-N/.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def info_file(self) -> Path:
        return self.path / "run.json"

    @property
    def log_file(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def bad_samples_file(self) -> Path:
        """Split -> key -> why: the samples that could not be read."""
        return self.path / "bad_samples.json"

    @property
    def skipped_file(self) -> Path:
        """The updates that were not finite: their steps and the keys of their samples."""
        return self.path / "skipped.json"

    @property
    def skipped(self) -> Path:
        """step-N/: the state before such an update, as a checkpoint."""
        return self.path / "skipped"

    def weights(self, model: str, which: str = "best") -> Path:
        """Where a trained network lies: which = best (by validation mIoU) or last."""
        return self.path / which / f"{model}.safetensors"

    def exists(self) -> bool:
        try:
            return self.recipe_file.exists()
        except PermissionError as error:
            raise Mistake(f"{self.path}: cannot be read ({error.strerror})") from error

    def begun(self) -> bool:
        """Whether anything was trained here; a folder that only a mistake left behind may be used again."""
        try:
            return any(self.checkpoints.glob("step-*")) or (self.log_file.exists() and bool(self.log()))
        except PermissionError as error:
            raise Mistake(f"{self.path}: cannot be read ({error.strerror})") from error

    def require(self) -> "Run":
        """This run, or the mistake of naming a folder that is none."""
        if not self.exists():
            runs = [file.parent.name for file in self.path.parent.glob("*/recipe.yaml")]
            raise Mistake(f"{self.path}: not a run directory (it has no recipe.yaml){nearest(self.name, runs)}")
        self.refuse_links()
        return self

    def refuse_links(self) -> None:
        """The mistake of a run directory in which a link leads out: what it names would be read, or deleted."""
        home = self.path.resolve()
        for folder, folders, files in os.walk(self.path):
            if "wandb" in folders and (
                Path(folder) == self.path or "recipe.yaml" in files
            ):  # of a run, or of a study's
                folders.remove("wandb")  # W&B's own, with links to its logs; we neither read nor delete there
            for place in (Path(folder, name) for name in (*folders, *files)):
                if place.is_symlink() and not place.resolve().is_relative_to(home):
                    raise Mistake(f"{place}: a link that leads out of the run directory; expected a file or folder")

    @contextmanager
    def held(self) -> Generator[None]:
        """The run directory for this process alone, as long as it lives; the system lets go of it when it is killed.

        Raises:
            Mistake: another process trains there, or nothing can be written there.
        """
        if self.path.resolve() in _HELD:
            raise Mistake(f"{self.path}: this process is training there already")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.refuse_links()
            file = (self.path / ".lock").open("a+")
        except OSError as error:
            raise Mistake(f"{self.path}: cannot be written ({error.strerror}); --run names another folder") from error
        with file:
            try:  # of the process, not of the file: workers that outlive a killed run for some seconds do not have it
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                raise Mistake(f"{self.path}: another process (pid {file.read(20)}) is training there") from error
            except OSError as error:
                raise Mistake(f"{self.path}: its file system has no locks ({error.strerror})") from error
            with writing(self.path):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
            _HELD.add(self.path.resolve())
            try:
                yield
            finally:
                _HELD.discard(self.path.resolve())

    def sweep(self) -> None:
        """Remove what writes that were killed have left."""
        for folder in ("", "best/", "last/", "findings/*/*/"):
            for torn in self.path.glob(f"{folder}.*.*"):
                if torn.suffix[1:].isdecimal() and torn.is_file():
                    torn.unlink()

    def info(self) -> dict[str, Any]:
        """run.json: the command, commit, versions, host, seed and fingerprints.

        Raises:
            Mistake: it is missing or damaged.
        """
        return read_json(self.info_file)

    def log(self) -> list[dict[str, float]]:
        """The lines of log.jsonl, each with its `step`; one that a crash tore, without its end, is left out.

        Raises:
            Mistake: a line is damaged.
        """
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_bytes().split(b"\n")[:-1]
        return [_logged(self.log_file, number, line) for number, line in enumerate(lines, 1)]

    def log_lines(self) -> int:
        """How many lines log.jsonl has."""
        return self.log_file.read_bytes().count(b"\n") if self.log_file.exists() else 0

    def truncate_log(self, step: int, lines: int) -> None:
        """Forget what was logged after so many lines and found after `step`; a resumed run logs and finds it again."""
        kept = [json.dumps(line) + "\n" for line in self.log()[:lines]]
        write_text(self.log_file, "".join(kept))
        for folder in (self.path / "findings").glob("*/*"):
            if folder.name.isdecimal() and int(folder.name) > step:
                shutil.rmtree(folder)

    def write_findings(self, probe: str, step: int, findings: Findings) -> Path:
        """findings/<probe>/<step>/: findings.json and one PNG per picture."""
        folder = self.path / "findings" / probe / f"{step:08d}"
        files: dict[str, str] = {}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in findings.images.items():
                files[name] = f"{name.replace('/', '_')}.png"
                Image.fromarray(picture.pixels).save(folder / files[name])
        tables = {
            name: {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            for name, table in findings.tables.items()
        }
        content = {"numbers": dict(findings.numbers), "images": files, "tables": tables}
        write_json(folder / "findings.json", content)
        return folder

    def write_by_image(self, step: int, counts: Mapping[str, np.ndarray]) -> None:
        """Beside what the probe measure found: by network, counts of pixels of each image; 12 bytes a class."""
        write_bytes(self._by_image_file(step), save(dict(counts)))

    def by_image(self, step: int) -> Mapping[str, np.ndarray]:
        """uint32 [images, 3, K] by network (`Confusion.margins`); none where the run did not keep them.

        Raises:
            Mistake: the file is damaged.
        """
        file = self._by_image_file(step)
        if not file.exists():
            return {}
        try:
            found = load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise Mistake(f"{file}: damaged ({error}); without it, intervals are over seeds alone") from error
        if wrong := [name for name, each in found.items() if each.dtype != np.uint32 or each.shape[1:2] != (3,)]:
            raise Mistake(f"{file}: damaged: '{wrong[0]}' is not of uint32 [images, 3, classes]")
        return found

    def _by_image_file(self, step: int) -> Path:
        return self.path / "findings" / "measure" / f"{step:08d}" / "images.safetensors"

    def findings(self, probe: str) -> Iterator[tuple[int, Findings]]:
        """(step, findings) of a probe, oldest first."""
        for folder in self._folders(probe):
            yield int(folder.name), _read_findings(folder)

    def last_findings(self, probe: str) -> Findings | None:
        """A probe's newest findings, or None when it never ran."""
        folders = self._folders(probe)
        return _read_findings(folders[-1]) if folders else None

    def _folders(self, probe: str) -> list[Path]:
        return sorted(file.parent for file in (self.path / "findings" / probe).glob("*/findings.json"))


def _logged(file: Path, number: int, line: bytes) -> dict[str, float]:
    try:
        found = json.loads(line)
        if isinstance(found["step"], int):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise Mistake(f"{file}: line {number} is damaged; expected the numbers of a step as JSON")


def _read_findings(folder: Path) -> Findings:
    file = folder / "findings.json"
    content = read_json(file)
    try:
        files: dict[str, str] = dict(content["images"])
        if outside := [name for name in files.values() if Path(name).name != name]:
            raise Mistake(f"{file}: '{outside[0]}' is no picture of this folder")
        images = {name: Picture(np.asarray(Image.open(folder / png).convert("RGB"))) for name, png in files.items()}
        tables = {name: Table(table["columns"], table["rows"]) for name, table in content["tables"].items()}
        return Findings(dict(content["numbers"]), images, tables)
    except (OSError, SyntaxError, KeyError, TypeError, AttributeError) as error:
        raise Mistake(f"{file}: damaged, or one of its pictures is ({error}); training writes findings") from error


@contextmanager
def alone(lock: Path, waiting: str) -> Generator[None]:
    """One thread of one process of this machine at a time, as long as it lives; the others say what they wait for.

    Raises:
        Unwritten: the lock's file cannot be made.
    """
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"segdistill: another process {waiting}; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def writing(path: Path) -> Generator[None]:
    """What the system says while `path` is written, as a sentence.

    Raises:
        Unwritten: in place of any OSError.
    """
    try:
        yield
    except Unwritten as error:  # of a part of it
        raise Unwritten(path, error.reason) from error
    except OSError as error:
        raise Unwritten(path, error.strerror or str(error)) from error


def write_bytes(path: Path, content: bytes) -> None:
    """All of it or nothing: a temporary file, flushed to the disk, then renamed.

    Raises:
        Unwritten: the disk is full, or what stands there may not be changed; it is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that this program wrote.

    Raises:
        Mistake: it is missing, damaged, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        raise Mistake(f"{path}: there is no such file; a run writes it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Mistake(f"{path}: damaged or unreadable ({error}); expected JSON") from error
    if not isinstance(found, dict):
        raise Mistake(f"{path}: damaged; expected a JSON object")
    return found


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def append_json(path: Path, content: Mapping[str, Any]) -> None:
    """One line more; a line torn by a crash or a full disk is dropped when a run resumes.

    Raises:
        Unwritten: the disk is full, or the file may not be changed.
    """
    with writing(path), path.open("a") as file:
        file.write(json.dumps(content) + "\n")


def sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def sha256(path: Path) -> str:
    """The file's digest, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(seed: int) -> dict[str, Any]:
    """What a reader needs to run it again: command, commit, versions, host, seed, date."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False).stdout
    packages = ("segdistill", "torch", "accelerate", "numpy", "pillow", "safetensors")
    return {
        "command": " ".join(["segdistill", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit + ("+changes" if dirty else "") if commit else "unknown",
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "host": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()},
        "seed": seed,
    }


def processor() -> str:
    """The processor's marketing name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where what can be computed again is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segdistill"

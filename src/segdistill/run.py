"""The run directory: training writes it, everything downstream only reads it."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from segdistill.mistakes import Mistake, nearest
from segdistill.types import Findings, Picture, Table


@final
class Run:
    """The files of one training run, by what they mean.

    recipe.yaml, run.json, log.jsonl, checkpoints/step-N/, best/ and last/ (<model>.safetensors), findings/<probe>/N/.
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

    def weights(self, model: str, which: str = "best") -> Path:
        """Where a trained network lies: which = best (by validation mIoU) or last."""
        return self.path / which / f"{model}.safetensors"

    def exists(self) -> bool:
        return self.recipe_file.exists()

    def begun(self) -> bool:
        """Whether anything was trained here; a folder that only a mistake left behind may be used again."""
        return self.exists() and (self.checkpoints.exists() or bool(self.log()))

    def require(self) -> "Run":
        """This run, or the mistake of naming a folder that is none."""
        if not self.exists():
            runs = [file.parent.name for file in self.path.parent.glob("*/recipe.yaml")]
            raise Mistake(f"{self.path}: not a run directory (it has no recipe.yaml){nearest(self.name, runs)}")
        return self

    def info(self) -> dict[str, Any]:
        """run.json: the command, commit, versions, host, seed and fingerprints."""
        return json.loads(self.info_file.read_text())

    def log(self) -> list[dict[str, float]]:
        """The lines of log.jsonl, each with its `step`; one that a crash tore, without its end, is left out."""
        if not self.log_file.exists():
            return []
        return [json.loads(line) for line in self.log_file.read_text().split("\n")[:-1]]

    def truncate_log(self, step: int) -> None:
        """Forget what was logged after `step`; a resumed run logs it again."""
        kept = [json.dumps(line) + "\n" for line in self.log() if line["step"] <= step]
        write_text(self.log_file, "".join(kept))
        for folder in (self.path / "findings").glob("*/*"):
            if folder.name.isdecimal() and int(folder.name) > step:
                shutil.rmtree(folder)

    def write_findings(self, probe: str, step: int, findings: Findings) -> Path:
        """findings/<probe>/<step>/: findings.json and one PNG per picture."""
        folder = self.path / "findings" / probe / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, str] = {}
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


def _read_findings(folder: Path) -> Findings:
    content = json.loads((folder / "findings.json").read_text())
    images = {
        name: Picture(np.asarray(Image.open(folder / png).convert("RGB"))) for name, png in content["images"].items()
    }
    tables = {name: Table(table["columns"], table["rows"]) for name, table in content["tables"].items()}
    return Findings(content["numbers"], images, tables)


def write_bytes(path: Path, content: bytes) -> None:
    """All of it or nothing: a temporary file, flushed to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def append_json(path: Path, content: Mapping[str, Any]) -> None:
    """One line more; a line torn by a crash is dropped when a run resumes."""
    with path.open("a") as file:
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

"""What training leaves on the disk: trained networks with their card, and checkpoints that a run goes on from.

Only safetensors and JSON: no file can run code. A checkpoint is written to a temporary folder, flushed, given its
manifest last, and renamed; older ones go only after that.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from segdistill.mistakes import Mistake
from segdistill.run import Run, sha256, sync_folder, write_bytes, write_json
from segdistill.types import ClassTable

MANIFEST = "MANIFEST.json"


class Card(NamedTuple):
    """What a weights file says about its network; enough to build it again."""

    kind: str
    parameters: Mapping[str, Any]
    classes: ClassTable
    size: tuple[int, int] | None
    """[height, width] the network's input is resized to, or None: as it is."""
    step: int
    numbers: Mapping[str, float]
    """Validation results by name."""


class State(NamedTuple):
    """Everything a run goes on from."""

    step: int
    """Updates done."""
    tensors: Mapping[str, Tensor]
    """system/…, follow/<model>/…, optimizer/…, random/…"""
    facts: Mapping[str, Any]
    """What is no tensor; JSON."""


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each in memory of its own: a network may hold one tensor under two names."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        found[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in places else tensor
        places.add(tensor.untyped_storage().data_ptr())
    return found


def save_weights(path: Path, model: nn.Module, card: Card) -> None:
    """One self-describing safetensors file, all of it or nothing; beside it the card as JSON for people."""
    described = {**card._asdict(), "classes": card.classes._asdict()}
    tensors = _apart(model.state_dict())
    write_bytes(path, save(tensors, metadata={"segdistill": json.dumps(described)}))
    write_json(path.with_suffix(".json"), described)


def read_card(path: Path) -> Card:
    """The card inside a weights file.

    Raises:
        Mistake: no such file, no safetensors, or not one of ours.
    """
    if not path.is_file():
        raise Mistake(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise Mistake(f"{path}: not a safetensors file, or a truncated one ({error})") from error
    if "segdistill" not in metadata:
        raise Mistake(f"{path}: safetensors, but without the card that segdistill writes into its weights")
    said = json.loads(metadata["segdistill"])
    classes = ClassTable(tuple(said["classes"]["names"]), tuple(tuple(c) for c in said["classes"]["colours"]))
    size = tuple(said["size"]) if said["size"] else None
    return Card(said["kind"], said["parameters"], classes, size, said["step"], said["numbers"])


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill a model built as its card says."""
    model.load_state_dict(load_file(path))


def save_state(run: Run, state: State, keep: int) -> Path:
    """checkpoints/step-N, complete or absent; then the oldest beyond `keep` go."""
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    final = run.checkpoints / f"step-{state.step}"
    temporary = run.checkpoints / f".step-{state.step}.{os.getpid()}"
    for torn in run.checkpoints.glob(".step-*"):  # of saves that were killed
        shutil.rmtree(torn)
    temporary.mkdir()
    tensors = _apart(state.tensors)
    write_bytes(temporary / "state.safetensors", save(tensors))
    write_json(temporary / "state.json", {"step": state.step, **state.facts})
    digests = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
    write_json(temporary / MANIFEST, {"step": state.step, "sha256": digests})
    if final.exists():  # a damaged one that a resume walked past, or the last step's before its probes
        final.rename(run.checkpoints / f".step-{state.step}.old")
    temporary.rename(final)
    sync_folder(run.checkpoints)
    shutil.rmtree(run.checkpoints / f".step-{state.step}.old", ignore_errors=True)
    for old in _steps(run)[:-keep]:
        shutil.rmtree(run.checkpoints / f"step-{old}")
    return final


def load_state(run: Run) -> tuple[State, Sequence[str]] | None:
    """The newest whole checkpoint, and a sentence for each newer one that is damaged; None when there is none."""
    damaged: list[str] = []
    for step in reversed(_steps(run)):
        folder = run.checkpoints / f"step-{step}"
        problem = _damage(folder)
        if problem is None:
            facts = json.loads((folder / "state.json").read_text())
            return State(facts.pop("step"), load_file(folder / "state.safetensors"), facts), damaged
        damaged.append(f"{folder}: skipped, {problem}")
    if damaged:
        raise Mistake("; ".join(damaged) + "; no whole checkpoint is left")
    return None


def _steps(run: Run) -> list[int]:
    folders = [folder.name.removeprefix("step-") for folder in run.checkpoints.glob("step-*")]
    return sorted(int(step) for step in folders if step.isdecimal())


def _damage(folder: Path) -> str | None:
    manifest = folder / MANIFEST
    if not manifest.exists():
        return f"it has no {MANIFEST}"
    try:
        digests: Mapping[str, str] = json.loads(manifest.read_text())["sha256"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError):
        return f"its {MANIFEST} is damaged"
    for name, digest in digests.items():
        if not (folder / name).exists() or sha256(folder / name) != digest:
            return f"{name} is damaged"
    return None


def optimiser_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's state as tensors by name, and the rest as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                others.setdefault(str(index), {})[name] = value
    return tensors, {"others": others, "groups": state["param_groups"]}


def restore_optimiser(optimizer: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """The inverse of `optimiser_state`.

    Fused kernels walk a parameter and its moments in memory order, so the moments take the parameter's memory format
    (channels last), which a file does not keep; otherwise they would be silently permuted.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in facts["others"].items()}
    for path, value in tensors.items():
        index, name = path.split("/")
        like = parameters[int(index)]
        moment = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(index), {})[name] = moment
    optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})


def random_state() -> dict[str, Tensor]:
    """torch's generators: CPU, and CUDA where there is one."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def digest(model: nn.Module) -> str:
    """Sixteen hexadecimal digits of a model's parameters and buffers."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]

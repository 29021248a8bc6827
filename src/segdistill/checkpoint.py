"""What training leaves on the disk: trained networks with their card, and checkpoints that a run goes on from.

Only safetensors and JSON: no file can run code. A checkpoint is written to a temporary folder, flushed, given its
manifest last, and renamed; older ones go only after that.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from segdistill.labels import TABLES
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.recipe import Recipe, read
from segdistill.run import Run, read_json, sha256, sync_folder, write_bytes, write_json, writing
from segdistill.types import ClassTable

MANIFEST, TENSORS, FACTS = "MANIFEST.json", "state.safetensors", "state.json"
"""The files of a checkpoint."""
OLD = ".old"
"""Ends the name of a checkpoint while another of the same step takes its place."""
CARD = "segdistill"
"""What the header of a weights file holds."""


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


class Weights(NamedTuple):
    """Where a network's weights lie and what they are of: a weights file, or a checkpoint of the run that trains it."""

    model: str
    """Its name in the run."""
    card: Card
    file: Path
    """The weights file, or that of the checkpoint's tensors."""
    prefix: str = ""
    """In a checkpoint: what the names of its tensors begin with."""

    def fill(self, model: nn.Module) -> None:
        """Fill a model built as the card says.

        Raises:
            Mistake: the file is not whole, or its tensors are not the model's.
        """
        if not self.prefix:
            load_weights(self.file, model)
            return
        found = load_state(self.file.parents[1], self.card.step)
        if found is None:  # only now: a run that goes on removes its old checkpoints
            raise Mistake(f"{self.file.parent}: the checkpoint is gone")
        fit(model, under(found[0].tensors, self.prefix), str(self.file.parent))

    def digest(self) -> str:
        """What the file says that it is; `fill` sees whether it is right."""
        if not self.prefix:
            return str(_signed(self.file)[2])
        return hashlib.sha256(f"{sha256(self.file)}/{self.prefix}".encode()).hexdigest()

    @property
    def temperature_file(self) -> Path:
        """Where `calibrate` writes; a checkpoint that goes takes it with it."""
        return self.file.with_name(f"{self.model}.temperature.json")


class Temperature(NamedTuple):
    """What a network's logits are divided by so that its probabilities are right on a split, and of what that is true.

    NLL is in nats per labelled pixel, ECE a fraction.
    """

    temperature: float
    weights: str
    """Their digest."""
    split: str
    data: str
    """The split's fingerprint."""
    pixels: int
    nll_before: float
    nll: float
    ece_before: float
    ece: float


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
    signed = {**described, "sha256": _digest(tensors, json.dumps(described))}
    # In one entry: safetensors writes several in an order of its own, and the same network would not be the same file.
    write_bytes(path, save(tensors, metadata={CARD: json.dumps(signed)}))
    write_json(path.with_suffix(".json"), described)


def read_card(path: Path) -> Card:
    """The card inside a weights file.

    Raises:
        Mistake: no such file, no safetensors, or not one of ours.
    """
    if not path.is_file():
        raise Mistake(f"{path}: no such weights file")
    return _signed(path)[0]


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill a model built as its card says.

    Raises:
        Mistake: the file is not whole, or its tensors are not the model's.
    """
    _, said, digest = _signed(path)
    tensors = load_file(path)
    if digest != _digest(tensors, said):
        raise Mistake(f"{path}: damaged: its tensors or its card are not what was written")
    fit(model, tensors, str(path))


def _signed(path: Path) -> tuple[Card, str, object]:
    """The card inside a weights file, as it was written, and the digest over it and the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise Mistake(f"{path}: not a safetensors file, or a truncated one ({error})") from error
    if CARD not in metadata:
        raise Mistake(f"{path}: safetensors, but without the card that segdistill writes into its weights")
    try:
        said: dict[str, Any] = json.loads(metadata[CARD])
        digest = said.pop("sha256", None)
        return TypeAdapter(Card).validate_python(said), json.dumps(said), digest
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # pydantic's among them
        raise Mistake(f"{path}: the card inside it is damaged ({str(error).splitlines()[0]})") from error


def in_checkpoint(run: Run, step: int, model: str | None = None) -> Weights:
    """A network as it was after so many updates; the run itself says how it is built.

    Args:
        model: which network; needed where the run trains several.

    Raises:
        Mistake: no such checkpoint or network, or what the run says of itself is damaged.
    """
    places = {int(_step(place)): place for place in _folders(run.checkpoints)}
    steps = sorted(places)
    if step not in steps:
        near = f" (the nearest is step-{min(steps, key=lambda one: abs(one - step))})" if steps else ""
        there = one_of(f"step-{one}" for one in steps)
        raise Mistake(f"{run.path}: no checkpoint of step {step} is kept; there is {there}{near}")
    recipe, found = _recipe(run), networks(run)
    if model not in found and (model or len(found) > 1):
        said = f"no model '{model}'" if model else "several models"
        raise Mistake(f"{run.path}: the run has {said}; it has {one_of(found)}{nearest(model or '', found)}")
    name = model or found[0]
    leader = recipe.models[name].follows
    spec = recipe.models[leader or name]
    card = Card(spec.kind or "", spec.parameters, _classes(run), recipe.data.size, step, {})
    prefix = f"follow/{name}/" if leader else f"system/models.{name}."
    return Weights(name, card, places[step] / TENSORS, prefix)


def networks(run: Run) -> list[str]:
    """Those that are in its checkpoints: what learns and what follows."""
    return [name for name, spec in _recipe(run).models.items() if not spec.frozen]


def save_temperature(weights: Weights, found: Temperature) -> None:
    """All of it or nothing, beside the weights."""
    write_json(weights.temperature_file, found._asdict())


def read_temperature(weights: Weights) -> Temperature:
    """What `save_temperature` wrote.

    Raises:
        Mistake: it is damaged, or of other weights.
    """
    file = weights.temperature_file
    try:
        found = TypeAdapter(Temperature).validate_python(read_json(file))
    except ValidationError as error:
        raise Mistake(f"{file}: damaged; expected what `segdistill calibrate` writes") from error
    if not 0 < found.temperature < math.inf:
        raise Mistake(f"{file}: damaged; expected a temperature above 0, got {found.temperature}")
    if found.weights != weights.digest():
        raise Mistake(f"{file}: of other weights than {weights.file} holds now")
    return found


def _recipe(run: Run) -> Recipe:
    try:
        return read(run.recipe_file)
    except Mistake as mistake:
        raise Mistake(f"{run.recipe_file}: damaged, or of another version: {mistake}") from mistake


def _classes(run: Run) -> ClassTable:
    """Of the run's data: names, with the colours of a table of ours where they are its names."""
    names = run.info().get("classes")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise Mistake(f"{run.info_file}: damaged, or of an earlier version; expected the names of the classes")
    known = [table for table in TABLES.values() if table.names == tuple(names)]
    return known[0] if known else ClassTable(tuple(names), ((0, 0, 0),) * len(names))


def fit(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor of a module.

    Raises:
        Mistake: one is missing, left over or of another shape.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        what = str(error).splitlines()[1].strip()  # the first line says that the lines below it say what
        raise Mistake(f"{where}: does not fit the network as the recipe has it: {what}") from error


def save_state(folder: Path, state: State, keep: int) -> Path:
    """<folder>/step-N, complete or absent; then the oldest beyond `keep` go.

    Raises:
        Unwritten: the disk is full, or the folder may not be changed; the checkpoints before are as they were.
    """
    final, old = folder / f"step-{state.step}", folder / f"step-{state.step}{OLD}"
    temporary = folder / f".step-{state.step}.{os.getpid()}"
    with writing(final):
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".step-*"):  # of saves that were killed
            shutil.rmtree(torn)
        try:
            temporary.mkdir()
            write_bytes(temporary / TENSORS, save(_apart(state.tensors)))
            write_json(temporary / FACTS, {"step": state.step, **state.facts})
            digests = {name: sha256(temporary / name) for name in (TENSORS, FACTS)}
            write_bytes(temporary / MANIFEST, _manifest(state.step, digests))
            if final.exists():  # a damaged one that a resume walked past, or the last step's before its probes
                shutil.rmtree(old, ignore_errors=True)
                final.rename(old)
            temporary.rename(final)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # its space is needed
            raise
        sync_folder(folder)
        shutil.rmtree(old, ignore_errors=True)
        kept = [place for place in _folders(folder) if int(_step(place)) <= state.step]
        for place in set(_folders(folder)) - set(kept[-keep:]):  # those of later steps are damaged, or not of this run
            shutil.rmtree(place, ignore_errors=True)
    return final


def load_state(folder: Path, step: int | None = None) -> tuple[State, Sequence[str]] | None:
    """The newest whole checkpoint, and a sentence for each newer one that is damaged; None when there is none.

    Args:
        step: only that step's.

    Raises:
        Mistake: there are some, and none is whole.
    """
    damaged: list[str] = []
    for place in reversed(_folders(folder)):
        if step is not None and int(_step(place)) != step:
            continue
        problem = _damage(place)
        if problem is None:
            try:
                facts = read_json(place / FACTS)
                return State(facts.pop("step"), load_file(place / TENSORS), facts), damaged
            except (SafetensorError, KeyError) as error:  # signed, and not by us
                problem = f"it is no checkpoint of ours ({error})"
        damaged.append(f"{place}: skipped, {problem}")
    if damaged:
        raise Mistake("; ".join(damaged) + "; no whole checkpoint is left")
    return None


def _folders(folder: Path) -> list[Path]:
    """Oldest first; while a step's checkpoint is being replaced, the one before it has another name."""
    found = [place for place in folder.glob("step-*") if _step(place).isdecimal()]
    return sorted(found, key=lambda place: (int(_step(place)), not place.name.endswith(OLD)))


def _step(place: Path) -> str:
    return place.name.removeprefix("step-").removesuffix(OLD)


def _damage(folder: Path) -> str | None:
    """Why a checkpoint is not what was written; None: it is."""
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}"
    said = (folder / MANIFEST).read_bytes()
    try:
        claimed = read_json(folder / MANIFEST).get("sha256")
    except Mistake:
        return f"its {MANIFEST} is damaged"
    found = {name: sha256(folder / name) if (folder / name).is_file() else "" for name in (TENSORS, FACTS)}
    if isinstance(claimed, dict):
        for name, digest in found.items():
            if claimed.get(name) != digest:
                return f"{name} is damaged"
    return None if said == _manifest(int(_step(folder)), found) else f"its {MANIFEST} is damaged"


def _manifest(step: int, digests: Mapping[str, str]) -> bytes:
    return json.dumps({"step": step, "sha256": digests}, indent=1).encode()


def optimiser_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's state as tensors by name, and the rest as JSON; its settings are the recipe's."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                others.setdefault(str(index), {})[name] = value
    return tensors, {"others": others}


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
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


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
    return _digest(model.state_dict())[:16]


def _digest(tensors: Mapping[str, Tensor], more: str = "") -> str:
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    total.update(more.encode())
    return total.hexdigest()

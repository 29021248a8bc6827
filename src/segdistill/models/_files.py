"""First weights from a file that another program wrote: every tensor finds its place, or it is said which does not."""

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError  # pyright: ignore[reportPrivateImportUsage]
from torch.serialization import get_unsafe_globals_in_checkpoint

from segdistill.mistakes import Mistake, one_of

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which training programs put the weights when they save more than those."""

_TORN = (
    *(UnpicklingError, struct.error, RuntimeError, EOFError, MemoryError, OverflowError),
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError),
)
"""What torch's reader of `.pth` files raises, as thousands of damaged ones showed; it runs nothing that they say."""


def read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a `.pth` that holds no code.

    Raises:
        Mistake: no such file, a damaged one, or one that would run code.
    """
    if not path.is_file():
        raise Mistake(f"{where}: no such file {path}")
    tensors = _of_safetensors(path, where) if path.suffix == ".safetensors" else _of_torch(path, where)
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_complex() or value.is_quantized:
            raise Mistake(f"{where}: {path}: '{name}' is no dense tensor of real numbers")
    return tensors


def _of_safetensors(path: Path, where: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Mistake(f"{where}: {path} is not a safetensors file, or a truncated one ({error})") from error


def _of_torch(path: Path, where: str) -> dict[str, Tensor]:
    _check_archive(path, where)
    damaged = f"{where}: {path} is damaged, or a zip file that torch.save did not write"
    try:
        unsafe = get_unsafe_globals_in_checkpoint(path)
    except _TORN as error:
        raise Mistake(damaged) from error
    if unsafe:
        said = _some(sorted(unsafe))
        raise Mistake(f"{where}: {path} runs code when it is read ({said}); save its state_dict alone")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except _TORN as error:
        raise Mistake(damaged) from error
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise Mistake(f"{where}: {path} holds no state_dict, neither plain nor under {one_of(WRAPPERS)}")
    return {str(name): value for name, value in found.items()}


def _check_archive(path: Path, where: str) -> None:
    """What torch.save writes and torch.load does not check: entries as they are, in one folder, with checksums."""
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\3\4"
    if not is_archive:
        raise Mistake(f"{where}: {path} is neither safetensors nor what torch.save writes since torch 1.6")
    try:
        with zipfile.ZipFile(path) as archive:
            problem = _oddity(archive.infolist(), path.stat().st_size)
            problem = problem or ("its checksums do not fit: it is damaged" if archive.testzip() else "")
    except (zipfile.BadZipFile, OSError, *_TORN) as error:
        raise Mistake(f"{where}: {path} is damaged, or no zip file") from error
    if problem:
        raise Mistake(f"{where}: {path} is not as torch.save wrote it: {problem}")


def _oddity(entries: list[zipfile.ZipInfo], size: int) -> str:
    """What torch.save would not have written, or nothing; seen before a byte is unpacked."""
    names = [PurePosixPath(entry.filename) for entry in entries]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "it is compressed, and a few bytes may unpack to very many"
    if sum(entry.file_size for entry in entries) > size:
        return "it claims to hold more bytes than it has"
    if len({name.parts[:1] for name in names}) != 1 or any(".." in name.parts for name in names):
        return "it holds more than one folder"
    if len(set(names)) < len(names):
        return "two of its entries have one name"
    if any(entry.external_attr & 0xFF for entry in entries):  # torch takes what DOS calls a folder for zeros
        return "it holds folders"
    return ""


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor of a module.

    Raises:
        Mistake: a tensor is missing, left over, of another shape, or of whole numbers where the network has others.
    """
    state = module.state_dict()
    if missing := [name for name in state if name not in tensors]:
        raise Mistake(f"{where}: {len(missing)} of the network's {len(state)} tensors are missing: {_some(missing)}")
    if unknown := [name for name in tensors if name not in state]:
        raise Mistake(f"{where}: has {len(unknown)} tensors that the network does not know: {_some(unknown)}")
    for name, value in tensors.items():
        if value.shape != state[name].shape:
            raise Mistake(f"{where}: {name} is {list(value.shape)} there and {list(state[name].shape)} in the network")
        if value.is_floating_point() != state[name].is_floating_point():
            raise Mistake(f"{where}: {name} is {value.dtype} there and {state[name].dtype} in the network")
    module.load_state_dict(tensors)


def fill_encoder(encoder: nn.Module, path: Path, is_beyond: Callable[[str], bool]) -> None:
    """Load every tensor of a part of a network from a file of the whole, leaving out what `is_beyond` says of a name.

    timm's networks of features join the first words of a name (stages.0.blocks becomes stages_0.blocks), so names are
    compared with all words joined.
    """
    ours = {_joined(name): name for name in encoder.state_dict()}
    tensors = {ours.get(_joined(n), n): value for n, value in read_tensors(path, "encoder_weights").items()}
    known = set(ours.values())
    wanted = {name: value for name, value in tensors.items() if name in known or not is_beyond(name)}
    fill(encoder, wanted, f"encoder_weights: {path}")


def fill_timm(timm: Any, encoder: nn.Module, name: str, path: Path) -> None:
    """Load timm's features from a file of them or of the whole network."""
    whole: Mapping[str, Tensor] = timm.create_model(name).state_dict()
    fill_encoder(encoder, path, whole.__contains__)


def _joined(name: str) -> str:
    return name.replace(".", "_")


def _some(names: list[str]) -> str:
    return one_of([*names[:3], *([f"{len(names) - 3} others"] if len(names) > 3 else [])])

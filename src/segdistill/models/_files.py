"""First weights from a file that another program wrote: every tensor finds its place, or it is said which does not."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segdistill.mistakes import Mistake, one_of


def read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        Mistake: no such file, or no safetensors.
    """
    if not path.is_file():
        raise Mistake(f"{where}: no such file {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Mistake(f"{where}: {path} is not a safetensors file, or a truncated one ({error})") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor of a module.

    Raises:
        Mistake: a tensor is missing, left over or of another shape.
    """
    state = module.state_dict()
    fit(state, tensors, where)
    module.load_state_dict(tensors)


def fit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise a mistake unless both have the same names and shapes."""
    if missing := [name for name in state if name not in tensors]:
        raise Mistake(f"{where}: {len(missing)} of {len(state)} tensors are missing, {first(missing)}")
    if unknown := [name for name in tensors if name not in state]:
        raise Mistake(f"{where}: has {len(unknown)} tensors that the network does not know, {first(unknown)}")
    for name, value in tensors.items():
        if value.shape != state[name].shape:
            ours = list(state[name].shape)
            raise Mistake(f"{where}: {name} is {list(value.shape)} there, {ours} in the network")


def first(names: list[str]) -> str:
    return one_of([*names[:3], *(["others"] if len(names) > 3 else [])])

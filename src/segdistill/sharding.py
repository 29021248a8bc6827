"""A frozen teacher shared out over the processes: each keeps a part of every weight and borrows the rest in turn.

FSDP2, Zhao et al. 2023, https://arxiv.org/abs/2304.11277, as torch has it (`fully_shard`). The answers are those of the
whole network up to the last bits: torch shares out contiguous weights only, so they are not channels last.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

FEWEST_BLOCKS = 8
"""No block is larger than this part of a network, where its layers allow it: so much of it is whole at any moment."""


def share_out(network: nn.Module, device: torch.device) -> None:
    """From now on every process has to ask the network whenever one does."""
    network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks(network, _size(network) // FEWEST_BLOCKS):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def blocks(network: nn.Module, largest: int) -> Iterator[nn.Module]:
    """The outermost modules that hold at most so many numbers, or that have no parts."""
    for child in network.children():
        if _size(child) <= largest and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            if _size(child):
                yield child
        elif any(True for _ in child.children()):
            yield from blocks(child, largest)
        else:
            yield child


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())

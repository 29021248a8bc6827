"""Pixel and region relations to a memory, Yang et al. 2022 (CIRKD), https://arxiv.org/abs/2204.06986.

Differs from the authors' code, which fills the queue of a class with whatever stands in the first rows of the image and
compares with queues that are still noise: here a class's own cells are remembered, and only what was put in is drawn.
The projection head has LayerNorm for BatchNorm, so that cells that do not count have no say in it.
"""

from typing import final

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from segdistill.losses import (
    Features,
    Labels,
    Loss,
    Mask,
    Scalar,
    at_least_float32,
    global_mean,
    labels_on_grid,
    on_grid,
)
from segdistill.losses._relations import unit
from segdistill.mistakes import Mistake


@final
class MemoryContrast(Loss):
    """KL(target ‖ student) of how similar a cell is to remembered cells, plus the same for remembered regions, in nats.

    Queues hold unit vectors of the target, per class: a few cells of every image, and the mean of the class in every
    image (a region). Similarities are a softmax of cosines / temperature over keys drawn from the queues, the same for
    target and student. The student passes through a head of its own (1×1, norm, ReLU, 1×1) that training alone uses.

    The value is a mean over the drawn cells of all ranks, but it depends on what was seen before, so on the order of
    images. A queue is used once it holds `min_keys` vectors; while none does, the value is 0. It is filled in training
    mode only, after the value is computed, with the cells of all ranks (whose batches must be of one size).

    Memory: classes × (pixel_memory + region_memory) × channels × 4 bytes in state and checkpoint (19 classes, 256
    channels: 46 MiB), and for backward 4 maps of (b · anchors) × keys (b = 8: 32 MiB each).

    Args:
        temperature: the authors' 0.1; their weight is 0.1 (0.01 for Pascal VOC).
        region_weight: of the regions, where the cells have 1.
        pixel_memory: cells remembered per class; the authors' 20 000 (19 classes, 256 channels: 371 MiB).
        region_memory: regions remembered per class; the authors' 2000.
        per_image: cells of each class put into the queue per image, the authors' 16.
        keys: drawn per step from each kind of queue, in equal parts of every class; the authors' 4096 cells and 1024
            regions are per class, which takes gigabytes.
        anchors: cells of each image that are compared, drawn anew in every step; the authors take all.
        min_keys: vectors that a queue must hold to be used.

    Raises:
        Mistake: a number is out of range, or there are fewer keys than classes.
    """

    same_channels = False
    per_batch = True
    silent_at_first = True

    def __init__(
        self,
        temperature: float = 0.1,
        region_weight: float = 1.0,
        pixel_memory: int = 2000,
        region_memory: int = 500,
        per_image: int = 16,
        keys: int = 2048,
        anchors: int = 512,
        min_keys: int = 16,
        *,
        num_classes: int,
        channels: int,
        student_channels: int,
        seed: int,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise Mistake(f"temperature: expected more than 0, got {temperature}")
        if region_weight < 0:
            raise Mistake(f"region_weight: expected at least 0, got {region_weight}")
        for name, number in {"per_image": per_image, "anchors": anchors, "min_keys": min_keys}.items():
            if number < 1:
                raise Mistake(f"{name}: expected at least 1, got {number}")
        for name, number in {"pixel_memory": pixel_memory, "region_memory": region_memory}.items():
            if number < min_keys:
                raise Mistake(f"{name}: expected at least min_keys, {min_keys}, got {number}")
        if keys < num_classes:
            raise Mistake(f"keys: expected at least one for each of {num_classes} classes, got {keys}")
        self.temperature, self.region_weight = temperature, region_weight
        self.per_image, self.anchors, self.min_keys = per_image, anchors, min_keys
        self.keys_per_class, self.num_classes = keys // num_classes, num_classes
        self.head = nn.Sequential(
            nn.Linear(student_channels, channels), nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.pixels = _Queues(num_classes, pixel_memory, channels)
        self.regions = _Queues(num_classes, region_memory, channels)
        self._random = torch.Generator().manual_seed(seed)

    def forward(self, student: Features, target: Float[Tensor, "b d h w"], labels: Labels, mask: Mask) -> Scalar:
        height, width = student.shape[-2:]
        counts = on_grid(mask, height, width).flatten(1)
        student, target = (
            torch.where(counts[..., None], at_least_float32(x).flatten(2).mT, 0.0) for x in (student, target)
        )  # [b, n, c]
        drawn = torch.where(counts, self._draw(counts), -1.0).topk(min(self.anchors, height * width), 1)
        there = drawn.values >= 0  # [b, a]
        ours = unit(self.head(_rows(student, drawn.indices)), 2)  # [b, a, d]
        theirs = unit(_rows(target, drawn.indices), 2)
        to_pixels = self._divergence(ours, theirs, self.pixels)
        to_regions = self._divergence(ours, theirs, self.regions)
        if self.training:
            with torch.no_grad():
                self._remember(
                    unit(target, 2), labels_on_grid(labels, mask, self.num_classes, height, width).flatten(1)
                )
        return global_mean(to_pixels + self.region_weight * to_regions, there.to(to_pixels.dtype))

    def _divergence(
        self, ours: Float[Tensor, "b a d"], theirs: Float[Tensor, "b a d"], queues: "_Queues"
    ) -> Float[Tensor, "b a"]:
        keys, there = queues.drawn(self._draw(queues.vectors[..., 0]), self.keys_per_class, self.min_keys)
        keys = keys.to(ours.dtype) / self.temperature
        absent = torch.finfo(ours.dtype).min  # −inf would give NaN while there is no key
        log_p, log_q = (torch.where(there, x @ keys.mT, absent).log_softmax(2) for x in (ours, theirs))
        return (log_q.exp() * (log_q - log_p)).sum(2)

    def _remember(self, target: Float[Tensor, "b n d"], classes: Int64[Tensor, "b n"]) -> None:
        """Some cells of every class and image, and their means, of all ranks."""
        order = (classes + 0.5 * self._draw(classes)).argsort(1)  # class after class, mixed within a class
        members = classes[:, None] == torch.arange(self.num_classes, device=classes.device)[:, None]  # [b, k, n]
        sizes = members.sum(2)
        nth = torch.arange(self.per_image, device=classes.device)
        place = (sizes.cumsum(1) - sizes)[..., None] + nth  # [b, k, p], past the class's end where it has fewer cells
        cells = order.gather(1, place.clamp(max=classes.shape[1] - 1).flatten(1))
        blocks = (
            _rows(target, cells).unflatten(1, (self.num_classes, self.per_image)),  # [b, k, p, d]
            nth < sizes[..., None],
            unit(members.to(target.dtype) @ target, 2)[:, :, None],  # [b, k, 1, d]
            (sizes > 0)[..., None],
        )
        pixels, are_pixels, regions, are_regions = (_of_all_ranks(x).transpose(0, 1).flatten(1, 2) for x in blocks)
        self.pixels.put(pixels, are_pixels)
        self.regions.put(regions, are_regions)

    def _draw(self, like: Tensor) -> Tensor:
        """Uniform numbers from 0 to 1; the same on every device and rank."""
        return torch.rand(like.shape, generator=self._random).to(like.device, non_blocking=True)

    def get_extra_state(self) -> Tensor:
        return self._random.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self._random.set_state(state.cpu())


class _Queues(nn.Module):
    """A ring of unit vectors per class: the newest overwrite the oldest."""

    vectors: Float[Tensor, "k size d"]
    held: Int64[Tensor, "k"]
    """How many of the vectors were put in."""
    following: Int64[Tensor, "k"]
    """Where the next vector comes."""

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_classes, size, channels))
        self.register_buffer("held", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("following", torch.zeros(num_classes, dtype=torch.int64))

    def drawn(
        self, scores: Float[Tensor, "k size"], per_class: int, min_keys: int
    ) -> tuple[Float[Tensor, "keys d"], Bool[Tensor, "keys"]]:
        """The vectors of highest score of each class, and which of them were put in, by a queue that is in use."""
        size = self.vectors.shape[1]
        filled = torch.arange(size, device=scores.device) < self.held[:, None]
        best = torch.where(filled, scores, -1.0).topk(min(per_class, size), 1)
        there = (best.values >= 0) & (self.held >= min_keys)[:, None]
        keys = _rows(self.vectors, best.indices)
        return keys.flatten(0, 1), there.flatten()

    def put(self, vectors: Float[Tensor, "k n d"], valid: Bool[Tensor, "k n"]) -> None:
        """Append the valid vectors in their order; of more than the ring holds, the first."""
        size = self.vectors.shape[1]
        nth = torch.arange(min(vectors.shape[1], size), device=valid.device)
        order = (~valid).byte().argsort(dim=1, stable=True)[:, : len(nth)]  # the valid ones first
        number = valid.sum(1).clamp(max=size)
        place = (self.following[:, None] + nth) % size  # each place once
        # Fixed shapes: places beyond the valid vectors are written with what they hold.
        rows = torch.where((nth < number[:, None])[..., None], _rows(vectors, order), _rows(self.vectors, place))
        self.vectors.scatter_(1, place[..., None].expand_as(rows), rows.to(self.vectors.dtype))
        self.held.copy_((self.held + number).clamp(max=size))
        self.following.copy_((self.following + number) % size)


def _rows(table: Float[Tensor, "b n c"], index: Int64[Tensor, "b m"]) -> Float[Tensor, "b m c"]:
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))


def _of_all_ranks(block: Tensor) -> Tensor:
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return block
    blocks = [torch.empty_like(block) for _ in range(dist.get_world_size())]
    dist.all_gather(blocks, block.contiguous())
    return torch.cat(blocks)

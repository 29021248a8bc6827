"""What all runs of an arm say about every image: one pass over a split, kept from time to time so that it can go on."""

import hashlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from segdistill.analyses._arms import Arm
from segdistill.analyses._decompositions import PIXELS, Sums, corrected, decompose
from segdistill.analyses._listening import WIDEST, Samples, Seen
from segdistill.analyses._look import near_change
from segdistill.analyses._partial import read_arrays, write_arrays
from segdistill.assemble import built
from segdistill.data import watched
from segdistill.models import Model
from segdistill.prediction import predict
from segdistill.types import IGNORE

VERSION = 1
"""Of what is summed; what was kept by another version is not used."""
SAVE_SECONDS = 20.0


class Settings(NamedTuple):
    """What a pass is about."""

    classes: int
    boundary: float
    """As in the analysis `dataset`."""
    stride: int
    """Every so many rows and columns a pixel is looked at."""


@final
@dataclass
class Told:
    """Of an arm, on the first `seen` samples."""

    sums: Sums
    maps: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """float16 [2, h, w]: bias (0 where void) and variance of the cross-entropy, corrected; by the image's key."""
    seen: int = 0


def tell(samples: Samples, arm: Arm, settings: Settings, folder: Path | None) -> Told:
    """Ask every run of an arm, going on from what `folder` holds.

    Raises:
        Mistake: a sample cannot be read; what was told before it is kept.
        KeyboardInterrupt: the same.
    """
    file = None
    if folder is not None:
        facts = repr((VERSION, [one.digest() for one in arm.weights], samples.facts, tuple(settings)))
        file = folder / f"told-{samples.name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
    told = _read(file) if file and file.exists() else Told(Sums.nothing(len(arm.weights), settings.classes))
    first = told.seen
    if first == samples.length:
        return told
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = [built(weights) for weights in arm.weights]
    for network in networks:
        network.to(device)
    begin = saved = time.monotonic()
    left = islice(samples.starting(first), samples.length - first)
    try:
        for place, seen in enumerate(watched(left, arm.name, samples.length - first), first):
            _ask(told, seen, networks, samples, settings, place in samples.pictured)
            if file and time.monotonic() - saved > SAVE_SECONDS:
                _write(file, told)
                saved = time.monotonic()
    finally:
        if file and told.seen > first:
            _write(file, told)
    start = f" (going on after {first:,})" if first else ""
    seconds = time.monotonic() - begin
    print(f"{arm.name}: {samples.length - first:,} images{start}, {len(networks)} runs, in {seconds:.1f} s",
          file=sys.stderr)  # fmt: skip
    return told


def _ask(
    told: Told, seen: Seen, networks: Sequence[Model], samples: Samples, settings: Settings, is_pictured: bool
) -> None:
    """One sample; the sums are replaced, so that an interrupt leaves them whole."""
    height, width = seen.labels.shape
    distance = max(1, round(settings.boundary * math.hypot(height, width)))
    grid = _grid(seen.labels.shape, settings.stride)
    labels = torch.from_numpy(seen.labels[grid].astype(np.int64))
    near = torch.from_numpy(near_change(seen.labels, distance)[grid])
    known = labels != IGNORE
    coarse = _grid(seen.labels.shape, -(-width // WIDEST))
    chosen: list[Tensor] = []
    shown: list[Tensor] = []
    for network in networks:
        logits = predict(network, seen.image, samples.size).cpu()
        chosen.append(logits[:, *grid][:, known])  # of a large image little is kept
        if is_pictured:
            shown.append(logits[:, *coarse])
    here = Sums.nothing(len(networks), settings.classes)
    here.update(torch.stack(chosen), labels[known], near[known])
    if is_pictured:
        told.maps[seen.key] = _maps(torch.stack(shown), seen.labels[coarse])
    told.sums, told.seen = told.sums + here, told.seen + 1


def _grid(shape: tuple[int, ...], stride: int) -> tuple[slice, slice]:
    """The middle pixel of every cell; one at least."""
    down, across = (slice(min(stride // 2, side - 1), None, stride) for side in shape)
    return down, across


def _maps(logits: Tensor, labels: np.ndarray) -> np.ndarray:
    """float16 [2, h, w] of logits [R, K, h, w] and labels uint8 [h, w]."""
    flat = torch.from_numpy(labels.astype(np.int64)).flatten()
    is_void = flat == IGNORE
    flat = flat.masked_fill(is_void, 0)
    found = np.concatenate([
        corrected(decompose(part.double().log_softmax(1), own)[:, :2].numpy())
        for part, own in zip(logits.flatten(2).split(PIXELS, 2), flat.split(PIXELS), strict=True)
    ], 1)  # fmt: skip
    found[0, is_void.numpy()] = 0
    return found.reshape(2, *labels.shape).astype(np.float16)


def _write(file: Path, told: Told) -> None:
    maps = {f"map/{key}": value for key, value in told.maps.items()}
    write_arrays(file, {"seen": np.array(told.seen), "pixels": told.sums.pixels, "sums": told.sums.sums, **maps})


def _read(file: Path) -> Told:
    arrays: Mapping[str, np.ndarray] = read_arrays(file, ("seen", "pixels", "sums"))
    maps = {name.removeprefix("map/"): value for name, value in arrays.items() if name.startswith("map/")}
    return Told(Sums(arrays["pixels"], arrays["sums"]), maps, int(arrays["seen"]))

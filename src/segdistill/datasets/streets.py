"""Procedural street scenes with the classes of Cityscapes: a data set that needs no download.

A scene is a pure function of (seed, split, index): laid out in metres, painted from far to near (colours and labels
in one stroke), then photographed.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import final

import numpy as np
import torch

from segdistill.datasets import Dataset
from segdistill.datasets import _street_built as built
from segdistill.datasets import _street_camera as camera
from segdistill.datasets import _street_ground as ground
from segdistill.datasets import _street_traffic as traffic
from segdistill.datasets._street_brush import LONGEST_METRES, SAMPLES, Brush
from segdistill.datasets._street_plan import Dice, Plan, Thing, lay_out
from segdistill.labels import CITYSCAPES_19
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.types import IGNORE, ClassTable, Sample

_VERSION = 1
"""Raise it when the pixels change."""
_SPLITS = ("train", "val")
_SMALLEST, _LARGEST = (48, 64), (2048, 4096)
_PAINTERS: Mapping[str, Callable[[Brush, Thing, Dice], None]] = {
    "building": built.building,
    "corner": built.corner,
    "wall": built.wall,
    "fence": built.fence,
    "tree": built.tree,
    "hedge": built.hedge,
    "bush": built.bush,
    "lamp": built.lamp,
    "bollard": built.bollard,
    "sign": built.sign,
    "gantry": built.gantry,
    "signal": built.signal,
    "bin": built.bin_,
    "car": traffic.car,
    "truck": traffic.truck,
    "bus": traffic.bus,
    "tram": traffic.tram,
    "person": traffic.person,
    "bicycle": traffic.bicycle,
    "motorcycle": traffic.motorcycle,
    "cyclist": traffic.cyclist,
    "motorcyclist": traffic.motorcyclist,
}


@final
class Streets(Dataset):
    """`count` labelled training scenes and then `unlabelled` ones whose truth is withheld, or `val_count` others."""

    classes: ClassTable = CITYSCAPES_19

    def __init__(
        self,
        count: int = 400,
        scene_size: tuple[int, int] = (96, 192),
        unlabelled: int = 0,
        val_count: int = 100,
        seed: int = 0,
        *,
        split: str,
    ) -> None:
        if split not in _SPLITS:
            raise Mistake(
                f"data.split: streets has no split '{split}'; it has {one_of(_SPLITS)}{nearest(split, _SPLITS)}"
            )
        for name, value, least in (
            ("count", count, 1),
            ("unlabelled", unlabelled, 0),
            ("val_count", val_count, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise Mistake(f"data.{name}: streets needs at least {least}, got {value}")
        if not all(low <= side <= high for low, side, high in zip(_SMALLEST, scene_size, _LARGEST, strict=True)):
            low, high = ("×".join(map(str, limit)) for limit in (_SMALLEST, _LARGEST))
            raise Mistake(
                f"data.scene_size: streets draws {low} to {high} (height×width), got {scene_size[0]}×{scene_size[1]}"
            )
        self.size = scene_size
        self._split = split
        self._seed = seed
        self._labelled = count if split == "train" else val_count
        self._total = self._labelled + (unlabelled if split == "train" else 0)

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, index: int) -> Sample:
        plan, brush = self._scene(index)
        image, labels = _photograph(plan, brush)
        if index >= self._labelled:
            labels = np.full(self.size, IGNORE, np.uint8)
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))
        return Sample(torch.from_numpy(channels_first), torch.from_numpy(labels), f"{self._split}-{index:05d}")

    def labels(self, index: int) -> np.ndarray:
        if index >= self._labelled:
            return np.full(self.size, IGNORE, np.uint8)
        return _annotate(*self._scene(index))

    def fingerprint(self) -> str:
        facts = (_VERSION, self._split, self._labelled, self._total, self.size, self._seed)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def _scene(self, index: int) -> tuple[Plan, Brush]:
        if not 0 <= index < self._total:
            raise IndexError(f"streets has {self._total} scenes, there is no scene {index}")
        words = np.random.SeedSequence([self._seed, _SPLITS.index(self._split), index]).generate_state(1, np.uint64)
        return _paint(lay_out(int(words[0])), self.size)


def _paint(plan: Plan, size: tuple[int, int]) -> tuple[Plan, Brush]:
    """The scene on a canvas finer than the image."""
    height, width = size[0] * SAMPLES, size[1] * SAMPLES
    field = camera.clouds(np.random.default_rng(plan.seed))
    canvas = ground.sky((width, height), plan.lens.horizon, plan.light, field)
    brush = Brush(canvas, plan.lens, plan.light)
    ground.ground(brush, plan)
    ground.shadows(brush, plan)
    for thing in plan.things:
        if brush.sees(thing.x, thing.z, thing.z + max(thing.length, LONGEST_METRES)):
            _PAINTERS[thing.kind](brush, thing, Dice(thing.seed))
    ground.bonnet(brush, plan)
    return plan, brush


def _hard(brush: Brush) -> np.ndarray:
    """uint8 [H, W]: the label of one canvas pixel for each image pixel."""
    return np.ascontiguousarray(
        np.asarray(brush.canvas.getchannel("A"))[SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]
    )


def _annotate(plan: Plan, brush: Brush) -> np.ndarray:
    """uint8 [H, W]: the labels as an annotator leaves them."""
    return camera.leave_rims(_hard(brush), np.random.default_rng(plan.seed + 2), share=0.3)


def _photograph(plan: Plan, brush: Brush) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] and its labels."""
    colours = np.asarray(brush.canvas.convert("RGB").reduce(SAMPLES), np.float32)
    return camera.develop(colours, _hard(brush), brush, plan.light, plan.seed + 1), _annotate(plan, brush)

"""Every voice on every sample: one pass over a split for all of them, kept from time to time, so that it can go on.

What was heard of a voice is remembered by its weights' digest, its temperature, the split and the settings; the same of
a student beside its teacher. A pass begins where the one of them that has heard least was stopped.
"""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.analyses._dark import Dark, Fidelity, entropy_map
from segdistill.analyses._look import near_change
from segdistill.analyses._partial import read_arrays, write_arrays
from segdistill.assemble import built
from segdistill.checkpoint import Weights
from segdistill.data import crop_size, training_batches, watched
from segdistill.datasets import Dataset
from segdistill.models import Model
from segdistill.prediction import predict
from segdistill.recipe import DataSpec
from segdistill.types import IGNORE

T = TypeVar("T", "Heard", "Followed")
VERSION = 1
"""Of what is summed; what was kept by another version is not used."""
SAVE_SECONDS = 20.0
WIDEST = 480
"""Pixels of a picture of the entropy."""
BODY, BOUNDARY = "body", "boundary"


class Voice(NamedTuple):
    """A network whose distributions are looked at, after its logits were divided by a temperature."""

    name: str
    weights: Weights
    digest: str
    """The weights'."""
    temperature: float
    origin: str
    """What its recipe is but for the seed: two voices of one origin are two seeds; empty where that is not known."""

    @property
    def key(self) -> tuple[str, float]:
        return self.digest, self.temperature


class Pupil(NamedTuple):
    """A student and the voice that it learnt from."""

    name: str
    weights: Weights
    digest: str
    voice: Voice


class Seen(NamedTuple):
    """A sample as networks see it."""

    image: Tensor
    """uint8 [3, H, W]."""
    labels: np.ndarray
    """uint8 [H, W]."""
    key: str
    shown: tuple[slice, slice]
    """The part that is no padding."""


class Samples(NamedTuple):
    """What a split shows, in an order that stays."""

    name: str
    facts: str
    """What makes two the same."""
    length: int
    starting: Callable[[int], Iterator[Seen]]
    """The samples from one on."""
    size: tuple[int, int] | None
    """That whole images are resized to for a network."""
    pictured: Sequence[int] = ()
    """Samples that pictures are made of."""


@final
@dataclass
class Heard:
    """What was heard of a voice on the first `seen` samples, by region, and the entropy [h, w] of those pictured."""

    regions: Mapping[str, Dark]
    maps: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    seen: int = 0

    @property
    def whole(self) -> Dark:
        return self.regions[BODY] + self.regions[BOUNDARY]

    def state(self) -> dict[str, np.ndarray]:
        """What `restore` takes."""
        found = {f"map/{name}": value for name, value in self.maps.items()}
        for region, dark in self.regions.items():
            found |= {f"{region}/{name}": value for name, value in dark.state().items()}
        return found

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.maps = {name.removeprefix("map/"): value for name, value in state.items() if name.startswith("map/")}
        for region, dark in self.regions.items():
            dark.restore({n.removeprefix(f"{region}/"): v for n, v in state.items() if n.startswith(f"{region}/")})


@final
@dataclass
class Followed:
    """How a student follows its voice on the first `seen` samples."""

    fidelity: Fidelity
    seen: int = 0

    def state(self) -> dict[str, np.ndarray]:
        return self.fidelity.arrays()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.fidelity = Fidelity(state["sums"], state["confusion"])


class Settings(NamedTuple):
    """What a pass is about."""

    classes: int
    boundary: float
    """As in the analysis `dataset`."""
    temperatures: Sequence[float]
    """Of the sweep, other than 1."""


def crops(dataset: Dataset, spec: DataSpec, name: str, seed: int, count: int) -> Samples:
    """The first crops that a run with this seed trains on."""
    alone = spec.model_copy(update={"workers": 0})

    def starting(first: int) -> Iterator[Seen]:
        for batch in training_batches(dataset, alone, seed, start=first, batch=1, rank=0, ranks=1):
            real = ~batch.pad[0].numpy()
            rows, columns = (np.flatnonzero(real.any(axis)) for axis in (1, 0))
            shown = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
            yield Seen(batch.image[0], batch.labels[0].to(torch.uint8).numpy(), batch.keys[0], shown)

    fed = spec.model_dump(mode="json", include={"size", "crop", "augment", "sampling"})
    facts = repr((dataset.fingerprint(), fed, crop_size(dataset, spec), seed, count))
    return Samples(name, facts, count, starting, None)


def images(dataset: Dataset, spec: DataSpec, name: str, count: int | None, pictures: int) -> Samples:
    """So many whole images (None: all), and among them pictures, spread evenly over the split."""
    total = len(dataset)
    chosen = _spread(total, total if count is None else min(count, total))

    def starting(first: int) -> Iterator[Seen]:
        for index in chosen[first:]:
            sample = dataset[index]
            yield Seen(sample.image, sample.labels.numpy(), sample.key, (slice(None), slice(None)))

    pictured = _spread(len(chosen), min(pictures, len(chosen)))
    facts = repr((dataset.fingerprint(), spec.size, chosen, pictured))
    return Samples(name, facts, len(chosen), starting, spec.size, pictured)


def _spread(total: int, count: int) -> list[int]:
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def listen(
    samples: Samples, voices: Sequence[Voice], pupils: Sequence[Pupil], settings: Settings, folder: Path | None
) -> tuple[list[Heard], list[Followed]]:
    """Hear every voice, and every pupil beside its own, going on from what `folder` holds.

    Raises:
        Mistake: a sample cannot be read; what was heard before it is kept.
        KeyboardInterrupt: the same.
    """
    kept = _Kept(samples, settings, folder)
    heard = [kept.begun(_nothing(settings), voice.key) for voice in voices]
    followed = [
        kept.begun(Followed(Fidelity.nothing(settings.classes)), (pupil.digest, *pupil.voice.key)) for pupil in pupils
    ]
    first = min((one.seen for one in (*heard, *followed)), default=samples.length)
    if first == samples.length:
        return heard, followed
    left = [(voice, one) for voice, one in zip(voices, heard, strict=True) if one.seen < samples.length]
    behind = [(pupil, one) for pupil, one in zip(pupils, followed, strict=True) if one.seen < samples.length]
    speakers = [*(voice for voice, _ in left), *(one for pupil, _ in behind for one in (pupil, pupil.voice))]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = {digest: _placed(built(weights), device)
                for digest, weights in {one.digest: one.weights for one in speakers}.items()}  # fmt: skip
    begin = saved = time.monotonic()
    try:
        for place, seen in enumerate(watched(_until(samples, first), samples.name, samples.length - first), first):
            _hear(place, seen, samples, left, behind, networks, settings)
            if time.monotonic() - saved > SAVE_SECONDS:
                kept.save()
                saved = time.monotonic()
    finally:
        kept.save()
    seconds = time.monotonic() - begin
    start = f" (going on after {first:,})" if first else ""
    who = f"{len(left)} voice{'s' * (len(left) != 1)}" + (f" and {len(behind)} students" if behind else "")
    print(f"{samples.name}: {samples.length - first:,} samples{start}, {who}, in {seconds:.1f} s", file=sys.stderr)
    return heard, followed


def _placed(model: Model, device: str) -> Model:
    model.to(device)
    return model


def _until(samples: Samples, first: int) -> Iterator[Seen]:
    found = samples.starting(first)
    for _ in range(first, samples.length):
        yield next(found)


def _nothing(settings: Settings) -> Heard:
    return Heard({part: Dark.nothing(settings.classes, len(settings.temperatures)) for part in (BODY, BOUNDARY)})


def _hear(
    place: int,
    seen: Seen,
    samples: Samples,
    voices: Sequence[tuple[Voice, Heard]],
    pupils: Sequence[tuple[Pupil, Followed]],
    networks: Mapping[str, Model],
    settings: Settings,
) -> None:
    """One sample, for those who have not heard it; sums are replaced, so that an interrupt leaves them whole."""
    regions = _regions(seen, settings.boundary)
    everywhere = torch.from_numpy(np.concatenate(list(regions.values())))
    answers: dict[str, Tensor] = {}

    def said(digest: str) -> Tensor:
        if digest not in answers:
            answers[digest] = predict(networks[digest], seen.image, samples.size).cpu()
        return answers[digest]

    labels = torch.from_numpy(seen.labels).flatten().long()
    for voice, heard in voices:
        if heard.seen > place:
            continue
        logits = said(voice.digest) / voice.temperature
        if place in samples.pictured:
            heard.maps[seen.key] = _reduced(entropy_map(logits))
        sums: dict[str, Dark] = {}
        for region, inside in regions.items():
            chosen = torch.from_numpy(inside)
            sums[region] = Dark.nothing(settings.classes, len(settings.temperatures))
            sums[region].update(logits.flatten(1)[:, chosen], labels[chosen], settings.temperatures)
        together = {region: dark + sums[region] for region, dark in heard.regions.items()}
        heard.regions, heard.seen = together, place + 1
    for pupil, followed in pupils:
        if followed.seen > place:
            continue
        teacher, student = said(pupil.voice.digest) / pupil.voice.temperature, said(pupil.digest)
        teacher, student = teacher.flatten(1)[:, everywhere], student.flatten(1)[:, everywhere]
        here = Fidelity.nothing(settings.classes)
        here.update(teacher, student, labels[everywhere])
        followed.fidelity, followed.seen = followed.fidelity + here, place + 1


def _regions(seen: Seen, boundary: float) -> dict[str, np.ndarray]:
    """The places of the labelled pixels, far from and near a pixel of another value; padding is no value."""
    height, width = seen.labels.shape
    near = np.zeros((height, width), bool)
    near[seen.shown] = near_change(seen.labels[seen.shown], max(1, round(boundary * math.hypot(height, width))))
    labelled = seen.labels != IGNORE
    return {BODY: np.flatnonzero(labelled & ~near), BOUNDARY: np.flatnonzero(labelled & near)}


def _reduced(entropy: Tensor) -> np.ndarray:
    """float16 [h, w], no wider than WIDEST."""
    height, width = entropy.shape
    if width > WIDEST:
        size = max(1, round(height * WIDEST / width)), WIDEST
        entropy = F.interpolate(entropy[None, None], size, mode="area")[0, 0]
    return entropy.numpy().astype(np.float16)


class _Kept:
    """What is heard in a pass, and the files that keep it."""

    def __init__(self, samples: Samples, settings: Settings, folder: Path | None) -> None:
        self.samples, self.settings, self.folder = samples, settings, folder
        self.all: list[tuple[Heard | Followed, Path, int]] = []

    def begun(self, fresh: T, key: tuple[str | float, ...]) -> T:
        """As it was kept, or fresh."""
        if self.folder is None:
            return fresh
        facts = repr((VERSION, key, self.samples.facts, tuple(self.settings)))
        name = f"heard-{self.samples.name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
        file = self.folder / name
        if file.exists():
            arrays = read_arrays(file, {"seen", *fresh.state()})
            fresh.seen = int(arrays.pop("seen"))
            fresh.restore(arrays)
        self.all.append((fresh, file, fresh.seen))
        return fresh

    def save(self) -> None:
        """Of each that has heard more."""
        for place, (one, file, seen) in enumerate(self.all):
            if one.seen == seen:
                continue
            write_arrays(file, {"seen": np.array(one.seen), **one.state()})
            self.all[place] = one, file, one.seen

"""A dry run: what a recipe will do, before it does it."""

import resource
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from segdistill.allocator import keep_memory
from segdistill.assemble import Assembly, assemble, labelled_share, probes
from segdistill.data import as_float, class_shares, crop_size, to_device, training_batches
from segdistill.diagnosis import unheard, warnings
from segdistill.gradients import Pull, pulls
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.probes.speed import gmac, parameters
from segdistill.recipe import Recipe, take
from segdistill.run import processor
from segdistill.system import Frozen, System
from segdistill.teacher_cache import TeacherCache
from segdistill.training import accelerate, micro_batch
from segdistill.types import Batch, Table


class Plan(NamedTuple):
    """What `plan` found; tables for people, numbers for programs."""

    models: Table
    stages: Table
    edges: Table
    classes: Table
    """Each class's share of the labelled pixels, in the data and in the first crops of the run."""
    connections: list[str]
    device: str
    """Where it will run and how: one line."""
    warnings: list[str]
    """What is probably not meant, one sentence each."""
    numbers: dict[str, float]


def plan(recipe: Recipe | Path | str, settings: tuple[str, ...] = (), steps: int = 3) -> Plan:
    """Stages, shapes, adapters, what each edge pulls on, warnings, memory and time; nothing is written.

    Args:
        steps: training steps to time, after one to warm up.
    """
    recipe = take(recipe, settings)
    if recipe.data.cache:  # a plan looks at few images
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"cache": False})})
    accelerator = accelerate(recipe)
    torch.manual_seed(recipe.seed)
    assembly = assemble(recipe)
    recipe, device = assembly.recipe, accelerator.device
    system, frozen = assembly.system.to(device), assembly.frozen.to(device)
    images = micro_batch(recipe, 1)
    probes(recipe, assembly.classes)
    batches = training_batches(
        assembly.train,
        recipe.data.model_copy(update={"workers": 0}),
        recipe.seed,
        start=0,
        batch=images,
        rank=0,
        ranks=1,
        frames=assembly.frames,
    )
    crop = crop_size(assembly.train, recipe.data)
    with accelerator.autocast():
        first = to_device(next(batches), device)
        pulled = _pulled(system, frozen, first)
        warned = warnings(system, frozen, first, pulled, assembly.class_maps) + unheard(system, recipe.data)
        warned += [*_of_sizes(assembly), *_idle(system, recipe.steps)]
    seconds: list[float] = []
    for step in range(steps + 1):
        begin = time.perf_counter()
        batch = to_device(next(batches), device)
        begin += _remember(frozen, batch)
        with accelerator.autocast():
            result = system(batch, frozen(batch, system.listened_to(step)), step)
        result.loss.backward()
        system.zero_grad()  # the weights stay as they are: a plan is not a run
        seconds.append(time.perf_counter() - begin)
    per_update = sorted(seconds[1:])[steps // 2] * recipe.optim.accumulate
    epoch = len(assembly.train) / labelled_share(recipe, assembly.frames) / recipe.data.batch  # updates
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident_peak()
    numbers = {
        "train_images": float(len(assembly.train)),
        "val_images": float(len(assembly.val)),
        "seconds_per_step": per_update,
        "seconds_per_epoch": per_update * epoch,
        "seconds_in_all": per_update * recipe.steps,
        "epochs": recipe.steps / epoch,
        "peak_memory_bytes": float(peak),
        "threads": float(torch.get_num_threads()),
    }
    connections = [*assembly.connections, *_of_frames(assembly)]
    if assembly.frames is not None:
        numbers["frames"] = float(len(assembly.frames))
    for name, cache in assembly.caches.items():
        cost = _cost(cache, name, frozen, first)
        numbers |= {f"{what}/{name}": value for what, value in cost._asdict().items()}
        connections.append(_told(name, cache, cost))
    gains = measured_gains(device)
    numbers |= {f"{precision}_over_fp32": gain for precision, gain in gains.items()}
    edges = _edges(system, pulled)
    classes = class_shares(assembly.train, recipe.data, recipe.seed, crops=128)
    tables = (_models(assembly, crop), _stages(assembly, crop), edges, classes)
    return Plan(*tables, connections, chosen(device, recipe.precision, gains), warned, numbers)


WORTH = 1.2
"""A precision that is so many times as fast as another is worth a sentence."""


def measured_gains(device: torch.device) -> dict[str, float]:
    """Precision -> how many times as fast as fp32 a convolution is in it, forward and backward, measured here."""
    images, side = (16, 128) if device.type == "cuda" else (1, 48)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.ones(images, 64, side, side, device=device).contiguous(memory_format=torch.channels_last)

    def seconds(dtype: torch.dtype) -> float:
        begin = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            said = layer(x)
        float(torch.autograd.grad(said.float().sum(), layer.weight)[0].sum())  # waits for a device
        return time.perf_counter() - begin

    dtypes = {"bf16": torch.bfloat16} | ({"fp16": torch.float16} if device.type == "cuda" else {})
    found: dict[str, float] = {}
    for name, dtype in dtypes.items():
        ratios = [seconds(torch.float32) / seconds(dtype) for _ in range(6)][1:]  # in turns; the first prepares
        found[name] = statistics.median(ratios)
    return found


def chosen(device: torch.device, precision: str, gains: Mapping[str, float]) -> str:
    """What was chosen for this device, and what would be faster; only the recipe decides what is computed."""
    speeds = {"fp32": 1.0, **gains}
    best = max(speeds, key=lambda name: speeds[name])
    told = ", ".join(f"{name} ×{gain:.2g}" for name, gain in gains.items())
    said = f"precision {precision} (a convolution here, against fp32: {told}"
    faster = speeds[best] / speeds.get(precision, 1.0)
    said += f"; precision: {best} would be faster)" if best != precision and faster >= WORTH else ")"
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if cuda else f"{processor()}, {_threads(torch.get_num_threads())}"
    memory = "torch's own" if cuda else keep_memory()
    return f"{device.type} ({where}): {said}; channels last; not compiled; fused optimiser; memory: {memory}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _remember(frozen: Frozen, batch: Batch) -> float:
    """Seconds that caches take to ask their teachers what a run has asked before it begins."""
    begin = time.perf_counter()
    for cache in frozen.remembered.values():
        cache(batch)
    return time.perf_counter() - begin


class _Cost(NamedTuple):
    """Of a teacher's cache; the names are those of the plan's numbers."""

    cache_bytes: float
    cache_seconds: float
    """To ask the teacher; 0: it has been."""
    cached_seconds_per_step: float
    live_seconds_per_step: float
    """Of the teacher alone, looking at the crops."""


def _cost(cache: TeacherCache, name: str, frozen: Frozen, batch: Batch) -> _Cost:
    estimate = cache.estimate(batch.image.device)
    _remember(frozen, batch)
    begin = time.perf_counter()
    cache(batch)
    middle = time.perf_counter()
    with torch.no_grad():
        frozen.models[name](as_float(batch.image))
    return _Cost(float(estimate.size), estimate.seconds, middle - begin, time.perf_counter() - middle)


def _told(name: str, cache: TeacherCache, cost: _Cost) -> str:
    state = f"about {cost.cache_seconds:.0f} s to ask the teacher" if cost.cache_seconds else "it has been asked"
    return (
        f"{name}: remembered in {cache.folder}: {cost.cache_bytes / 1e6:,.1f} MB, {state}; "
        f"{cost.cached_seconds_per_step:.3f} s a step, live {cost.live_seconds_per_step:.3f}"
    )


def _pulled(system: System, frozen: Frozen, batch: Batch) -> dict[str, Pull]:
    """Every edge in the first step in which it acts."""
    return {
        name: pull
        for first in sorted(set(system.first_steps.values()))
        for name, pull in pulls(system, frozen, batch, first).items()
        if system.first_steps[name] == first
    }


def _idle(system: System, steps: int) -> list[str]:
    """A sentence for each edge whose phase comes after the last step, or after the last phase has begun."""
    idle = [name for name in system.edges if system.first_steps.get(name, steps) >= steps]
    return [f"losses.{name}: it acts in none of the {steps} steps" for name in idle]


def _edges(system: System, pulled: Mapping[str, Pull]) -> Table:
    rows = [
        [
            name,
            str(system.edge(name).student),
            str(system.edge(name).target),
            pull.value,
            pull.weight,
            pull.norm,
            pull.cosine,
        ]
        for name, pull in pulled.items()
    ]
    columns = ["edge", "student", "target", "value", "weight", "gradient", "cosine"]
    return Table(columns, rows)


def _models(assembly: Assembly, crop: tuple[int, int]) -> Table:
    rows: list[list[str | int | float | None]] = []
    for name, model in {**assembly.system.models, **assembly.frozen.models}.items():
        spec = assembly.recipe.models[name]
        role = f"follows {spec.follows}" if spec.follows else "frozen" if spec.frozen else "learns"
        rows.append([name, spec.kind, role, parameters(model), gmac(model, crop)])
    return Table(["model", "kind", "role", "parameters", f"GMAC at {crop[0]}×{crop[1]}"], rows)


def _stages(assembly: Assembly, crop: tuple[int, int]) -> Table:
    rows: list[list[str | int | float | None]] = []
    for name, model in {**assembly.system.models, **assembly.frozen.models}.items():
        assert isinstance(model, Model)
        for stage, (channels, stride) in model.stages.items():
            rows.append([f"{name}.{stage}", f"{channels}×{-(-crop[0] // stride)}×{-(-crop[1] // stride)}", stride])
    return Table(["stage", "shape", "stride"], rows)


def _of_frames(assembly: Assembly) -> Iterator[str]:
    """Of the images without labels: how many, whence, and how often they are shown."""
    spec, frames = assembly.recipe.data, assembly.frames
    if spec.parts is not None:
        which = f"one of {spec.parts.of} disjoint parts of {spec.train}, of seed {assembly.recipe.seed}"
        yield f"part: {len(assembly.train):,} images, {which}"
    if frames is not None and spec.frames is not None:
        whence = f"below {spec.frames.path}" if spec.frames.path else f"of {spec.train}, withheld"
        passes = assembly.recipe.steps * spec.batch * spec.frames.rate / len(frames)
        yield (
            f"frames: {len(frames):,} images without labels ({whence}), {spec.frames.rate:g} of the crops, "
            f"{passes:.3g} epochs of them"
        )
    elif spec.withhold:
        left = "" if spec.frames is None else ", which are not shown"
        yield f"withheld: the labels of {spec.withhold:g} of the images of {spec.train}{left}"


def _of_sizes(assembly: Assembly) -> Iterator[str]:
    """A sentence where a crop shows less of a frame than of a labelled image."""
    if assembly.frames is None or assembly.recipe.data.size is not None:
        return
    with suppress(Mistake):  # one that cannot be read is named when it is shown
        ours, theirs = ("×".join(map(str, data.labels(0).shape)) for data in (assembly.train, assembly.frames))
        if ours != theirs:
            yield f"data.frames: they are {theirs} where the labelled are {ours}; `data.size` brings them to one scale"


def _resident_peak() -> int:
    """Bytes; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

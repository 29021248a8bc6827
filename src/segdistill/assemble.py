"""Recipe -> datasets, System, Frozen, probes: everything is checked against everything before any data is read."""

import hashlib
import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from segdistill import parts
from segdistill.checkpoint import Card, Weights, digest, in_checkpoint, networks, read_card, read_temperature
from segdistill.class_map import Groups, Translation, groups
from segdistill.data import Cached, PixelCounts, count_pixels, crop_size, need_readable, unreadable
from segdistill.datasets import Dataset
from segdistill.decoded import Decoded
from segdistill.frames import FRAMES, exact, mixed, sources
from segdistill.labels import CLASS_MAPS, TABLES
from segdistill.losses import Loss
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.models import Model
from segdistill.quarantine import without
from segdistill.recipe import LABELS, DataSpec, LossSpec, ModelSpec, ProbeSpec, Recipe
from segdistill.run import Run
from segdistill.system import Edge, Ending, Following, Frozen, Phase, System, Tap
from segdistill.teacher_cache import TeacherCache
from segdistill.types import ClassTable, Stage

T = TypeVar("T")


class Assembly(NamedTuple):
    """A recipe made real."""

    recipe: Recipe
    """As resolved: every default filled in."""
    system: System
    frozen: Frozen
    train: Dataset
    frames: Dataset | None
    """Images without labels that are mixed in."""
    val: Dataset
    class_pixels: list[int]
    """Labelled pixels per class of the training split."""
    connections: list[str]
    """What the edges had to do to bring their ends together, one line each."""
    class_maps: Mapping[str, Groups]
    """Of the teachers whose classes are not the data's."""
    fingerprints: Mapping[str, str]
    """Of the data splits and of every teacher."""
    set_aside: Mapping[str, Mapping[str, str]]
    """Of `train` and `val`: key -> why, of the samples that cannot be read and are left out."""
    caches: Mapping[str, TeacherCache]
    """Of the teachers that answer from one; who trains builds them."""

    @property
    def classes(self) -> ClassTable:
        return self.train.classes

    def models(self) -> dict[str, Model]:
        """The models worth evaluating: those that learn and those that follow."""
        learning = {name: _as_model(model) for name, model in self.system.models.items()}
        return learning | {name: _as_model(self.frozen.models[name]) for name in self.frozen.following}

    def teachers(self) -> dict[str, Model]:
        """Those that neither learn nor follow."""
        frozen = self.frozen
        return {name: _as_model(model) for name, model in frozen.models.items() if name not in frozen.following}

    def card(self, name: str, step: int, numbers: Mapping[str, float]) -> Card:
        """What the weights file of a model will say about it."""
        spec = self.recipe.models[self.recipe.models[name].follows or name]
        return Card(spec.kind or "", spec.parameters, self.classes, self.recipe.data.size, step, numbers)


def assemble(recipe: Recipe) -> Assembly:
    """Build a run.

    Raises:
        Mistake: a part, a parameter, a stage, a class table, a weights file or a data folder does not fit.
    """
    recipe = resolve(recipe)
    train, frames = sources(open_split(recipe.data, recipe.data.train), recipe.data, recipe.seed)
    val = open_split(recipe.data, recipe.data.validate_on)
    classes = train.classes
    models: dict[str, Model] = {}
    maps: dict[str, Groups] = {}
    for name, spec in recipe.models.items():
        if spec.follows is None:
            theirs = _class_table(name, spec, classes)
            models[name] = _model(name, spec, theirs, recipe.seed)
            if theirs.names != classes.names:
                maps[name] = _groups(name, spec, theirs, classes)
            elif spec.class_map is not None:
                raise Mistake(f"models.{name}.class_map: it knows the data's classes already; leave the map out")
    following: dict[str, Following] = {}
    for name, spec in recipe.models.items():
        if spec.follows is not None:
            models[name] = _model(name, recipe.models[spec.follows], classes, recipe.seed)
            models[name].load_state_dict(models[spec.follows].state_dict())
            following[name] = Following(spec.follows, 0.999 if spec.decay is None else spec.decay)
    connections: list[str] = []
    ends = {name: _ends(name, spec, models, maps, len(classes.names)) for name, spec in recipe.losses.items()}
    for name, spec in recipe.losses.items():  # bad parameters are a mistake before the data are read
        _loss(name, spec, ends[name], recipe, PixelCounts(np.ones((1, len(classes.names)), np.int64)))
    if recipe.data.cache == "disk":
        train, val = Decoded(train, recipe.data.train), Decoded(val, recipe.data.validate_on)
        frames = None if frames is None else Decoded(frames, FRAMES)
    elif recipe.data.cache:
        train, val = Cached(train), Cached(val)
        frames = None if frames is None else Cached(frames)
    set_aside: dict[str, Mapping[str, str]] = {}
    train, set_aside["train"] = _set_aside(train, recipe.data.train, recipe.data.bad_share)
    val, set_aside["val"] = _set_aside(val, recipe.data.validate_on, recipe.data.bad_share)
    counts = _once(lambda: count_pixels(train))
    edges = {
        name: _edge(name, spec, ends[name], recipe, classes, counts, connections)
        for name, spec in recipe.losses.items()
    }
    trained = recipe.trained()
    digests = {name: digest(model) for name, model in models.items() if name not in (*trained, *following)}
    caches = _caches(recipe, models, digests, mixed(train, frames), ends)
    temperatures = {n: spec.temperature for n, spec in recipe.models.items() if isinstance(spec.temperature, float)}
    frozen = Frozen({n: m for n, m in models.items() if n not in trained}, following, caches, temperatures)
    labelled = labelled_share(recipe, frames)
    system = System({n: models[n] for n in trained}, edges, *_phases(recipe, len(train) / labelled))
    _need_whole_cells(recipe, ends, crop_size(train, recipe.data))
    prints = {"train": train.fingerprint(), "val": val.fingerprint(), **digests}
    if frames is not None:
        prints[f"data.{FRAMES}"] = frames.fingerprint()  # no model has such a name
    pixels = counts.class_pixels
    return Assembly(recipe, system, frozen, train, frames, val, pixels, connections, maps, prints, set_aside, caches)


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with every part's parameters checked and every default filled in; reads no data."""
    also = DataSpec.model_fields
    data = _complete(recipe.data, "datasets", recipe.data.kind, "data", also)
    for shelf, names in (("models", recipe.models), ("losses", recipe.losses)):
        for name in names:
            if hasattr(nn.ModuleDict(), name):
                raise Mistake(f"{shelf}.{name}: torch uses this name for something else; choose another")
    models: dict[str, ModelSpec] = {}
    for name, spec in recipe.models.items():
        if spec.follows is not None:
            _forbid(spec.parameters, f"models.{name}", f"it follows {spec.follows} and is built like it")
            models[name] = spec
            continue
        if spec.weights is not None:
            spec = _from_weights(name, spec)
        assert spec.kind is not None
        part = parts.find("models", spec.kind, f"models.{name}.kind")
        if spec.frozen and spec.weights is None and not part.brings_weights:
            raise Mistake(f"models.{name}: a frozen model needs weights, or it would teach noise")
        models[name] = _complete(spec, "models", spec.kind, f"models.{name}", ModelSpec.model_fields)
        if spec.temperature == "calibrated":
            models[name] = models[name].model_copy(update={"temperature": _calibrated(name, spec)})
    losses = {
        name: _complete(
            spec.model_copy(update={"kind": spec.kind or name}),
            "losses",
            spec.kind or name,
            f"losses.{name}",
            LossSpec.model_fields,
        )
        for name, spec in recipe.losses.items()
    }
    probes = {
        name: _complete(spec, "probes", name, f"probes.{name}", ProbeSpec.model_fields)
        for name, spec in recipe.probes.items()
    }
    return recipe.model_copy(update={"data": data, "models": models, "losses": losses, "probes": probes})


def open_split(spec: DataSpec, split: str) -> Dataset:
    """A dataset as the recipe describes it; its files are listed, not read."""
    part = parts.find("datasets", spec.kind, "data.kind")
    dataset = parts.build(part, parts.settings(part, spec.parameters, "data", DataSpec.model_fields), split=split)
    return without(dataset, split, spec.quarantine)


def labelled_share(recipe: Recipe, frames: Dataset | None) -> float:
    """Of the crops, those of the training split.

    Raises:
        Mistake: of the parts that a batch is split into some would have none, and labels would count for less.
    """
    said = recipe.data.frames
    if frames is None or said is None:
        return 1.0
    part, parts = recipe.data.batch // recipe.optim.accumulate, recipe.optim.accumulate
    if parts > 1 and part * (1 - exact(said.rate)) < 1:
        raise Mistake(
            f"data.frames.rate: {said.rate:g} leaves some of the parts of {part} images (optim.accumulate {parts}) "
            f"without a labelled one; expected at most {1 - 1 / max(part, 1):g}"
        )
    return 1 - said.rate


def load(path: Path | str, model: str | None = None, which: str = "best") -> Model:
    """The trained network of a run directory (or of one checkpoint, or of one weights file), ready to predict.

    >>> model = load("runs/camvid-student")  # doctest: +SKIP

    Args:
        path: a run, RUN@step-N for the network as it was in a checkpoint that is kept, or a weights file.
        model: which of the run's networks; needed where it trained several.
        which: best (by validation mIoU) or last.
    """
    return built(weights(path, model, which))


def built(found: Weights) -> Model:
    """The network whose weights they are, ready to predict."""
    card, where = found.card, str(found.file)
    part = parts.find("models", card.kind, where)
    settings = _trained(part, parts.settings(part, card.parameters, where))
    network = _as_model(parts.build(part, settings, num_classes=len(card.classes.names)))
    found.fill(network)
    return _as_model(network.to(memory_format=torch.channels_last).eval())  # pyright: ignore[reportCallIssue]


def weights(path: Path | str, model: str | None = None, which: str = "best") -> Weights:
    """The network that a run directory, RUN@step-N or the path of a weights file means."""
    run, step = run_and_step(path)
    if step is None:
        file = weights_file(path, model, which)
        return Weights(file.stem, read_card(file), file)
    if which != "best":
        raise Mistake(f"{path}: names a checkpoint, which is neither the best nor the {which}; leave '{which}' out")
    return in_checkpoint(Run(run).require(), step, model)


def run_and_step(path: Path | str) -> tuple[Path, int | None]:
    """runs/teacher@step-480 in two; a folder or file of that name is what it is."""
    place = Path(path)
    name, at, said = place.name.rpartition("@")
    if not at or place.exists():
        return place, None
    if not re.fullmatch(r"step-[0-9]{1,18}", said):
        raise Mistake(f"{path}: expected RUN@step-N, as in {name}@step-480")
    return place.with_name(name), int(said.removeprefix("step-"))


def weights_file(path: Path | str, model: str | None = None, which: str = "best") -> Path:
    """The weights file that a run directory or a path means."""
    place = Path(path)
    if place.suffix == ".safetensors" or place.is_file():
        return place
    run = Run(place).require()
    found = {file.stem: file for file in sorted((run.path / which).glob("*.safetensors"))}
    if not found:
        raise Mistake(f"{place}: the run has no trained weights in {which}/; did it finish?")
    if model is None and len(found) == 1:
        return next(iter(found.values()))
    if model is None or model not in found:
        said = f"no model '{model}'" if model else "several models"
        raise Mistake(f"{place}: the run has {said}; it has {one_of(found)}{nearest(model or '', found)}")
    return found[model]


def probes(recipe: Recipe, classes: ClassTable) -> dict[str, tuple[int, Callable[..., Any], bool]]:
    """name -> (every, probe, whether all processes take part).

    Raises:
        Mistake: a setting is not accepted, or the recipe has no model that a probe is told to look at.
    """
    built: dict[str, tuple[int, Callable[..., Any], bool]] = {}
    for name, spec in recipe.probes.items():
        part = parts.find("probes", name, f"probes.{name}")
        sharded = [model for model, said in recipe.models.items() if said.shard]
        if part.teachers and sharded:
            spread = f"models.{sharded[0]}.shard may spread one over several"
            raise Mistake(f"probes.{name}: asks teachers on one process, {spread}; leave one of the two out")
        facts = {"classes": classes, "input_size": recipe.data.size, "bad_share": recipe.data.bad_share}
        facts |= {"models": tuple(recipe.models)}
        probe = parts.build(part, spec.parameters, **facts)
        built[name] = (spec.every, probe, part.everywhere)
    return built


Spec = TypeVar("Spec", DataSpec, ModelSpec, LossSpec, ProbeSpec)


def _complete(spec: Spec, shelf: str, kind: str, where: str, also: Any) -> Spec:
    """The spec with its part's own parameters checked and completed."""
    part = parts.find(shelf, kind, where if shelf == "probes" else f"{where}.kind")
    checked = parts.settings(part, spec.parameters, where, also)
    known = {name: getattr(spec, name) for name in type(spec).model_fields}
    return type(spec).model_construct(_fields_set=None, **known, **checked)


def _forbid(parameters: Mapping[str, object], where: str, why: str) -> None:
    if parameters:
        raise Mistake(f"{where}.{next(iter(parameters))}: not accepted here; {why}")


def _from_weights(name: str, spec: ModelSpec) -> ModelSpec:
    """Kind and parameters from the weights' card; what the recipe says must agree."""
    where = f"models.{name}"
    try:
        card = _weights(name, spec).card
    except Mistake as mistake:
        raise Mistake(f"{where}.weights: {mistake}") from mistake
    if spec.kind is not None and spec.kind != card.kind:
        raise Mistake(f"{where}.kind: '{spec.kind}', but {spec.weights} holds a '{card.kind}'")
    for key, value in spec.parameters.items():
        if key in card.parameters and card.parameters[key] != value:
            raise Mistake(f"{where}.{key}: {value}, but {spec.weights} was trained with {card.parameters[key]}")
    return ModelSpec.model_validate({**spec.model_dump(), **card.parameters, "kind": card.kind})


def _weights(name: str, spec: ModelSpec) -> Weights:
    """A run that trained several models gives the one of the same name."""
    assert spec.weights is not None
    run, step = run_and_step(spec.weights)
    found = list(run.glob("best/*.safetensors")) if step is None else networks(Run(run).require())
    return weights(spec.weights, name if len(found) > 1 else None)


def _calibrated(name: str, spec: ModelSpec) -> float:
    """What `segdistill calibrate` found for the weights."""
    where, found, path = f"models.{name}.temperature", _weights(name, spec), Path(spec.weights or "")
    run = path.parents[1] if path.is_file() else path
    last = " --which last" if found.file.parent.name == "last" else ""
    again = f"`segdistill calibrate {run} --model {found.model}{last}` writes it"
    if not found.temperature_file.exists():
        raise Mistake(f"{where}: there is no {found.temperature_file}; {again}")
    try:
        return read_temperature(found).temperature
    except Mistake as mistake:
        raise Mistake(f"{where}: {mistake}; {again}") from mistake


def _trained(part: type[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that say where first weights come from, for a model whose weights are replaced."""
    return {key: value for key, value in parameters.items() if key not in part.initial}


def _model(name: str, spec: ModelSpec, classes: ClassTable, seed: int) -> Model:
    assert spec.kind is not None
    part = parts.find("models", spec.kind, f"models.{name}.kind")
    parameters = spec.parameters if spec.weights is None else _trained(part, spec.parameters)
    with _seeded(seed, name):
        try:
            model = _as_model(parts.build(part, parameters, num_classes=len(classes.names)))
        except Mistake as mistake:
            raise Mistake(f"models.{name}: {mistake}") from mistake
    if spec.weights is not None:
        _weights(name, spec).fill(model)
    elif spec.frozen and not model.brings_weights:
        raise Mistake(f"models.{name}: a frozen model needs weights, or it would teach noise")
    found = model.stages["logits"].channels
    if found != len(classes.names):
        raise Mistake(
            f"models.{name}: it has {found} classes, expected {len(classes.names)}; "
            f"`classes` (a table's name, or a list of names) says what its own are"
        )
    if spec.checkpointing:
        if model.checkpointing is None:
            raise Mistake(f"models.{name}.checkpointing: a '{spec.kind}' cannot; a 'unet' can")
        model.checkpointing = True
    return _as_model(model.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]


def _class_table(name: str, spec: ModelSpec, classes: ClassTable) -> ClassTable:
    """What the outputs of a node mean: its weights say it, or the recipe, or it is what the data have."""
    where = f"models.{name}.classes"
    if spec.weights is not None:
        if spec.classes is not None:
            raise Mistake(f"{where}: the weights know their classes; leave it out")
        return _weights(name, spec).card.classes
    if isinstance(spec.classes, str):
        if spec.classes not in TABLES:
            known = nearest(spec.classes, TABLES)
            raise Mistake(f"{where}: expected a list of names or one of {one_of(TABLES)}, got '{spec.classes}'{known}")
        return TABLES[spec.classes]
    return classes if spec.classes is None else ClassTable(spec.classes, ((0, 0, 0),) * len(spec.classes))


def _groups(name: str, spec: ModelSpec, theirs: ClassTable, classes: ClassTable) -> Groups:
    """How another class table is connected with the data's, which a recipe has to say."""
    where = f"models.{name}.class_map"
    said = spec.class_map
    if said is None:
        found = difference(theirs.names, classes)
        raise Mistake(f"models.{name}: its classes are not the data's: {found}; `class_map` connects them")
    if isinstance(said, str):
        if said not in CLASS_MAPS:
            raise Mistake(
                f"{where}: there is no map '{said}'; there is {one_of(CLASS_MAPS)}{nearest(said, CLASS_MAPS)}"
            )
        return groups(CLASS_MAPS[said], theirs, classes, where)
    return groups({k: (v,) if isinstance(v, str) else v for k, v in said.items()}, theirs, classes, where)


@contextmanager
def _seeded(seed: int, name: str) -> Generator[None]:
    """First weights from a seed of the node's own, so that another node or edge does not change them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_own_seed(seed, name))
        yield


def _own_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6], "big")


def difference(theirs: tuple[str, ...], classes: ClassTable) -> str:
    """How the classes of a weights file differ from the data's, in words."""
    only_theirs = [name for name in theirs if name not in classes.names]
    only_ours = [name for name in classes.names if name not in theirs]
    if not only_theirs and not only_ours:
        return f"the same {len(theirs)} names in another order"
    return (
        f"it has {len(theirs)} classes and the data {len(classes.names)}; only the weights have "
        f"{one_of(only_theirs)}; only the data have {one_of(only_ours)}"
    )


class _Ends(NamedTuple):
    student: Tap
    target: Tap
    student_stages: tuple[Stage, ...]
    target_stages: tuple[Stage, ...]
    groups: Groups | None
    """Where the target's classes are not the data's."""


def _ends(
    name: str, spec: LossSpec, models: Mapping[str, Model], groups: Mapping[str, Groups], num_classes: int
) -> _Ends:
    where = f"losses.{name}"
    part = parts.find("losses", spec.kind or name, f"{where}.kind")
    if part.needs_target == (spec.target == LABELS):
        wanted = f"'{LABELS}'" if spec.target != LABELS else "a stage of a model"
        raise Mistake(f"{where}.target: {spec.kind or name} learns from {wanted}, got '{spec.target}'")
    student, student_stages = _tap(where, spec.paths("student"), models)
    if spec.target == LABELS:
        target, target_stages = Tap(LABELS), (Stage(num_classes, 1),)
    elif spec.node("target") == LABELS:
        raise Mistake(f"{where}.target: the labels have no stages, got '{spec.target}'")
    else:
        target, target_stages = _tap(where, spec.paths("target"), models)
    if len(student_stages) != len(target_stages):
        raise Mistake(f"{where}: {student} are {len(student_stages)} stages and {target} {len(target_stages)}")
    if len(student_stages) > 1 and not part.several:
        raise Mistake(f"{where}: {spec.kind or name} compares one stage with one; write an edge for each of {student}")
    at_logits = student.stages == target.stages == ("logits",) and not part.several
    if part.of_classes and (target.stages != ("logits",) or (target.node in groups and not at_logits)):
        raise Mistake(f"{where}: the channels of {spec.kind or name} are classes: it learns from logits, got {target}")
    if not part.needs_target and spec.distill_on != "real":
        raise Mistake(f"{where}.distill_on: {spec.kind or name} learns at labelled pixels; leave it out")
    for end, stages in (("student", student_stages), ("target", target_stages)):
        strides = [stage.stride for stage in stages]
        if strides != sorted(strides, reverse=True):
            raise Mistake(f"{where}.{end}: expected the stages deepest first, got strides {one_of(map(str, strides))}")
    if spec.distill_stride > 1 and not at_logits:
        raise Mistake(f"{where}.distill_stride: only for the logits of two models, not for {student} <- {target}")
    return _Ends(student, target, student_stages, target_stages, groups.get(target.node) if at_logits else None)


def _need_whole_cells(recipe: Recipe, ends: Mapping[str, _Ends], crop: tuple[int, int]) -> None:
    """A stride that does not divide a crop would leave cells that labels and logits cut differently."""
    for name, spec in recipe.losses.items():
        cell = spec.distill_stride * ends[name].student_stages[0].stride
        if spec.distill_stride > 1 and any(side % cell for side in crop):
            raise Mistake(
                f"losses.{name}.distill_stride: {crop[0]}×{crop[1]} crops are not made of whole {cell}×{cell}"
            )


def _tap(where: str, paths: tuple[str, ...], models: Mapping[str, Model]) -> tuple[Tap, tuple[Stage, ...]]:
    node = paths[0].split(".")[0]
    stages = models[node].stages
    named = tuple(path.partition(".")[2] or "logits" for path in paths)
    for stage in named:
        if stage not in stages:
            raise Mistake(f"{where}: {node} has no stage '{stage}'; it has {one_of(stages)}{nearest(stage, stages)}")
    return Tap(node, named), tuple(stages[stage] for stage in named)


def _edge(
    name: str,
    spec: LossSpec,
    ends: _Ends,
    recipe: Recipe,
    classes: ClassTable,
    counts: PixelCounts,
    connections: list[str],
) -> Edge:
    adapter: nn.Module | None = None
    done: list[str] = []
    with _seeded(recipe.seed, f"losses.{name}"):
        loss = _loss(name, spec, ends, recipe, counts)
        student, target = ends.student_stages[0], ends.target_stages[0]
        if ends.groups is None and not loss.several and loss.same_channels and student.channels != target.channels:
            adapter = nn.Conv2d(student.channels, target.channels, 1, bias=False)
            done.append(f"1×1 adapter {student.channels} -> {target.channels} channels")
    if not loss.several and student.stride != target.stride:
        done.append(f"resize stride {student.stride} -> {target.stride}")
    if ends.groups is not None:
        found = ends.groups
        without = f", without {one_of(found.left_out)}" if found.left_out else ""
        done.append(f"{target.channels} and {student.channels} classes in {len(found.names)} groups{without}")
    if spec.distill_stride > 1:
        done.append(f"logits averaged over {spec.distill_stride}×{spec.distill_stride} pixels")
    names = classes.names if ends.groups is None else ends.groups.names
    absent = [label for label, count in zip(names, _grouped(counts, ends).class_pixels, strict=True) if count == 0]
    if absent and isinstance(spec.parameters.get("class_weights"), str):
        done.append(f"{spec.parameters['class_weights']} weights without a labelled pixel of {one_of(absent)}")
    connections.append(f"{name}: {ends.student} <- {ends.target}: {', '.join(done) or 'as they are'}")
    return Edge(
        loss,
        ends.student,
        ends.target,
        weight=spec.weight,
        ramp=spec.ramp,
        distill_on=spec.distill_on,
        distill_stride=spec.distill_stride,
        adapter=adapter,
        translation=Translation(ends.groups) if ends.groups is not None else None,
    )


def _caches(
    recipe: Recipe,
    models: Mapping[str, Model],
    digests: Mapping[str, str],
    train: Dataset,
    ends: Mapping[str, _Ends],
) -> dict[str, TeacherCache]:
    """Of the teachers whose answers are to be kept: the stages that some edge learns from."""
    caches: dict[str, TeacherCache] = {}
    for name, spec in recipe.models.items():
        if spec.cache is not None:
            taps = [end.target for end in ends.values() if end.target.node == name]
            stages = {stage: models[name].stages[stage] for tap in taps for stage in tap.stages}
            identity = (digests[name], spec.kind, sorted(spec.parameters.items()))
            where = f"models.{name}.cache"
            model = models[name].eval().requires_grad_(False)
            caches[name] = TeacherCache(where, model, identity, train, recipe.data.size, stages, spec.cache)
    return caches


def _loss(name: str, spec: LossSpec, ends: _Ends, recipe: Recipe, counts: PixelCounts) -> Loss:
    part = parts.find("losses", spec.kind or name, f"losses.{name}.kind")
    channels = tuple(stage.channels for stage in ends.target_stages)
    student_channels = tuple(stage.channels for stage in ends.student_stages)
    if ends.groups is not None:
        channels = student_channels = (len(ends.groups.names),)
    counts = _grouped(counts, ends)
    try:
        loss = parts.build(
            part,
            spec.parameters,
            num_classes=len(counts.class_pixels),
            class_pixels=counts.class_pixels,
            class_image_pixels=counts.class_image_pixels,
            channels=channels if part.several else channels[0],
            student_channels=student_channels if part.several else student_channels[0],
            seed=_own_seed(recipe.seed, f"losses.{name}"),
        )
    except Mistake as mistake:
        raise Mistake(f"losses.{name}.{mistake}") from mistake
    assert isinstance(loss, Loss)
    return loss


def _grouped(counts: PixelCounts, ends: _Ends) -> PixelCounts:
    """Of the classes that the loss sees."""
    return counts if ends.groups is None else counts.grouped(ends.groups.ours)


def _phases(recipe: Recipe, images: float) -> tuple[list[Phase], Ending | None]:
    """Lengths in steps; an epoch is as many steps as show every image of the training split once.

    Args:
        images: the crops of an epoch.
    """
    per_epoch = images / recipe.data.batch
    ring = [
        Phase(spec.steps or max(1, round((spec.epochs or 0) * per_epoch)), frozenset(spec.losses))
        for spec in recipe.phases
        if spec.last is None
    ]
    last = [spec for spec in recipe.phases if spec.last is not None]
    if not last:
        return ring, None
    return ring, Ending(round(recipe.steps * (1 - (last[0].last or 0))), frozenset(last[0].losses))


def _set_aside(dataset: Dataset, split: str, bad_share: float) -> tuple[Dataset, dict[str, str]]:
    """The split without the samples that cannot be read; and why, which stderr is told as well.

    Raises:
        Mistake: on every process, when they are more than the recipe allows.
    """
    found = _once(lambda: unreadable(dataset))
    bad = {dataset.key(index): sentence for index, sentence in found.items()}
    need_readable(f"data: {split}", bad, len(dataset), bad_share)
    if not bad:
        return dataset, {}
    if not dist.is_initialized() or dist.get_rank() == 0:
        for key, sentence in bad.items():
            print(f"segdistill: {split}: {key} set aside: {sentence}", file=sys.stderr)
    return dataset.only([index for index in range(len(dataset)) if index not in found]), bad


def _once(compute: Callable[[], T]) -> T:
    """Computed by the first process, told to the others."""
    if not dist.is_initialized():
        return compute()
    answer = [compute() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer)
    return answer[0]  # pyright: ignore[reportReturnType]


def _as_model(module: object) -> Model:
    assert isinstance(module, Model)
    return module

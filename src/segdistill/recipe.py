"""The Recipe schema: read YAML, apply `--set a.b=c`, freeze, dump. No torch, so that a mistake is told at once."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, final

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.parts import Checked, explain, short

LABELS = "labels"
"""The node that holds the ground truth."""

LARGEST = 1_000_000
"""Bytes of a recipe's file."""
MOST = 100_000
"""Values in a recipe, each counted as often as its aliases stand for it."""
DEEPEST = 32
"""Mappings and lists inside each other."""
LONGEST = 1000
"""Characters of a key or a word."""


class _Kind(BaseModel):
    """One of several specs, told apart by their kind; pydantic wants no validator before that, so none of `Checked`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Spec(Checked):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _PartSpec(_Spec):
    """A place that names a part: what the schema does not know is the part's own and is checked by its signature."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


@final
class AugmentSpec(_Spec):
    """What a training crop goes through, drawn from (seed, epoch, index)."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale, log-uniform, relative to `size`."""
    flip: bool = True
    """Mirror left and right with probability one half."""
    jitter: float = Field(default=0.3, ge=0, lt=1)
    """Strength of the random brightness, contrast and saturation."""

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError("needs 0 < low <= high")
        return scale


@final
class UniformSpec(_Kind):
    """Every image once an epoch."""

    kind: Literal["uniform"] = "uniform"


@final
class RareClassSpec(_Kind):
    """DAFormer's: a class, the rarer the likelier; an image that holds it; a crop that shows it."""

    kind: Literal["rare_class"]
    share: float = Field(default=0.5, gt=0, le=1)
    """Of the crops that are drawn for a class; the paper's is 1."""
    temperature: float = Field(default=0.01, gt=0)
    """The lower, the more the rarest classes are preferred."""
    min_share: float = Field(default=0.0015, gt=0, lt=1)
    """Of an image's pixels that a class has to fill there; the paper's 3000 pixels in those of Cityscapes."""


@final
class ClassUniformSpec(_Kind):
    """Zhu et al.'s: every class is looked for equally often."""

    kind: Literal["class_uniform"]
    share: float = Field(default=0.5, gt=0, le=1)
    """Of the crops that are drawn for a class."""


SamplingSpec = Annotated[UniformSpec | RareClassSpec | ClassUniformSpec, Field(discriminator="kind")]
"""Which images and crops an epoch shows."""


@final
class FramesSpec(_Spec):
    """Images without labels, a second source beside the training split; only edges to models act on them."""

    path: str | None = None
    """A folder; every image below it is a frame, so that it must hold no masks. Default: the images whose labels
    `data.withhold` withholds, which then leave the training split."""
    rate: float = Field(default=0.5, ge=0, lt=1)
    """Of the crops of every batch; where it is no whole number of them, of the crops so far. 0: none is shown,
    and the folder is not opened."""


@final
class PartsSpec(_Spec):
    """Disjoint parts of the training images, of which a run sees one: that of its seed."""

    of: int = Field(ge=2)
    """How many; of 3, seeds 0 to 2 have one each, seeds 3 to 5 one each of another partition."""
    by: Literal["image", "sequence"] = "image"
    """sequence: images whose names begin alike, up to the first _ or /, stay together: the cities of Cityscapes."""


@final
class DataSpec(_PartSpec):
    """A dataset (`kind` and its own parameters) and how it is fed."""

    kind: str
    batch: int = Field(default=8, gt=0)
    """Images per update, over all processes and parts."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] that images are resized to for the network; labels keep their size. Default: as they are."""
    crop: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] of a training crop. Default: `size`, or what the first image measures."""
    augment: AugmentSpec = AugmentSpec()
    sampling: SamplingSpec = UniformSpec()
    workers: int = Field(default=0, ge=0)
    cache: bool | Literal["disk"] = False
    """Decode each image once and keep it: true, in memory, for small sets; disk, in a file that all runs share."""
    train: str = "train"
    validate_on: str = "val"
    bad_share: float = Field(default=0.01, ge=0, lt=1)
    """Of a split's samples that may be unreadable: they are set aside; with more of them the run stops."""
    quarantine: str | None = None
    """A file that `data check --quarantine` wrote; the samples that it names are left out of their splits."""
    parts: PartsSpec | None = None
    """For studies of what other training images change (`analyse bias_variance`). Default: all images."""
    withhold: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training images whose labels count as void and are not read, for studies; the images stay. They are
    spread evenly over the order of the split, whatever the seed: of 0.75, the second to fourth of each four."""
    frames: FramesSpec | None = None
    """Default: none."""


@final
class CacheSpec(_Spec):
    """A teacher's answers to whole images, written to the disk once and cut out for every crop."""

    stride: Literal[1, 2, 4, 8] = 2
    """Stages that are finer are averaged over cells of so many pixels a side."""
    dtype: Literal["fp32", "fp16", "uint8"] = "fp16"
    """uint8: 256 even steps between the least and the greatest value of each channel of an image."""
    top_k: int | None = Field(default=None, ge=1, le=256)
    """Logits of so many classes for each cell; the others share what is left evenly. Default: all."""
    folder: str | None = None
    """Default: segdistill/teachers below $XDG_CACHE_HOME or ~/.cache."""


@final
class ModelSpec(_PartSpec):
    """A node. `weights` names a run (its architecture is taken too) or a file; `follows` makes it a moving average."""

    kind: str | None = None
    weights: str | None = None
    frozen: bool = False
    follows: str | None = None
    decay: float | None = Field(default=None, ge=0, le=1)
    """Of a moving average; default 0.999, less in the first steps."""
    classes: str | tuple[str, ...] | None = None
    """What the outputs mean where no weights say it: class names, or the name of a table. Default: the data's."""
    class_map: str | dict[str, str | tuple[str, ...]] | None = None
    """For a teacher with another class table: its class -> the data's, or the name of a map that comes with us."""
    checkpointing: bool = False
    """Of a network that learns: activations are computed again in the backward pass instead of kept. Only unet."""
    shard: bool = False
    """Of a frozen teacher that is too large for one device: every process keeps a part of its weights."""
    cache: CacheSpec | None = None
    """Of a frozen teacher: it looks at every image once. Default: at every crop, as it is augmented."""
    temperature: float | Literal["calibrated"] | None = None
    """Of a frozen teacher: what its logits are divided by before a loss, with its own temperature, sees them;
    `calibrated`: what `segdistill calibrate` found for its weights. Default: nothing."""

    @field_validator("temperature")
    @classmethod
    def _above_zero(cls, temperature: float | str | None) -> float | str | None:
        if isinstance(temperature, float) and temperature <= 0:
            raise ValueError("should be greater than 0")
        return temperature


@final
class LossSpec(_PartSpec):
    """An edge: student ← target."""

    kind: str | None = None
    student: str | tuple[str, ...]
    """`node` (its logits), `node.stage`, or for a loss over several stages a list of them."""
    target: str | tuple[str, ...] = LABELS
    weight: float = Field(default=1.0, ge=0)
    ramp: int = Field(default=0, ge=0)
    """Steps over which the weight rises from 0."""
    distill_on: Literal["all", "real", "labelled"] = "real"
    """The pixels that count: all, those that are not padding, or those with a label."""
    distill_stride: Literal[1, 2, 4, 8] = 1
    """Logits of both ends are averaged over cells of so many pixels a side: 1/stride² of the loss's cost."""

    @field_validator("student", "target", mode="before")
    @classmethod
    def _of_one_node(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            nodes = {str(path).split(".")[0] for path in value}
            if len(nodes) != 1:
                raise ValueError("a list names stages of one node")
        return value

    def node(self, end: Literal["student", "target"]) -> str:
        path = self.student if end == "student" else self.target
        return (path if isinstance(path, str) else path[0]).split(".")[0]

    def paths(self, end: Literal["student", "target"]) -> tuple[str, ...]:
        path = self.student if end == "student" else self.target
        return (path,) if isinstance(path, str) else path


@final
class PhaseSpec(_Spec):
    """Which edges act, for so many steps or epochs; phases follow each other in a ring, but for a last one."""

    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    last: float | None = Field(default=None, gt=0, lt=1)
    """The share of all steps, the last ones, in which the ring is over."""
    losses: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_length(self) -> "PhaseSpec":
        if sum(length is not None for length in (self.steps, self.epochs, self.last)) != 1:
            raise ValueError("a phase has either steps or epochs, or is the last")
        return self


@final
class OptimSpec(_Spec):
    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum, AdamW's first beta."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    power: float = Field(default=0.9, gt=0)
    """Of the poly schedule."""
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of each network's gradient."""
    states: Literal["shared", "phases"] = "shared"
    """phases: each phase has moments of its own, so that one loss's gradient does not scale another's."""
    accumulate: int = Field(default=1, gt=0)
    """Parts that a batch is split into when it does not fit into memory; each part has its own count of pixels."""


@final
class ProbeSpec(_PartSpec):
    every: int = Field(default=0, ge=0)
    """Steps between two looks; 0: only at the end."""


@final
class CheckpointSpec(_Spec):
    every: int = Field(default=1000, gt=0)
    keep: int = Field(default=2, gt=0)


@final
class LogSpec(_Spec):
    every: int = Field(default=20, gt=0)
    pulls: int = Field(default=0, ge=0)
    """Steps between two looks at how strongly each edge pulls (`pull/<edge>`, the norm of its weighted gradient) and
    how far that agrees with the labels' (`cosine/<edge>`), always on the run's first batch; 0: never."""
    wandb: Literal["auto", "offline", "online", "off"] = "auto"
    """auto: offline where wandb is installed."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare `off` as false


@final
class Recipe(_Spec):
    """A run as a graph: models are nodes, losses are edges, labels are a node."""

    data: DataSpec
    models: dict[str, ModelSpec] = Field(min_length=1)
    losses: dict[str, LossSpec] = Field(min_length=1)
    phases: tuple[PhaseSpec, ...] = ()
    optim: OptimSpec = OptimSpec()
    steps: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward passes; losses and weights stay fp32. A CPU without bf16 units emulates it, 10 times slower."""
    probes: dict[str, ProbeSpec] = Field(default={"measure": ProbeSpec()})
    checkpoint: CheckpointSpec = CheckpointSpec()
    log: LogSpec = LogSpec()

    def trained(self) -> list[str]:
        """The models that learn from labels or from others."""
        return [name for name, spec in self.models.items() if not spec.frozen and spec.follows is None]

    @model_validator(mode="after")
    def _graph(self) -> "Recipe":
        if self.data.frames is not None and self.data.frames.path is None and not self.data.withhold:
            raise ValueError(
                "data.frames.path: expected a folder, or `data.withhold`: then the frames are what it withholds"
            )
        nodes = list(self.models)
        for shelf, names in (("models", nodes), ("losses", list(self.losses))):
            folded: dict[str, str] = {}
            for name in names:
                if name == LABELS or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                    accepted = f"at most 64 letters a to z, digits, _ and -, and not '{LABELS}'"
                    raise ValueError(f"{shelf}.{name}: a name is {accepted}")
                same = folded.setdefault(name.lower(), name)
                if same != name:  # best/<name>.safetensors: not every disk keeps them apart
                    raise ValueError(f"{shelf}.{name}: differs from '{same}' only by capitals; choose another name")
        for name, model in self.models.items():
            if model.follows is not None and (model.follows not in self.trained()):
                found = nearest(model.follows, self.trained())
                raise ValueError(f"models.{name}.follows: '{model.follows}' is no model that learns{found}")
            if model.follows is not None and (model.kind or model.weights):
                raise ValueError(f"models.{name}: follows {model.follows} and is built like it; no kind, no weights")
            if model.checkpointing and name not in self.trained():
                raise ValueError(f"models.{name}.checkpointing: it does not learn, so it keeps no activations")
            if model.shard and (not model.frozen or model.cache is not None):
                raise ValueError(f"models.{name}.shard: only a frozen teacher without a cache is shared out")
            if model.follows is None and model.decay is not None:
                raise ValueError(f"models.{name}.decay: only a model that follows another has a decay")
            if model.class_map is not None and not model.frozen:
                raise ValueError(f"models.{name}.class_map: only a frozen teacher may know other classes than the data")
            if model.cache is not None and not model.frozen:
                raise ValueError(f"models.{name}.cache: only a frozen teacher says the same again")
            if model.temperature is not None and not model.frozen:
                raise ValueError(f"models.{name}.temperature: only a frozen teacher's logits are divided by one")
            if model.temperature == "calibrated" and model.weights is None:
                raise ValueError(f"models.{name}.temperature: `calibrated` is of weights (a run); expected a number")
            if model.kind is None and model.weights is None and model.follows is None:
                raise ValueError(f"models.{name}: needs a kind (an architecture) or weights (a run)")
            if model.classes is not None and not model.frozen:
                raise ValueError(f"models.{name}.classes: only a frozen teacher may know other classes than the data")
        for name, loss in self.losses.items():
            ends: tuple[tuple[Literal["student", "target"], list[str]], ...]
            ends = (("student", self.trained()), ("target", [*nodes, LABELS]))
            for end, accepted in ends:
                node = loss.node(end)
                if node not in accepted:
                    raise ValueError(
                        f"losses.{name}.{end}: there is no {'model that learns' if end == 'student' else 'node'} "
                        f"'{node}'; there is {one_of(accepted)}{nearest(node, accepted)}"
                    )
        for name, model in self.models.items():
            heard = {path for loss in self.losses.values() for path in loss.paths("target")}
            if model.temperature is not None and not heard & {name, f"{name}.logits"}:
                raise ValueError(f"models.{name}.temperature: no loss learns from its logits; leave it out")
        for index, phase in enumerate(self.phases):
            for loss in phase.losses:
                if loss not in self.losses:
                    raise ValueError(f"phases.{index}.losses: there is no loss '{loss}'{nearest(loss, self.losses)}")
        for index, phase in enumerate(self.phases):
            if phase.last is not None and index != len(self.phases) - 1:
                raise ValueError(f"phases.{index}.last: only the phase that stands last can be the last")
        if len(self.phases) == 1 and self.phases[0].last is not None:
            raise ValueError("phases.0.last: there is nothing before it; expected phases in a ring, then a last one")
        if self.optim.states == "phases" and not self.phases:
            raise ValueError("optim.states: there are no phases")
        acting = {loss for phase in self.phases for loss in phase.losses}
        for name in self.losses if self.phases else ():
            if name not in acting:
                raise ValueError(f"losses.{name}: acts in no phase")
        idle = [name for name in self.trained() if all(e.node("student") != name for e in self.losses.values())]
        if idle:
            raise ValueError(f"models.{idle[0]}: learns from nothing; no loss has it as its student (frozen: true?)")
        return self


def read(path: Path | str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `a.b=c` overrides applied.

    Raises:
        Mistake: no such file, no YAML, or a recipe that says something we do not understand.
    """
    content = mapping(path, "a recipe", Recipe.model_fields)
    if "recipe" in content and content.keys() & {"arms", "grid", "teachers"}:
        raise Mistake(f"{path}: is a study, not a recipe; segdistill compare {path}")
    return parse(override(content, settings))


def mapping(path: Path | str, what: str, keys: Iterable[str]) -> dict[str, Any]:
    """What stands in a YAML file of a recipe, or of something like it.

    Raises:
        Mistake: no such file, no YAML, or no mapping.
    """
    file = Path(path)
    if not file.is_file():
        found = nearest(file.name, (p.name for p in file.parent.glob("*.yaml")))
        raise Mistake(f"{file}: no such {what.removeprefix('a ')}{found}")
    if file.stat().st_size > LARGEST:
        raise Mistake(f"{file}: {file.stat().st_size} bytes; {what} has at most {LARGEST}")
    try:
        content = _yaml(file.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Mistake(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise Mistake(f"{file}: cannot be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise Mistake(f"{file}: {what} is a mapping with {one_of(keys)}")
    return content  # pyright: ignore[reportUnknownVariableType]


def parse(content: Mapping[str, Any]) -> Recipe:
    """The recipe that a mapping says."""
    try:
        return Recipe.model_validate(_plain(content))
    except ValidationError as error:
        raise Mistake(explain(error, "", _accepted, chosen=("data", "sampling"))) from error


def override(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`a.b=c` set in a copy; values are YAML."""
    copy: dict[str, Any] = _plain(content)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise Mistake(f"--set {setting}: expected KEY=VALUE, as in data.batch=4")
        try:
            put(copy, key, _yaml(value), "--set ")
        except yaml.YAMLError as error:
            raise Mistake(f"--set {key}: {short(value)} is not YAML") from error
    return copy


def put(content: dict[str, Any], key: str, value: Any, where: str = "") -> None:
    """a.b = value; what is missing on the way is made. A model, a loss or a probe that is null is taken out."""
    *path, last = key.split(".")
    place: Any = content
    try:
        for name in path:
            place = place[_index(name)] if isinstance(place, list) else place.setdefault(name, {})
        if value is None and path in (["models"], ["losses"], ["probes"]):
            del place[last]
        else:
            place[_index(last) if isinstance(place, list) else last] = value
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise Mistake(f"{where}{key}: the recipe has no such place") from error


def _index(name: str) -> int:
    """A place in a list, counted from its beginning."""
    if not (name.isascii() and name.isdecimal()):
        raise ValueError
    return int(name)


def take(recipe: Recipe | Path | str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe, given as one or as a file, with overrides applied."""
    if not isinstance(recipe, Recipe):
        return read(recipe, settings)
    return parse(override(_content(recipe), settings)) if settings else recipe


def dump(recipe: Recipe) -> str:
    """YAML that `read` gives back unchanged."""
    return yaml.safe_dump(_content(recipe), sort_keys=False)


def _content(recipe: Recipe) -> dict[str, Any]:
    """What `parse` makes the recipe of, without nulls but those said to a part, whose default may be another."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    shelves: tuple[tuple[str, Mapping[str, _PartSpec]], ...]
    shelves = (("models", recipe.models), ("losses", recipe.losses), ("probes", recipe.probes))
    places = [(content[shelf][name], spec) for shelf, specs in shelves for name, spec in specs.items()]
    for place, spec in [(content["data"], recipe.data), *places]:
        place |= {name: None for name, value in spec.parameters.items() if value is None}
    return content


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[object, object]]:
    """Dotted key -> (old value, new value), where two recipes differ."""
    before, after = flat(old), flat(new)
    return {
        k: (before.get(k), after.get(k))
        for k in sorted({*before, *after})
        if before.get(k) != after.get(k) or ((k in before) != (k in after) and k.count(".") > 2)
    }  # null is what is not said, but not inside of a part's own mapping: arguments: {weights: null}


def flat(recipe: Recipe) -> dict[str, object]:
    """Dotted key -> value."""
    return _flat(recipe.model_dump(mode="json"))


def _flat(content: object, prefix: str = "") -> dict[str, object]:
    if isinstance(content, dict) and content:
        return {k: v for name, value in content.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): content}


def _plain(content: Any, place: str = "", depth: int = 0) -> Any:
    """A copy of nothing but mappings from words, lists, words, numbers, true, false and null; what JSON holds, too."""
    where = place or "a recipe"
    if depth > DEEPEST:
        raise Mistake(f"{where}: nested more than {DEEPEST} deep")
    match content:
        case None | bool():
            return content
        case int():
            if content.bit_length() > 63:
                raise Mistake(f"{where}: expected a number of at most 63 bits, got one of {content.bit_length()}")
            return int(content)
        case float():
            if not math.isfinite(content):
                raise Mistake(f"{where}: expected a finite number, got {content}")
            return float(content)
        case str() | PurePath():
            return _word(str(content), where)
        case Mapping():
            found: dict[str, Any] = {}
            for name, value in content.items():
                if isinstance(name, bool) or not isinstance(name, str | int):
                    raise Mistake(f"{where}: a key is a word or a whole number, got {short(name)}; quotes make a word")
                key = _word(str(name), f"{where}: a key")
                if key in found:
                    raise Mistake(f"{where}: the key '{key}' stands twice")
                found[key] = _plain(value, f"{place}.{key}" if place else key, depth + 1)
            return found
        case list() | tuple():
            return [_plain(value, f"{place}.{index}", depth + 1) for index, value in enumerate(content)]
        case _:
            raise Mistake(f"{where}: expected words, numbers, lists and mappings, got a {type(content).__name__}")


_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
"""Control characters, halves of characters, ends of lines and paragraphs."""
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""What makes a terminal show text in another order than it has."""


def _word(text: str, where: str) -> str:
    """Text that fits into a line of a log or a terminal, and into the name of a file."""
    if len(text) > LONGEST:
        raise Mistake(f"{where}: {len(text)} characters, accepted are {LONGEST}: {short(text)}")
    odd = "" if text.isprintable() else text  # the first is quick; the second lets unusual spaces and letters pass
    if any(unicodedata.category(c) in _UNSEEN or unicodedata.bidirectional(c) in _TURNING for c in odd):
        raise Mistake(f"{where}: holds a line break or another character that cannot be seen: {text!a}")
    return str(text)


class _Loader(yaml.SafeLoader):
    """YAML for people: no tags, no dates, no key that stands twice (the second would win), nothing that explodes."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, shape) for tag, shape in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.sizes: dict[int, int] = {}
        """Of every node that is complete: how many values it is, with what its aliases stand for."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise yaml.YAMLError(f"the alias *{event.anchor} stands inside of what it means{event.start_mark}")
            return node
        if event.tag is not None:
            raise yaml.YAMLError(f"a recipe has no tags such as {event.tag}{event.start_mark}")
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep{event.start_mark}")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        assert node is not None
        self.sizes[id(node)] = 1 + sum(self.sizes[id(below)] for below in _below(node))
        if self.sizes[id(node)] > MOST:
            raise yaml.YAMLError(f"more than {MOST} values, with what aliases stand for{event.start_mark}")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in _KEYS:
                raise yaml.YAMLError(f"a key is a word or a whole number; quotes make a word{key.start_mark}")
            name = str(self.construct_object(key)) if key.tag.endswith(":int") else key.value
            if name in seen:
                raise yaml.YAMLError(f"the key '{name}' stands twice{key.start_mark}")
            seen.add(name)
        return super().construct_mapping(node, deep)


_KEYS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "merge")}


def _below(node: yaml.Node) -> list[yaml.Node]:
    match node:
        case yaml.MappingNode():
            return [below for pair in node.value for below in pair]
        case yaml.SequenceNode():
            return list(node.value)
        case _:
            return []


def _yaml(text: str) -> Any:
    """The one document in a text.

    Raises:
        YAMLError: whatever is wrong with it.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, RecursionError) as error:  # 0x_, a number of 5000 digits; a long chain of merged mappings
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error
    finally:
        loader.dispose()


def _accepted(place: Sequence[int | str]) -> Iterable[str]:
    """The keys that may stand at a place whose spec forbids others."""
    if place[:1] == ("models",):
        return CacheSpec.model_fields
    specs: dict[tuple[str, ...], type[BaseModel]] = {
        (): Recipe,
        ("data", "augment"): AugmentSpec,
        ("data", "frames"): FramesSpec,
        ("data", "sampling", "uniform"): UniformSpec,
        ("data", "sampling", "rare_class"): RareClassSpec,
        ("data", "sampling", "class_uniform"): ClassUniformSpec,
        ("phases",): PhaseSpec,
        ("optim",): OptimSpec,
        ("checkpoint",): CheckpointSpec,
        ("log",): LogSpec,
    }
    return specs[tuple(name for name in place if isinstance(name, str))].model_fields

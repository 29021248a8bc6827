"""The Study schema: recipes, settings and seeds that are to be compared fairly; read from YAML. No torch.

```yaml
recipe: ../camvid/small_soft_targets.yaml        # every arm is this one, unless it names another
seeds: [0, 1, 2]                                 # of every arm
baseline: labels                                 # the arm that gains are over
teachers:                                        # trained first, once; {folder}/teachers/<name> is where they are
  plain: {recipe: ../camvid/small_teacher.yaml}
arms:
  labels: {recipe: ../camvid/small_baseline.yaml}
grid:                                            # an arm for each combination of one choice of every axis
  teacher: {plain: {models.teacher.weights: "{folder}/teachers/plain"}}
  temperature: {T1: {losses.soft_targets.temperature: 1}, T4: {losses.soft_targets.temperature: 4}}
tune:                                            # first, for every arm alike: as many trials, each a run of one seed
  trials: 8
  set: {data.validate_on: held_out}              # of the trials alone: they are judged where arms are not compared
  ranges: {optim.lr: [1.0e-3, 1.0e-2]}           # of every arm; arms.<name>.tune has an arm's own
```
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple, final

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.parts import Checked, explain
from segdistill.recipe import Recipe, mapping, override, parse, put

NAME = r"[A-Za-z0-9_-]{1,64}"
FOLDER = "{folder}"
"""In a setting: where the study's runs are."""
SEED = "{seed}"
"""In a setting of an arm: each run's own, `{folder}/arms/teacher-{seed}`."""


class _Spec(Checked):
    model_config = ConfigDict(extra="forbid", frozen=True)


@final
class RangeSpec(_Spec):
    """Where a value is sought: `[low, high]`, on a logarithmic scale, or `{choices: [1, 2, 4]}`."""

    low: PositiveFloat | None = None
    high: PositiveFloat | None = None
    choices: tuple[bool | int | float | str | None, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, said: object) -> object:
        if isinstance(said, list):
            if len(said) != 2:
                raise ValueError(f"expected [low, high], or {{choices: …}}, got {said}")
            return {"low": said[0], "high": said[1]}
        return said

    @model_validator(mode="after")
    def _one_of_both(self) -> "RangeSpec":
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise ValueError("expected [low, high], or {choices: …}")
        if not self.choices and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError(f"expected a low end below the high one, got {self.low} and {self.high}")
        return self


Ranges = dict[str, RangeSpec]
"""Dotted key of the recipe -> where its value is sought."""


@final
class ArmSpec(_Spec):
    """A recipe with settings; trained once for every seed."""

    recipe: str | None = None
    """Relative to the study's file. Default: the study's."""
    set: dict[str, Any] = Field(default={})
    """Dotted key of the recipe -> value."""
    tune: Ranges = Field(default={})
    """Beside those of `tune.ranges`."""


@final
class TuneSpec(_Spec):
    """Values that are sought for every arm before it is trained, by the same number of trials."""

    trials: PositiveInt
    seed: int = 1000
    """Of every trial; none of `seeds`, on which an arm would then be judged twice."""
    network: str = "student"
    """Whose mean IoU is to be high."""
    set: dict[str, Any] = Field(default={})
    """For the trials alone, such as fewer steps or another split."""
    ranges: Ranges = Field(default={})
    """For every arm."""


@final
class TeacherSpec(_Spec):
    """A network that arms learn from."""

    recipe: str
    set: dict[str, Any] = Field(default={})
    calibrate: str | None = None
    """A split: a temperature is fitted on it afterwards, for arms that say `temperature: calibrated`."""


@final
class StudySpec(_Spec):
    """What a study's file says."""

    recipe: str
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str | None = None
    set: dict[str, Any] = Field(default={})
    """For every recipe, those of the teachers as well."""
    teachers: dict[str, TeacherSpec] = Field(default={})
    arms: dict[str, ArmSpec] = Field(default={})
    grid: dict[str, dict[str, dict[str, Any]]] = Field(default={})
    """Axis -> choice -> settings."""
    tune: TuneSpec | None = None
    """Default: every arm as its recipe says."""
    analyses: tuple[str, ...] = ()
    """Of all runs, when they are there."""

    @model_validator(mode="after")
    def _named(self) -> "StudySpec":
        for name in (*self.teachers, *self.arms, *(choice for axis in self.grid.values() for choice in axis)):
            if not re.fullmatch(NAME, name):
                raise ValueError(f"'{name}': a name is at most 64 letters a to z, digits, _ and -")
        arms = self.everything()
        if not arms:
            raise ValueError("there are no arms; expected arms, or a grid")
        if self.baseline is not None and self.baseline not in arms:
            found = nearest(self.baseline, arms)
            raise ValueError(f"baseline: there is no arm '{self.baseline}'; there is {one_of(arms)}{found}")
        if not self.seeds:
            raise ValueError("seeds: expected one at least, got none")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: one stands twice")
        self._check_tuning(arms)
        return self

    def _check_tuning(self, arms: Mapping[str, ArmSpec]) -> None:
        own = [name for name, arm in arms.items() if arm.tune]
        if self.tune is None:
            if own:
                raise ValueError(f"arms.{own[0]}.tune: how many trials? expected tune: {{trials: …}} in the study")
            return
        if self.tune.seed in self.seeds:
            raise ValueError(f"tune.seed: expected none of the seeds, got {self.tune.seed}")
        if idle := [name for name, arm in arms.items() if not arm.tune and not self.tune.ranges]:
            fair = "the others would be tuned and it would not"
            raise ValueError(f"tune: the arm '{idle[0]}' has nothing to tune: {fair}; expected tune.ranges")

    def everything(self) -> dict[str, ArmSpec]:
        """The arms, with those of the grid; the baseline first."""
        found = dict(self.arms)
        axes = [list(choices.items()) for choices in self.grid.values()]
        empty = [axis for axis, choices in self.grid.items() if not choices]
        if empty:
            raise ValueError(f"grid.{empty[0]}: it has no choices")
        for chosen in itertools.product(*axes) if axes else ():
            name = "-".join(choice for choice, _ in chosen)
            keys = [key for _, settings in chosen for key in settings]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise ValueError(f"grid: the arm '{name}' sets {twice[0]} twice")
            if name in found:
                raise ValueError(f"grid: the arm '{name}' is there already")
            found[name] = ArmSpec(set={key: value for _, settings in chosen for key, value in settings.items()})
        first = {name: arm for name, arm in found.items() if name == self.baseline}
        return first | found


class Job(NamedTuple):
    """One run of a study."""

    name: str
    """teachers/<name>, trials/<arm>-<number>, or <arm>-<seed>."""
    arm: str | None
    """None for a teacher, and for a trial."""
    recipe: Recipe
    run: Path
    needs: frozenset[str]
    """The jobs that it waits for."""
    calibrate: str | None

    @property
    def is_trial(self) -> bool:
        return self.name.startswith("trials/")


def read_study(path: Path | str, settings: Sequence[str] = ()) -> StudySpec:
    """The study in a YAML file, with `a.b=c` overrides applied; `set.data.root=x` is for every recipe.

    Raises:
        Mistake: no such file, no YAML, or a study that says something we do not understand.
    """
    content = mapping(path, "a study", StudySpec.model_fields)
    inside = [setting for setting in settings if re.match(_INSIDE, setting)]
    content = override(content, [setting for setting in settings if setting not in inside])
    for setting in inside:  # the keys of `set` have dots of their own
        name, equals, value = setting.partition("=")
        place, _, key = name.partition("set.")
        settings_there = f"{place}set"
        content = override(content, [] if _at(content, settings_there) else [f"{settings_there}={{}}"])
        there = _at(content, settings_there)
        if not isinstance(there, dict):
            raise Mistake(f"{name}: {settings_there} is no mapping")
        there[key] = override({}, [f"value{equals}{value}"]).get("value")
    if {"models", "losses"} <= content.keys() - StudySpec.model_fields.keys():
        raise Mistake(f"{path} is a recipe, not a study; segdistill train {path}")
    for key in content.keys() & (Recipe.model_fields.keys() - StudySpec.model_fields.keys()):
        raise Mistake(f"{path}: {key}: a key of recipes; for every run of the study it is set.{key}")
    try:
        return StudySpec.model_validate(content)
    except ValidationError as error:
        raise Mistake(f"{path}: {explain(error, '', _accepted, what='a study')}") from error


def jobs(
    study: StudySpec, beside: Path, folder: Path, tuned: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Job]:
    """Every run but the trials, teachers first, each with its whole recipe.

    Args:
        beside: the folder that recipes are named from.
        folder: where the runs go.
        tuned: by arm, settings that trials have chosen.

    Raises:
        Mistake: a recipe does not understand what the study sets.
    """
    found: list[Job] = []
    for name, spec in study.teachers.items():
        recipe = _recipe(f"teachers.{name}", beside / spec.recipe, [study.set, spec.set], folder)
        needs = _needs(f"teachers.{name}", spec.set, study)
        found.append(Job(f"teachers/{name}", None, recipe, folder / "teachers" / name, needs, spec.calibrate))
    for name, spec in study.everything().items():
        for seed in study.seeds:
            file = beside / (spec.recipe or study.recipe)
            own = _replaced(spec.set, SEED, str(seed))
            needs = _needs(name, own, study)
            chosen = (tuned or {}).get(name, {})
            recipe = _recipe(name, file, [study.set, own, chosen, {"seed": seed}], folder)
            run = f"{name}-{seed}"
            found.append(Job(run, name, recipe, folder / "arms" / run, needs, None))
    _refuse_circles(found)
    return found


def trial(study: StudySpec, beside: Path, folder: Path, arm: str, number: int, values: Mapping[str, Any]) -> Job:
    """A run of an arm with values that may be better than its recipe's.

    Raises:
        Mistake: the arm's recipe has no such setting, or does not accept the value.
    """
    assert study.tune is not None
    spec = study.everything()[arm]
    own = _replaced(spec.set, SEED, str(study.tune.seed))
    settings = [study.set, own, study.tune.set, values, {"seed": study.tune.seed}]
    recipe = _recipe(f"tune: {arm}", beside / (spec.recipe or study.recipe), settings, folder)
    run = f"{arm}-{number:02d}"
    needs = _needs(arm, own, study)
    if untuned := [need for need in needs if not need.startswith("teachers/")]:
        raise Mistake(f"tune: {arm} learns from arms/{min(untuned)}, which is trained after the trials")
    return Job(f"trials/{run}", None, recipe, folder / "trials" / run, needs, None)


def _needs(where: str, settings: Mapping[str, Any], study: StudySpec) -> frozenset[str]:
    """The jobs whose runs settings name."""
    places = {f"teachers/{name}": f"teachers/{name}" for name in study.teachers}
    places |= {f"arms/{name}-{seed}": f"{name}-{seed}" for name in study.everything() for seed in study.seeds}
    named = set(_mentioned([study.set, settings]))
    for place in named - set(places):
        shelf = [other for other in places if other.partition("/")[0] == place.partition("/")[0]]
        known = [other.partition("/")[2] for other in shelf]
        raise Mistake(
            f"{where}: there is no {place}; there is {one_of(known)}{nearest(place.partition('/')[2], known)}"
        )
    return frozenset(places[place] for place in named)


def _refuse_circles(found: Sequence[Job]) -> None:
    try:
        TopologicalSorter({job.name: job.needs for job in found}).prepare()
    except CycleError as error:
        raise Mistake(f"{' <- '.join(error.args[1])}: runs that learn from each other in a circle") from error


def _recipe(where: str, file: Path, settings: Sequence[Mapping[str, Any]], folder: Path) -> Recipe:
    content = override(mapping(file, "a recipe", Recipe.model_fields), [])  # a copy: aliases are one mapping
    try:
        for key, value in (pair for each in settings for pair in each.items()):
            put(content, key, _replaced(value, FOLDER, folder.as_posix()))
        return parse(content)
    except Mistake as mistake:
        raise Mistake(f"{where}: {mistake}") from mistake


def _replaced(value: Any, word: str, by: str) -> Any:
    """Wherever it stands in a text."""
    match value:
        case str():
            return value.replace(word, by)
        case dict():
            return {key: _replaced(each, word, by) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [_replaced(each, word, by) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


_INSIDE = rf"((arms|teachers)\.{NAME}\.|tune\.)?set\."
"""How a setting begins that goes into a mapping whose keys have dots."""


def _at(content: Mapping[str, Any], path: str) -> Any:
    """What stands there; None where nothing does."""
    place: Any = content
    for name in path.split("."):
        place = place.get(name) if isinstance(place, dict) else None
    return place


def _mentioned(settings: object) -> Iterator[str]:
    """teachers/<name> and arms/<arm>-<seed>, of which settings speak."""
    yield from re.findall(rf"{re.escape(FOLDER)}/((?:teachers|arms)/{NAME})", json.dumps(settings))


def _accepted(place: Sequence[int | str]) -> Sequence[str]:
    if "ranges" in place or (len(place) > 2 and place[2] == "tune"):
        return [*RangeSpec.model_fields]
    specs = {"teachers": TeacherSpec, "arms": ArmSpec, "tune": TuneSpec}
    return [*(specs[str(place[0])] if place else StudySpec).model_fields]

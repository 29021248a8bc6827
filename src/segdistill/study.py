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
```
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple, final

from pydantic import ConfigDict, Field, ValidationError, model_validator

from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.parts import Checked, explain
from segdistill.recipe import Recipe, mapping, override, parse, put

NAME = r"[A-Za-z0-9_-]{1,64}"
FOLDER = "{folder}"
"""In a setting: where the study's runs are."""


class _Spec(Checked):
    model_config = ConfigDict(extra="forbid", frozen=True)


@final
class ArmSpec(_Spec):
    """A recipe with settings; trained once for every seed."""

    recipe: str | None = None
    """Relative to the study's file. Default: the study's."""
    set: dict[str, Any] = Field(default={})
    """Dotted key of the recipe -> value."""


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
        return self

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
    """teachers/<name>, or <arm>-<seed>."""
    arm: str | None
    """None for a teacher."""
    recipe: Recipe
    run: Path
    needs: frozenset[str]
    """The jobs that it waits for."""
    calibrate: str | None


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


def jobs(study: StudySpec, beside: Path, folder: Path) -> list[Job]:
    """Every run, teachers first, each with its whole recipe.

    Args:
        beside: the folder that recipes are named from.
        folder: where the runs go.

    Raises:
        Mistake: a recipe does not understand what the study sets.
    """
    found: list[Job] = []
    for name, spec in study.teachers.items():
        recipe = _recipe(f"teachers.{name}", beside / spec.recipe, [study.set, spec.set], folder)
        needs = _needs(f"teachers.{name}", spec.set, study)
        found.append(Job(f"teachers/{name}", None, recipe, folder / "teachers" / name, needs, spec.calibrate))
    _refuse_circles(found)
    for name, spec in study.everything().items():
        needs = _needs(name, spec.set, study)
        for seed in study.seeds:
            file = beside / (spec.recipe or study.recipe)
            recipe = _recipe(name, file, [study.set, spec.set, {"seed": seed}], folder)
            run = f"{name}-{seed}"
            found.append(Job(run, name, recipe, folder / "arms" / run, needs, None))
    return found


def _needs(where: str, settings: Mapping[str, Any], study: StudySpec) -> frozenset[str]:
    """The teachers that settings name."""
    named = set(_mentioned([study.set, settings]))
    for teacher in named - set(study.teachers):
        known = nearest(teacher, study.teachers)
        raise Mistake(f"{where}: there is no teachers/{teacher}; there is {one_of(study.teachers)}{known}")
    return frozenset(f"teachers/{teacher}" for teacher in named)


def _refuse_circles(teachers: Sequence[Job]) -> None:
    try:
        TopologicalSorter({job.name: job.needs for job in teachers}).prepare()
    except CycleError as error:
        raise Mistake(f"{' <- '.join(error.args[1])}: teachers that learn from each other in a circle") from error


def _recipe(where: str, file: Path, settings: Sequence[Mapping[str, Any]], folder: Path) -> Recipe:
    content = override(mapping(file, "a recipe", Recipe.model_fields), [])  # a copy: aliases are one mapping
    try:
        for key, value in (pair for each in settings for pair in each.items()):
            put(content, key, _there(value, folder))
        return parse(content)
    except Mistake as mistake:
        raise Mistake(f"{where}: {mistake}") from mistake


def _there(value: Any, folder: Path) -> Any:
    """With the study's folder in it."""
    match value:
        case str():
            return value.replace(FOLDER, folder.as_posix())
        case dict():
            return {key: _there(each, folder) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [_there(each, folder) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


_INSIDE = rf"((arms|teachers)\.{NAME}\.)?set\."
"""How a setting begins that goes into a mapping whose keys have dots."""


def _at(content: Mapping[str, Any], path: str) -> Any:
    """What stands there; None where nothing does."""
    place: Any = content
    for name in path.split("."):
        place = place.get(name) if isinstance(place, dict) else None
    return place


def _mentioned(settings: object) -> Iterator[str]:
    """The teachers that settings name."""
    yield from re.findall(rf"{re.escape(FOLDER)}/teachers/({NAME})", json.dumps(settings))


def _accepted(place: Sequence[int | str]) -> Sequence[str]:
    specs = {"teachers": TeacherSpec, "arms": ArmSpec}
    return [*(specs[str(place[0])] if place else StudySpec).model_fields]

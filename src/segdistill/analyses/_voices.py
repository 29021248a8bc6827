"""Who is looked at: the frozen teachers that runs learnt from, or the runs' own networks; and who learnt from whom."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segdistill import parts
from segdistill.analyses._experiments import KEPT_APART, Result
from segdistill.analyses._listening import Pupil, Voice
from segdistill.assemble import run_and_step, weights
from segdistill.checkpoint import Weights, networks
from segdistill.mistakes import Mistake
from segdistill.recipe import Recipe, read
from segdistill.run import Run

Key = tuple[str, str, float]
"""Weights file, what its tensors' names begin with, temperature."""
Places = Mapping[Key, Voice]
Lesson = tuple[str, str, str]
"""The run directory and the model of a student, and the name of a voice that it learnt from."""


class Place(NamedTuple):
    """Where a voice's weights lie."""

    weights: Weights
    temperature: float
    path: Path
    """A run directory or a weights file."""
    step: int | None
    """Of a checkpoint."""

    @property
    def key(self) -> Key:
        return str(self.weights.file), self.weights.prefix, self.temperature

    @property
    def run(self) -> Path:
        """The run directory, or a weights file that lies in none."""
        return self.path.parents[1] if self.path.is_file() and self.path.parent.name in ("best", "last") else self.path

    def voice(self, name: str) -> Voice:
        return Voice(name, self.weights, self.weights.digest(), self.temperature, self._origin())

    def named(self, name: str) -> str:
        several = self.run.is_dir() and len(networks(Run(self.run))) > 1
        which = " last" if self.weights.file.parent.name == "last" else ""
        step = "" if self.step is None else f"@step-{self.step}"
        model = f" · {self.weights.model}" if several else ""
        divided = "" if self.temperature == 1 else f" T={self.temperature:g}"
        return f"{name.removesuffix('.safetensors')}{step}{which}{model}{divided}"

    def _origin(self) -> str:
        if not Run(self.run).exists():
            return ""
        content = read(Run(self.run).recipe_file).model_dump(mode="json", exclude=KEPT_APART)
        return repr((self.weights.model, self.step, self.temperature, content))


def voices_of(runs: Sequence[Run], recipes: Sequence[Recipe], everybody: bool) -> Places:
    """The teachers; every run's own best networks where there are none, or where everybody is asked.

    Raises:
        Mistake: a run has no trained weights, or two voices cannot be told apart by name.
    """
    told = list(zip(runs, recipes, strict=True))
    places = [place_of(run, recipe, teacher) for run, recipe in told for _, teacher in lessons(recipe)]
    if everybody or not places:
        places += [_place(run.path, None, model, 1.0) for run, recipe in told for model in recipe.trained()]
    by_key: dict[Key, Place] = {}
    for place in places:
        by_key.setdefault(place.key, place)
    short = [place.named(place.run.name) for place in by_key.values()]
    long = [place.named(f"{place.run.parent.name}:{place.run.name}") for place in by_key.values()]
    names = [one if short.count(one) == 1 else other for one, other in zip(short, long, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise Mistake(f"dark_knowledge: two voices are called '{name}'; expected runs of different names")
    return {key: place.voice(name) for name, (key, place) in zip(names, by_key.items(), strict=True)}


def pupils_of(runs: Sequence[Run], recipes: Sequence[Recipe], places: Places) -> dict[Lesson, Pupil]:
    """Each student's last network, whose mIoU its run tells last, and its voice."""
    found: dict[Lesson, Pupil] = {}
    for run, recipe in zip(runs, recipes, strict=True):
        for model, teacher in lessons(recipe):
            own, voice = weights(run.path, model, "last"), places[place_of(run, recipe, teacher).key]
            name = run.name if recipe.trained() == [model] else f"{run.name} · {model}"
            found[str(run.path), model, voice.name] = Pupil(name, own, own.digest(), voice)
    return found


def lessons(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(student, frozen teacher) wherever one learns from the other's weights."""
    for model in recipe.trained():
        asked = [edge.node("target") for edge in recipe.losses.values() if edge.node("student") == model]
        for teacher in dict.fromkeys(asked):
            spec = recipe.models.get(teacher)
            if spec is not None and spec.frozen and spec.weights is not None:
                yield model, teacher


def place_of(run: Run, recipe: Recipe, teacher: str) -> Place:
    """Of a frozen model of a run; its weights are looked for beside the run where there is no such path here.

    Raises:
        Mistake: they are nowhere.
    """
    spec = recipe.models[teacher]
    assert spec.weights is not None
    if isinstance(spec.temperature, str):
        raise Mistake(f"{run.recipe_file}: models.{teacher}.temperature: a finished run has a number there")
    path, step = run_and_step(spec.weights)
    if not path.exists() and (moved := run.path.parent / path.name).exists():
        path = moved
    return _place(path, step, teacher, 1.0 if spec.temperature is None else spec.temperature)


def _place(path: Path, step: int | None, model: str, temperature: float) -> Place:
    """A run that trained several models gives the one of the same name."""
    several = path.is_dir() and len(networks(Run(path).require())) > 1
    said = path if step is None else path.with_name(f"{path.name}@step-{step}")
    return Place(weights(said, model if several else None), temperature, path, step)


def loss_temperature(student: Result, teacher: str) -> float | None:
    """Of the first loss with one between a student and a teacher; None where none has any."""
    for name, edge in student.recipe.losses.items():
        if edge.node("student") == student.model and edge.node("target") == teacher:
            part = parts.find("losses", edge.kind or name, f"losses.{name}.kind")
            said = parts.settings(part, edge.parameters, f"losses.{name}").get("temperature")
            if isinstance(said, int | float):
                return float(said)
    return None

"""Who is who among the runs: the teacher, the same network without distillation, the distilled student."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segdistill.recipe import LABELS, ModelSpec, Recipe
from segdistill.recipe import read as read_recipe
from segdistill.run import Run
from segdistill.types import Findings

Role = Literal["teacher", "baseline", "distilled", "supervised", "average"]
"""What a model is to the others; `supervised` is one that learnt from labels and is nobody's teacher or baseline."""

ORDER: tuple[Role, ...] = ("teacher", "baseline", "distilled", "average", "supervised")
KEPT_APART = ("seed", "log", "checkpoint", "probes")
"""Keys of a recipe that may differ between runs of one experiment."""


class Reading(NamedTuple):
    """A run directory, read once."""

    run: Run
    recipe: Recipe
    info: dict[str, Any]
    log: list[dict[str, float]]
    measured: Findings
    speed: Findings
    predictions: Findings

    @property
    def last_step(self) -> int:
        return int(max((line["step"] for line in self.log), default=0))


class Contender(NamedTuple):
    """One trained (or teaching) network of a run."""

    reading: Reading
    model: str
    role: Role

    @property
    def name(self) -> str:
        """The run's name, and the model's where the run has more than one to show."""
        alone = self.reading.recipe.trained() == [self.model]
        return self.reading.run.name if alone else f"{self.reading.run.name} · {self.model}"

    @property
    def spec(self) -> ModelSpec:
        return self.reading.recipe.models[self.model]

    def measured(self, name: str) -> float | None:
        return self.reading.measured.numbers.get(f"{self.model}/{name}")

    def cost(self, name: str) -> float | None:
        return self.reading.speed.numbers.get(f"{self.model}/{name}")

    def history(self) -> list[tuple[int, float]]:
        """(step, mIoU) of every validation."""
        key = f"measure/{self.model}/mean_iou"
        return [(int(line["step"]), line[key]) for line in self.reading.log if key in line]

    def classes(self) -> dict[str, tuple[float | None, float | None]]:
        """Class -> (IoU, share of the labelled pixels); None where a class is absent."""
        table = self.reading.measured.tables.get(self.model)
        if table is None:
            return {}
        place = {column: index for index, column in enumerate(table.columns)}
        return {
            str(row[place["class"]]): (_number(row[place["iou"]]), _number(row[place["frequency"]]))
            for row in table.rows
        }


class Group(NamedTuple):
    """The seeds of one experiment."""

    members: Sequence[Contender]

    @property
    def first(self) -> Contender:
        return self.members[0]

    @property
    def role(self) -> Role:
        return self.first.role

    @property
    def name(self) -> str:
        return self.first.name if len(self.members) == 1 else f"{self.first.name} ({len(self.members)} seeds)"

    def mean(self, name: str) -> float | None:
        values = [value for member in self.members if (value := member.measured(name)) is not None]
        return statistics.fmean(values) if values else None

    def spread(self) -> float:
        """Standard deviation of the mIoU over seeds; 0 for one."""
        values = [value for member in self.members if (value := member.measured("mean_iou")) is not None]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def class_iou(self, label: str) -> float | None:
        values = [
            value for member in self.members if (value := member.classes().get(label, (None, None))[0]) is not None
        ]
        return statistics.fmean(values) if values else None


def read(run: Run) -> Reading:
    """Everything the report needs of a run; a run that was cut short has less."""
    run.require()
    nothing = Findings()
    return Reading(
        run,
        read_recipe(run.recipe_file),
        run.info() if run.info_file.exists() else {},
        run.log(),
        run.last_findings("measure") or nothing,
        run.last_findings("speed") or nothing,
        run.last_findings("predictions") or nothing,
    )


def cast(readings: Sequence[Reading]) -> list[Group]:
    """The contenders of all runs by role, seeds together; the best first within a role."""
    contenders = [contender for reading in readings for contender in _trained(reading, readings)]
    contenders += _teachers_from_elsewhere(readings)
    learnt = [architecture(c) for c in contenders if c.role == "distilled"]
    contenders = [
        c._replace(role="baseline") if c.role == "supervised" and architecture(c) in learnt else c for c in contenders
    ]
    groups: dict[str, list[Contender]] = {}
    for contender in contenders:
        groups.setdefault(_experiment(contender), []).append(contender)
    return sorted(
        map(Group, groups.values()), key=lambda group: (ORDER.index(group.role), -(group.mean("mean_iou") or 0))
    )


def teaches(reading: Reading, student: Recipe) -> bool:
    """Whether a recipe's frozen weights are this run's."""
    return any(
        spec.frozen and spec.weights and _is_of(Path(spec.weights), reading.run) for spec in student.models.values()
    )


def architecture(contender: Contender) -> tuple[str | None, str]:
    """What makes two models the same network."""
    return contender.spec.kind, json.dumps(contender.spec.parameters, sort_keys=True)


def _trained(reading: Reading, everybody: Sequence[Reading]) -> list[Contender]:
    recipe = reading.recipe
    is_teacher = any(teaches(reading, other.recipe) for other in everybody if other is not reading)
    asked = {edge.node("target") for edge in recipe.losses.values()}
    found: list[Contender] = []
    for name in recipe.trained():
        targets = {edge.target for edge in recipe.losses.values() if edge.node("student") == name}
        role: Role = "supervised" if targets == {LABELS} else "distilled"
        if is_teacher or (role == "supervised" and name in asked):
            role = "teacher"
        found.append(Contender(reading, name, role))
    followers = [name for name, spec in recipe.models.items() if spec.follows is not None]
    averages = [Contender(reading, name, "average") for name in followers]
    return found + [contender for contender in averages if contender.measured("mean_iou") is not None]


def _teachers_from_elsewhere(readings: Sequence[Reading]) -> list[Contender]:
    """Frozen teachers whose own run is not here, but that a student's run measured; each once."""
    found: dict[str, Contender] = {}
    for reading in readings:
        for name, spec in reading.recipe.models.items():
            here = spec.weights and any(_is_of(Path(spec.weights), other.run) for other in readings)
            contender = Contender(reading, name, "teacher")
            if spec.frozen and spec.weights and not here and contender.measured("mean_iou") is not None:
                found.setdefault(spec.weights, contender)
    return list(found.values())


def _is_of(weights: Path, run: Run) -> bool:
    """Weights name a run or a file in it; a run that was moved keeps its name."""
    absolute = weights.resolve()
    return run.path.resolve() in (absolute, *absolute.parents) or weights.name == run.name


def _experiment(contender: Contender) -> str:
    recipe = contender.reading.recipe.model_dump(mode="json", exclude=set(KEPT_APART))
    return json.dumps([contender.role, contender.model, recipe], sort_keys=True)


def _number(cell: object) -> float | None:
    return float(cell) if isinstance(cell, int | float) else None

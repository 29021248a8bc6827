"""What the finished runs of a study say: a row for each network of each arm, each run and each class, and a verdict.

Gains are of the last weights, against the baseline's network of the same architecture, paired by seed and by image. The
best weights were picked on the very images that they are measured on: their gains stand beside and decide nothing.
"""

import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, final

import numpy as np

from segdistill import parts
from segdistill.assemble import run_and_step
from segdistill.gains import DRAWS, Scores, Verdict, class_ious, draw, mean_iou, verdict
from segdistill.intervals import ERROR, Ratio
from segdistill.mistakes import Mistake, one_of
from segdistill.recipe import Recipe, read
from segdistill.run import Run
from segdistill.study import Job
from segdistill.types import Cell, Findings, Table

ARMS = (
    *("arm", "network", "seeds", "mIoU %", "±", "gain", "± gain", "verdict", "recovered %", "from %", "to %"),
    *("best mIoU %", "best gain", "± best gain", "minutes", "teacher %"),
)
RUNS = ("arm", "network", "seed", "mean_iou", "best_mean_iou", "seconds", "teacher_share", "run", "command")
CLASSES = ("arm", "network", "class", "seeds", "IoU %", "±", "gain", "± gain")
MEASURES = ("arm", "network", "measure", "seeds", "value", "±", "gain", "± gain")
Which = Literal["last", "best"]
NOTHING = (None, None)
WHICH: tuple[Which, Which] = ("last", "best")


class Look(NamedTuple):
    """What the probe measure found of a network at one step."""

    mean_iou: float
    ious: Mapping[str, float | None]
    """By class, in their order; None where it is nowhere."""
    images: np.ndarray | None
    """Counts of pixels, uint32 [images, 3, K], where the run kept them."""
    measures: Mapping[str, float]
    """What else is known of it, in units of its own: shares of pixels, nats."""
    shares: Mapping[str, float]
    """By class, of the labelled pixels."""


class Result(NamedTuple):
    """A network of a run."""

    looks: Mapping[Which, Look]
    seconds: float
    teacher_share: float | None
    """Of the time of the steps."""


class Gain(NamedTuple):
    """In mIoU over the baseline, of the last weights, in points."""

    arm: str
    network: str
    verdict: str | None
    mean: float
    half: float | None
    """Of the 95 % interval."""
    by_seed: Mapping[int, float]


class Told(NamedTuple):
    """All that can be said of a study."""

    baseline: str | None
    sentences: Sequence[str]
    arms: Table
    runs: Table
    classes: Table
    measures: Table
    gains: Sequence[Gain]
    shares: Mapping[str, float]
    """By class, of the labelled pixels that the first arm was measured on."""
    teachers: Mapping[str, Sequence[str]]
    """The arms that wait for each."""


class Standing(NamedTuple):
    """A network of an arm, or of a teacher's run."""

    arm: str
    network: str
    jobs: Sequence[Job]
    """A run for each seed."""
    recipe: Recipe
    """Of the first, with every default."""
    by_seed: Mapping[int, Result]


def results(job: Job) -> dict[str, Result]:
    """Of the networks of a finished run that changed in it: those that learned, and their moving averages.

    Raises:
        Mistake: the probe measure did not look at them.
    """
    run = Run(job.run)
    found = list(run.findings("measure"))
    if not found:
        raise Mistake(f"{job.run}: it has no findings of the probe measure, which a comparison is made of")
    told: dict[str, Result] = {}
    for name in (name for name, spec in job.recipe.models.items() if not spec.frozen):
        best = max(found, key=lambda each: each[1].numbers[f"{name}/mean_iou"])
        looks: dict[Which, Look] = {"last": _look(run, name, *found[-1]), "best": _look(run, name, *best)}
        told[name] = Result(looks, float(run.info().get("seconds", 0.0)), _teacher_share(run, job.recipe))
    return told


def _look(run: Run, network: str, step: int, found: Findings) -> Look:
    table = found.tables[network]
    iou = list(table.columns).index("iou")
    ious = {str(row[0]): float(value) if isinstance(value := row[iou], int | float) else None for row in table.rows}
    share = list(table.columns).index("frequency")
    shares = {str(row[0]): float(value) for row in table.rows if isinstance(value := row[share], int | float)}
    own = {
        key.removeprefix(f"{network}/"): value for key, value in found.numbers.items() if key.startswith(f"{network}/")
    }
    # No measure of the network, but of what was left out of its mean.
    measures = {
        key: value for key, value in own.items() if key not in ("mean_iou", "absent_classes") and value == value
    }
    return Look(own["mean_iou"], ious, run.by_image(step).get(network), measures, shares)


def _teacher_share(run: Run, recipe: Recipe) -> float | None:
    if not any(spec.frozen or spec.follows for spec in recipe.models.values()):
        return None  # nobody is asked; the stopwatch has a few microseconds
    lines = [line for line in run.log() if "seconds/teacher" in line]
    whole = sum(line["seconds_per_step"] for line in lines)
    return sum(line["seconds/teacher"] for line in lines) / whole if whole else None


@final
class Standings:
    """Of a study whose runs are all finished."""

    def __init__(self, todo: Sequence[Job], baseline: str | None) -> None:
        self.found: list[Standing] = []
        runs: dict[str, list[Job]] = {}
        for job in todo:
            runs.setdefault(job.arm or job.name, []).append(job)
        for arm, jobs in runs.items():
            by_job = [(job.recipe.seed, results(job)) for job in jobs]
            recipe = read(Run(jobs[0].run).recipe_file)
            for network in by_job[0][1]:
                by_seed = {seed: told[network] for seed, told in by_job}
                self.found.append(Standing(arm, network, jobs, recipe, by_seed))
        self.baseline = baseline
        self.truth = self._truth()
        """[images, K] of labelled pixels, where every arm was measured on the same images and these were counted."""
        self.drawn = None if self.truth is None else draw(len(self.truth))
        self.scores: dict[tuple[str, str, str], Scores] = {
            (each.arm, each.network, which): self._scores({s: r.looks[which] for s, r in each.by_seed.items()})
            for each in self.found
            for which in WHICH
        }
        self.verdicts = self._verdicts()

    def told(self, folder: Path) -> Told:
        """Everything, for the study's folder."""
        teachers = [each.arm for each in self.found if each.jobs[0].arm is None]
        return Told(
            self.baseline,
            self.sentences(),
            self.arms(),
            self.runs(folder),
            self.classes(),
            self.measures(),
            self.gains(),
            next(
                (
                    r.looks["last"].shares
                    for each in self.found
                    if each.arm not in teachers
                    for r in each.by_seed.values()
                ),
                {},
            ),
            {name: [each.arm for each in self.found if name in each.jobs[0].needs] for name in teachers},
        )

    def arms(self) -> Table:
        """A row for each network of each arm: ARMS."""
        rows: list[list[Cell]] = []
        for each in self.found:
            last, best = (self.scores[each.arm, each.network, which].interval() for which in WHICH)
            gain, best_gain = (told.interval() if (told := self._gain(each, which)) else NOTHING for which in WHICH)
            recovered = self._recovered(each) or (None, None, None)
            share = [result.teacher_share for result in each.by_seed.values() if result.teacher_share is not None]
            rows.append(
                [each.arm, each.network, len(each.by_seed), *last, *gain, self._verdict(each)]
                + [None if value is None else 100 * value for value in recovered]
                + [best[0], *best_gain]
                + [statistics.fmean(result.seconds for result in each.by_seed.values()) / 60]
                + [100 * statistics.fmean(share) if share else None]
            )
        return Table(ARMS, rows)

    def runs(self, folder: Path) -> Table:
        """A row for each network of each run: RUNS; the command trains the run again, beside it."""
        rows: list[list[Cell]] = []
        for each in self.found:
            for job, result in zip(each.jobs, each.by_seed.values(), strict=True):
                ious = [result.looks[which].mean_iou for which in WHICH]
                told = [each.arm, each.network, job.recipe.seed, *ious, result.seconds, result.teacher_share]
                rows.append([*told, str(job.run), again(job, folder)])
        return Table(RUNS, rows)

    def classes(self) -> Table:
        """A row for each class of each network of each arm: CLASSES. By chance one gain in twenty is past its ±."""
        rows: list[list[Cell]] = []
        for each in self.found:
            reference = self._reference(each)
            others = self._by_class(reference) if reference else {}
            for label, own in self._by_class(each).items():
                gain = own - others[label] if label in others else None
                told = gain.interval() if gain and gain.by_seed else NOTHING
                mean = own.interval() if own.by_seed else NOTHING
                rows.append([each.arm, each.network, label, len(own.by_seed), *mean, *told])
        return Table(CLASSES, rows)

    def measures(self) -> Table:
        """A row for each network and each number that the probe measure found of it beside mIoU: MEASURES.

        Of the last weights; ± is over seeds alone, and by chance one gain in twenty is past it.
        """
        rows: list[list[Cell]] = []
        for each in self.found:
            reference = self._reference(each)
            others = _by_measure(reference) if reference else {}
            for measure, own in _by_measure(each).items():
                gain = own - others[measure] if measure in others else None
                told = gain.interval() if gain and gain.by_seed else NOTHING
                rows.append([each.arm, each.network, measure, len(own.by_seed), *own.interval(), *told])
        return Table(MEASURES, rows)

    def gains(self) -> list[Gain]:
        """Of whatever has a network of the baseline to be compared with, in the order of the arms."""
        found: list[Gain] = []
        for each in self.found:
            if (gain := self._gain(each, "last")) is not None:
                found.append(Gain(each.arm, each.network, self._verdict(each), *gain.interval(), gain.by_seed))
        return found

    def sentences(self) -> list[str]:
        """What the table says and what it cannot say."""
        told: list[str] = []
        for one in self.verdicts:
            parted = "; ".join(f"{what}: {one_of(names or ['none'])}" for what, names in _by_verdict(one).items())
            best = f"The best of all: {one.best}" if one.best else "Which arm is the best is not decided"
            told.append(f"Against {self.baseline}: {parted}. {best}.")
        if not told:
            told.append("No arm is ranked: there is no baseline, or nothing to compare with it.")
        if self.truth is None:
            told.append("± is 95 % over seeds alone: counts of the same single images are not there for every run.")
        else:
            told.append(f"± is 95 % over seeds and images ({DRAWS:,} draws of {len(self.truth):,} images).")
        fewest = min((len(each.by_seed) for each in self.found if each.jobs[0].arm is not None), default=0)
        if fewest == 2:
            told.append("Two seeds make wide intervals (t = 12.7; three have 4.3, five 2.8).")
        taught = [each for each in self.found if self._gap(each) is not None]
        if unknown := [self._name(each) for each in taught if self._recovered(each) is None]:
            told.append(
                f"What part of the gap to the teacher is recovered by {one_of(unknown)} cannot be said: "
                "the teacher is not ahead of the baseline by more than chance."
            )
        return told

    def _truth(self) -> np.ndarray | None:
        arms = [each for each in self.found if each.jobs[0].arm is not None]
        counts = [look.images for each in arms for r in each.by_seed.values() for look in r.looks.values()]
        known = [each[:, 1] for each in counts if each is not None]
        same = len(known) == len(counts) and all(np.array_equal(each, known[0]) for each in known)
        return known[0] if same and len(known[0]) > 1 else None

    def _drawn(self, looks: Mapping[int, Look]) -> dict[int, np.ndarray]:
        """By seed, the classes' IoU % in every draw of images; nothing where they are not the study's."""
        if self.truth is None or self.drawn is None:
            return {}
        counts = {seed: look.images for seed, look in looks.items() if look.images is not None}
        same = len(counts) == len(looks) and all(np.array_equal(each[:, 1], self.truth) for each in counts.values())
        return {seed: 100 * class_ious(each, self.drawn) for seed, each in counts.items()} if same else {}

    def _scores(self, looks: Mapping[int, Look]) -> Scores:
        drawn = {seed: mean_iou(ious) for seed, ious in self._drawn(looks).items()}
        return Scores({seed: 100 * look.mean_iou for seed, look in looks.items()}, drawn, self._count(drawn))

    def _by_class(self, each: Standing) -> dict[str, Scores]:
        looks = {seed: result.looks["last"] for seed, result in each.by_seed.items()}
        drawn = self._drawn(looks)
        found: dict[str, Scores] = {}
        for place, label in enumerate(next(iter(looks.values())).ious):
            known = {s: 100 * iou for s, look in looks.items() if (iou := look.ious.get(label)) is not None}
            found[label] = Scores(known, {s: ious[:, place] for s, ious in drawn.items()}, self._count(drawn))
        return found

    def _count(self, drawn: Mapping[int, np.ndarray]) -> int:
        return len(self.truth) if self.truth is not None and drawn else 0

    def _reference(self, each: Standing) -> Standing | None:
        """The baseline's network of the same architecture."""
        alike = [other for other in self.found if other.arm == self.baseline and _network(other) == _network(each)]
        return alike[0] if alike and each.arm != self.baseline else None

    def _gain(self, each: Standing, which: Which) -> Scores | None:
        reference = self._reference(each)
        if reference is None:
            return None
        gain = self.scores[each.arm, each.network, which] - self.scores[reference.arm, reference.network, which]
        return gain if gain.by_seed else None

    def _gap(self, each: Standing) -> Scores | None:
        """How far its teacher is ahead of the baseline; None where it has not one, of this study."""
        reference, gain = self._reference(each), self._gain(each, "last")
        frozen = [spec.weights for spec in each.recipe.models.values() if spec.frozen and spec.weights is not None]
        if reference is None or gain is None or len(frozen) != 1:
            return None
        place, step = run_and_step(frozen[0])
        mine = [one for one in self.found if one.jobs[0].run.resolve() == place.resolve()]
        if len(mine) != 1 or mine[0].arm not in each.jobs[0].needs:
            return None
        look = next(iter(mine[0].by_seed.values())).looks["best"]
        if step is not None:
            found = dict(Run(place).findings("measure"))
            if step not in found:
                return None
            look = _look(Run(place), mine[0].network, step, found[step])
        if self.truth is not None and look.images is not None and not np.array_equal(look.images[:, 1], self.truth):
            return None  # measured on other images
        teacher = self._scores({0: look}).same_for(gain.by_seed)
        return teacher - self.scores[reference.arm, reference.network, "last"]

    def _recovered(self, each: Standing) -> Ratio | None:
        gain, gap = self._gain(each, "last"), self._gap(each)
        return gain.over(gap) if gain is not None and gap is not None else None

    def _verdicts(self) -> list[Verdict]:
        """For each network of the baseline that others are compared with; any of them errs in 5 % of studies."""
        arms = [each for each in self.found if each.jobs[0].arm is not None]
        groups: list[list[Standing]] = []
        for base in (each for each in arms if each.arm == self.baseline):
            if others := [each for each in arms if self._reference(each) is base]:
                groups.append([base, *others])
        scores = [{self._name(one): self.scores[one.arm, one.network, "last"] for one in group} for group in groups]
        return [verdict(each, next(iter(each)), ERROR / len(groups)) for each in scores]

    def _verdict(self, each: Standing) -> str | None:
        told = [what for one in self.verdicts for what, names in _by_verdict(one).items() if self._name(each) in names]
        return told[0] if told else None

    def _name(self, each: Standing) -> str:
        """The arm's, with the network's where it has several that are compared."""
        alike = [other for other in self.found if other.arm == each.arm and (other is each or self._reference(other))]
        return each.arm if len(alike) == 1 else f"{each.arm} ({each.network})"


def _by_measure(each: Standing) -> dict[str, Scores]:
    looks = {seed: result.looks["last"].measures for seed, result in each.by_seed.items()}
    names = dict.fromkeys(name for measures in looks.values() for name in measures)
    return {name: Scores({seed: m[name] for seed, m in looks.items() if name in m}) for name in names}


def _by_verdict(one: Verdict) -> dict[str, list[str]]:
    return {"better": one.better, "worse": one.worse, "not decided": one.undecided}


def _network(each: Standing) -> tuple[str | None, Mapping[str, object]]:
    """What is alike of two networks of the same architecture."""
    spec = each.recipe.models[each.recipe.models[each.network].follows or each.network]
    return spec.kind, spec.parameters


def again(job: Job, folder: Path) -> str:
    """The command that trains a run once more to the same bits: in the folder `again`, from the working directory of
    the study, with as many threads."""
    threads = Run(job.run).info().get("threads")
    first = f"OMP_NUM_THREADS={threads} " if threads else ""
    plugins = [word for package in parts.allowed_plugins() for word in ("--plugin", package)]
    place = str(folder / "again" / job.name)
    train = ["segdistill", *plugins, "train", str(recipe_file(job, folder)), "--run", place]
    calibrate = ["segdistill", *plugins, "calibrate", place, "--split", job.calibrate or ""]
    said = [train, calibrate] if job.calibrate else [train]
    return " && ".join(first + shlex.join(words) for words in said)


def recipe_file(job: Job, folder: Path) -> Path:
    """What a run of a study is trained from."""
    return folder / "recipes" / job.run.parent.name / f"{job.run.name}.yaml"

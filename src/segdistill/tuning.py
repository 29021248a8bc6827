"""Settings of every arm of a study are sought before it is trained: as many trials for each, the baseline's among them.

A trial is a run of one seed that is no seed of the arms. The first has the values of the recipe; then Optuna proposes
(Akiba et al. 2019, https://arxiv.org/abs/1907.10902; tree-structured Parzen estimator, Bergstra et al. 2011), and stops
a trial whose mean IoU is below the median of the earlier ones at that step; it counts as a trial. `tuning.db` in the
study's folder keeps them.
"""

import importlib.util
import json
import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, final

from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.recipe import DataSpec, Recipe, flat
from segdistill.run import Run, writing
from segdistill.study import Job, Ranges, RangeSpec, StudySpec, TuneSpec, trial
from segdistill.types import Cell, Table

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

DRAWN = 4
"""Trials of an arm before the estimator proposes and the median stops anything."""
DIGITS = 3
"""Of a proposed value that are used."""
EDGE = 0.05
"""Of a range, on its scale: a value this near to an end may have a better one beyond."""
TRIALS = ("arm", "trial", "state", "step", "mIoU %", "chosen")


@final
class Tuning:
    """The trials of a study, of which each arm has one after the other."""

    def __init__(self, study: StudySpec, tune: TuneSpec, beside: Path, folder: Path) -> None:
        """
        Raises:
            Mistake: Optuna is not installed; an arm's recipe has no such setting, or a value of its own out of the
                range.
        """
        self.study, self.tune, self.beside, self.folder = study, tune, beside, folder
        self.ranges: dict[str, Ranges] = {name: tune.ranges | arm.tune for name, arm in study.everything().items()}
        self.written = {arm: self._written(arm) for arm in self.ranges}
        """By arm, the values of its recipe."""
        self.optuna = _optuna()
        self.of: dict[str, Study] = {}
        """By arm, what Optuna knows of its trials."""

    def open(self) -> None:
        """The trials that there are, of `tuning.db`; before anything else.

        Raises:
            Mistake: they were within other ranges.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.storage = self.optuna.storages.RDBStorage(f"sqlite:///{self.folder / 'tuning.db'}")
        self.of = {arm: self._open(arm) for arm in self.ranges}

    def jobs(self) -> list[Job]:
        """The trials that there are already, done or not."""
        return [
            self._job(arm, each)
            for arm, ranges in self.ranges.items()
            for each in self._trials(arm)
            if each.params.keys() >= ranges.keys()
        ]

    def next_round(self) -> list[Job]:
        """A trial of every arm that has had too few; the one that was stopped in the middle goes on."""
        found: list[Job] = []
        for arm, study in self.of.items():
            trials = self._trials(arm)
            going = next((each for each in trials if not each.state.is_finished()), None)
            if going is None and len(trials) == self.tune.trials:
                continue
            number = len(trials) if going is None else going.number
            # From the arm and the number alone: a study that was killed proposes what it would have.
            seed = zlib.crc32(f"{arm}/{number}".encode())
            study.sampler = self.optuna.samplers.TPESampler(n_startup_trials=DRAWN, seed=seed)
            if number == 0 and going is None:
                study.enqueue_trial(self.written[arm])
            waits = going is None or going.state == self.optuna.trial.TrialState.WAITING
            asked = study.ask() if waits else self._trial(arm, number)
            for key, sought in self.ranges[arm].items():
                if sought.choices:
                    asked.suggest_categorical(key, sought.choices)
                elif sought.low is not None and sought.high is not None:
                    asked.suggest_float(key, sought.low, sought.high, log=True)
            found.append(self._job(arm, study.trials[number]))
        return found

    def hopeless(self, job: Job) -> bool:
        """Whether a running trial is to be stopped; if so, it is done."""
        arm, number = _whose(job)
        trial = self._trial(arm, number)
        told = self.of[arm].trials[number].intermediate_values
        for step, found in Run(job.run).findings("measure"):
            if step in told or step >= job.recipe.steps:
                continue
            trial.report(found.numbers[f"{self.tune.network}/mean_iou"], step)
            if trial.should_prune():
                self.of[arm].tell(number, state=self.optuna.trial.TrialState.PRUNED)
                return True
        return False

    def end(self, job: Job) -> None:
        """What a trial that has ended has found; `hopeless` may have ended it."""
        arm, number = _whose(job)
        if self.of[arm].trials[number].state.is_finished() or self.hopeless(job):
            return
        last = Run(job.run).last_findings("measure")
        if Run(job.run).info().get("finished") != job.recipe.steps or last is None:  # it was not finite any more
            self.of[arm].tell(number, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.of[arm].tell(number, last.numbers[f"{self.tune.network}/mean_iou"])

    def chosen(self) -> dict[str, dict[str, Any]]:
        """By arm, the settings of its best trial.

        Raises:
            RuntimeError: all trials of an arm failed.
        """
        return {arm: self._values(arm, self._best(arm)) for arm in self.of}

    def table(self) -> Table:
        """A row for each trial: TRIALS, then a column for each setting."""
        keys = list(dict.fromkeys(key for ranges in self.ranges.values() for key in ranges))
        rows: list[list[Cell]] = []
        for arm in self.of:
            best = self._best(arm).number
            for each in self._trials(arm):
                values = self._values(arm, each)
                steps = [step for step, _ in Run(self._job(arm, each).run).findings("measure")]
                told: list[Cell] = [arm, each.number, each.state.name.lower(), max(steps, default=0)]
                told += [None if each.value is None else 100 * each.value, "yes" if each.number == best else "no"]
                rows.append([*told, *(_cell(values.get(key)) for key in keys)])
        return Table((*TRIALS, *keys), rows)

    def sentences(self, measured: Collection[str]) -> list[str]:
        """What was chosen and how, and what speaks against it.

        Args:
            measured: the splits of which the comparison speaks.
        """
        judged = {self._job(arm, self._best(arm)).recipe.data.validate_on for arm in self.of}
        many = f"{self.tune.trials} trial{'s' * (self.tune.trials > 1)} of every arm"
        by = f"seed {self.tune.seed}, mean IoU of {self.tune.network} on {one_of(sorted(judged))}"
        told = [f"Settings were chosen by {many} ({by}): tuning.csv."]
        if judged & {*measured}:
            told.append(
                "The table is measured on the images that settings were chosen by: tune.set can name another split."
            )
        if seen := [arm for arm in self.of if self._data(arm).validate_on == self._data(arm).train]:
            told.append(f"Trials of {one_of(seen)} were judged on the images that they were trained on.")
        for arm, values in self.chosen().items():
            told.append(f"{arm}: {one_of(self._told(arm, key, value) for key, value in values.items())}.")
            for key, sought in self.ranges[arm].items():
                if sought.low is None or sought.high is None:
                    continue
                place = math.log(values[key] / sought.low) / math.log(sought.high / sought.low)
                if not EDGE <= place <= 1 - EDGE:
                    ends = f"[{sought.low:g}, {sought.high:g}]"
                    told.append(f"{arm}: {key} {values[key]:g} is near an end of {ends}; a better one may lie beyond.")
        return told

    def _data(self, arm: str) -> DataSpec:
        """Of its trials."""
        return self._job(arm, self._best(arm)).recipe.data

    def _told(self, arm: str, key: str, value: Any) -> str:
        written = self.written[arm].get(key)
        before = "as in its recipe" if written == value else f"its recipe: {written}" if written is not None else ""
        return f"{key} {value}" + (f" ({before})" if before else "")

    def _written(self, arm: str) -> dict[str, Any]:
        job = trial(self.study, self.beside, self.folder, arm, 0, {})
        if self.tune.network not in job.recipe.trained():
            trained = one_of(job.recipe.trained())
            raise Mistake(f"tune.network: {arm} does not train '{self.tune.network}'; it trains {trained}")
        for key, sought in self.ranges[arm].items():
            _need_place(arm, key, job.recipe)
            for value in sought.choices or (sought.low, sought.high):
                trial(self.study, self.beside, self.folder, arm, 0, {key: value})
        said = flat(job.recipe)
        found = {key: said[key] for key in self.ranges[arm] if key in said}
        for key, value in found.items():
            if not _within(value, self.ranges[arm][key]):
                raise Mistake(f"tune: {arm} has {key} {value}, which is {_not_of(self.ranges[arm][key])}")
        return found

    def _open(self, arm: str) -> "Study":
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=DRAWN)
        study = self.optuna.create_study(
            storage=self.storage, study_name=arm, direction="maximize", pruner=pruner, load_if_exists=True
        )
        now = json.dumps({key: each.model_dump(mode="json") for key, each in self.ranges[arm].items()}, sort_keys=True)
        before = study.user_attrs.get("ranges", now)
        if before != now:
            told = f"{arm} was tuned within other ranges; delete it, trials and arms, or use --out"
            raise Mistake(f"{self.folder / 'tuning.db'}: {told}")
        study.set_user_attr("ranges", now)
        return study

    def _trials(self, arm: str) -> "Sequence[FrozenTrial]":
        return self.of[arm].trials[: self.tune.trials]

    def _trial(self, arm: str, number: int) -> "Trial":
        study = self.storage.get_study_id_from_name(arm)
        place = self.storage.get_trial_id_from_study_id_trial_number(study, number)
        return self.optuna.trial.Trial(self.of[arm], place)

    def _values(self, arm: str, trial: "FrozenTrial") -> dict[str, Any]:
        return {key: _rounded(trial.params[key]) for key in self.ranges[arm]}

    def _job(self, arm: str, each: "FrozenTrial") -> Job:
        return trial(self.study, self.beside, self.folder, arm, each.number, self._values(arm, each))

    def _best(self, arm: str) -> "FrozenTrial":
        found = [each for each in self._trials(arm) if each.value is not None and each.state.name == "COMPLETE"]
        if not found:
            raise RuntimeError(f"{arm}: none of its {self.tune.trials} trials came to its end; see {self.folder}/logs")
        return max(found, key=lambda each: (each.value or 0.0, -each.number))


def _optuna() -> ModuleType:
    if importlib.util.find_spec("optuna") is None:
        raise Mistake("tune: needs Optuna; pip install 'segdistill[tune]'")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _whose(job: Job) -> tuple[str, int]:
    arm, _, number = job.run.name.rpartition("-")
    return arm, int(number)


def _within(value: object, sought: RangeSpec) -> bool:
    if sought.choices:
        return value in sought.choices
    low, high = sought.low or 0.0, sought.high or 0.0
    return isinstance(value, int | float) and low <= value <= high


def _not_of(sought: RangeSpec) -> str:
    return (
        f"none of {one_of(map(str, sought.choices))}" if sought.choices else f"not in [{sought.low:g}, {sought.high:g}]"
    )


def _need_place(arm: str, key: str, recipe: Recipe) -> None:
    """A setting of a loss, model or probe that there is not would make one."""
    shelf, _, rest = key.partition(".")
    there: Mapping[str, object] = {"losses": recipe.losses, "models": recipe.models, "probes": recipe.probes}.get(
        shelf, {}
    )
    name = rest.partition(".")[0]
    if there and name not in there:
        own = f"; what one arm alone has stands in arms.{arm}.tune" if shelf == "losses" else ""
        raise Mistake(f"tune: {arm} has no {shelf}.{name}; it has {one_of(there)}{nearest(name, there)}{own}")


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else str(value)

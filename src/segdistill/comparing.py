"""`compare`: every run of a study, one after another or several at once; then a table of what each arm is worth.

The folder written: `teachers/<name>` and `arms/<arm>-<seed>` (run directories), `recipes/` (what each was trained
from), `logs/`, `comparison.html`, `comparison.csv` (arms), `runs.csv`, `classes.csv`, `measures.csv`, `verdict.txt`,
and a folder for each analysis. A second call goes on where the first was stopped; what is finished is not trained
again.
"""

import csv
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, final

from segdistill import parts
from segdistill.analysing import PAGES, analyse
from segdistill.assemble import load, open_split, weights
from segdistill.checkpoint import digest, read_temperature
from segdistill.mistakes import Mistake
from segdistill.recipe import differences, dump, read
from segdistill.reporting import comparison
from segdistill.run import Run, write_text
from segdistill.standings import Standings, recipe_file, results
from segdistill.study import Job, jobs, read_study
from segdistill.tuning import Tuning
from segdistill.types import Table
from segdistill.watching import Watch

LOOK = 0.25
"""Seconds between two looks at what is running."""


class Compared(NamedTuple):
    table: Table
    """A row for each network of each arm: last weights, 95 % intervals over seeds and images, gains paired by both."""
    sentences: Sequence[str]
    """What differs from the baseline, what is not decided, and what the intervals are over."""
    folder: Path
    pages: Sequence[Path]
    """Those of the analyses, and at the end the study's own."""


def compare(study: Path | str, out: Path | None = None, *, settings: Sequence[str] = (), at_once: int = 1) -> Compared:
    """Train whatever a study names and is not finished, then compare.

    Args:
        study: a YAML file; `segdistill.study` says what stands in it.
        out: the folder; default `runs/<name of the study>`.
        settings: overrides of the study, such as `seeds=[0,1]` or `set.data.root=…`.
        at_once: runs beside each other; each has its share of the processor's threads.

    Raises:
        Mistake: before anything is trained, whatever in the study or its recipes does not fit.
        RuntimeError: some runs failed; the others are finished.
    """
    if at_once < 1:
        raise Mistake(f"jobs: expected 1 or more, got {at_once}")
    file = Path(study)
    folder = out or Path("runs") / file.stem
    spec = read_study(file, settings)
    todo = jobs(spec, file.parent, folder)
    for kind in spec.analyses:
        parts.find("analyses", kind, "analyses")
    for job in todo:
        if "measure" not in job.recipe.probes:
            raise Mistake(f"{job.name}: probes: a comparison is made of what the probe measure finds; add it")
    _need_data(todo)
    tuning = None if spec.tune is None else Tuning(spec, spec.tune, file.parent, folder)
    with Run(folder).held():
        trials = len(spec.everything()) * spec.tune.trials if spec.tune is not None else 0
        work = _Work(folder, at_once, len(todo) + trials)
        if tuning is not None:
            _tune(tuning, work, [job for job in todo if job.arm is None])
            todo = jobs(spec, file.parent, folder, tuning.chosen())
            write_text(folder / "tuning.csv", _csv(tuning.table()))
        work.run(todo)
    _need_their_teachers(todo)
    told = Standings(todo, spec.baseline).told(folder)
    if tuning is not None:
        measured = {job.recipe.data.validate_on for job in todo if job.arm is not None}
        told = told._replace(sentences=[*told.sentences, *tuning.sentences(measured)])
    tables = {"comparison": told.arms, "runs": told.runs, "classes": told.classes, "measures": told.measures}
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", _csv(table))
    write_text(folder / "verdict.txt", "\n".join(told.sentences) + "\n")
    beside = {kind: f"{kind}/{kind}.html" for kind in spec.analyses if kind in PAGES}  # written now: those take long
    write_text(folder / "comparison.html", comparison.page(told, file.stem, folder, comparison.facts(todo), beside))
    runs = [job.run for job in todo if job.arm is not None] + [job.run for job in todo if job.arm is None]
    pages = [analyse(kind, runs, folder / kind).page for kind in spec.analyses]
    return Compared(told.arms, told.sentences, folder, [*pages, folder / "comparison.html"])


def _tune(tuning: Tuning, work: "_Work", teachers: Sequence[Job]) -> None:
    """The trials of every arm, after the teachers that they need."""
    tuning.open()
    for job in tuning.jobs():
        _write_recipe(job, work.folder)
    work.run(teachers)
    while trials := tuning.next_round():
        _need_data(trials)
        work.run(trials, hopeless=tuning.hopeless)
        for job in trials:
            tuning.end(job)


def _need_data(todo: Sequence[Job]) -> None:
    """What every run would find out for itself, one after the other.

    Raises:
        Mistake: a split of some run is not there.
    """
    seen: set[str] = set()
    for job in todo:
        data = job.recipe.data
        for split in (data.train, data.validate_on):
            if (said := f"{split} of {data.model_dump_json()}") not in seen:
                try:
                    open_split(data, split)
                except Mistake as mistake:
                    raise Mistake(f"{job.name}: {mistake}") from mistake
            seen.add(said)


def _write_recipe(job: Job, folder: Path) -> None:
    """What the run is trained from, which must be what it was trained from so far."""
    file = recipe_file(job, folder)
    if file.exists() and Run(job.run).begun():
        for key, (before, now) in differences(read(file), job.recipe).items():
            if isinstance(before, str) and isinstance(now, str) and Path(before).resolve() == Path(now).resolve():
                continue  # the same place, called otherwise
            told = f"was trained with {key} {before}, and the study says {now}"
            raise Mistake(f"{job.run}: {told}; delete it, or use --out")
        return
    write_text(file, dump(job.recipe))


def _log_file(job: Job, folder: Path) -> Path:
    return folder / "logs" / job.run.parent.name / f"{job.run.name}.log"


def _need_their_teachers(todo: Sequence[Job]) -> None:
    """An arm that learned from what a teacher was before it was trained, or calibrated, again is no arm of the study.

    Raises:
        Mistake: there is one.
    """
    for job in todo:
        told = Run(job.run).info().get("fingerprints", {})
        saved = read(Run(job.run).recipe_file)
        for name, spec in job.recipe.models.items():
            if not job.needs or spec.weights is None or not spec.frozen:
                continue
            changed = told.get(name) != digest(load(spec.weights))
            if spec.temperature == "calibrated":
                now = read_temperature(weights(spec.weights)).temperature
                changed = changed or saved.models[name].temperature != now
            if changed:
                raise Mistake(f"{job.run}: learned from another {name} than {spec.weights} is now; delete the run")


@final
class _Work:
    """Runs as processes: what waits, what runs, what is done."""

    def __init__(self, folder: Path, at_once: int, total: int) -> None:
        self.folder, self.at_once, self.total = folder, at_once, total
        self.waiting: list[Job] = []
        self.running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.asked: dict[str, Sequence[str]] = {}
        """The latest command of each."""
        self.hopeless: Callable[[Job], bool] = _never

    def run(self, todo: Sequence[Job], hopeless: Callable[[Job], bool] | None = None) -> None:
        """These, where they are not done, until nothing can go on.

        Args:
            hopeless: whether a running one is to be stopped before its end.

        Raises:
            RuntimeError: some failed.
            KeyboardInterrupt: after the running ones have written their checkpoints.
        """
        self.waiting = [job for job in todo if job.name not in self.done]
        self.hopeless = hopeless or _never
        for job in self.waiting:
            _write_recipe(job, self.folder)
        heeded = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            heeded.append(signal.SIGHUP)
        main = threading.current_thread() is threading.main_thread()
        before = {each: signal.signal(each, signal.default_int_handler) for each in heeded if main}
        try:
            with Watch() as watch:
                while self.waiting or self.running:
                    self._start()
                    running = [job for job, _ in self.running.values()]
                    watch.look(running, len(self.done), len(self.waiting), len(self.failed))
                    if self.running:
                        time.sleep(LOOK)
                    self._look()
        finally:
            for _, process in self.running.values():  # there are none, unless this was interrupted
                process.send_signal(signal.SIGTERM)  # a program in the background may have been told to ignore SIGINT
            for _, process in self.running.values():
                process.wait()
            for each, handler in before.items():
                signal.signal(each, handler)
        if self.failed:
            told = "; ".join(f"{name}: {why}" for name, why in list(self.failed.items())[:3])
            raise RuntimeError(f"{len(self.failed)} of {self.total} runs failed: {told}; see {self.folder / 'logs'}")

    def _start(self) -> None:
        for job in [*self.waiting]:
            broken = job.needs & set(self.failed)
            if broken:
                self.waiting.remove(job)
                self.failed[job.name] = f"{min(broken)} failed"
            elif job.needs <= self.done:
                command = _command(job, self.folder)
                if command is None:
                    self.waiting.remove(job)
                    self._end(job)
                elif len(self.running) < self.at_once:
                    self.waiting.remove(job)
                    print(f"{job.name}: begins; its log: {_log_file(job, self.folder)}", file=sys.stderr)
                    self.running[job.name] = (job, self._process(job, command))

    def _process(self, job: Job, command: Sequence[str]) -> subprocess.Popen[bytes]:
        assert self.asked.get(job.name) != command, f"{job.name}: it ended well and is not finished"
        self.asked[job.name] = command
        log = _log_file(job, self.folder)
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = str(max(1, (os.cpu_count() or 1) // self.at_once))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        with log.open("ab") as output:
            # A session of its own: a Ctrl-C at the terminal reaches it once, from us.
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)

    def _look(self) -> None:
        for job, process in [*self.running.values()]:
            code = process.poll()
            if code is None and self.hopeless(job):
                process.send_signal(signal.SIGTERM)
                process.wait()
                code = 0
                self._end(job, " (stopped: below the median of its arm's trials)")
            elif code is None:
                continue
            del self.running[job.name]
            if job.name in self.done:
                continue
            if code == 0:
                self.waiting.insert(0, job)  # it may have a second command
            elif code == 1 and job.is_trial and Run(job.run).skipped_file.exists():
                self._end(job, " (not finite any more)")
            elif code in (130, -signal.SIGTERM):
                raise KeyboardInterrupt
            else:
                killed = f"killed by {signal.Signals(-code).name}" if code < 0 else ""
                self.failed[job.name] = killed or _last_words(_log_file(job, self.folder))
                print(f"{job.name}: failed: {self.failed[job.name]}", file=sys.stderr)

    def _end(self, job: Job, why: str = "") -> None:
        self.done.add(job.name)
        measured = results(job) if any(Run(job.run).findings("measure")) else {}
        scores = ", ".join(f"{name} {100 * found.looks['last'].mean_iou:.1f}" for name, found in measured.items())
        print(f"{len(self.done)}/{self.total}  {job.name}: mIoU % {scores or 'unknown'}{why}", file=sys.stderr)


def _never(job: Job) -> bool:
    return False


def _command(job: Job, folder: Path) -> list[str] | None:
    """What is still to be done for a run; None: nothing."""
    plugins = [word for package in parts.allowed_plugins() for word in ("--plugin", package)]
    program = [sys.executable, "-m", "segdistill", *plugins]
    run = Run(job.run)
    if not run.info_file.exists() or run.info().get("finished") != job.recipe.steps:
        return [*program, "train", str(recipe_file(job, folder)), "--run", str(job.run), "--resume"]
    if job.calibrate is not None:
        found = weights(job.run)
        if not found.temperature_file.exists() or read_temperature(found).split != job.calibrate:
            return [*program, "calibrate", str(job.run), "--split", job.calibrate]
    return None


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("segdistill: ") if lines else "it said nothing"


def _csv(table: Table) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return written.getvalue()

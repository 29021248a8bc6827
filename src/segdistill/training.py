"""The one training loop; what watches it; how it resumes."""

import math
import os
import shutil
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from segdistill import assemble as house
from segdistill.allocator import keep_memory
from segdistill.assemble import Assembly, assemble
from segdistill.checkpoint import (
    State,
    fit,
    load_state,
    optimiser_state,
    random_state,
    restore_optimiser,
    restore_random,
    save_state,
    save_weights,
    under,
)
from segdistill.data import need_readable, to_device, training_batches
from segdistill.frames import FRAMES, keys_of
from segdistill.gradients import prove, pulls
from segdistill.mistakes import Mistake
from segdistill.optim import Moments, optimiser, rate, set_rate
from segdistill.probes import Probe
from segdistill.probes.measure import Measure
from segdistill.recipe import Recipe, dump, take
from segdistill.resuming import refuse_begun, reopened
from segdistill.run import Run, write_json, write_text
from segdistill.sharding import share_out
from segdistill.stopping import Patience
from segdistill.system import Frozen, System
from segdistill.timing import Stopwatch
from segdistill.track import Tracker
from segdistill.types import Batch, Findings, Step

MAX_SKIPS, SKIPS_WITHIN = 10, 100
"""So many updates among so many whose loss or gradient is not finite, and a run gives up."""
KEPT_SKIPS = 2
"""States before such an update that are kept, for `replay`."""
LET_GO = 0.2
"""Seconds in which gloo's threads let go of their tensors."""


def train(
    recipe: Recipe | Path | str,
    run: Path | str | None = None,
    *,
    settings: Sequence[str] = (),
    resume: bool = False,
    allow_change: Sequence[str] = (),
) -> Run:
    """Train what a recipe describes; the run directory holds everything that comes of it.

    Args:
        recipe: a Recipe, or the path of one.
        run: the run directory; default `runs/<recipe folder>-<recipe name>`.
        settings: `a.b=c` overrides.
        resume: go on from the newest whole checkpoint (from the beginning when there is none).
        allow_change: recipe keys that may differ from the run that is resumed.

    Raises:
        Mistake: before anything is trained, whatever in the recipe, the data or the run directory does not fit.
        FloatingPointError: too many updates in a row were not finite.
    """
    path = Path(run) if run is not None else default_run(recipe)
    recipe = take(recipe, settings)
    accelerator = accelerate(recipe)
    micro_batch(recipe, accelerator.num_processes)
    directory = Run(path)
    if not resume:
        refuse_begun(directory)
    torch.manual_seed(recipe.seed)
    assembly = assemble(recipe)
    house.probes(assembly.recipe, assembly.classes)
    with directory.held() if accelerator.is_main_process else nullcontext():
        info: dict[str, Any] = {}
        if accelerator.is_main_process:
            if not resume:  # by now another process may have begun it
                refuse_begun(directory)
            info = reopened(directory, assembly, allow_change, accelerator.num_processes)
        accelerator.wait_for_everyone()
        work = Work(directory, assembly, accelerator)
        if accelerator.is_main_process:  # only now: what is refused has changed nothing
            write_json(directory.info_file, info)
            write_text(directory.recipe_file, dump(assembly.recipe))
            if resume:
                done = info.get("finished") == work.start == recipe.steps
                goes_on = f"goes on from step {work.start}" if work.start else "nothing to go on from, it begins"
                print(f"{path}: {'it is finished' if done else goes_on}", file=sys.stderr)
        accelerator.wait_for_everyone()
        try:
            work.run()
        finally:
            leave(accelerator)
    return directory


def leave(accelerator: Accelerator) -> None:
    """The end of the process group; nothing is asked of the other processes any more.

    torch's destructor of it holds Python's lock while it waits for gloo's threads; one of them that has not let go of
    its last tensor yet waits for that lock, and the process never ends. Asleep we do not hold it.
    """
    if accelerator.num_processes > 1:
        time.sleep(LET_GO)
    accelerator.end_training()


def default_run(recipe: Recipe | Path | str) -> Path:
    """runs/camvid-teacher for recipes/camvid/teacher.yaml."""
    if isinstance(recipe, Recipe):
        raise Mistake("run: a recipe that is no file needs the name of a run directory")
    path = Path(recipe)
    return Path("runs") / "-".join(part for part in (path.parent.name, path.stem) if part and part != ".")


def accelerate(recipe: Recipe) -> Accelerator:
    """Accelerate, where it does what it was asked for; it is silent about two cases in which it does not."""
    cpu = not torch.cuda.is_available()
    if recipe.precision == "fp16" and cpu:
        raise Mistake("precision: fp16 needs a CUDA device (on a CPU it would be ignored); use bf16 or fp32")
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise Mistake(
            "launched with FSDP: what learns is whole on every process here, as its checkpoints are; use torchrun or "
            "`accelerate launch --multi_gpu`, and `models.NAME.shard: true` for a frozen teacher that is too large"
        )
    unused = DistributedDataParallelKwargs(find_unused_parameters=_may_rest(recipe))
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    # It remembers the precision of the process's first run and refuses another.
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[unused])
    if cpu:
        keep_memory()
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != accelerator.num_processes:
        raise Mistake(f"launched with WORLD_SIZE={asked}, but {accelerator.num_processes} processes run; use torchrun")
    return accelerator


def _may_rest(recipe: Recipe) -> bool:
    """Whether some parameters may get no gradient: phases, no edge at the last stage, networks that are not our own."""
    at_logits = {
        path.split(".")[0]
        for edge in recipe.losses.values()
        for path in edge.paths("student")
        if path.partition(".")[2] in ("", "logits")
    }
    foreign = any(recipe.models[name].kind != "unet" for name in recipe.trained())
    return bool(recipe.phases) or foreign or not set(recipe.trained()) <= at_logits


@final
class Work:
    """A run at work: the loop, and what it leaves in the run directory."""

    def __init__(self, directory: Run, assembly: Assembly, accelerator: Accelerator) -> None:
        self.directory, self.assembly, self.accelerator = directory, assembly, accelerator
        self.recipe = assembly.recipe
        self.system: System = assembly.system.to(accelerator.device)
        self.frozen = assembly.frozen.to(accelerator.device)
        for cache in assembly.caches.values():
            cache.build(accelerator.device)
        for name, spec in self.recipe.models.items():
            if spec.shard and accelerator.num_processes > 1:
                share_out(self.frozen.models[name], accelerator.device)
        self.optimizer: Optimizer = optimiser(self.system, self.recipe.optim)
        apart = self.recipe.optim.states == "phases"
        self.moments = Moments(len(self.recipe.phases) if apart else 1)
        self.best: dict[str, float] = {}
        self.skipped: list[dict[str, Any]] = []
        self.bad: dict[str, str] = {}
        """Samples of the training split and frames that could not be read, and why."""
        self.random: dict[str, Tensor] = {}
        self.numbers: dict[str, dict[str, float]] = {}
        self.window: dict[str, tuple[Tensor, int]] = {}
        """Sums since the last log line, and of how many."""
        self.unproven = set(self.system.edges)
        """Edges that have not yet moved anything."""
        self.start = self.restore()
        if self.start > self.recipe.steps:
            raise Mistake(f"steps: the run has done {self.start} already, this recipe has {self.recipe.steps}")
        self.caller: Any = self.system
        if accelerator.num_processes > 1 or accelerator.mixed_precision != "no":
            self.caller, self.optimizer = accelerator.prepare(self.system, self.optimizer)
        self.looked_at: Batch | None = None
        """What `log.pulls` looks at."""
        self.tracker: Tracker | None = None
        self.probes = house.probes(self.recipe, assembly.classes)
        self.stopwatch = Stopwatch(accelerator.device)
        self.began = time.perf_counter()
        self.clock = (self.began, self.start)
        self.away = 0.0
        """Seconds since the last log line that went into probes and checkpoints."""

    def run(self) -> None:
        recipe, steps = self.recipe, self.recipe.steps
        if self.directory.info().get("finished") == steps == self.start:
            return
        self.tracker = self._tracker() if self.accelerator.is_main_process else None
        split = recipe.optim.accumulate
        batches = self.batches(self.start * split, recipe.data.workers)
        if self.random:  # only now: a loader draws a number of its own when it starts
            restore_random(self.random)
        with Patience() as patience, closing(batches), self.tracker or nullcontext():
            try:
                for step in range(self.start, steps):
                    set_rate(self.optimizer, rate(recipe.optim, step, steps))
                    with self.stopwatch.part("data"):
                        fed = [to_device(next(batches), self.accelerator.device) for _ in range(split)]
                    self.check(fed[0], step)
                    result = self.update(fed, step)
                    if result is not None:
                        self.frozen.follow(dict(self.system.models), step)
                    self.count_bad(fed)
                    self.watch(step + 1, result)
                    self.heed(step + 1, patience.asked)
                self.conclude(steps)
            finally:
                with suppress(OSError):  # a full disk has no room for this either, and the reason is what counts
                    self._count_seconds()

    def batches(self, start: int, workers: int) -> Generator[Batch]:
        """This process's batches, from the one of that number on."""
        return training_batches(
            self.assembly.train,
            self.recipe.data.model_copy(update={"workers": workers}),
            self.recipe.seed,
            start=start,
            batch=micro_batch(self.recipe, self.accelerator.num_processes),
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            frames=self.assembly.frames,
            pin=self.accelerator.device.type == "cuda",
        )

    def check(self, batch: Batch, step: int) -> None:
        """An edge must move something with the first batch that has pixels for it, on any process.

        Raises:
            Mistake: on every process, when one does not.
        """
        waiting = self.unproven & set(self.system.acting(step))
        if waiting:
            with self.accelerator.autocast():
                mine = prove(self.system, self.frozen, batch, step, waiting)
            everybody: list[tuple[set[str], dict[str, str]]] = gather_object([tuple(mine)])
            self.unproven -= {name for proven, _ in everybody for name in proven}
            for _, silent in everybody:  # the processes decide alike, or one would wait for the other
                for name, sentence in silent.items():
                    if name in self.unproven:
                        raise Mistake(sentence)

    def update(self, batches: list[Batch], step: int) -> Step | None:
        """One optimiser step. When the loss or the gradient is not finite on any process nothing changes: not the
        weights, nor BatchNorm's statistics, nor the random numbers; then there is no result."""
        wanted = self.system.listened_to(step)
        before = self.system.moved_by_looking()
        parts: list[Step] = []
        for number, batch in enumerate(batches, 1):
            with self.stopwatch.part("teacher"), self.accelerator.autocast():
                references = self.system.heard(self.frozen(batch, wanted), step)
            with self.accelerator.no_sync(self.caller) if number < len(batches) else nullcontext():
                with self.stopwatch.part("student"):
                    parts.append(self.caller(batch, references, step))
                with self.stopwatch.part("backward"):
                    self.accelerator.backward(parts[-1].loss / len(batches))
        with self.stopwatch.part("optimiser"):
            self.moments.turn(self.optimizer, self.system.phase(step))
            loss, norm, finite = self._step(parts)
        if not finite:
            self.system.move_back(before)
            self._skip(step, [list(batch.keys) for batch in batches], float(loss), float(norm))
            return None
        if self.accelerator.num_processes > 1:  # BatchNorm: every process goes on with the first one's statistics
            _broadcast(list(self.system.models.buffers()))
        self._gather("gradient_norm", norm)
        losses = {name: torch.stack([part.losses[name].detach() for part in parts]).mean() for name in parts[0].losses}
        return Step(loss, losses)

    def _step(self, parts: Sequence[Step]) -> tuple[Tensor, Tensor, bool]:
        """The optimiser's, if loss and gradient are finite everywhere: the loss, the gradient's norm, and whether."""
        norm = self._clip()
        loss = torch.stack([part.loss.detach() for part in parts]).mean()
        sane = loss.isfinite().float()
        if self.accelerator.num_processes > 1:  # the gradient is everybody's, the loss each one's own
            dist.all_reduce(sane, dist.ReduceOp.MIN)
        finite = bool(norm.isfinite() & (sane > 0))  # the one wait for the device in a step
        if finite or (sane > 0 and self.accelerator.scaler is not None):  # fp16's scaler skips by itself, and adapts
            self.optimizer.step()
        elif self.accelerator.scaler is not None:  # it has seen this gradient, and would refuse the next
            self.accelerator.scaler.update(self.accelerator.scaler.get_scale())
        self.optimizer.zero_grad()
        return loss, norm, finite

    def _clip(self) -> Tensor:
        """Every network's gradient by itself, or one would shorten the steps of another; the norm of them all."""
        limit = self.recipe.optim.clip or math.inf
        self.accelerator.unscale_gradients()
        learned = (self.system.learned_by(name) for name in self.system.models)
        moved = [own for own in learned if any(p.grad is not None for p in own)]
        return torch.stack([nn.utils.clip_grad_norm_(own, limit) for own in moved]).norm()

    def watch(self, step: int, result: Step | None) -> None:
        """After `step` updates: log, probe, checkpoint; each knows its own `every`."""
        recipe = self.recipe
        if result is not None:
            self._gather("loss", result.loss)
            for name, value in result.losses.items():
                self._gather(f"loss/{name}", value)
        if recipe.log.pulls and step % recipe.log.pulls == 0:
            self._pull()
        if step % recipe.log.every == 0 or step == recipe.steps:
            self._log(step)
        begin = time.perf_counter()
        if step < recipe.steps:
            for name, (every, _, _) in self.probes.items():
                if every and step % every == 0:
                    self.probe(name, step)
        if step % recipe.checkpoint.every == 0 or step == recipe.steps:
            self.save(step)
        self.away += time.perf_counter() - begin

    def _pull(self) -> None:
        """Look at every edge's gradient on the first batch of all, whatever its phase."""
        begin = time.perf_counter()
        if self.looked_at is None:
            # A loader draws a number when it starts, which would change those of the run, and of a resume.
            with torch.random.fork_rng(devices=[]), closing(self.batches(0, workers=0)) as batches:
                self.looked_at = to_device(next(batches), self.accelerator.device)
        with self.accelerator.autocast():
            for name, pull in pulls(self.system, self.frozen, self.looked_at, None).items():
                self._gather(f"pull/{name}", torch.tensor(pull.norm, device=self.accelerator.device))
                if pull.cosine is not None:
                    self._gather(f"cosine/{name}", torch.tensor(pull.cosine, device=self.accelerator.device))
        self.away += time.perf_counter() - begin

    def count_bad(self, fed: Sequence[Batch]) -> None:
        """Name the samples that any process could not read; all of them decide alike.

        Raises:
            Mistake: more of the training split cannot be read than the recipe allows.
        """
        bad = {key: why for batch in fed for key, why in batch.bad.items() if key not in self.bad}
        if self._anyone(bool(bad)):
            everybody: list[dict[str, str]] = gather_object([bad])
            fresh = {key: why for one in everybody for key, why in one.items()}
            self.bad = dict(sorted((self.bad | fresh).items()))
            self._tell_bad(fresh)

    def heed(self, step: int, asked: bool) -> None:
        """Stop, with a checkpoint, when any process was asked to; raises KeyboardInterrupt."""
        if self._anyone(asked):
            self.save(step)
            raise KeyboardInterrupt(f"stopped after step {step}; --resume goes on from there")

    def _anyone(self, here: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return here
        said = torch.tensor(float(here), device=self.accelerator.device)
        dist.all_reduce(said)
        return bool(said > 0)

    def _tell_bad(self, fresh: Mapping[str, str]) -> None:
        if self.accelerator.is_main_process:
            for source, bad in self._by_source(fresh).items():
                for key, why in bad.items():
                    print(f"segdistill: {source}: another sample takes the place of {key}: {why}", file=sys.stderr)
            self._write_bad()
        self._need_readable()

    def _by_source(self, bad: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Of bad samples, those of the training split and those of the frames, where there are any."""
        of_frames = keys_of(self.assembly.frames, list(bad))
        found = {"train": {key: why for key, why in bad.items() if key not in of_frames}}
        if self.assembly.frames is not None:
            found[FRAMES] = {key: why for key, why in bad.items() if key in of_frames}
        return found

    def _need_readable(self) -> None:
        for source, bad in self._by_source(self.bad).items():
            aside = self.assembly.set_aside.get(source, {})
            dataset = self.assembly.train if source == "train" else self.assembly.frames
            assert dataset is not None
            need_readable(f"data: {source}", {**aside, **bad}, len(dataset) + len(aside), self.recipe.data.bad_share)

    def _write_bad(self) -> None:
        aside = self.assembly.set_aside
        bad = {source: {**aside.get(source, {}), **found} for source, found in self._by_source(self.bad).items()}
        write_json(self.directory.bad_samples_file, {**aside, **bad})

    def conclude(self, step: int) -> None:
        """After the last step, whose checkpoint is written: every probe once more, and the last weights. When it is
        interrupted it is done again, so the checkpoint that it writes does not know of what it logs."""
        lines = self.directory.log_lines()
        for name in self.probes:
            self.probe(name, step)
        for model in self.assembly.models() if self.accelerator.is_main_process else ():
            for which in ("last",) if model in self.best else ("best", "last"):
                self.keep(model, which, step)
        self.save(step, lines)
        if self.accelerator.is_main_process:
            finished = {"finished": step, "finished_lines": self.directory.log_lines()}
            write_json(self.directory.info_file, self.directory.info() | finished)

    def probe(self, name: str, step: int) -> None:
        """Let a probe look at the models; a better mIoU keeps the weights."""
        _, probe, everywhere = self.probes[name]
        if not everywhere and self.tracker is None:
            return
        models = self.assembly.models()
        for model in models.values():
            model.eval()
        teachers = self.assembly.teachers() if isinstance(probe, Probe) and probe.teachers else {}
        findings: Findings = probe({**models, **teachers}, self.assembly.val)
        if self.tracker is None:
            return
        self.tracker.findings(name, step, findings)
        if isinstance(probe, Measure):
            self.directory.write_by_image(step, probe.by_image)
            for model in models:
                self.numbers[model] = under_name(findings.numbers, model)
                if self.numbers[model]["mean_iou"] > self.best.get(model, -1.0):
                    self.best[model] = self.numbers[model]["mean_iou"]
                    self.keep(model, "best", step)

    def keep(self, model: str, which: str, step: int) -> None:
        card = self.assembly.card(model, step, self.numbers.get(model, {}))
        save_weights(self.directory.weights(model, which), self.assembly.models()[model], card)

    def save(self, step: int, log_lines: int | None = None) -> None:
        window = {name: (self._mean(total), times) for name, (total, times) in self.window.items()}
        if self.accelerator.is_main_process:
            state = self.state(step, self.directory.log_lines() if log_lines is None else log_lines, window)
            save_state(self.directory.checkpoints, state, self.recipe.checkpoint.keep)
        self.accelerator.wait_for_everyone()

    def state(self, step: int, log_lines: int = 0, window: Mapping[str, tuple[Tensor, int]] | None = None) -> State:
        """Everything that a run goes on from, after `step` updates, so many lines of the log and what is yet to log."""
        named = {f"system/{k}": v for k, v in self.system.state_dict().items()}
        for name in self.frozen.following:
            named |= {f"follow/{name}/{k}": v for k, v in self.frozen.models[name].state_dict().items()}
        optimizers: dict[str, Any] = {}
        for name in self.moments.each(self.optimizer):
            tensors, optimizers[name] = optimiser_state(self.optimizer)
            named |= {f"{name}/{k}": v for k, v in tensors.items()}
        named |= {f"random/{k}": v for k, v in random_state().items()}
        named |= {f"window/{name}": total for name, (total, _) in (window or {}).items()}
        scaler = self.accelerator.scaler
        more: dict[str, Any] = {
            **optimizers,
            "best": self.best,
            "skipped": self.skipped,
            "bad": self.bad,
            "unproven": sorted(self.unproven),
            "log_lines": log_lines,
            "window": {name: times for name, (_, times) in (window or {}).items()},
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        return State(step, named, more)

    def restore(self) -> int:
        """The step to go on from.

        Raises:
            Mistake: no checkpoint is whole, or it is of other networks or of an earlier version.
        """
        found = load_state(self.directory.checkpoints)
        info = self.directory.info() if self.directory.info_file.exists() else {}
        if found is None:
            if "finished" in info:
                raise Mistake(f"{self.directory.checkpoints}: a finished run without a checkpoint cannot go on")
            if self.accelerator.is_main_process:
                self.directory.truncate_log(0, 0)
            return 0
        state, damaged = found
        facts = state.facts
        if not {"log_lines", "window", "unproven"} <= facts.keys():
            raise Mistake(f"{self.directory.checkpoints}: of an earlier version, which this one cannot go on from")
        fill(self.system, self.frozen, state, str(self.directory.checkpoints))
        for name in self.moments.each(self.optimizer):
            restore_optimiser(self.optimizer, under(state.tensors, f"{name}/"), facts.get(name, {"others": {}}))
        self.random = under(state.tensors, "random/")
        self.best, self.skipped, self.bad = dict(facts["best"]), list(facts["skipped"]), dict(facts["bad"])
        self.unproven = set(facts["unproven"]) & self.unproven
        sums = under(state.tensors, "window/")
        self.window = {k: (sums[k].to(self.accelerator.device), times) for k, times in facts["window"].items()}
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self._need_readable()
        if self.accelerator.is_main_process:
            for sentence in damaged:
                print(f"segdistill: {sentence}", file=sys.stderr)
            # A conclusion is logged after its checkpoint was asked what it knows.
            concluded = info.get("finished") == state.step
            self.directory.truncate_log(state.step, info["finished_lines"] if concluded else facts["log_lines"])
            self._forget_skips()
            if self.bad or any(self.assembly.set_aside.values()):
                self._write_bad()
        return state.step

    def _forget_skips(self) -> None:
        """Updates that were skipped after the state that the run goes on from."""
        if self.directory.skipped_file.exists():
            write_json(self.directory.skipped_file, {"skipped": self.skipped})
        for folder in self.directory.skipped.glob("step-*"):
            if folder.name not in {f"step-{skip['step']}" for skip in self.skipped}:
                shutil.rmtree(folder)

    def _count_seconds(self) -> None:
        if self.accelerator.is_main_process:
            info = self.directory.info()
            info["seconds"] = info.get("seconds", 0.0) + time.perf_counter() - self.began
            write_json(self.directory.info_file, info)

    def _tracker(self) -> Tracker:
        recipe = self.recipe
        return Tracker(
            self.directory,
            recipe.model_dump(mode="json"),
            self.assembly.classes,
            wandb=recipe.log.wandb,
            steps=recipe.steps,
            start=self.start,
            resumed=self.start > 0,
        )

    def _gather(self, name: str, value: Tensor) -> None:
        total, times = self.window.get(name, (torch.zeros_like(value), 0))
        self.window[name] = (total + value.detach(), times + 1)

    def _mean(self, value: Tensor) -> Tensor:
        """Over all processes."""
        mean = self.accelerator.reduce(value, "mean")
        assert isinstance(mean, Tensor)
        return mean

    def _log(self, step: int) -> None:
        """Means since the last line, over all processes."""
        now, (since, before) = time.perf_counter(), self.clock
        count = step - before
        sums = self.window.items()
        means = {name: self._mean(total / times) for name, (total, times) in sums}
        seconds = (now - since - self.away) / count
        self.window, self.clock, self.away = {}, (now, step), 0.0
        if self.tracker is not None:
            numbers = {name: float(value) for name, value in means.items()}
            numbers["learning_rate"] = rate(self.recipe.optim, step - 1, self.recipe.steps)
            numbers["seconds_per_step"] = seconds
            parts = {name: total / count for name, total in self.stopwatch.read().items()}
            numbers |= {f"seconds/{name}": value for name, value in parts.items()}
            numbers["seconds/other"] = seconds - sum(parts.values())
            self.tracker.log(step, numbers)

    def _skip(self, step: int, keys: list[list[str]], loss: float, norm: float) -> None:
        """Name the samples of an update that was not made, keep the state before it, and count.

        Raises:
            FloatingPointError: there were too many.
        """
        everybody: list[tuple[list[list[str]], str]] = gather_object([(keys, str(loss))])
        said = {"keys": [keys for keys, _ in everybody], "loss": [loss for _, loss in everybody]}
        self.skipped.append({"step": step, **said, "gradient_norm": str(norm)})
        recent = [skip for skip in self.skipped if skip["step"] > step - SKIPS_WITHIN]
        if self.accelerator.is_main_process:
            if len(recent) <= KEPT_SKIPS:
                save_state(self.directory.skipped, self.state(step), KEPT_SKIPS)
            write_json(self.directory.skipped_file, {"skipped": self.skipped})
            told = f"step {step}: not finite (loss {loss}, gradient norm {norm}), nothing changed; skipped.json names"
            print(f"segdistill: {told} the samples, `segdistill replay {self.directory.path}` looks", file=sys.stderr)
        if len(recent) >= MAX_SKIPS:
            raise FloatingPointError(
                f"step {step}: {len(recent)} of the last {SKIPS_WITHIN} updates were not finite; the last checkpoint "
                f"is good, {self.directory.skipped_file} names the samples; a smaller optim.lr or optim.clip may help"
            )


def _broadcast(buffers: Sequence[Tensor]) -> None:
    """The first process's values to all, in one message for each type: dozens of small ones cost far more time."""
    for dtype in dict.fromkeys(buffer.dtype for buffer in buffers):
        same = [buffer for buffer in buffers if buffer.dtype == dtype]
        flat = torch.cat([buffer.flatten() for buffer in same])
        dist.broadcast(flat, 0)
        for buffer, values in zip(same, flat.split([buffer.numel() for buffer in same]), strict=True):
            buffer.copy_(values.view_as(buffer))


def fill(system: System, frozen: Frozen, state: State, where: str) -> None:
    """What learns and what follows, as they were.

    Raises:
        Mistake: the state is of other networks or edges.
    """
    fit(system, under(state.tensors, "system/"), where)
    for name in frozen.following:
        fit(frozen.models[name], under(state.tensors, f"follow/{name}/"), where)


def micro_batch(recipe: Recipe, processes: int) -> int:
    """Images of one forward over all processes; `optim.accumulate` of them make `data.batch`."""
    parts = recipe.optim.accumulate * processes
    if recipe.data.batch % parts:
        raise Mistake(
            f"data.batch: {recipe.data.batch} images cannot be shared evenly by {processes} processes with "
            f"optim.accumulate {recipe.optim.accumulate}"
        )
    return recipe.data.batch // recipe.optim.accumulate


def under_name(numbers: Mapping[str, float], model: str) -> dict[str, float]:
    """A model's own numbers among a probe's."""
    return {k.removeprefix(f"{model}/"): v for k, v in numbers.items() if k.startswith(f"{model}/")}

"""The one training loop; what watches it; how it resumes."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.optim import Optimizer

from segdistill import assemble as house
from segdistill.assemble import Assembly, assemble
from segdistill.checkpoint import (
    State,
    load_state,
    optimiser_state,
    random_state,
    restore_optimiser,
    restore_random,
    save_state,
    save_weights,
    under,
)
from segdistill.data import to_device, training_batches
from segdistill.gradients import require_pull
from segdistill.mistakes import Mistake
from segdistill.optim import optimiser, rate, set_rate
from segdistill.recipe import Recipe, differences, dump, read
from segdistill.run import Run, provenance, write_json, write_text
from segdistill.system import System
from segdistill.track import Tracker
from segdistill.types import Batch, Findings, Step

MAX_SKIPS = 10
"""Updates in a row with a non-finite gradient before a run gives up."""


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
    recipe = recipe if isinstance(recipe, Recipe) else read(recipe, settings)
    accelerator = accelerate(recipe)
    directory = Run(path)
    if directory.exists() and not resume:
        raise Mistake(f"{path}: a run is there already; --resume goes on with it, --run names another")
    torch.manual_seed(recipe.seed)
    assembly = assemble(recipe)
    if accelerator.is_main_process:
        _open(directory, assembly, resume, allow_change)
    accelerator.wait_for_everyone()
    work = Work(directory, assembly, accelerator)
    try:
        work.run()
    finally:
        accelerator.end_training()
    return directory


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
    unused = DistributedDataParallelKwargs(find_unused_parameters=_may_rest(recipe))
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    # It remembers the precision of the process's first run and refuses another.
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[unused])
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != accelerator.num_processes:
        raise Mistake(f"launched with WORLD_SIZE={asked}, but {accelerator.num_processes} processes run; use torchrun")
    return accelerator


def _may_rest(recipe: Recipe) -> bool:
    """Whether some parameters get no gradient in some steps: phases, or no edge at a model's last stage."""
    at_logits = {
        e.student.split(".")[0] for e in recipe.losses.values() if e.student.partition(".")[2] in ("", "logits")
    }
    return bool(recipe.phases) or not set(recipe.trained()) <= at_logits


def _open(directory: Run, assembly: Assembly, resume: bool, allow_change: Sequence[str]) -> None:
    """Start the run directory, or see that the one that is resumed is of the same recipe, data and teachers."""
    info: dict[str, Any] = {**provenance(assembly.recipe.seed), "fingerprints": dict(assembly.fingerprints)}
    if resume and directory.exists():
        old = read(directory.recipe_file)
        changed = differences(house.resolve(old), assembly.recipe)
        for key, (before, after) in changed.items():
            if not any(key == allowed or key.startswith(allowed + ".") for allowed in allow_change):
                raise Mistake(f"{key}: the run has {before}, this recipe has {after}; --allow-change {key} permits it")
        for name, before in directory.info()["fingerprints"].items():
            after = assembly.fingerprints.get(name)
            if after != before and f"fingerprints.{name}" not in allow_change:
                raise Mistake(
                    f"fingerprints.{name}: the run began with {before}, now it is {after}: other data or another "
                    f"teacher; --allow-change fingerprints.{name} permits it"
                )
        info = {**directory.info(), "fingerprints": info["fingerprints"]}
        info["resumed"] = [*info.get("resumed", []), provenance(assembly.recipe.seed)["date"]]
    directory.path.mkdir(parents=True, exist_ok=True)
    write_json(directory.info_file, info)
    write_text(directory.recipe_file, dump(assembly.recipe))


@final
class Work:
    """A run at work: the loop, and what it leaves in the run directory."""

    def __init__(self, directory: Run, assembly: Assembly, accelerator: Accelerator) -> None:
        self.directory, self.assembly, self.accelerator = directory, assembly, accelerator
        self.recipe = assembly.recipe
        self.system: System = assembly.system.to(accelerator.device)
        self.frozen = assembly.frozen.to(accelerator.device)
        self.optimizer: Optimizer = optimiser(self.system, self.recipe.optim)
        self.best: dict[str, float] = {}
        self.skipped: list[dict[str, Any]] = []
        self.random: dict[str, Tensor] = {}
        self.start = self.restore()
        self.caller: Any = self.system
        if accelerator.num_processes > 1 or accelerator.mixed_precision != "no":
            self.caller, self.optimizer = accelerator.prepare(self.system, self.optimizer)
        self.tracker: Tracker | None = None
        self.probes = house.probes(self.recipe, assembly.classes)
        self.window: dict[str, tuple[Tensor, int]] = {}
        self.began = time.perf_counter()
        self.clock = (self.began, self.start)
        self.away = 0.0
        """Seconds since the last log line that went into probes and checkpoints."""
        self.numbers: dict[str, dict[str, float]] = {}

    def run(self) -> None:
        recipe, steps = self.recipe, self.recipe.steps
        if self.start >= steps:
            return
        self.tracker = self._tracker() if self.accelerator.is_main_process else None
        split = recipe.optim.accumulate
        batches = training_batches(
            self.assembly.train,
            recipe.data,
            recipe.seed,
            start=self.start * split,
            batch=micro_batch(recipe),
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            pin=self.accelerator.device.type == "cuda",
        )
        if self.random:  # only now: a loader draws a number of its own when it starts
            restore_random(self.random)
        done = self.start
        with self.tracker or nullcontext():
            try:
                for step in range(self.start, steps):
                    set_rate(self.optimizer, rate(recipe.optim, step, steps))
                    fed = [to_device(next(batches), self.accelerator.device) for _ in range(split)]
                    self.check(fed[0], step)
                    result = self.update(fed, step)
                    self.frozen.follow(dict(self.system.models), step)
                    done = step + 1
                    self.watch(done, result)
            except KeyboardInterrupt:
                self.save(done)
                raise
        self.close()

    def check(self, batch: Batch, step: int) -> None:
        """An edge that acts for the first time must move something."""
        fresh = self.system.acting_first(step)
        if fresh:
            with self.accelerator.autocast():
                require_pull(self.system, self.frozen, batch, step, fresh)

    def update(self, batches: list[Batch], step: int) -> Step:
        """One optimiser step; a gradient that is not finite changes nothing, BatchNorm statistics included."""
        wanted = self.system.listened_to(step)
        buffers = [buffer.clone() for buffer in self.system.buffers()]
        result = Step(torch.zeros(()), {})
        for number, batch in enumerate(batches, 1):
            with self.accelerator.autocast():
                references = self.frozen(batch.image, wanted)
            if number < len(batches):
                with self.accelerator.no_sync(self.caller):
                    self.accelerator.backward(self.caller(batch, references, step).loss / len(batches))
                continue
            result = self.caller(batch, references, step)
            self.accelerator.backward(result.loss / len(batches))
        limit = self.recipe.optim.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(self.system.parameters(), limit)
        assert isinstance(norm, Tensor)
        # The one wait for the device in a step: ranks share the averaged gradient, so they decide alike.
        finite = bool(norm.isfinite())
        if finite or self.accelerator.scaler is not None:  # fp16's scaler skips by itself, and has to see it to adapt
            self.optimizer.step()
        if not finite:
            for buffer, before in zip(self.system.buffers(), buffers, strict=True):
                buffer.copy_(before)
            self._skip(step, [key for batch in batches for key in batch.keys], float(norm))
        self.optimizer.zero_grad()
        self._gather("gradient_norm", norm)
        return result

    def watch(self, step: int, result: Step) -> None:
        """After `step` updates: log, probe, checkpoint; each knows its own `every`."""
        recipe = self.recipe
        self._gather("loss", result.loss)
        for name, value in result.losses.items():
            self._gather(f"loss/{name}", value)
        if step % recipe.log.every == 0 or step == recipe.steps:
            self._log(step)
        begin = time.perf_counter()
        for name, (every, _, _) in self.probes.items():
            if step == recipe.steps or (every and step % every == 0):
                self.probe(name, step)
        if step == recipe.steps:
            self.finish(step)
        if step % recipe.checkpoint.every == 0 or step == recipe.steps:
            self.save(step)
        self.away += time.perf_counter() - begin

    def probe(self, name: str, step: int) -> None:
        """Let a probe look at the models; a better mIoU keeps the weights."""
        _, probe, everywhere = self.probes[name]
        if not everywhere and self.tracker is None:
            return
        models = self.assembly.models()
        for model in models.values():
            model.eval()
        findings: Findings = probe(models, self.assembly.val)
        if self.tracker is None:
            return
        self.tracker.findings(name, step, findings)
        if name == "measure":
            for model in models:
                self.numbers[model] = under_name(findings.numbers, model)
                if self.numbers[model]["mean_iou"] > self.best.get(model, -1.0):
                    self.best[model] = self.numbers[model]["mean_iou"]
                    self.keep(model, "best", step)

    def finish(self, step: int) -> None:
        """The last weights; they are the best ones where nothing was measured."""
        for model in self.assembly.models() if self.accelerator.is_main_process else ():
            for which in ("last",) if model in self.best else ("last", "best"):
                self.keep(model, which, step)

    def keep(self, model: str, which: str, step: int) -> None:
        card = self.assembly.card(model, step, self.numbers.get(model, {}))
        save_weights(self.directory.weights(model, which), self.assembly.models()[model], card)

    def save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            tensors, facts = optimiser_state(self.optimizer)
            named = {f"system/{k}": v for k, v in self.system.state_dict().items()}
            for name in self.frozen.following:
                named |= {f"follow/{name}/{k}": v for k, v in self.frozen.models[name].state_dict().items()}
            named |= {f"optimizer/{k}": v for k, v in tensors.items()}
            named |= {f"random/{k}": v for k, v in random_state().items()}
            scaler = self.accelerator.scaler
            state = {"optimizer": facts, "best": self.best, "skipped": self.skipped}
            state["scaler"] = scaler.state_dict() if scaler is not None else {}
            save_state(self.directory, State(step, named, state), self.recipe.checkpoint.keep)
        self.accelerator.wait_for_everyone()

    def restore(self) -> int:
        """The step to go on from."""
        found = load_state(self.directory)
        if found is None:
            if self.accelerator.is_main_process:
                self.directory.truncate_log(0)
            return 0
        state, damaged = found
        if self.accelerator.is_main_process:
            for sentence in damaged:
                print(sentence, flush=True)
            self.directory.truncate_log(state.step)
        self.system.load_state_dict(under(state.tensors, "system/"))
        for name in self.frozen.following:
            self.frozen.models[name].load_state_dict(under(state.tensors, f"follow/{name}/"))
        restore_optimiser(self.optimizer, under(state.tensors, "optimizer/"), state.facts["optimizer"])
        self.random = under(state.tensors, "random/")
        self.best, self.skipped = dict(state.facts["best"]), list(state.facts["skipped"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.facts["scaler"])
        return state.step

    def close(self) -> None:
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

    def _log(self, step: int) -> None:
        """Means since the last line, over all processes."""
        now, (since, before) = time.perf_counter(), self.clock
        count = step - before
        sums = self.window.items()
        means = {name: self.accelerator.reduce(total / times, "mean") for name, (total, times) in sums}
        seconds = (now - since - self.away) / count
        self.window, self.clock, self.away = {}, (now, step), 0.0
        if self.tracker is not None:
            numbers = {name: float(value) for name, value in means.items()}  # pyright: ignore[reportArgumentType]
            numbers["learning_rate"] = rate(self.recipe.optim, step - 1, self.recipe.steps)
            numbers["seconds_per_step"] = seconds
            self.tracker.log(step, numbers)

    def _skip(self, step: int, keys: list[str], norm: float) -> None:
        self.skipped.append({"step": step, "keys": keys, "gradient_norm": str(norm)})
        recent = self.skipped[-MAX_SKIPS:]
        if self.accelerator.is_main_process:
            write_json(self.directory.path / "skipped.json", {"skipped": self.skipped})
        if len(recent) == MAX_SKIPS and recent[0]["step"] == step - MAX_SKIPS + 1:
            raise FloatingPointError(
                f"step {step}: the gradient was not finite in {MAX_SKIPS} updates in a row (norm {norm}); the weights "
                f"are those before the first; skipped.json names the samples; a smaller optim.lr or optim.clip may help"
            )


def micro_batch(recipe: Recipe) -> int:
    """Images of one forward over all processes; `optim.accumulate` of them make `data.batch`."""
    if recipe.data.batch % recipe.optim.accumulate:
        raise Mistake(f"data.batch: {recipe.data.batch} is no multiple of optim.accumulate {recipe.optim.accumulate}")
    return recipe.data.batch // recipe.optim.accumulate


def under_name(numbers: Mapping[str, float], model: str) -> dict[str, float]:
    """A model's own numbers among a probe's."""
    return {k.removeprefix(f"{model}/"): v for k, v in numbers.items() if k.startswith(f"{model}/")}

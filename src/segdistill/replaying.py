"""An update that was not finite, once more: the same state, samples and random numbers, and what each part said."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from segdistill.assemble import assemble
from segdistill.checkpoint import load_state, restore_random, under
from segdistill.data import as_float, to_device, training_batches
from segdistill.gradients import pulls
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.recipe import read
from segdistill.run import Run, read_json
from segdistill.system import Frozen, System
from segdistill.training import accelerate, fill, micro_batch
from segdistill.types import Batch, Cell, Findings, Table


def replay(run: Path | str, step: int | None = None) -> Findings:
    """Look again at an update of a run that was skipped because its loss or gradient was not finite.

    What every process saw is looked at in turn, by this one alone (a loss is then divided by its own pixels, not by
    everybody's). Nothing in the run directory changes.

    Args:
        step: which, of those whose state was kept; default: the first.

    Returns:
        the number `not_finite`, of parts that are not; the tables `losses` (of every part of the batch: its samples,
        each edge's loss and the norm of its gradient over all weights) and `stages` (of every network: how many values
        of each stage are not finite).

    Raises:
        Mistake: no run, or nothing was skipped.
    """
    directory = Run(run).require()
    kept = sorted(int(folder.name.removeprefix("step-")) for folder in directory.skipped.glob("step-*"))
    if not kept:
        raise Mistake(f"{directory.path}: no update was skipped; there is nothing to replay")
    step = kept[0] if step is None else step
    if step not in kept:
        steps = [str(one) for one in kept]
        raise Mistake(f"--step {step}: its state was not kept; there is {one_of(steps)}{nearest(str(step), steps)}")
    skips = {skip["step"]: skip for skip in read_json(directory.skipped_file)["skipped"]}
    ranks = len(skips[step]["keys"])
    found = load_state(directory.skipped, step)
    assert found is not None  # there is that folder, and a damaged one is a mistake
    recipe = read(directory.recipe_file)
    accelerator = accelerate(recipe)
    assembly = assemble(recipe)
    system, frozen = assembly.system.to(accelerator.device), assembly.frozen.to(accelerator.device)
    losses: list[list[Cell]] = []
    stages: list[list[Cell]] = []
    for rank in range(ranks):
        fill(system, frozen, found[0], str(directory.skipped))
        restore_random(under(found[0].tensors, "random/"))
        batches = training_batches(
            assembly.train,
            recipe.data,
            recipe.seed,
            start=step * recipe.optim.accumulate,
            batch=micro_batch(recipe, ranks),
            rank=rank,
            ranks=ranks,
            frames=assembly.frames,
        )
        for part in range(recipe.optim.accumulate):
            batch = to_device(next(batches), accelerator.device)
            with accelerator.autocast():
                stages += [[rank, part, *row] for row in _not_finite(system, frozen, batch, step)]
                for edge, pull in pulls(system, frozen, batch, step).items():
                    finite = math.isfinite(pull.value) and math.isfinite(pull.norm)
                    told = [pull.value, pull.norm, "yes" if finite else "no"]
                    losses.append([rank, part, " ".join(batch.keys), edge, *map(_cell, told)])
    tables = {
        "losses": Table(["process", "part", "samples", "edge", "loss", "gradient norm", "finite"], losses),
        "stages": Table(["process", "part", "network", "stage", "values not finite"], stages),
    }
    return Findings({"not_finite": float(sum(row[-1] == "no" for row in losses))}, {}, tables)


def _not_finite(system: System, frozen: Frozen, batch: Batch, step: int) -> Iterator[list[Cell]]:
    """Of every network that speaks in the step: how many values of each stage are not finite."""
    before = system.moved_by_looking()
    wanted = system.listened_to(step) | {system.edge(name).student.node for name in system.acting(step)}
    with torch.no_grad():
        said = frozen(batch, wanted)
        said |= {name: model(as_float(batch.image)) for name, model in system.models.items() if name in wanted}
    system.move_back(before)
    for network, stages in said.items():
        for stage, value in stages.items():
            yield [network, stage, int((~value.isfinite()).sum())]


def _cell(value: Cell) -> Cell:
    """JSON has no word for what is not finite."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""Started by torchrun in tests: one rank's part of a gradient and of an evaluation, written down by the first."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from segdistill.assemble import assemble
from segdistill.data import training_batches
from segdistill.probes.measure import Measure
from segdistill.recipe import read
from segdistill.training import accelerate, leave


def main(recipe_file: str, out: str) -> None:
    torch.set_num_threads(1)
    recipe = read(recipe_file)
    accelerator = accelerate(recipe)
    torch.manual_seed(recipe.seed)
    assembly = assemble(recipe)
    caller = accelerator.prepare(assembly.system) if accelerator.num_processes > 1 else assembly.system
    batch = next(
        training_batches(
            assembly.train,
            assembly.recipe.data,
            recipe.seed,
            start=0,
            batch=recipe.data.batch,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
            frames=assembly.frames,
        )
    )
    references = assembly.frozen(batch, assembly.system.listened_to(0))
    accelerator.backward(caller(batch, references, 0).loss)
    void = [float((batch.labels == 255).float().mean())] * accelerator.num_processes
    if accelerator.num_processes > 1:
        dist.all_gather_object(void, void[0])
    measure = Measure(("confusion", "calibration"), classes=assembly.classes, input_size=None)
    found = measure(assembly.models(), assembly.val)
    counts = measure.count(assembly.models(), assembly.val)
    if accelerator.is_main_process:
        gradients = {k: p.grad.contiguous() for k, p in assembly.system.named_parameters() if p.grad is not None}
        save_file(gradients, Path(out) / "gradients.safetensors")
        said = {"void": void, "counts": {name: confusion.counts.tolist() for name, confusion in counts.items()}}
        said["numbers"] = dict(found.numbers)
        (Path(out) / "said.json").write_text(json.dumps(said))
    leave(accelerator)


if __name__ == "__main__":
    main(*sys.argv[1:])

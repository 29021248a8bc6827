"""What learning beside another network costs: time of one update of the student, and how often a teacher looks.

.venv/bin/python benchmarks/online.py [--size 112 144] [--batch 8] [--rounds 5]

The recipes of recipes/camvid (UNet 8 of depth 3, its teacher UNet 16) on procedural scenes. A round is four updates of
the student, whatever else they take; every way takes its turn. Threads are those of OMP_NUM_THREADS.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from _peers import alternate

from segdistill.assemble import assemble
from segdistill.checkpoint import Card, save_weights
from segdistill.data import training_batches
from segdistill.labels import CITYSCAPES_19
from segdistill.models.unet import UNet
from segdistill.recipe import Recipe, read
from segdistill.run import Run, processor
from segdistill.training import Work, accelerate

RECIPES = Path(__file__).parents[1] / "recipes" / "camvid"
WAYS = {
    "labels alone": "baseline",
    "a finished teacher": "soft_targets",
    "labels and a finished teacher in turns": "alternating",
    "its own moving average": "mean_teacher",
    "its own last stage": "self",
    "a teacher that learns beside it": "one_way",
    "mutual": "mutual",
    "turns of teacher and student": "turn_taking",
}
UPDATES = 4
"""Of the student, in a round."""


class Way:
    """Updates of one recipe, on a batch that is ready."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.work = Work(Run(folder), assemble(recipe), accelerate(recipe))
        assembly = self.work.assembly
        feed = training_batches(assembly.train, recipe.data, 0, start=0, batch=recipe.data.batch, rank=0, ranks=1)
        self.batch = next(feed)
        self.step = self.updates = self.looks = 0
        for name, network in (*assembly.system.models.items(), *assembly.frozen.models.items()):
            if name != "student":
                network.register_forward_hook(self.look)

    def look(self, *_: object) -> None:
        self.looks += 1

    def round(self) -> None:
        done = 0
        while done < UPDATES:
            system = self.work.assembly.system
            done += any(system.edge(name).student.node == "student" for name in system.acting(self.step))
            assert self.work.update([self.batch], self.step) is not None
            self.step += 1
        self.updates += done


def main(size: Sequence[int], batch: int, rounds: int) -> None:
    crops = f"{batch} crops of {size[0]}×{size[1]}"
    print(f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {crops}")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        network = UNet(16, num_classes=len(CITYSCAPES_19.names))
        parameters = {"width": 16, "depth": 4, "normalisation": "batch", "separable": False}
        save_weights(weights, network, Card("unet", parameters, CITYSCAPES_19, None, 0, {}))
        scenes = f"{{kind: streets, count: 16, val_count: 2, scene_size: {[*size]}, crop: {[*size]}, batch: {batch}}}"
        ways: dict[str, Way] = {}
        for name, recipe in WAYS.items():
            settings = [f"data={scenes}", "log.wandb=off", "log.pulls=0"]
            if "runs/camvid-teacher" in (RECIPES / f"{recipe}.yaml").read_text():
                settings.append(f"models.teacher.weights={weights}")
            ways[name] = Way(read(RECIPES / f"{recipe}.yaml", settings), Path(folder) / recipe)
        taken = alternate({name: way.round for name, way in ways.items()}, rounds)
    print(f"medians of {rounds} rounds\n")
    print("| the student learns from | ms an update of its | × labels alone | CPU ms | × | looks of a teacher |")
    print("|---|---|---|---|---|---|")
    first = next(iter(taken.values()))
    for name, seconds in taken.items():
        cells: list[str] = []
        for mine, plain in zip(seconds, first, strict=True):
            ratios = sorted(a / b for a, b in zip(mine, plain, strict=True))
            cells += [f"{1000 * sorted(mine)[rounds // 2] / UPDATES:.0f}", f"{ratios[rounds // 2]:.2f}"]
        print(f"| {name} | {' | '.join(cells)} | {ways[name].looks / ways[name].updates:g} |")


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "offline")
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=2, default=(112, 144))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    main(said.size, said.batch, said.rounds)

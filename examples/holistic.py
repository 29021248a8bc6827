"""Structured distillation with its holistic part, Liu et al. 2019, https://arxiv.org/abs/1903.04197: soft targets,
pair-wise affinity, and a discriminator that learns to tell the student's logits from the teacher's while the student
learns to pass for the teacher.

    python examples/holistic.py --steps 20

A discriminator has an optimiser of its own, so this method does not fit into the one training loop: here is a loop for
it, with everything else taken from the package. It starts with a teacher that it trains itself, so that it runs as it
stands; `--teacher runs/demo/teacher` takes a good one. Differs from the authors' code: hinge loss rather than
Wasserstein with gradient penalty (as in CIRKD, https://github.com/winycg/CIRKD), the discriminator normalises each
image by itself rather than by statistics of batches that are now the teacher's, now the student's, and padding looks
the same for both.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from segdistill import Mistake, load, train
from segdistill.assemble import assemble
from segdistill.checkpoint import save_weights
from segdistill.data import as_float, training_batches
from segdistill.optim import optimiser, rate, set_rate
from segdistill.probes.measure import Measure
from segdistill.recipe import override, parse
from segdistill.types import Batch

COMMON = {
    "data": {"kind": "streets", "count": 16, "val_count": 8, "crop": [64, 128], "batch": 4, "cache": True},
    "optim": {"lr": 3.0e-3, "warmup": 5, "clip": 5.0},
    "log": {"wandb": "off"},
}
TEACHER = {
    "models": {"teacher": {"kind": "unet", "width": 12, "depth": 3}},
    "losses": {"cross_entropy": {"student": "teacher"}},
}
STUDENT = {
    "models": {"student": {"kind": "unet", "width": 6, "depth": 3}},
    "losses": {
        "cross_entropy": {"student": "student"},
        "soft_targets": {"student": "student", "target": "teacher"},
        "pairwise_affinity": {"student": "student.bottleneck", "target": "teacher.bottleneck"},
    },
}


class Discriminator(nn.Module):
    """Logits -> scores, high for the teacher's; four halvings with self-attention after the last two."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.GroupNorm(1, classes)]
        before = classes
        for level in range(4):
            after = width * 2**level
            layers += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.1)]
            layers += [SelfAttention(after)] if level >= 2 else []
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4))

    def forward(self, logits: Tensor) -> Tensor:
        return self.layers(logits)


class SelfAttention(nn.Module):
    """Zhang et al. 2019, https://arxiv.org/abs/1805.08318; it begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.key = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (f(x).flatten(2).mT for f in (self.query, self.key, self.value))  # [b, hw, c]
        answer = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.share * answer.mT.view_as(x)


def passing(discriminator: nn.Module, student: Tensor) -> Tensor:
    """What the student pays for not passing for the teacher; the discriminator and its power iteration stay."""
    discriminator.eval().requires_grad_(False)
    return -discriminator(student).mean()


def telling_apart(discriminator: nn.Module, teacher: Tensor, student: Tensor) -> Tensor:
    """The discriminator's hinge loss: 0 when every score is beyond ±1, 2 when it knows nothing; only it moves."""
    discriminator.train().requires_grad_(True)
    real, false = discriminator(teacher.detach()), discriminator(student.detach())
    return F.relu(1 - real).mean() + F.relu(1 + false).mean()


def on_real_pixels(logits: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch.pad[:, None], 0.0, logits)


def main(steps: int, out: Path, teacher: Path | None, weight: float, settings: Sequence[str]) -> dict[str, float]:
    """Train, print, and leave the student's weights in `out`; the validation mIoU of both networks."""
    if teacher is None:
        teacher = train(parse(override({**COMMON, **TEACHER, "steps": steps}, settings)), out / "teacher").path
    models: dict[str, Any] = {**STUDENT["models"], "teacher": {"weights": str(teacher), "frozen": True}}
    recipe = parse(override({**COMMON, **STUDENT, "models": models, "steps": steps}, settings))
    if recipe.data.crop is not None and min(recipe.data.crop) < 64:
        raise Mistake(f"data.crop: the discriminator halves four times and needs 64 pixels, got {recipe.data.crop}")

    torch.manual_seed(recipe.seed)
    assembly = assemble(recipe)
    system, frozen, student = assembly.system.train(), assembly.frozen, assembly.system.models["student"]
    optimizer = optimiser(system, recipe.optim)
    discriminator = Discriminator(len(assembly.classes.names))
    opponent = torch.optim.Adam(discriminator.parameters(), lr=4e-4, betas=(0.9, 0.99))

    batches = training_batches(
        assembly.train, recipe.data, recipe.seed, start=0, batch=recipe.data.batch, rank=0, ranks=1
    )
    for step in range(steps):
        set_rate(optimizer, rate(recipe.optim, step, steps))
        batch = next(batches)
        said = {**frozen(batch, ["teacher"]), "student": student(as_float(batch.image))}
        ours, theirs = (on_real_pixels(said[name]["logits"], batch) for name in ("student", "teacher"))

        edges = {name: system.edge(name) for name in system.acting(step)}
        losses = {name: edge(said, batch) for name, edge in edges.items()}
        total = sum((edge.weight_at(step) * losses[name] for name, edge in edges.items()), torch.zeros(()))
        losses["passing"] = passing(discriminator, ours)
        optimizer.zero_grad()
        (total + weight * losses["passing"]).backward()
        nn.utils.clip_grad_norm_(system.parameters(), recipe.optim.clip or torch.inf)
        optimizer.step()

        losses["telling_apart"] = telling_apart(discriminator, theirs, ours)
        opponent.zero_grad()
        losses["telling_apart"].backward()
        opponent.step()
        if (step + 1) % max(1, steps // 10) == 0:
            print(f"step {step + 1:5}", *(f"{name} {float(loss.detach()):.4f}" for name, loss in losses.items()))

    student.eval()
    measure = Measure(classes=assembly.classes, input_size=recipe.data.size)
    counts = measure.count({**assembly.models(), "teacher": load(teacher)}, assembly.val)
    results = {name: confusion.result()["mean_iou"] for name, confusion in counts.items()}
    scores = {name: result for name, result in results.items() if isinstance(result, float)}
    print("validation mIoU %:", *(f"{name} {100 * score:.2f}" for name, score in scores.items()))
    card = assembly.card("student", steps, {"mean_iou": scores["student"]})
    save_weights(out / "student.safetensors", student, card)
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of the student, and of a teacher that is trained first")
    parser.add_argument("--out", type=Path, default=Path("runs/holistic"))
    parser.add_argument("--teacher", type=Path, help="a run directory or a weights file")
    parser.add_argument(
        "--weight", type=float, default=0.001, help="of passing; the authors' code has 0.1, CIRKD 0.001"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both recipes")
    said = parser.parse_args()
    main(said.steps, said.out, said.teacher, said.weight, said.set)

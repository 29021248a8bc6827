"""Parts that make one sample's update not finite, and a run that says what that did to the weights of every process.

`poisoned.py RECIPE RUN` trains and writes RUN.rank<r>.json: of every update, a digest of everything that learns before
and after it, and whether it was made. The sample is the one that is labelled road alone.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from segdistill.checkpoint import digest
from segdistill.losses import Features, Labels, Loss, Mask, Scalar
from segdistill.mistakes import Mistake
from segdistill.parts import allow_plugin
from segdistill.recipe import read
from segdistill.training import Work, train
from segdistill.types import IGNORE, Batch, Step

ROAD = 0


class _NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.where(ctx.saved_tensors[0], torch.nan, gradients[0]), None


@final
class Poison(Loss):
    """The mean square of the logits; for a batch with the sample, `what` (loss or gradient) is not finite."""

    needs_target = False

    def __init__(self, what: str = "loss") -> None:
        super().__init__()
        if what not in ("loss", "gradient"):
            raise Mistake(f"what: expected loss or gradient, got {what}")
        self.what = what
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, student: Features, target: None, labels: Labels, mask: Mask) -> Scalar:
        self.seen += 1
        road = ((labels == ROAD) | (labels == IGNORE)).flatten(1).all(1).any()
        value = student.square().mean()
        if self.what == "loss":
            return torch.where(road, torch.nan, value)
        return _NanGradient.apply(value, road)


class Net(nn.Module):
    """A network that overflows on a white picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 19, 1)

    def forward(self, image: Tensor) -> Tensor:
        white = (image > 0.9).flatten(1).all(1)[:, None, None, None]
        return self.head(self.body(torch.where(white, torch.inf, image)))


def main(recipe: str, run: str) -> None:
    torch.set_num_threads(1)
    allow_plugin("poisoned")
    told: list[dict[str, Any]] = []
    update = Work.update

    def watched(self: Work, batches: list[Batch], step: int) -> Step | None:
        before = digest(self.system)
        result = update(self, batches, step)
        told.append({"step": step, "before": before, "after": digest(self.system), "made": result is not None})
        return result

    Work.update = watched
    try:
        train(read(recipe), run)
    finally:
        Path(f"{run}.rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A student-friendly teacher (SFTN), Park, Cha, Jeong, Kim and Han 2021, https://arxiv.org/abs/2102.07650: a UNet that
learns together with branches in which a student's own layers go on from its features, and so gets features that such
a student can use.

    PYTHONPATH=examples segdistill train examples/student_friendly.yaml --plugin student_friendly
    PYTHONPATH=examples python examples/student_friendly.py runs/examples-student_friendly runs/friendly.safetensors

A branch is a stage of its own (`branch1`, from the bottleneck; `branch2`, from the first decoder; …), so its losses are
ordinary edges: the recipe has them with the paper's weights. The second command drops the branches: what it writes is a
`unet`, which teaches without this file. Differs from the paper: a UNet's branch also takes the skip connections, each
through a 1×1 convolution, and starts in the decoder; our edges detach their target, so a branch follows the teacher's
logits and does not pull on them; its pull on the trunk comes through its own features.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from segdistill import Mistake, allow_plugin
from segdistill.assemble import built, weights
from segdistill.checkpoint import save_weights
from segdistill.models import Model
from segdistill.models.unet import Normalisation, UNet
from segdistill.types import Stage


@final
class StudentFriendly(Model):
    """A `unet` with branches; its stages are a `unet`'s and `branch1…branchN`, each with the logits of a student.

    Args:
        width: of the teacher, as of a `unet`; depth and normalisation are the student's, too.
        student_width: of the student for whom it is a teacher.
        branches: how many, from the bottleneck up.
    """

    def __init__(
        self,
        width: int = 64,
        student_width: int = 16,
        depth: int = 4,
        branches: int = 2,
        normalisation: Normalisation = "batch",
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        if not 1 <= branches <= depth:
            raise Mistake(f"branches: expected 1 to {depth}, as many as the decoder has blocks, got {branches}")
        self.trunk = UNet(width, depth, normalisation, num_classes=num_classes)
        students = [UNet(student_width, depth, normalisation, num_classes=num_classes) for _ in range(branches)]
        self.branches = nn.ModuleList(_Branch(student, self.trunk.stages, i) for i, student in enumerate(students))
        names = [f"branch{number}" for number in range(1, branches + 1)]
        self.stages = {**self.trunk.stages, **dict.fromkeys(names, Stage(num_classes, 1))}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        said: dict[str, Tensor] = self.trunk(image)
        return {**said, **{f"branch{number}": branch(said) for number, branch in enumerate(self.branches, 1)}}


class _Branch(nn.Module):
    """A student's decoder from its block `start` on, fed with the teacher's features of those places."""

    def __init__(self, student: UNet, teacher: Mapping[str, Stage], start: int) -> None:
        super().__init__()
        levels = range(len(student.up) - start, 0, -1)
        self.skips = [f"enc{level}" for level in levels]
        self.entry = f"dec{levels[0] + 1}" if start else "bottleneck"
        theirs, ours = teacher, student.stages
        self.transforms = nn.ModuleDict(
            {name: nn.Conv2d(theirs[name].channels, ours[name].channels, 1) for name in (self.entry, *self.skips)}
        )
        self.up, self.decoder, self.classifier = student.up[start:], student.decoder[start:], student.classifier

    def forward(self, said: Mapping[str, Tensor]) -> Tensor:
        x = self.transforms[self.entry](said[self.entry])
        for name, up, decode in zip(self.skips, self.up, self.decoder, strict=True):
            skip = self.transforms[name](said[name])
            height, width = skip.shape[-2:]
            x = decode(torch.cat([skip, up(x)[..., :height, :width]], 1))
        return self.classifier(x)


def drop_branches(run: str, out: Path) -> None:
    """Write what is left of a run's network (RUN, RUN@step-N or a weights file) without its branches: a `unet`."""
    found = weights(run)
    said = found.card.parameters
    kept = {name: said[name] for name in ("width", "depth", "normalisation")} | {"separable": False}
    trunk = built(found).get_submodule("trunk")
    save_weights(out, trunk, found.card._replace(kind="unet", parameters=kept))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Drop the branches of a student-friendly teacher.")
    parser.add_argument("run", help="a run, RUN@step-N or a weights file")
    parser.add_argument("out", type=Path, help="the weights file written")
    words = parser.parse_args()
    allow_plugin("student_friendly")
    drop_branches(words.run, words.out)

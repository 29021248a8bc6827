"""ONE, Lan, Zhu and Gong 2018, https://arxiv.org/abs/1806.04606: a UNet with several decoders on one encoder; a gate
mixes what these branches say into an ensemble, which teaches each of them while all learn together.

    PYTHONPATH=examples segdistill train examples/branches.yaml --plugin branches
    PYTHONPATH=examples python examples/branches.py runs/examples-branches runs/one.safetensors

`logits` is the first branch, which is measured and deployed; the other branches and the ensemble are stages of their
own, so every loss is an ordinary edge. The second command drops all but the first branch: what it writes is a `unet`,
which needs nothing of this file. Differs from the paper: a UNet's branch takes the skip connections, too; the gate
looks at the mean of the bottleneck, and has no batch normalisation where the UNet has none; the weight of what the
branches learn from the ensemble rises linearly. Where the sides of an image are no multiples of 2^depth, only the first
branch sees the padding.

KDCL, Guo, Wang, Wu et al. 2020,
https://openaccess.thecvf.com/content_CVPR_2020/html/Guo_Online_Knowledge_Distillation_via_Collaborative_Learning_CVPR_2020_paper.html,
makes one target of all networks' logits and the labels. An edge learns from one node, so networks of a recipe cannot;
the branches of one model can, by a loss over several stages, which sees the labels as every loss does: `MinLogit` here,
with `examples/min_logit.yaml` (and *Naive* likewise). Their *Linear* is what ONE's gate learns to guess, the mixture
with the least cross entropy; *General* needs errors on held-out images, which no edge sees. Differs from that paper:
the encoder is shared, so all see the same distortion of the image.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from segdistill import Mistake, allow_plugin
from segdistill.assemble import built, weights
from segdistill.checkpoint import save_weights
from segdistill.losses import Labels, Loss, Mask, Scalar
from segdistill.losses.soft_targets import SoftTargets
from segdistill.models import Model
from segdistill.models.unet import Normalisation, UNet
from segdistill.types import IGNORE, Stage


@final
class NativeEnsemble(Model):
    """A `unet` with more decoders; its stages are a `unet`'s, `branch2…branchN` and `ensemble`, logits all of these.

    The ensemble is Σ gᵢ·zᵢ of the branches' logits zᵢ, with one weight gᵢ for each branch and image, from the gate.

    Args:
        width: as of a `unet`, and so is depth.
        branches: how many decoders, the first included.
        normalisation: as of a `unet`; with batch the gate learns from at least two images at a time.
    """

    def __init__(
        self,
        width: int = 16,
        depth: int = 4,
        branches: int = 3,
        normalisation: Normalisation = "batch",
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        if not 2 <= branches <= 8:
            raise Mistake(f"branches: expected 2 to 8, the first included, got {branches}")
        networks = [UNet(width, depth, normalisation, num_classes=num_classes) for _ in range(branches)]
        self.trunk = networks[0]
        self.branches = nn.ModuleList(_Decoder(network) for network in networks[1:])
        self.gate = nn.Sequential(
            nn.Linear(self.trunk.stages["bottleneck"].channels, branches),
            nn.BatchNorm1d(branches) if normalisation == "batch" else nn.Identity(),
            nn.ReLU(),
            nn.Softmax(1),
        )
        self.names = [f"branch{number}" for number in range(2, branches + 1)]
        self.stages = {**self.trunk.stages, **dict.fromkeys([*self.names, "ensemble"], Stage(num_classes, 1))}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        said: dict[str, Tensor] = self.trunk(image)
        others = {name: branch(said) for name, branch in zip(self.names, self.branches, strict=True)}
        gate = self.gate(said["bottleneck"].mean((2, 3)))  # [b, branches]
        logits = torch.stack([said["logits"], *others.values()], 1)  # [b, branches, k, H, W]
        return {**said, **others, "ensemble": (gate[..., None, None, None] * logits).sum(1)}


class _Decoder(nn.Module):
    """The decoder of a `unet`, fed with the stages of another one's encoder."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.skips = [f"enc{level}" for level in range(len(network.up), 0, -1)]
        self.up, self.decoder, self.classifier = network.up, network.decoder, network.classifier

    def forward(self, said: Mapping[str, Tensor]) -> Tensor:
        x = said["bottleneck"]
        for skip, up, decode in zip(self.skips, self.up, self.decoder, strict=True):
            height, width = said[skip].shape[-2:]
            x = decode(torch.cat([said[skip], up(x)[..., :height, :width]], 1))
        return self.classifier(x)


@final
class MinLogit(Loss):
    """Soft targets from the lowest logits of all target stages, for every student stage: a sum over these.

    The target's logit of class k is min over stages i of zᵢₖ − zᵢᵧ, with y the pixel's label: 0 for the label, and for
    another class that of the stage which doubts the label least. In nats per labelled pixel, times T².

    Args:
        temperature: T.
    """

    several = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.soft_targets = SoftTargets(temperature)

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor], labels: Labels, mask: Mask) -> Scalar:
        counts = mask & (labels != IGNORE)
        known = torch.where(counts, labels, 0)[:, None]
        lowest = torch.stack([logits - logits.gather(1, known) for logits in target]).amin(0)
        return torch.stack([self.soft_targets(logits, lowest, labels, counts) for logits in student]).sum()


def drop_branches(run: str, out: Path) -> None:
    """Write the first branch of a run's network (RUN, RUN@step-N or a weights file) with the encoder: a `unet`."""
    found = weights(run)
    said = found.card.parameters
    kept = {name: said[name] for name in ("width", "depth", "normalisation")} | {"separable": False}
    trunk = built(found).get_submodule("trunk")
    save_weights(out, trunk, found.card._replace(kind="unet", parameters=kept))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Drop all but the first branch of a native ensemble.")
    parser.add_argument("run", help="a run, RUN@step-N or a weights file")
    parser.add_argument("out", type=Path, help="the weights file written")
    words = parser.parse_args()
    allow_plugin("branches")
    drop_branches(words.run, words.out)

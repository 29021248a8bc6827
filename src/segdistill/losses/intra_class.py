"""Intra-class feature variation, Wang, Zhou, Jiang, Bai and Xu 2020,
https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php.

Differs from the authors' code in the mean, which is over labelled cells only (there, void cells count as equal), and in
the labels of a coarse stage, which are those of most of a cell's pixels rather than of its corner.
"""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segdistill.losses import Features, Labels, Loss, Mask, Scalar, at_least_float32, global_mean, labels_on_grid
from segdistill.losses._relations import inverse_length, unit


@final
class IntraClass(Loss):
    """Mean squared difference of how close each labelled cell is to the prototype of its class.

    The prototype is the mean of the class's features in the image, and closeness is the cosine, so channels may differ.
    Student and prototypes both have a gradient. The only cell of its class in an image is its own prototype and adds 0.
    Keeps 1 tensor of the student's size for backward, and one of classes × cells.

    Published weights: 200 beside soft targets of 0.53 in our unit (the authors' code), 20 (CIRKD's).
    """

    same_channels = False

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, student: Features, target: Float[Tensor, "b d h w"], labels: Labels, mask: Mask) -> Scalar:
        classes = labels_on_grid(labels, mask, self.num_classes, *student.shape[-2:]).flatten(1)
        members = classes[:, None] == torch.arange(self.num_classes, device=labels.device)[:, None]  # [b, k, hw]
        s, t = (closeness(at_least_float32(x).flatten(2), members) for x in (student, target))
        return global_mean((s - t).square(), members.any(1).to(s.dtype))


def closeness(features: Float[Tensor, "b c n"], members: Bool[Tensor, "b k n"]) -> Float[Tensor, "b n"]:
    """The cosine of each cell and the mean of its class in its image; 0 for a cell without a class."""
    features = torch.where(members.any(1, keepdim=True), features, 0.0)
    one_hot = members.to(features.dtype)
    # Products with a one-hot matrix: no loop over classes and, unlike scatter_add on a GPU, always added in one order.
    prototypes = unit(one_hot @ features.mT, 2)  # [b, k, c]; the sum has the direction of the mean
    along = ((prototypes @ features) * one_hot).sum(1)  # [b, n]
    return along * inverse_length(features, 1).squeeze(1)

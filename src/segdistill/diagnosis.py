"""What `plan` warns of: edges that drown the labels or teach nothing, teachers that see the wrong image."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from segdistill.class_map import Groups, merge
from segdistill.data import as_float
from segdistill.gradients import Pull
from segdistill.recipe import LABELS, DataSpec
from segdistill.system import Frozen, System
from segdistill.types import IGNORE, Batch

LOUD, QUIET = 10.0, 0.01
"""An edge's gradient as a multiple of the labels' above or below which its weight is probably in another unit."""


def warnings(
    system: System, frozen: Frozen, batch: Batch, pulled: Mapping[str, Pull], class_maps: Mapping[str, Groups]
) -> list[str]:
    """One sentence for each thing that is probably not meant; what is certainly wrong is a mistake elsewhere.

    Args:
        batch: training crops; what is said of a teacher is said of these.
        pulled: what each edge pulls on, of the same crops.
        class_maps: of the teachers whose classes are not the data's.
    """
    found = [sentence for name, pull in pulled.items() for sentence in _of_edge(system, frozen, name, pull)]
    for name, model in frozen.models.items():
        if name not in frozen.following:
            found += _of_teacher(name, model, batch, class_maps.get(name))
    return found


def unheard(system: System, data: DataSpec) -> list[str]:
    """A sentence where images without labels are shown and nothing acts on them."""
    frames = data.frames
    shown = frames.rate > 0 if frames is not None else data.withhold > 0
    edges = [system.edge(name) for name in system.edges]
    if not shown or any(edge.target.node != LABELS and edge.distill_on != "labelled" for edge in edges):
        return []
    what = "no edge learns from a model where there are no labels"
    if frames is None:
        return [f"data.withhold: {what}: the images teach nothing; `data.frames: {{rate: 0}}` leaves them out"]
    return [f"data.frames: {what}: {frames.rate:g} of the crops teach nothing"]


def _of_edge(system: System, frozen: Frozen, name: str, pull: Pull) -> Iterator[str]:
    edge, where = system.edge(name), f"losses.{name}"
    quiet = edge.loss.silent_at_first or edge.loss.may_rest or edge.target.node in frozen.following
    if pull.norm == 0 and pull.weight > 0 and not quiet:
        yield f"{where}: its gradient is exactly zero with the first batch: it teaches nothing"
    elif pull.cosine is not None and pull.task:
        ratio = pull.norm / pull.task
        if ratio > LOUD or (ratio < QUIET and edge.ramp == 0 and not quiet):
            even = pull.weight / ratio
            yield (
                f"{where}: its gradient is {ratio:.2g} times that of the labels; weight {even:.2g} would make them "
                f"equal: is {pull.weight:g} a weight in another unit?"
            )
        if pull.cosine < -0.1 and edge.target.node not in system.models:  # what learns, too, knows nothing yet
            yield f"{where}: its gradient points away from that of the labels (cosine {pull.cosine:.2f})"
    own, students = _size(edge), _size(system.models[edge.student.node])
    if own > students / 2:
        yield f"{where}: its own layers have {own:,} parameters, the student {students:,}: they may learn in its place"


def _of_teacher(name: str, model: nn.Module, batch: Batch, groups: Groups | None) -> Iterator[str]:
    where = f"models.{name}"
    idle = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.num_batches_tracked == 0]
    if idle:
        yield f"{where}: {len(idle)} BatchNorm layers have no statistics yet; is it trained?"
    if model.training or any(p.requires_grad for p in model.parameters()):
        yield f"{where}: it is frozen but in training mode or has parameters that learn"
    labels = batch.labels if groups is None else groups.of_ours(batch.labels)
    counts = torch.bincount(labels[labels != IGNORE], minlength=1)
    if counts.sum() == 0:
        return
    image = as_float(batch.image)
    usual = counts.max() / counts.sum()
    right = _accuracy(model, image, labels, groups)
    if right < usual:
        yield (
            f"{where}: right at {right:.0%} of the labelled pixels of the first batch, where always the same class "
            f"is right at {usual:.0%}: wrong weights, class order, image size or normalisation?"
        )
    others = {"with red and blue swapped": image.flip(1), "of an image in 0…255": image * 255}
    for what, changed in others.items():
        better = _accuracy(model, changed, labels, groups)
        if better > right + 0.1:
            yield f"{where}: right at {better:.0%} {what}, at {right:.0%} as it is fed: check its normalisation"


@torch.no_grad()
def _accuracy(model: nn.Module, image: Tensor, labels: Tensor, groups: Groups | None) -> float:
    """Share of the labelled pixels; labels in the groups' terms where there are groups."""
    logits: Tensor = model(image)["logits"]
    if groups is not None:
        logits = merge(logits, groups.theirs)
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
    known = labels != IGNORE
    return float(((logits.argmax(1) == labels) & known).sum() / known.sum())


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())

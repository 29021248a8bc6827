"""Time and memory of every loss, forward and backward, against a peer: the same mathematics written the usual way.

The peer is torchdistill's where it has the loss (pip fetches it into a temporary folder), else the plain PyTorch below.
Logits are (4, 19, 512, 1024), features (4, 256, 64, 128), settings the default, and all pixels count. Time is of the
processor, as others may run beside, of one thread, in turns; memory is the peak of a fresh process for each.

    python benchmarks/losses.py [LOSS…]
"""

import importlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill import parts
from segdistill.losses import Loss
from segdistill.run import processor

CLASSES, ROUNDS = 19, 3
LOGITS, FEATURES = (4, CLASSES, 512, 1024), (4, 256, 64, 128)
ON_FEATURES = {
    "hint", "standardised_hint", "attention", "masked_generation", "pairwise_affinity", "intra_class", "cross_image",
}  # fmt: skip
WITHOUT_PEER = {"review", "memory_contrast"}
"""Their own layers and memories are nearly all of their cost, and no two codes have the same."""

TORCHDISTILL = Path(tempfile.gettempdir()) / "segdistill-benchmark-torchdistill-1.1.5"
SETTING = {  # as in the Makefile
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
Given = tuple[Tensor, Tensor, Tensor, Tensor]
Ask = Callable[[Given], Tensor]


def main() -> None:
    names = sys.argv[1:] or [name for name in parts.names("losses") if name not in WITHOUT_PEER]
    if not TORCHDISTILL.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(TORCHDISTILL)]
        if subprocess.run([*command, "torchdistill==1.1.5"]).returncode:
            print("torchdistill could not be installed (pip says why): plain PyTorch stands in for it")
    settings = ", ".join(f"{name}={value}" for name, value in SETTING.items())
    print(f"{processor()}, torch {torch.__version__}, {ROUNDS} rounds, {settings}\n")
    print("| loss | peer | time / peer's | memory / peer's | tensors | peer's |\n|---|---|---|---|---|---|")
    for name in names:
        time_ratio = float(_measured("--time", name))
        ours, theirs = (float(_measured(f"--memory-{which}", name)) for which in ("ours", "peer"))
        who = "torchdistill" if name in _torchdistill_losses() else "plain PyTorch"
        print(f"| {name} | {who} | {time_ratio:.2f} | {ours / theirs:.2f} | {ours:.1f} | {theirs:.1f} |", flush=True)


def _measured(what: str, name: str) -> str:
    command, environment = [sys.executable, __file__, what, name], {**os.environ, **SETTING}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout


def ratio(name: str) -> float:
    """Our time over the peer's, medians; both say the same value."""
    given = example(name)
    pair = ours(name), peer(name)
    values = [float(ask(given).detach()) for ask in pair]
    assert abs(values[0] - values[1]) <= 1e-3 * abs(values[1]), f"{name}: {values[0]}, the peer {values[1]}"
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for ask, taken in zip(pair, seconds, strict=True):
            begin = time.process_time()
            step(ask, given)
            if turn:
                taken.append(time.process_time() - begin)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def peak(ask: Ask, given: Given) -> float:
    """Of a first step beyond the inputs, in tensors of the student's size; the gradient is one."""
    student, target, labels, mask = given
    scale = labels.shape[1] // student.shape[2]
    corner, cells = (slice(1), slice(32 * scale), slice(32 * scale)), (slice(1), slice(None), slice(32), slice(32))
    tiny = student.detach()[cells].clone().requires_grad_(), target[cells].clone(), labels[corner], mask[corner]
    step(ask, tiny)  # the code itself comes into memory
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    step(ask, given)
    size = student.numel() * student.element_size()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / size


def step(ask: Ask, given: Given) -> None:
    given[0].grad = None
    ask(given).backward()


def example(name: str) -> Given:
    """Labels in patches of 32×32 pixels, as large as a crop of 512×1024."""
    torch.manual_seed(0)
    shape = FEATURES if name in ON_FEATURES else LOGITS
    student, target = torch.randn(shape, requires_grad=True), torch.randn(shape)
    labels = torch.randint(0, CLASSES, (shape[0], 16, 32)).repeat_interleave(32, 1).repeat_interleave(32, 2)
    return student, target, labels, torch.ones(labels.shape, dtype=torch.bool)


def ours(name: str) -> Ask:
    loss = build(name)
    return lambda given: loss(*given)


def build(name: str) -> Loss:
    part = parts.find("losses", name, name)
    channels = (FEATURES if name in ON_FEATURES else LOGITS)[1]
    torch.manual_seed(0)
    return parts.build(
        part,
        parts.settings(part, {"ratio": 0.0} if name == "masked_generation" else {}, name),
        num_classes=CLASSES,
        class_pixels=[10**6] * CLASSES,
        class_image_pixels=[10**7] * CLASSES,
        channels=channels,
        student_channels=channels,
        seed=0,
    )


def peer(name: str) -> Ask:
    if name in _torchdistill_losses():
        return _of_torchdistill(name)
    if name == "masked_generation":
        generation = build(name).get_submodule("generation")
        return lambda given: F.mse_loss(generation(given[0]), given[1])
    return PLAIN[name]


# torchdistill's, with what it takes to get the same number per pixel, map or image


def _torchdistill_losses() -> set[str]:
    return {"soft_targets", "dist", "standardised_logits", "attention"} if TORCHDISTILL.exists() else set()


def _of_torchdistill(name: str) -> Ask:
    sys.path.append(str(TORCHDISTILL))
    mid_level = importlib.import_module("torchdistill.losses.mid_level")

    stage = {"path": "s", "io": "output"}
    ends = ("s", "output", "s", "output")

    def asked(loss: Callable[..., Tensor], student: Tensor, target: Tensor) -> Tensor:
        return loss({"s": {"output": student}}, {"s": {"output": target}})

    match name:
        case "soft_targets":
            loss = mid_level.KDLoss(*ends, temperature=1.0, alpha=0, beta=1)
            return lambda given: asked(loss, given[0], given[1]) / given[0][0, 0].numel()
        case "attention":
            loss = mid_level.ATLoss({"pair": {"student": stage, "teacher": stage}})
            return lambda given: asked(loss, given[0], given[1]) * given[0][0, 0].numel()
        case "dist":
            loss, factor = mid_level.DISTLoss(*ends), 1.0
        case _:
            loss, factor = mid_level.LogitStdKDLoss(*ends, temperature=2.0, alpha=0, beta=1), 4.0
    # These two know classification alone: rows of classes.
    return lambda given: factor * asked(loss, *(x.permute(0, 2, 3, 1).flatten(0, 2) for x in given[:2]))


# Plain PyTorch, from the equations


def soft_targets(given: Given, temperature: float = 1.0) -> Tensor:
    return kl_per_pixel(given[0], given[1], temperature).mean()


def kl_per_pixel(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    log_p = F.log_softmax(student / temperature, 1)
    q = F.softmax(target / temperature, 1)
    return F.kl_div(log_p, q, reduction="none").sum(1) * temperature**2


def channel_wise(given: Given, temperature: float = 4.0) -> Tensor:
    log_p = F.log_softmax(given[0].flatten(2) / temperature, 2)
    q = F.softmax(given[1].flatten(2) / temperature, 2)
    return F.kl_div(log_p, q, reduction="sum") * temperature**2 / (log_p.shape[0] * log_p.shape[1])


def standardised_logits(given: Given) -> Tensor:
    student, target = ((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-7) for x in given[:2])
    return kl_per_pixel(student, target, 2.0).mean()


def weighted_soft_targets(given: Given) -> Tensor:
    student, target, labels, _ = given
    with torch.no_grad():
        errors, target_errors = (F.cross_entropy(x, labels, reduction="none") for x in (student, target))
        weights = 1 - torch.exp(-errors / target_errors)
    return (weights * kl_per_pixel(student, target, 2.0)).mean()


def decoupled(given: Given) -> Tensor:
    student, target, labels, _ = given
    here = torch.zeros_like(student, dtype=torch.bool).scatter_(1, labels[:, None], True)
    p, q = student.softmax(1), target.softmax(1)
    p_known, q_known = ((x * here).sum(1) for x in (p, q))
    binary = F.kl_div(
        torch.stack([p_known, 1 - p_known], 1).log(), torch.stack([q_known, 1 - q_known], 1), reduction="none"
    ).sum(1)
    log_p, q = F.log_softmax(student - 1000 * here, 1), F.softmax(target - 1000 * here, 1)
    return (binary + F.kl_div(log_p, q, reduction="none").sum(1)).mean()


def dist(given: Given) -> Tensor:
    rows = [x.softmax(1).permute(0, 2, 3, 1).flatten(0, 2) for x in given[:2]]

    def relation(p: Tensor, q: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)).mean()

    return relation(rows[0], rows[1]) + relation(rows[0].T, rows[1].T)


def boundary_privileged(given: Given) -> Tensor:
    student, target, labels, _ = given
    values = labels[:, None].float()
    edge = (F.max_pool2d(values, 7, 1, 3) != -F.max_pool2d(-values, 7, 1, 3))[:, 0]
    of_edge = (kl_per_pixel(student, target, 1.0) * edge).sum() / edge.sum()
    student, target = (x.masked_fill(edge[:, None], -1e9).flatten(2) for x in (student, target))
    of_maps = F.kl_div(F.log_softmax(student, 2), F.softmax(target, 2), reduction="none").sum(2)
    return of_edge + of_maps.mean()


def focal(given: Given) -> Tensor:
    errors = F.cross_entropy(given[0], given[2], reduction="none")
    return ((1 - torch.exp(-errors)) ** 2 * errors).mean()


def ohem(given: Given) -> Tensor:
    errors = F.cross_entropy(given[0], given[2], reduction="none").flatten()
    hardest = errors.detach().sort(descending=True).values
    return errors[errors >= hardest[:100_000][-1].clamp(max=-torch.tensor(0.7).log())].mean()


def areas(given: Given) -> tuple[Tensor, Tensor, Tensor]:
    p, g = given[0].softmax(1), F.one_hot(given[2], CLASSES).permute(0, 3, 1, 2).to(given[0].dtype)
    return (p * g).sum((0, 2, 3)), p.sum((0, 2, 3)), g.sum((0, 2, 3))


def dice(given: Given) -> Tensor:
    both, predicted, labelled = areas(given)
    return (1 - (2 * both + 1) / (predicted + labelled + 1)).mean()


def tversky(given: Given) -> Tensor:
    both, predicted, labelled = areas(given)
    return (1 - (both + 1) / (both + 0.3 * (predicted - both) + 0.7 * (labelled - both) + 1)).mean()


def lovasz(given: Given) -> Tensor:
    p, values = given[0].softmax(1), list[Tensor]()
    for k in range(CLASSES):
        members = (given[2] == k).float().flatten()
        errors, order = (members - p[:, k].flatten()).abs().sort(descending=True)
        members = members[order]
        jaccard = 1 - (members.sum() - members.cumsum(0)) / (members.sum() + (1 - members).cumsum(0))
        values.append(errors @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]))
    return torch.stack(values).mean()


def attention(given: Given) -> Tensor:
    student, target = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in given[:2])
    return (student - target).pow(2).sum(1).mean()


def standardised_hint(given: Given) -> Tensor:
    student, target = (
        (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + 1e-6) for x in given[:2]
    )
    return F.mse_loss(student, target) / 2


def pairwise_affinity(given: Given) -> Tensor:
    maps = [F.normalize(F.max_pool2d(x, 2, ceil_mode=True).flatten(2), dim=1) for x in given[:2]]
    student, target = (x.mT @ x for x in maps)
    return (student - target).pow(2).mean()


def cross_image(given: Given) -> Tensor:
    student, target = (F.normalize(F.max_pool2d(x, 2, ceil_mode=True).flatten(2), dim=1) for x in given[:2])
    values = list[Tensor]()
    for i in range(len(student)):
        for j in range(len(student)):
            log_p, q = F.log_softmax(student[i].T @ student[j] / 0.1, 1), F.softmax(target[i].T @ target[j] / 0.1, 1)
            values.append(F.kl_div(log_p, q, reduction="batchmean"))
    return torch.stack(values).mean()


def intra_class(given: Given) -> Tensor:
    student, target, labels, _ = given
    labels = F.interpolate(labels[:, None].float(), student.shape[2:], mode="nearest").long()
    centres = [x.clone() for x in (student, target)]
    for k in range(CLASSES):
        members = (labels == k).float()
        number = members.sum((2, 3), keepdim=True) + 1e-6
        for i, x in enumerate((student, target)):
            mean = (x * members).sum((2, 3), keepdim=True) / number
            centres[i] = (1 - members) * centres[i] + members * mean
    ours, theirs = (F.cosine_similarity(x, centre, 1) for x, centre in zip((student, target), centres, strict=True))
    return F.mse_loss(ours, theirs)


PLAIN: dict[str, Ask] = {
    "cross_entropy": lambda given: F.cross_entropy(given[0], given[2]),
    "hint": lambda given: F.mse_loss(given[0], given[1]),
    **{
        loss.__name__: loss
        for loss in (
            soft_targets, channel_wise, standardised_logits, weighted_soft_targets, decoupled, dist, focal, ohem, dice,
            boundary_privileged, tversky, lovasz, attention, standardised_hint, pairwise_affinity, cross_image,
            intra_class,
        )
    },
}  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["--time", name]:
            print(ratio(name))
        case ["--memory-ours", name]:
            print(peak(ours(name), example(name)))
        case ["--memory-peer", name]:
            print(peak(peer(name), example(name)))
        case _:
            main()

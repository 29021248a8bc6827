"""Time and memory of every loss, forward and backward, as multiples of soft targets; one thread, this machine.

Logit losses on (4, 19, 512, 1024), feature and relation losses on (4, 256, 64, 128). Each is timed in turns with soft
targets on tensors of the same shape and is given as a ratio of medians; memory is that of a fresh process.

    python benchmarks/losses.py [LOSS…]
"""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from segdistill import parts
from segdistill.losses import Loss
from segdistill.losses.soft_targets import SoftTargets
from segdistill.run import processor

CLASSES, ROUNDS = 19, 5
LOGITS, FEATURES = (4, CLASSES, 512, 1024), (4, 256, 64, 128)
ON_FEATURES = {
    "hint", "standardised_hint", "attention", "masked_generation", "review",
    "pairwise_affinity", "intra_class", "cross_image", "memory_contrast",
}  # fmt: skip
Given = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    names = sys.argv[1:] or parts.names("losses")
    print(f"{processor()}, 1 thread, torch {torch.__version__}, {ROUNDS} rounds")
    print(
        "| loss | on | time / soft targets | kept for backward (tensors) | peak beyond inputs and gradient (tensors) |"
    )
    print("|---|---|---|---|---|")
    for name in names:
        out = subprocess.run([sys.executable, __file__, "--measure", name], capture_output=True, text=True, check=True)
        print(out.stdout.strip(), flush=True)


def measure(name: str) -> None:
    torch.set_num_threads(1)
    shape = FEATURES if name in ON_FEATURES else LOGITS
    loss, given = build(name, shape), example(shape)
    size = given[0].numel() * given[0].element_size()
    before = resident()
    step(loss, given)  # the first: an allocator keeps what it was given once
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / size - 1  # the gradient is one
    saved = kept(loss, given) / size
    plain = SoftTargets()
    seconds: dict[Loss, list[float]] = {loss: [], plain: []}
    for turn in range(ROUNDS + 1):
        for each in (loss, plain):
            begin = time.perf_counter()
            step(each, given)
            if turn:
                seconds[each].append(time.perf_counter() - begin)
    ratio = statistics.median(seconds[loss]) / statistics.median(seconds[plain])
    where = "features" if shape == FEATURES else "logits"
    print(f"| {name} | {where} | {ratio:.2f} | {saved:.1f} | {peak:.1f} |")


def build(name: str, shape: tuple[int, ...]) -> Loss:
    part = parts.find("losses", name, name)
    several = part.several
    return parts.build(
        part,
        parts.settings(part, {}, name),
        num_classes=CLASSES,
        class_pixels=[10**6] * CLASSES,
        class_image_pixels=[10**7] * CLASSES,
        channels=(shape[1],) if several else shape[1],
        student_channels=(shape[1],) if several else shape[1],
        seed=0,
    )


def example(shape: tuple[int, ...]) -> Given:
    """Labels in patches of 32×32 pixels, as large as a crop of 512×1024."""
    torch.manual_seed(0)
    student, target = torch.randn(shape, requires_grad=True), torch.randn(shape)
    labels = torch.randint(0, CLASSES, (shape[0], 16, 32)).repeat_interleave(32, 1).repeat_interleave(32, 2)
    return student, target, labels, torch.ones(labels.shape, dtype=torch.bool)


def ask(loss: Loss, given: Given) -> Tensor:
    student, target, labels, mask = given
    return loss([student], [target], labels, mask) if loss.several else loss(student, target, labels, mask)


def step(loss: Loss, given: Given) -> None:
    given[0].grad = None
    ask(loss, given).backward()


def kept(loss: Loss, given: Given) -> int:
    """Bytes that autograd holds between forward and backward, beyond the inputs and the loss's own parameters."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*given, *loss.parameters(), *loss.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = ask(loss, given)
    value.backward()
    return sum(found.values())


def resident() -> int:
    """Bytes in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main()

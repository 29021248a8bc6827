"""What one training step costs: alone, with a live teacher, and its parts; ratios of medians, taken in turns.

.venv/bin/python benchmarks/step.py          about a minute on two cores
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.losses.soft_targets import SoftTargets
from segdistill.models.unet import UNet
from segdistill.run import processor
from segdistill.system import Edge, Frozen, System, Tap
from segdistill.types import Batch

SIZE, IMAGES, CLASSES, ROUNDS = (96, 192), 4, 19, 7
STUDENT, TEACHER = 8, 16


def edge(loss: CrossEntropy | SoftTargets, target: Tap) -> Edge:
    return Edge(loss, Tap("student", ("logits",)), target)


def step(system: System, frozen: Frozen, batch: Batch) -> None:
    references = frozen(batch.image, system.listened_to(0))
    system(batch, references, 0).loss.backward()
    system.zero_grad()


def alternate(works: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each, after one warm-up, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for count in range(ROUNDS + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if count:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    torch.manual_seed(0)
    student, teacher = (UNet(w, num_classes=CLASSES).to(memory_format=torch.channels_last) for w in (STUDENT, TEACHER))
    labels = edge(CrossEntropy(num_classes=CLASSES, class_pixels=[1] * CLASSES), Tap("labels"))
    soft = edge(SoftTargets(temperature=2.0), Tap("teacher", ("logits",)))
    frozen = Frozen({"teacher": teacher}, {})
    alone, taught = System({"student": student}, {"ce": labels}, []), System(
        {"student": student}, {"ce": labels, "soft": soft}, []
    )  # fmt: skip
    image = torch.randint(256, (IMAGES, 3, *SIZE), dtype=torch.uint8)
    truth: Tensor = torch.randint(CLASSES, (IMAGES, *SIZE))
    batch = Batch(image, truth, torch.zeros(IMAGES, *SIZE, dtype=torch.bool), ("",) * IMAGES)
    medians = alternate(
        {
            "student <- labels": lambda: step(alone, frozen, batch),
            "student <- labels, live teacher": lambda: step(taught, frozen, batch),
            "teacher forward": lambda: frozen(batch.image, {"teacher"}) and None,
        }
    )
    first = medians["student <- labels"]
    print(f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"UNet {STUDENT} <- UNet {TEACHER}, {IMAGES} images of {SIZE[0]}×{SIZE[1]}, medians of {ROUNDS}")
    for name, seconds in medians.items():
        print(f"{name:34} {1000 * seconds:8.0f} ms   ×{seconds / first:.2f}")


if __name__ == "__main__":
    main()

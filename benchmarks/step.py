"""What one training step costs: alone, with a live teacher, with a cached one; and how far the two teachers are apart.

.venv/bin/python benchmarks/step.py                                    UNet 8 <- UNet 32, 4 images of 360×480
.venv/bin/python benchmarks/step.py --size 512 1024 --images 2         another size; --rounds, --widths 8 32
.venv/bin/python benchmarks/step.py --agreement RECIPE [KEY=VALUE …]   of a recipe's teacher, on 64 augmented crops

Threads are those of OMP_NUM_THREADS. Times are medians of rounds in which the ways take turns; peak memory is that of a
process of its own for each way.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from segdistill.assemble import assemble
from segdistill.data import training_batches
from segdistill.datasets import Dataset
from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.losses.soft_targets import SoftTargets
from segdistill.models import Model
from segdistill.models.unet import UNet
from segdistill.recipe import CacheSpec, DataSpec, read
from segdistill.run import processor
from segdistill.system import Edge, Frozen, System, Tap
from segdistill.teacher_cache import TeacherCache
from segdistill.types import Batch, ClassTable, Sample

CLASSES = 19
CROPS = 64
CACHES = {f"cached, stride {stride}, {dtype}": (stride, dtype) for stride in (1, 2, 4) for dtype in ("fp16", "uint8")}
KEPT = {name: CACHES[name] for name in ("cached, stride 1, fp16", "cached, stride 2, fp16", "cached, stride 4, uint8")}


class Noise(Dataset):
    """Images whose content does not matter, of one size."""

    classes = ClassTable(tuple(map(str, range(CLASSES))), ((0, 0, 0),) * CLASSES)

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, *self.size), dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, self.size, dtype=torch.uint8, generator=generator)
        return Sample(image, labels, str(index))

    def fingerprint(self) -> str:
        return f"{self.count}-{self.size}"


class Ways:
    """A step in each way, on the same batch of augmented crops."""

    def __init__(self, size: tuple[int, int], images: int, widths: tuple[int, int], folder: str) -> None:
        torch.manual_seed(0)
        student, teacher = (UNet(w, num_classes=CLASSES) for w in widths)
        for network in (student, teacher):
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.teacher = teacher.eval().requires_grad_(False)
        dataset = Noise(images, size)
        data = DataSpec(kind="noise", batch=images, crop=size)
        self.batch = next(training_batches(dataset, data, 0, start=0, batch=images, rank=0, ranks=1))
        ends = Tap("student", ("logits",)), Tap("teacher", ("logits",))
        labels = Edge(CrossEntropy(num_classes=CLASSES, class_pixels=[1] * CLASSES), ends[0], Tap("labels"))
        self.alone = System({"student": student}, {"labels": labels}, [])
        self.taught = System({"student": student}, {"labels": labels, "soft": Edge(SoftTargets(1.0), *ends)}, [])
        stage = {"logits": teacher.stages["logits"]}
        self.frozen = {"live": Frozen({"teacher": teacher}, {})}
        for name, (stride, dtype) in KEPT.items():
            spec = CacheSpec.model_validate({"stride": stride, "dtype": dtype, "folder": folder})
            cache = TeacherCache(name, teacher, ("noise",), dataset, None, stage, spec)
            cache.build(torch.device("cpu"))
            self.frozen[name] = Frozen({"teacher": teacher}, {}, {"teacher": cache})
        self.sizes = {name: sum(s.size for s in _caches(f)[0].stores.values()) for name, f in self.frozen.items()
                      if f.remembered}  # fmt: skip

    def names(self) -> list[str]:
        return ["student alone", *self.frozen]

    def step(self, name: str) -> None:
        system = self.taught if name in self.frozen else self.alone
        references = self.frozen[name](self.batch, {"teacher"}) if name in self.frozen else {}
        system(self.batch, references, 0).loss.backward()
        system.zero_grad()


def _caches(frozen: Frozen) -> list[TeacherCache]:
    return [cache for cache in frozen.remembered.values() if isinstance(cache, TeacherCache)]


def alternate(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one warm-up, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for count in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if count:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _peak(pipe: Connection, name: str, size: tuple[int, int], images: int, widths: tuple[int, int], at: str) -> None:
    """Tell what two steps add to the memory of a process that has everything loaded."""
    ways = Ways(size, images, widths, at)
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(2):
        ways.step(name)
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    pipe.send(int(status) * 1024 - now)


def peak(name: str, size: tuple[int, int], images: int, widths: tuple[int, int], at: str) -> int:
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_peak, args=(there, name, size, images, widths, at))
    process.start()
    there.close()
    return here.recv()


def times(size: tuple[int, int], images: int, widths: tuple[int, int], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(size, images, widths, folder)
        works: dict[str, Callable[[], object]] = {name: lambda name=name: ways.step(name) for name in ways.names()}
        works |= {f"  {name}: the teacher": lambda name=name: ways.frozen[name](ways.batch, {"teacher"})
                  for name in ways.frozen}  # fmt: skip
        medians = alternate(works, rounds)
        print(f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
        print(f"UNet {widths[0]} <- UNet {widths[1]}, {images} images of {size[0]}×{size[1]}, medians of {rounds}")
        print("| way | ms a step | images/s | live / this | peak memory of a step, MiB | MB an image on the disk |")
        print("|---|---|---|---|---|---|")
        for name, seconds in medians.items():
            step = name in ways.names()
            memory = f"{peak(name, size, images, widths, folder) / 2**20:.0f}" if step else ""
            disk = f"{ways.sizes[name] / images / 1e6:.2f}" if name in ways.sizes else ""
            ratio = medians["live" if step else "  live: the teacher"] / seconds
            print(f"| {name} | {1000 * seconds:.0f} | {images / seconds:.2f} | ×{ratio:.2f} | {memory} | {disk} |")


def agreement(recipe_file: str, settings: list[str]) -> None:
    """Of cached answers with those of the teacher that looks at the crop: the same 64 crops, real pixels only."""
    recipe = read(recipe_file, settings)
    assembly = assemble(recipe)
    (name,) = [name for name, spec in assembly.recipe.models.items() if spec.frozen]
    teacher, data = assembly.frozen.models[name], assembly.recipe.data
    assert isinstance(teacher, Model)
    stage = {"logits": teacher.stages["logits"]}
    batches = training_batches(assembly.train, data, recipe.seed, start=0, batch=8, rank=0, ranks=1)
    crops = [next(batches) for _ in range(CROPS // 8)]
    live = [Frozen({name: teacher}, {})(batch, {name})[name]["logits"] for batch in crops]
    still = data.augment.model_copy(update={"jitter": 0.0})
    calm_batches = training_batches(
        assembly.train, data.model_copy(update={"augment": still}), recipe.seed, start=0, batch=8, rank=0, ranks=1
    )
    calm = [Frozen({name: teacher}, {})(next(calm_batches), {name})[name]["logits"] for _ in crops]
    print(f"{recipe_file}: {CROPS} crops of {len(assembly.train)} images; against the live teacher of the same crops")
    print("| teacher | same class | mean KL, nats | right | largest error of a stored value | MB an image |")
    print("|---|---|---|---|---|---|")
    print(_row("live", live, live, crops, "", ""))
    print(_row("live, without jitter", calm, live, crops, "", ""))
    with tempfile.TemporaryDirectory() as folder:
        for way, (stride, dtype) in {"cached, stride 1, fp32": (1, "fp32"), **CACHES}.items():
            spec = CacheSpec.model_validate({"stride": stride, "dtype": dtype, "folder": folder})
            cache = TeacherCache(way, teacher, (name,), assembly.train, data.size, stage, spec)
            cache.build(torch.device("cpu"))
            (store,) = cache.stores.values()
            said = [cache(batch)["logits"] for batch in crops]
            size = f"{store.size / len(assembly.train) / 1e6:.3f}"
            print(_row(way, said, live, crops, f"{store.largest_error:.2g}", size), flush=True)


def _row(way: str, said: list[Tensor], live: list[Tensor], crops: list[Batch], error: str, size: str) -> str:
    same = total = right = labelled = 0
    divergence = 0.0
    for one, other, batch in zip(said, live, crops, strict=True):
        real = ~batch.pad
        p, q = other.log_softmax(1), one.log_softmax(1)
        divergence += float(((p.exp() * (p - q)).sum(1) * real).sum())
        same += int(((one.argmax(1) == other.argmax(1)) & real).sum())
        total += int(real.sum())
        right += int((one.argmax(1) == batch.labels).sum())
        labelled += int((batch.labels != 255).sum())
    return f"| {way} | {same / total:.2%} | {divergence / total:.4f} | {right / labelled:.2%} | {error} | {size} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480))
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--widths", type=int, nargs=2, default=(8, 32))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--agreement", nargs="+", metavar="RECIPE KEY=VALUE")
    said = parser.parse_args()
    if said.agreement:
        agreement(said.agreement[0], said.agreement[1:])
    else:
        times((said.size[0], said.size[1]), said.images, (said.widths[0], said.widths[1]), said.rounds)


if __name__ == "__main__":
    main()

"""What a training step costs, beside a script of plain PyTorch and torchdistill; how far cached answers are from live.

.venv-extras/bin/python benchmarks/step.py                             UNet 8 <- UNet 32, 4 images of 360×480
.venv-extras/bin/python benchmarks/step.py --size 512 1024 --images 2  another size; --rounds, --widths, --precision
.venv/bin/python benchmarks/step.py --agreement RECIPE [KEY=VALUE …]   of a recipe's teacher, on 64 augmented crops

A step: the teacher, the student, cross entropy and soft targets (T = 1), backward, AdamW; its batch is ready. Ours is
what `segdistill train` calls. Every way has a process of its own in the environment that its user has (no MALLOC_*),
and they take turns, a step each. All begin with the same weights and must say the same loss. torchdistill needs a
torchvision, hence .venv-extras; where it cannot be had it is left out. Threads are those of OMP_NUM_THREADS.
"""

import argparse
import importlib
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _peers import run_with
from torch import Tensor, nn

from segdistill.assemble import assemble, load, open_split
from segdistill.checkpoint import Card, save_weights
from segdistill.data import as_float, training_batches
from segdistill.labels import CITYSCAPES_19
from segdistill.models import Model
from segdistill.models.unet import UNet
from segdistill.recipe import CacheSpec, Recipe, parse, read
from segdistill.run import Run, processor
from segdistill.system import Frozen
from segdistill.teacher_cache import TeacherCache
from segdistill.timing import Stopwatch
from segdistill.training import Work, accelerate
from segdistill.types import Batch

CROPS = 64
CACHES = {f"cached, stride {stride}, {dtype}": (stride, dtype) for stride in (1, 2, 4) for dtype in ("fp16", "uint8")}
KEPT = ("cached, stride 1, fp16", "cached, stride 2, fp16", "cached, stride 4, uint8")
PARTS = ("teacher", "student", "backward", "optimiser")
ALONE, RECOMPUTED = "labels alone", "labels alone, checkpointing"
PLAIN, TORCHDISTILL = "plain PyTorch", "torchdistill 1.1.5"


class Setting(NamedTuple):
    """What is compared."""

    folder: str
    size: tuple[int, int]
    images: int
    widths: tuple[int, int]
    """Of the student and of the teacher."""
    precision: str

    def weights(self, name: str) -> str:
        return f"{self.folder}/{name}.safetensors"


class Stepped(NamedTuple):
    """What a step took, and said."""

    seconds: float
    processor_seconds: float
    """Of all threads: what others on the machine lengthen little."""
    parts: dict[str, float]
    loss: float


class Ready(NamedTuple):
    """A way after its first two steps."""

    peak: int
    """Bytes beyond those of a process that has imported everything."""
    disk: int
    """Bytes of the teacher's answers."""
    loss: float
    """Of the first step."""


class Way(ABC):
    """A training step."""

    stopwatch: Stopwatch
    disk: int = 0

    @abstractmethod
    def step(self) -> Tensor:
        """One update; its loss."""


class Ours(Way):
    """The trainer's own update."""

    def __init__(self, setting: Setting, name: str) -> None:
        recipe = describe(setting, name)
        self.work = Work(Run(Path(setting.folder) / name), assemble(recipe), accelerate(recipe))
        self.batch, self.stopwatch, self.steps = first_batch(recipe), self.work.stopwatch, 0
        stores = [store for cache in self.work.assembly.caches.values() for store in cache.stores.values()]
        self.disk = sum(store.size for store in stores)

    def step(self) -> Tensor:
        done = self.work.update([self.batch], self.steps)
        assert done is not None
        self.steps += 1
        return done.loss


class Logits(nn.Module):
    """A network as others write it: it returns its logits alone."""

    def __init__(self, network: Model) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)["logits"]


class Plain(Way):
    """The script that a good user writes."""

    def __init__(self, setting: Setting) -> None:
        self.student, self.teacher, self.image, self.labels = theirs(setting)
        self.stopwatch = Stopwatch(torch.device("cpu"))
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-3)
        self.criterion = nn.CrossEntropyLoss(ignore_index=255)
        self.precision = setting.precision

    def step(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            with self.stopwatch.part("teacher"), torch.no_grad():
                target = self.teacher(self.image)
            with self.stopwatch.part("student"):
                logits = self.student(self.image)
                divergence = F.kl_div(logits.log_softmax(1), target.softmax(1), reduction="none")
                loss = self.criterion(logits, self.labels) + divergence.sum(1).mean()
        with self.stopwatch.part("backward"):
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        with self.stopwatch.part("optimiser"):
            self.optimizer.step()
        return loss.detach()


class Torchdistill(Way):
    """Its box and its loss, as its examples use them; `beta` brings the sum over an image to a mean over pixels."""

    def __init__(self, setting: Setting) -> None:
        student, teacher, self.image, self.labels = theirs(setting)
        self.stopwatch = Stopwatch(torch.device("cpu"))
        ends = {f"{who}_module_{what}": value for who in ("student", "teacher")
                for what, value in (("path", "."), ("io", "output"))}  # fmt: skip
        pixels = setting.size[0] * setting.size[1]
        loss = {**ends, "temperature": 1.0, "alpha": 1.0, "beta": 1 / pixels, "ignore_index": 255}
        terms = {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}
        forward = {"forward_proc": "forward_batch_only"}
        config = {
            "num_epochs": 1,
            "teacher": {**forward, "requires_grad": False},
            "student": forward,
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
            "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3}},
        }
        module: Any = importlib.import_module("torchdistill.core.distillation")
        self.box: Any = module.get_distillation_box(teacher, student, {}, config, self.image.device, None, False, 1.0)
        self.box.pre_epoch_process(epoch=0)

    def step(self) -> Tensor:
        loss: Tensor = self.box.forward_process(self.image, targets=self.labels)
        self.box.post_forward_process(loss)
        return loss.detach()


def describe(setting: Setting, name: str) -> Recipe:
    """The recipe of one of our ways."""
    data = {"kind": "streets", "count": setting.images, "val_count": 1, "cache": True, "batch": setting.images}
    data |= {"scene_size": setting.size, "crop": setting.size}
    student = {"weights": setting.weights("student"), "checkpointing": name == RECOMPUTED}
    content: dict[str, Any] = {
        "data": {**data, "augment": {"scale": [1.0, 1.0], "jitter": 0.0}},
        "models": {"student": student},
        "losses": {"cross_entropy": {"student": "student"}},
        "optim": {"lr": 1e-3, "schedule": "constant"},
        "steps": 10**6,
        "precision": setting.precision,
        "log": {"wandb": "off"},
    }
    if name not in (ALONE, RECOMPUTED):
        teacher: dict[str, Any] = {"weights": setting.weights("teacher"), "frozen": True}
        if name in CACHES:
            stride, dtype = CACHES[name]
            teacher["cache"] = {"stride": stride, "dtype": dtype, "folder": f"{setting.folder}/answers of {name}"}
        content["models"]["teacher"] = teacher
        content["losses"]["soft_targets"] = {"student": "student", "target": "teacher"}
    return parse(content)


def write_weights(setting: Setting) -> None:
    """What every way begins with."""
    torch.manual_seed(0)
    for name, width in zip(("student", "teacher"), setting.widths, strict=True):
        network = UNet(width, num_classes=len(CITYSCAPES_19.names))
        parameters = {"width": width, "depth": 4, "normalisation": "batch", "separable": False}
        save_weights(Path(setting.weights(name)), network, Card("unet", parameters, CITYSCAPES_19, None, 0, {}))


def first_batch(recipe: Recipe) -> Batch:
    split = open_split(recipe.data, recipe.data.train)
    return next(training_batches(split, recipe.data, recipe.seed, start=0, batch=recipe.data.batch, rank=0, ranks=1))


def theirs(setting: Setting) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Student, teacher, images and labels in the formats that torch has by default."""
    batch = first_batch(describe(setting, "live teacher"))
    plain = torch.contiguous_format
    student, teacher = (Logits(load(setting.weights(name))).to(memory_format=plain) for name in ("student", "teacher"))  # pyright: ignore[reportCallIssue]
    return student.train(), teacher.eval(), as_float(batch.image).contiguous(), batch.labels.long()


def build(setting: Setting, name: str) -> Way:
    return {PLAIN: Plain, TORCHDISTILL: Torchdistill}[name](setting) if name in PEERS else Ours(setting, name)


PEERS = (PLAIN, TORCHDISTILL)


def serve(pipe: Connection, setting: Setting, name: str) -> None:
    """In a process of its own: two steps to warm up, then one whenever it is asked."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    way = build(setting, name)
    loss = float(way.step())
    way.step()
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    pipe.send(Ready(peak - now, way.disk, loss))
    while pipe.recv():
        way.stopwatch.read()
        begin, spent = time.perf_counter(), time.process_time()
        loss = float(way.step())
        seconds, processor_seconds = time.perf_counter() - begin, time.process_time() - spent
        pipe.send(Stepped(seconds, processor_seconds, way.stopwatch.read(), loss))


def times(setting: Setting, names: list[str], rounds: int) -> None:
    for variable in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.pop(variable, None)
    write_weights(setting)
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    ready: dict[str, Ready] = {}
    for name in names:  # one after the other: a first call of a shape prepares much
        if name in CACHES:  # asks the teacher, which is no part of the step
            asking = context.Process(target=build, args=(setting, name))
            asking.start()
            asking.join()
        pipes[name], there = context.Pipe()
        context.Process(target=serve, args=(there, setting, name), daemon=True).start()
        there.close()
        ready[name] = pipes[name].recv()
    taken: dict[str, list[Stepped]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            taken[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    show(setting, ready, taken)
    live = {name: ready[name].loss for name in ready if name in PEERS or name == "live teacher"}
    assert max(live.values()) - min(live.values()) < 1e-3 * max(live.values()), f"they do not compute the same: {live}"


def show(setting: Setting, ready: Mapping[str, Ready], taken: Mapping[str, list[Stepped]]) -> None:
    (height, width), images = setting.size, setting.images
    print(f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {setting.precision}")
    print(
        f"UNet {setting.widths[0]} <- UNet {setting.widths[1]}, {images} images of {height}×{width}; medians of rounds"
    )
    peers = [name for name in PEERS if name in taken]
    heads = [f"{name} / this, {kind}" for name in peers for kind in ("clock", "CPU")]
    parts = [f"{part}, s" for part in PARTS]
    titles = [
        "way",
        "s a step",
        "CPU s",
        "images/s",
        *heads,
        "peak MiB",
        *parts,
        "MB an image on the disk",
        "loss",
    ]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for name, steps in taken.items():
        seconds, processor_seconds = (statistics.median(column) for column in list(zip(*steps, strict=True))[:2])
        cells = [name, f"{seconds:.2f}", f"{processor_seconds:.2f}", f"{images / seconds:.2f}"]
        for peer in peers:
            pairs = list(zip(taken[peer], steps, strict=True))
            for ratios in ([a.seconds / b.seconds for a, b in pairs],
                           [a.processor_seconds / b.processor_seconds for a, b in pairs]):  # fmt: skip
                cells.append(f"×{statistics.median(ratios):.2f}")
        cells.append(f"{ready[name].peak / 2**20:.0f}")
        for part in PARTS:
            values = [step.parts[part] for step in steps if part in step.parts]
            cells.append(f"{statistics.median(values):.3f}" if values else "")
        cells += [f"{ready[name].disk / images / 1e6:.2f}" if ready[name].disk else "", f"{ready[name].loss:.4f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def has_torchdistill() -> bool:
    try:
        importlib.import_module("torchdistill.core.distillation")
    except ImportError as error:
        print(f"torchdistill is left out: {error}\n")
        return False
    return True


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--agreement", nargs="+", metavar="RECIPE KEY=VALUE")
    said = parser.parse_args()
    if said.agreement:
        agreement(said.agreement[0], said.agreement[1:])
        return
    run_with("--no-deps", "torchdistill==1.1.5")
    names = ["live teacher", *KEPT, ALONE, RECOMPUTED, PLAIN, *([TORCHDISTILL] if has_torchdistill() else [])]
    with tempfile.TemporaryDirectory() as folder:
        size, widths = (said.size[0], said.size[1]), (said.widths[0], said.widths[1])
        times(Setting(folder, size, said.images, widths, said.precision), names, said.rounds)


if __name__ == "__main__":
    main()

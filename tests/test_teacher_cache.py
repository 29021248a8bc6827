"""A remembered teacher: it says at every crop what it said there of the whole image, or it is refused by name."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.assemble import assemble
from segdistill.checkpoint import digest
from segdistill.crops import augment, canonical
from segdistill.data import Augmented, Cached, as_float, collate, training_batches
from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.models.unet import UNet
from segdistill.planning import plan
from segdistill.recipe import AugmentSpec, CacheSpec, DataSpec, dump, parse
from segdistill.replaying import _not_finite  # pyright: ignore[reportPrivateUsage]
from segdistill.run import Run, Unwritten, write_json
from segdistill.system import Frozen
from segdistill.teacher_cache import ANSWERS, MANIFEST, TeacherCache
from segdistill.training import train
from segdistill.types import IGNORE, Batch, ClassTable, Sample, Stage
from small import content, small

CPU = torch.device("cpu")
PLAIN = {"scale": [1.0, 1.0], "flip": False, "jitter": 0.0}
SIZES = [(32, 48), (40, 36), (33, 47), (32, 48), (21, 50)]
K = 3


@final
class Frames(Dataset):
    """Images of several sizes: noise, or ramps of red to the right and of green downwards."""

    classes = ClassTable(("a", "b", "c"), ((1, 1, 1),) * K)

    def __init__(self, sizes: Sequence[tuple[int, int]] = SIZES, ramps: bool = False, seed: int = 0) -> None:
        self.sizes, self.ramps, self.seed = sizes, ramps, seed
        self.bad: set[int] = set()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise Mistake(f"frame-{index}: damaged")
        height, width = self.sizes[index]
        image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(index + self.seed))
        if self.ramps:
            down, right = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            image = torch.stack([right * 4 + 20, down * 5 + 20, torch.full_like(down, 99)])
        labels = torch.full((height, width), IGNORE, dtype=torch.uint8)
        labels[:, ::2] = 1
        return Sample(image.to(torch.uint8), labels, f"frame-{index}")

    def key(self, index: int) -> str:
        return f"frame-{index}"

    def fingerprint(self) -> str:
        return f"{len(self.sizes)}-{self.seed}-{self.ramps}"


@final
class Position(nn.Module):
    """Its answers are where they are: 2 + 3 · right - 5 · down, and others, in image pixels."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.asked = stride, 0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.asked += 1
        down, right = ((torch.arange(-(-side // self.stride)) + 0.5) * self.stride for side in image.shape[-2:])
        y, x = torch.meshgrid(down, right, indexing="ij")
        answer = torch.stack([2 + 3 * x - 5 * y, x, -y])
        return {"logits": answer.expand(len(image), -1, -1, -1)}


@final
class Colours(nn.Module):
    """Its answer is the image."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": image * 255}


def cached(
    model: nn.Module,
    dataset: Dataset | None = None,
    size: tuple[int, int] | None = None,
    stages: dict[str, Stage] | None = None,
    identity: Sequence[object] = ("teacher",),
    **spec: Any,
) -> TeacherCache:
    wanted = stages or {"logits": Stage(K, 1)}
    spec = {"stride": 1, "dtype": "fp32", **spec}
    return TeacherCache(
        "models.t.cache", model.eval(), identity, dataset or Frames(), size, wanted, CacheSpec.model_validate(spec)
    )


def built(model: nn.Module, *more: Any, **named: Any) -> TeacherCache:
    found = cached(model, *more, **named)
    found.build(CPU)
    assert not found.open()
    return found


def crops(
    dataset: Dataset, count: int, crop: tuple[int, int], size: tuple[int, int] | None = None, **augmentation: Any
) -> list[Batch]:
    """Single crops, each sample in its turn, as a loader makes them."""
    said = {"kind": "streets", "size": size, "augment": {**PLAIN, **augmentation}}
    feed = Augmented(dataset, DataSpec.model_validate(said), crop, seed=7)
    return [collate([feed[index // len(dataset), index % len(dataset)]]) for index in range(count)]  # type: ignore[misc]


def unet(**more: Any) -> UNet:
    torch.manual_seed(0)
    network = UNet(4, 2, num_classes=K, **more).train()
    network(torch.rand(4, 3, 32, 48))  # statistics that are not those of a new network
    return network.eval().requires_grad_(False)


# Where it looks


@pytest.mark.parametrize("stage", ["logits", "enc1", "dec2", "bottleneck"])
def test_without_augmentation_it_is_the_teacher(stage: str) -> None:
    """Every stage, at its own size, also where the size is no multiple of the stride."""
    teacher, dataset = unet(), Frames([(33, 47)] * 4)
    cache = built(teacher, dataset, stages={stage: teacher.stages[stage]})
    data = DataSpec.model_validate({"kind": "streets", "batch": 4, "augment": PLAIN})
    batch = next(training_batches(dataset, data, 0, start=0, batch=4, rank=0, ranks=1))
    live = teacher(as_float(batch.image))[stage]
    found = Frozen({"t": teacher}, {}, {"t": cache})(batch, ["t"])["t"]
    assert list(found) == [stage] and found[stage].shape == live.shape
    torch.testing.assert_close(found[stage], live, rtol=1e-5, atol=1e-5)
    assert found[stage].is_contiguous(memory_format=torch.channels_last) and found[stage].dtype == torch.float32


def test_flipped_crops_get_the_flipped_answer_bit_for_bit() -> None:
    dataset = Frames([(32, 48)] * 4)
    teacher = unet()
    cache = built(teacher, dataset)
    flips = 0
    for batch in crops(dataset, 12, (32, 48), flip=True):
        assert batch.shown is not None
        sample = int(batch.shown.sample)
        whole = teacher(as_float(dataset[sample].image[None]))["logits"]
        mirrored = bool(batch.shown.axes[0, 1, 0] < 0)
        assert torch.equal(cache(batch)["logits"], whole.flip(-1) if mirrored else whole)
        flips += mirrored
    assert 2 < flips < 10


def test_windows_without_scaling_are_windows_of_the_answer() -> None:
    dataset, teacher = Frames(), unet()
    cache = built(teacher, dataset)
    for batch in crops(dataset, 15, (16, 20)):
        assert batch.shown is not None
        top, left = batch.shown.axes[0, :, 1].int().tolist()
        whole = teacher(as_float(dataset[int(batch.shown.sample)].image[None]))["logits"]
        assert torch.equal(cache(batch)["logits"], whole[..., top : top + 16, left : left + 20])


@pytest.mark.parametrize("size", [None, (24, 40), (48, 66)])
@pytest.mark.parametrize(("stride", "network"), [(1, 1), (2, 1), (4, 1), (8, 1), (1, 4), (4, 4), (8, 2)])
def test_an_answer_that_is_a_place_comes_from_that_place(
    size: tuple[int, int] | None, stride: int, network: int
) -> None:
    """In every crop, scale and flip: no part of a pixel is lost, not at a stride either, nor at an odd border."""
    dataset = Frames()
    cache = built(Position(network), dataset, size, {"logits": Stage(K, network)}, stride=stride)
    away = max(stride, network)
    seen = 0
    for batch in crops(dataset, 20, (24, 32), size, flip=True, scale=[0.5, 2.0]):
        assert batch.shown is not None
        found = cache(batch)["logits"][0]
        (factor_y, offset_y), (factor_x, offset_x) = batch.shown.axes[0].tolist()
        height, width = size or dataset.sizes[int(batch.shown.sample)]
        y = factor_y * (torch.arange(found.shape[1])[:, None] + 0.5) * network + offset_y
        x = factor_x * (torch.arange(found.shape[2])[None] + 0.5) * network + offset_x
        low, high = away / 2, [side // away * away - away / 2 for side in (height, width)]
        known = (y >= low) & (y <= high[0]) & (x >= low) & (x <= high[1])  # a cell that the border cuts lies elsewhere
        expected = torch.stack([2 + 3 * x - 5 * y, x + 0 * y, 0 * x - y])
        torch.testing.assert_close(found[:, known], expected[:, known], rtol=1e-5, atol=1e-3)
        seen += int(known.sum())
    assert seen > 400 // network**2


@pytest.mark.parametrize("size", [None, (48, 64)])
def test_the_answer_lies_where_the_pixels_of_the_crop_lie(size: tuple[int, int] | None) -> None:
    """A teacher that says the colours, of ramps: the cached answer is the crop as `augment` resizes it."""
    dataset = Frames([(40, 48), (36, 44)], ramps=True)
    cache = built(Colours(), dataset, size)
    for batch in crops(dataset, 30, (24, 32), size, flip=True, scale=[0.6, 2.0]):
        inside = F.max_pool2d(batch.pad.float(), 5, 1, 2) == 0  # at borders both repeat, each in its own way
        error = (cache(batch)["logits"] - batch.image.float()).abs().amax(1)[inside]
        # Of 4 to 8 from pixel to pixel; each of the two rounds by up to a half, halves to one side.
        assert error.numel() and float(error.mean()) < 1.01 and float(error.max()) < 4


def test_it_interpolates_between_two_pixels_a_side() -> None:
    """Against the definition, in a loop."""
    dataset, teacher = Frames(), unet()
    cache = built(teacher, dataset)
    for batch in crops(dataset, 6, (18, 22), flip=True, scale=[0.5, 2.0]):
        assert batch.shown is not None
        found = cache(batch)["logits"][0]
        whole = teacher(as_float(dataset[int(batch.shown.sample)].image[None]))["logits"][0]
        (factor_y, offset_y), (factor_x, offset_x) = batch.shown.axes[0].double().tolist()
        height, width = whole.shape[1:]
        for row in range(18):
            for column in range(22):
                y = min(max(factor_y * (row + 0.5) + offset_y - 0.5, 0), height - 1)
                x = min(max(factor_x * (column + 0.5) + offset_x - 0.5, 0), width - 1)
                top, left = int(y), int(x)
                expected = torch.zeros(K)
                for i, share_y in ((top, 1 - (y - top)), (min(top + 1, height - 1), y - top)):
                    for j, share_x in ((left, 1 - (x - left)), (min(left + 1, width - 1), x - left)):
                        expected += share_y * share_x * whole[:, i, j]
                torch.testing.assert_close(found[:, row, column], expected, rtol=1e-4, atol=1e-4)


def test_beyond_the_border_the_outermost_answer_is_repeated() -> None:
    dataset = Frames([(8, 12)])
    cache = built(Position(), dataset)
    for batch in crops(dataset, 5, (16, 20)):
        assert batch.shown is not None and batch.pad.any()
        top, left = (-batch.shown.axes[0, :, 1]).int().tolist()
        inside = cache(batch)["logits"][..., top : top + 8, left : left + 12]
        expected = F.pad(inside, (left, 8 - left, top, 8 - top), mode="replicate")
        assert torch.equal(cache(batch)["logits"], expected)


def test_a_cell_is_the_mean_of_its_pixels() -> None:
    """Also of those that the border leaves of it."""
    dataset, teacher = Frames([(33, 46)]), unet()
    stages = {"logits": Stage(K, 4)}  # a network that speaks of cells, to read them as they are
    whole = F.avg_pool2d(teacher(as_float(dataset[0].image[None]))["logits"], 4, ceil_mode=True)

    @final
    class Coarse(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": whole}

    (batch,) = crops(dataset, 1, (33, 46))
    fine = built(teacher, dataset, stride=4)(batch)["logits"]
    coarse = built(Coarse(), dataset, stages=stages, identity=("coarse",))(batch)["logits"]
    assert torch.equal(coarse, whole)
    expected = F.interpolate(F.pad(whole, (0, 1, 0, 1), mode="replicate"), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(fine, expected[..., :33, :46], rtol=1e-5, atol=1e-5)


# What it keeps


@pytest.mark.parametrize("dtype", ["fp16", "uint8"])
def test_the_error_of_a_value_is_bounded_and_said(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a step: of fp16 2⁻¹¹ of the value, of uint8 1/510 of the channel's range in the image."""
    dataset, teacher = Frames(), unet()
    cache = built(teacher, dataset, dtype=dtype)
    manifest = json.loads((cache.folder / f"logits-1-{dtype}" / MANIFEST).read_text())
    worst = 0.0
    for index, size in enumerate(dataset.sizes):
        (batch,) = crops(Only(dataset, index), 1, size)
        assert batch.shown is not None
        found = cache(batch._replace(shown=batch.shown._replace(sample=torch.tensor([index]))))["logits"]
        whole = teacher(as_float(dataset[index].image[None]))["logits"]
        error = (found - whole).abs()
        span = whole.amax((2, 3), keepdim=True) - whole.amin((2, 3), keepdim=True)
        bound = whole.abs() * 2**-11 + 2**-25 if dtype == "fp16" else span / 510 * 1.001 + 1e-6
        assert (error <= bound).all()
        worst = max(worst, float(error.max()))
    assert worst > 0 and manifest["largest_error"] == pytest.approx(worst, rel=1e-3)
    assert f"the largest error of a value is {worst:.2g}" in capsys.readouterr().err


@final
class Only(Dataset):
    """One sample of another set."""

    classes = Frames.classes

    def __init__(self, dataset: Frames, index: int) -> None:
        self.dataset, self.index = dataset, index

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.index]

    def fingerprint(self) -> str:
        return f"{self.dataset.fingerprint()}-{self.index}"


def test_a_flat_channel_survives_a_byte() -> None:
    @final
    class Flat(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": torch.full((1, K, *image.shape[-2:]), -7.25)}

    (batch,) = crops(Frames([(8, 8)]), 1, (8, 8))
    assert (built(Flat(), Frames([(8, 8)]), dtype="uint8")(batch)["logits"] == -7.25).all()


@pytest.mark.parametrize(("classes", "top_k"), [(12, 3), (300, 4)])
def test_the_likeliest_classes_keep_their_probability(classes: int, top_k: int) -> None:
    """Exactly; the others share what is left, so that the sum is 1 and the order of the first is right."""
    torch.manual_seed(1)
    logits = torch.randn(1, classes, 8, 12) * 3

    @final
    class Many(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": logits}

    dataset = Frames([(8, 12)])
    (batch,) = crops(dataset, 1, (8, 12))
    cache = built(Many(), dataset, stages={"logits": Stage(classes, 1)}, top_k=top_k)
    found, wanted = cache(batch)["logits"].softmax(1), logits.softmax(1)
    mass, kept = wanted.topk(top_k, 1)
    torch.testing.assert_close(found.gather(1, kept), mass, rtol=1e-4, atol=1e-6)
    rest = torch.ones_like(found).scatter(1, kept, 0.0) * (1 - mass.sum(1, keepdim=True)) / (classes - top_k)
    torch.testing.assert_close(found.scatter(1, kept, 0.0), rest, rtol=1e-3, atol=1e-6)
    (store,) = cache.stores.values()
    manifest = json.loads((store.folder / MANIFEST).read_text())
    assert manifest["kept_mass"] == pytest.approx(float(mass.sum(1).mean()), rel=1e-5)
    assert store.size < logits.numel() * 4


def test_only_logits_are_cut_to_their_likeliest_classes() -> None:
    teacher = unet()
    stages = {name: teacher.stages[name] for name in ("logits", "dec1")}
    cache = built(teacher, stages=stages, top_k=2)
    assert [form.top_k for form in cache.forms] == [2, None]
    with pytest.raises(Mistake, match=r"models.t.cache.top_k: expected fewer than the 3 classes, got 3"):
        cached(teacher, top_k=3)


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "is not finite"), (1e5, "1e+05, fp16 holds")])
def test_an_answer_that_cannot_be_kept_is_named(value: float, said: str) -> None:
    @final
    class Wild(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": torch.full((1, K, *image.shape[-2:]), value)}

    cache = cached(Wild(), dtype="fp16")
    with pytest.raises(Mistake, match=rf"logits of frame-0 .*{said.replace('+', '.')}"):
        cache.build(CPU)
    assert leftovers(cache) == [".lock"]


def leftovers(cache: TeacherCache) -> list[str]:
    return sorted(place.name for place in cache.folder.iterdir())


# Whose answers they are


def test_what_decides_the_answer_decides_the_folder(tmp_path: Path) -> None:
    teacher = unet()
    folders = [
        cached(teacher).folder,
        cached(teacher, identity=("another",)).folder,
        cached(teacher, Frames(seed=1)).folder,
        cached(teacher, size=(16, 24)).folder,
        cached(teacher, folder=str(tmp_path)).folder,
    ]
    assert len(set(folders)) == 5 and folders[4].parent == tmp_path
    kept: list[dict[str, Any]] = [{}, {"stride": 2}, {"dtype": "uint8"}, {"top_k": 2}]
    assert len({cached(teacher, **more).forms[0].name for more in kept}) == 4
    assert cached(teacher, Cached(Frames())).folder == folders[0]  # decoded images are the same images


def test_what_is_there_is_not_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Of another stage it is; and the answers are the same as before they were written."""
    teacher = Position()
    batches = crops(Frames(), 5, (20, 24), scale=[0.5, 2.0])
    fresh = cached(teacher, dtype="uint8")
    before = [fresh(batch)["logits"] for batch in batches]
    assert teacher.asked == 5 and not fresh.folder.exists()  # remembered, not written
    assert [torch.equal(fresh(batch)["logits"], one) for batch, one in zip(batches, before, strict=True)] == [True] * 5
    assert teacher.asked == 5
    fresh.build(CPU)
    assert teacher.asked == 10 and not fresh.fresh
    told = capsys.readouterr().err
    assert "models.t.cache: 5 images, once: about 0.0 MB and 0 s, in " in told
    again = built(teacher, dtype="uint8")
    assert teacher.asked == 10 and capsys.readouterr().err == ""
    for batch, one in zip(batches, before, strict=True):
        assert torch.equal(again(batch)["logits"], one) and torch.equal(fresh(batch)["logits"], one)
    built(teacher, dtype="fp16")
    assert teacher.asked == 15
    assert leftovers(again) == [".lock", "logits-1-fp16", "logits-1-uint8"]


def test_an_image_that_changed_and_kept_its_name_is_refused() -> None:
    """Its size and name are the fingerprint's; what it shows is compared when it is shown."""
    cache = built(Position())
    other = Frames()
    other.seed = 3
    (batch,) = crops(other, 1, (16, 16))
    with pytest.raises(Mistake, match=rf"{ANSWERS}: frame-0: the teacher saw another image of this name; remove"):
        cache(batch)


def test_a_sample_that_cannot_be_read_has_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Frames()
    dataset.bad = {1}
    cache = built(Position(), dataset)
    assert "frame-1 left out: frame-1: damaged" in capsys.readouterr().err
    batches = crops(dataset, 5, (16, 16))
    assert [batch.keys[0] == "frame-1" for batch in batches] == [False] * 5  # another takes its place
    for batch in batches:
        assert batch.shown is not None and batch.keys == (f"frame-{int(batch.shown.sample)}",)
        y, x = (float(axis[0] * 8.5 + axis[1]) for axis in batch.shown.axes[0])
        torch.testing.assert_close(cache(batch)["logits"][0, 1:, 8, 8], torch.tensor([x, -y]))
    dataset.bad = set()
    with pytest.raises(Mistake, match="frame-1: the teacher could not read its image"):
        cache(crops(dataset, 2, (16, 16))[1])


def flip(content: bytes, at: int = 1000) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


HARMS: list[tuple[str, Callable[[bytes], bytes | None], str]] = [
    (ANSWERS, lambda content: content[:-64], f"{ANSWERS}: .* bytes, expected"),
    (ANSWERS, lambda content: None, f"{ANSWERS}: 0 bytes, expected"),
    (ANSWERS, flip, f"{ANSWERS}: frame-0: damaged; remove"),
    (MANIFEST, lambda content: content.replace(b"frame-1", b"frame-9"), f"{MANIFEST}: damaged"),
    (MANIFEST, lambda content: b"{}", f"{MANIFEST}: damaged"),
    (MANIFEST, lambda content: content[:50], f"{MANIFEST}: damaged"),
    (MANIFEST, lambda content: None, f"{MANIFEST}: there is no such file"),
]


@pytest.mark.parametrize(("name", "harm", "said"), HARMS, ids=range(len(HARMS)))
def test_what_is_damaged_is_refused_by_name(name: str, harm: Callable[[bytes], bytes | None], said: str) -> None:
    cache = built(Position())
    (batch,) = crops(Frames(), 1, (16, 16))
    cache(batch)
    file = cache.folder / "logits-1-fp32" / name
    left = harm(file.read_bytes())
    file.unlink()  # what is mapped into memory stays as it was
    if left is not None:
        file.write_bytes(left)
    with pytest.raises(Mistake, match=said):
        cached(Position())(batch)


def test_answers_that_were_moved_to_anothers_folder_are_refused() -> None:
    one, other = built(Position()), cached(Position(), identity=("other",))
    shutil.copytree(one.folder, other.folder)
    with pytest.raises(Mistake, match=r"manifest.json: its teacher is \['teacher'\], expected \['other'\]"):
        cached(Position(), identity=("other",))


# Who writes them


def forked(work: Callable[[], object]) -> int:
    """The process in which it works."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads; it runs one
        child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            os._exit(code)
    return child


@final
class Slow(nn.Module):
    """Writes down that it was asked, and lets others run; may kill its process."""

    def __init__(self, log: Path, dies_at: int = 0) -> None:
        super().__init__()
        self.log, self.dies_at, self.asked = log, dies_at, 0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.asked += 1
        with self.log.open("a") as file:
            file.write("x")
        time.sleep(0.02)
        if self.asked == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"logits": image}


@pytest.mark.parametrize("dies_at", [1, 4, 5])
def test_a_writer_that_is_killed_leaves_nothing_that_is_read(tmp_path: Path, dies_at: int) -> None:
    log = tmp_path / "log"
    child = forked(lambda: cached(Slow(log, dies_at)).build(CPU))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    torn = cached(Slow(log))
    assert leftovers(torn) == [".lock", ".logits-1-fp32"] and torn.open() == torn.forms
    torn.build(CPU)
    assert leftovers(torn) == [".lock", "logits-1-fp32"]
    for batch in crops(Frames(), 5, (20, 20)):
        torch.testing.assert_close(torn(batch)["logits"], batch.image / 255)


def test_of_two_that_would_write_one_waits_and_reads(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [forked(lambda: cached(Slow(log)).build(CPU)) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert log.read_text() == "x" * 5
    assert not cached(Slow(log)).open()


@pytest.mark.parametrize("full", ["already", "soon"])
def test_a_full_disk_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    cache = cached(Position())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if full == "already":
            usage = shutil.disk_usage(".")._replace(free=1000)
            monkeypatch.setattr(shutil, "disk_usage", dict.fromkeys([cache.folder, cache.folder.parent], usage).get)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
        reason = "it needs about 0.1 MB" if full == "already" else "File too large"
        with pytest.raises(Unwritten, match=rf"{cache.folder}: cannot be written: {reason}"):
            cache.build(CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert leftovers(cache) == [".lock"]
    monkeypatch.undo()
    assert not cached(Position()).stores


# In a run


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("steps=2"), tmp_path_factory.mktemp("teacher") / "run").path


def recipe(teacher: Path, *settings: str, cache: dict[str, Any] | None = None) -> Any:
    models = {
        "teacher": {"weights": str(teacher), "frozen": True, "cache": {} if cache is None else cache},
        "student": {"kind": "unet", "width": 4, "depth": 2},
    }
    losses = {
        "cross_entropy": {"student": "student"},
        "soft_targets": {"student": "student", "target": "teacher", "distill_stride": 2},
        "hint": {"student": "student.bottleneck", "target": "teacher.bottleneck", "distill_on": "all"},
        "review": {
            "student": ["student.dec2", "student.dec1"],
            "target": ["teacher.dec2", "teacher.dec1"],
            "weight": 0.1,
        },
    }
    return small(*settings, models=models, losses=losses, checkpoint={"every": 2}, steps=4)


def weights(run: Path) -> bytes:
    return Run(run).weights("student", "last").read_bytes()


def test_a_run_with_workers_and_one_that_is_resumed_end_in_the_same_bits(teacher_run: Path, tmp_path: Path) -> None:
    """Of several stages and losses; the first writes the answers, the others read them."""
    straight = train(recipe(teacher_run), tmp_path / "straight").path
    helped = train(recipe(teacher_run, "data.workers=2"), tmp_path / "helped").path
    assert weights(straight) == weights(helped)
    before = weights(straight)
    shutil.rmtree(straight / "checkpoints" / "step-4")
    (straight / "last" / "student.safetensors").unlink()
    info = Run(straight).info()
    write_json(Run(straight).info_file, {name: value for name, value in info.items() if name != "finished"})
    train(recipe(teacher_run), straight, resume=True)
    assert weights(straight) == before


def test_a_run_does_not_go_on_with_other_answers(teacher_run: Path, tmp_path: Path) -> None:
    run = train(recipe(teacher_run, "steps=2"), tmp_path / "run").path
    with pytest.raises(Mistake, match=r"models.teacher.cache.dtype: the run has fp16, this recipe has uint8"):
        train(recipe(teacher_run, cache={"dtype": "uint8"}), run, resume=True)


def test_a_plan_says_what_it_takes_and_writes_nothing(teacher_run: Path, cache_folder: Path, tmp_path: Path) -> None:
    said = recipe(teacher_run)
    found = plan(said, steps=1)
    assert found.numbers["cache_seconds/teacher"] > 0
    assert not (cache_folder / "segdistill" / "teachers").exists()
    train(said, tmp_path / "run")
    later = plan(said, steps=1)
    size = sum(file.stat().st_size for file in cache_folder.rglob(ANSWERS))
    assert found.numbers["cache_bytes/teacher"] == later.numbers["cache_bytes/teacher"] == size
    assert later.numbers["cache_seconds/teacher"] == 0
    assert "it has been asked" in later.connections[-1] and "MB" in later.connections[-1]
    for before, after in zip(found.edges.rows, later.edges.rows, strict=True):
        assert before == after  # the plan's answers are those of the run


def test_all_that_speak_in_a_step_are_looked_at(teacher_run: Path) -> None:
    assembly = assemble(recipe(teacher_run))
    data = assembly.recipe.data
    batch = next(training_batches(assembly.train, data, 0, start=0, batch=4, rank=0, ranks=1))
    rows = list(_not_finite(assembly.system, assembly.frozen, batch, 0))
    assert {row[1] for row in rows if row[0] == "teacher"} == {"logits", "bottleneck", "dec1", "dec2"}


def test_identity_is_more_than_weights(teacher_run: Path) -> None:
    """A setting without weights of its own, such as a normalisation, makes another teacher."""
    (cache,) = assemble(recipe(teacher_run)).caches.values()
    spec = assemble(recipe(teacher_run)).recipe.models["teacher"]
    assert cache.identity["teacher"] == [digest(cache.model), "unet", str(sorted(spec.parameters.items()))]
    assert "normalisation" in spec.parameters


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("models.student.cache={}", r"models.student.cache: only a frozen teacher says the same again"),
        ("models.teacher.cache.stride=3", r"models.teacher.cache.stride: should be 1, 2, 4 or 8, got 3"),
        ("models.teacher.cache.strid=2", r"models.teacher.cache.strid: unknown key; .*did you mean 'stride'\?"),
        ("models.teacher.cache.top_k=0", r"models.teacher.cache.top_k: should be greater than or equal to 1, got 0"),
        ("models.teacher.cache.dtype=int4", r"models.teacher.cache.dtype: should be 'fp32', 'fp16' or 'uint8'"),
    ],
)
def test_mistakes(teacher_run: Path, setting: str, said: str) -> None:
    with pytest.raises(Mistake, match=said):
        recipe(teacher_run, setting)


def test_without_a_word_of_it_the_teacher_sees_the_crop(teacher_run: Path) -> None:
    assembly = assemble(recipe(teacher_run, "models.teacher.cache=null"))
    assert not assembly.caches and not assembly.frozen.remembered
    assert parse(content()).models["student"].cache is None


def test_ranks_cut_their_shares_from_the_same_answers(teacher_run: Path) -> None:
    assembly = assemble(recipe(teacher_run))
    data, cache = assembly.recipe.data, assembly.caches["teacher"]
    cache.build(CPU)
    whole, *shares = (
        next(training_batches(assembly.train, data, 0, start=1, batch=4, rank=rank, ranks=ranks))
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    )
    for rank, share in enumerate(shares):
        for stage, answer in cache(whole).items():
            assert torch.equal(answer[rank::2], cache(share)[stage])


@pytest.mark.slow
def test_two_processes_write_once_and_train_as_one(teacher_run: Path, tmp_path: Path) -> None:
    """As near as sums in another order are: the statistics of group normalisation are each image's own."""
    said = recipe(teacher_run, "models.student.normalisation=group")
    (tmp_path / "recipe.yaml").write_text(dump(said))
    for processes in (2, 1):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", "segdistill", "--", "train", str(tmp_path / "recipe.yaml")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [*command, "--run", str(tmp_path / str(processes))], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("12 images, once") == (processes == 2)
    one, two = Run(tmp_path / "1").log(), Run(tmp_path / "2").log()
    for before, after in zip(one, two, strict=True):
        if "loss" in before:
            assert before["loss"] == pytest.approx(after["loss"], rel=1e-3)


def test_canonical_is_the_crop_without_augmentation() -> None:
    """But for roundings, and at borders where a crop's reductions lose what does not fill a mean."""
    sample = Frames(ramps=True)[2]
    for size in (None, (16, 20), (50, 60)):
        plain = AugmentSpec.model_validate(PLAIN)
        crop = augment(sample, size, size or (33, 47), plain, np.random.default_rng(0))
        error = (crop.image.float() - canonical(sample, size).float()).abs()[:, 1:-1, 1:-1]
        # Of 8 to 10 from pixel to pixel.
        assert float(error.max()) <= (0 if size is None else 1 if size == (50, 60) else 6)


def test_loader_says_which_sample_is_shown() -> None:
    dataset = Frames()
    data = DataSpec.model_validate({"kind": "streets", "batch": 3, "workers": 2, "crop": [16, 16]})
    for batch in islice(training_batches(dataset, data, 0, start=0, batch=3, rank=0, ranks=1), 4):
        assert batch.shown is not None
        assert [f"frame-{index}" for index in batch.shown.sample.tolist()] == list(batch.keys)

"""Damaged files: each is named by `data check`, and training reads its right pixels, sets it aside or replaces it.

What takes its place depends on the seed, the place and the files: not on workers, ranks, or where a run began.
"""

import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from segdistill import quarantine
from segdistill.assemble import Assembly, assemble, open_split
from segdistill.checking import Check, check
from segdistill.data import Augmented, Cached, crop_size, readable, training_batches, unreadable
from segdistill.datasets import Dataset, FileDataset, Pair, opened, read_image, read_labels
from segdistill.labels import CITYSCAPES_TRAIN_IDS
from segdistill.make_data import make
from segdistill.mistakes import Mistake
from segdistill.probes.measure import Measure
from segdistill.probes.predictions import Predictions
from segdistill.recipe import DataSpec, dump, parse
from segdistill.types import Batch, ClassTable, Sample
from small import content

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # as the package has it; pytest begins each test anew
COUNT, HEIGHT, WIDTH = 12, 48, 64
KINDS = {"png": "cityscapes", "jpg": "bdd100k"}
Side = Literal["image", "label"]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes as PNG with Cityscapes' ids, and as JPEG with train ids."""
    root = tmp_path_factory.mktemp("whole")
    make(root / "png", "cityscapes", COUNT, (HEIGHT, WIDTH))
    make(root / "jpg", "bdd100k", COUNT, (HEIGHT, WIDTH))
    return root


@pytest.fixture
def png(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "png", tmp_path / "png"))


def said(root: Path, **more: Any) -> dict[str, Any]:
    data = {"kind": KINDS[root.name], "root": str(root), "batch": 4, "crop": [32, 48], "bad_share": 0.2}
    return {**content(), "data": {**data, **more}}


def spec(root: Path, **more: Any) -> DataSpec:
    return parse(said(root, **more)).data


def split_of(root: Path, split: str = "train") -> FileDataset:
    dataset = open_split(spec(root), split)
    assert isinstance(dataset, FileDataset)
    return dataset


def checked(root: Path, to: Path | None = None, **more: Any) -> Check:
    file = root.parent / "recipe.yaml"
    file.write_text(dump(parse(said(root, **more))))
    return check(file, quarantine_to=to)


def assembled(root: Path, **more: Any) -> Assembly:
    return assemble(parse(said(root, **more)))


def batches(root: Path, count: int, *, start: int = 0, rank: int = 0, ranks: int = 1, **more: Any) -> list[Batch]:
    feed = training_batches(split_of(root), spec(root, **more), 3, start=start, batch=4, rank=rank, ranks=ranks)
    return list(islice(feed, count))


def equal(one: Batch, other: Batch) -> bool:
    assert one.shown is not None and other.shown is not None
    tensors = zip((*one[:3], *one.shown), (*other[:3], *other.shown), strict=True)  # image, labels, pad, …
    return (one.keys, one.bad) == (other.keys, other.bad) and all(torch.equal(a, b) for a, b in tensors)


# Damages


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_file(file: Path, width: int, height: int, bits: int, colour: int, rows: bytes) -> None:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


DEEP = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH, 3)).astype(">u2")


def deep_colour(file: Path) -> np.ndarray:
    """16 bits a channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.tobytes() for row in DEEP)
    png_file(file, WIDTH, HEIGHT, 16, 2, rows)
    return (DEEP >> 8).astype(np.uint8)


def palette(file: Path) -> np.ndarray:
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    image.save(file, transparency=3)
    return colours[indices]


def alpha(file: Path) -> np.ndarray:
    colours = pixels_of(file)
    opacity = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))  # also of what is not seen at all
    Image.fromarray(np.dstack([colours, opacity])).save(file)
    return colours


def turned(file: Path) -> np.ndarray:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        image.load()
        image.save(file, exif=exif, quality=95)
    return pixels_of(file)


def cmyk(file: Path) -> np.ndarray:
    before = pixels_of(file)
    Image.fromarray(before).convert("CMYK").save(file, "JPEG", quality=100, subsampling=0)
    return before


def jpeg_in_png(file: Path) -> np.ndarray:
    before = pixels_of(file)
    Image.fromarray(before).save(file, "JPEG", quality=100, subsampling=0)
    return before


def half_zero(file: Path) -> np.ndarray:
    labels = pixels_of(file)
    labels[HEIGHT // 2 - 2 : HEIGHT // 2, ::2] = 2  # whatever the scene: the row above the cut is no single class
    labels[HEIGHT // 2 :] = 0
    Image.fromarray(labels).save(file)
    return labels


def unknown(file: Path) -> None:
    labels = pixels_of(file)
    labels[:2, :3] = 77
    Image.fromarray(labels).save(file)


def not_a_number(file: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), np.nan, np.float32)).save(file, "TIFF")


def long_text(file: Path) -> None:
    """Ten kilobytes that unfold to ten megabytes of text."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "0" * 10_000_000, zip=True)
    with Image.open(file) as image:
        image.load()
        image.save(file, pnginfo=info)


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere.png"))


@dataclass(frozen=True)
class Damage:
    layout: Literal["png", "jpg"]
    side: Side
    do: Callable[[Path], object]
    """What is done to the file, and the pixels that it then holds, if it can be read."""
    kind: str
    """Of the error of `data check` (of the warning, where the file can be read)."""
    words: str
    then: Literal["read", "replaced", "set aside"]
    """What training does: a header is read at the start, an image's pixels when it is its turn."""
    tolerance: int = 0


DAMAGES: dict[str, Damage] = {
    "image cut": Damage("png", "image", cut, "image", "damaged or unreadable", "replaced"),
    "jpeg cut": Damage("jpg", "image", cut, "image", "no end marker", "replaced"),
    "label cut": Damage("png", "label", cut, "labels", "damaged or unreadable", "set aside"),
    "half a mask": Damage("jpg", "label", half_zero, "blank", "50% from the bottom are nothing but train id 0", "read"),
    "16 bit grey": Damage("png", "image", lambda f: Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(f),
                          "image", "mode I;16", "replaced"),
    "16 bit colour": Damage("png", "image", deep_colour, "16 bit", "only the upper 8", "read"),
    "palette": Damage("png", "image", palette, "mode", "mode P", "read"),
    "alpha": Damage("png", "image", alpha, "mode", "mode RGBA", "read"),
    "turned": Damage("jpg", "image", turned, "exif", "EXIF orientation 6", "read"),
    "one pixel": Damage("png", "image", lambda f: Image.new("RGB", (1, 1)).save(f), "image",
                        "1x1; expected at least 8 pixels a side", "set aside"),
    "one row": Damage("png", "image", lambda f: Image.new("RGB", (WIDTH, 1)).save(f), "image",
                      "64x1; expected at least 8 pixels a side", "set aside"),
    "cmyk": Damage("jpg", "image", cmyk, "mode", "mode CMYK", "read", 4),
    "jpeg in png": Damage("png", "image", jpeg_in_png, "extension", "it holds JPEG, not what '.png' says", "read", 4),
    "empty image": Damage("png", "image", lambda f: f.write_bytes(b""), "image", "not an image", "set aside"),
    "empty label": Damage("png", "label", lambda f: f.write_bytes(b""), "labels", "not an image", "set aside"),
    "text": Damage("png", "image", lambda f: f.write_text("<html>404"), "image", "not an image", "set aside"),
    "postscript": Damage("png", "image", lambda f: Image.new("RGB", (WIDTH, HEIGHT)).save(f, "EPS"), "image",
                         "not an image", "set aside"),
    "unknown id": Damage("png", "label", unknown, "labels", "label values 77 in 6 pixels", "set aside"),
    "other size": Damage("png", "label", lambda f: Image.fromarray(pixels_of(f)[:, :-2]).save(f), "labels",
                         "62x48 labels for a 64x48 image", "set aside"),
    "not a number": Damage("png", "image", not_a_number, "image", "mode F", "replaced"),
    "bomb": Damage("png", "image", lambda f: png_file(f, 60000, 60000, 8, 0, b""), "image", "too many pixels",
                   "set aside"),
    "small bomb": Damage("png", "image", lambda f: png_file(f, 12000, 12000, 8, 0, b""), "image", "too many pixels",
                         "set aside"),
    "label bomb": Damage("png", "label", lambda f: png_file(f, 60000, 60000, 8, 0, b""), "labels", "too many pixels",
                         "set aside"),
    "long text": Damage("png", "image", long_text, "image", "damaged or unreadable (Decompressed data", "set aside"),
    "no image": Damage("png", "image", dangling, "image", "the file is gone", "set aside"),
    "no label": Damage("png", "label", dangling, "labels", "the file is gone", "set aside"),
}  # fmt: skip


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest) -> Damage:
    return DAMAGES[request.param]


class Planted(NamedTuple):
    root: Path
    pair: Pair
    """Of the fifth training sample."""
    file: Path
    pixels: np.ndarray | None


def plant(root: Path, damage: Damage) -> Planted:
    pair = split_of(root).pairs[5]
    file = pair.image if damage.side == "image" else pair.labels
    assert file is not None
    done = damage.do(file)
    return Planted(root, pair, file, done if isinstance(done, np.ndarray) else None)


@pytest.fixture
def planted(whole: Path, tmp_path: Path, damage: Damage) -> Planted:
    return plant(Path(shutil.copytree(whole / damage.layout, tmp_path / damage.layout)), damage)


def test_data_check_names_the_file(planted: Planted, damage: Damage) -> None:
    found = checked(planted.root)
    named = [problem for problem in found.problems if problem.sentence.startswith(f"{planted.file}: ")]
    level = "warning" if damage.then == "read" and damage.kind != "blank" else "error"
    assert any((each.level, each.kind) == (level, damage.kind) and damage.words in each.sentence for each in named)
    assert all((each.key, each.split) == (planted.pair.key, "train") for each in named)
    assert [each for each in found.problems if each not in named and each.kind not in ("absent", "near")] == []
    assert bool(found.of("error")) == (level == "error")


def test_training_reads_it_or_goes_without(
    planted: Planted, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    key = planted.pair.key
    assembly = assembled(planted.root)
    err = capsys.readouterr().err
    expected_err = ""
    if damage.then == "set aside":
        sentence = assembly.set_aside["train"][key]
        assert sentence.startswith(f"{planted.file}: ") and damage.words in sentence
        assert quarantine.keys(assembly.train) == [k for k in quarantine.keys(split_of(planted.root)) if k != key]
        expected_err = f"segdistill: train: {key} set aside: {sentence}\n"
    else:
        assert assembly.set_aside == {"train": {}, "val": {}} and len(assembly.train) == COUNT
    assert err == expected_err, "and nothing else: no warning of Pillow's"
    steps = len(assembly.train) // 4 + 1
    feed = training_batches(assembly.train, assembly.recipe.data, 0, start=0, batch=4, rank=0, ranks=1)
    bad: dict[str, str] = {}
    keys: set[str] = set()
    for batch in islice(feed, steps):
        keys |= {*batch.keys}
        bad |= batch.bad
    if damage.then == "replaced":
        assert list(bad) == [key] and bad[key].startswith(f"{planted.file}: ") and key not in keys
    else:
        assert bad == {} and (key in keys) == (damage.then == "read")


@pytest.mark.parametrize("name", [name for name in DAMAGES if DAMAGES[name].then == "read"])
def test_the_right_pixels_are_read(whole: Path, tmp_path: Path, name: str) -> None:
    damage = DAMAGES[name]
    planted = plant(Path(shutil.copytree(whole / damage.layout, tmp_path / damage.layout)), damage)
    assert planted.pixels is not None
    sample = split_of(planted.root)[5]
    found = (sample.image.permute(1, 2, 0) if damage.side == "image" else sample.labels).numpy()
    assert found.shape == planted.pixels.shape
    assert np.abs(found.astype(int) - planted.pixels).mean() <= damage.tolerance
    assert damage.tolerance or np.array_equal(found, planted.pixels)


def test_half_a_mask_is_read_as_it_is_and_only_the_check_finds_it(whole: Path, tmp_path: Path) -> None:
    """Its pixels are road for training: nothing but a look at the picture says that they were never written."""
    root = Path(shutil.copytree(whole / "jpg", tmp_path / "jpg"))
    plant(root, DAMAGES["half a mask"])
    file = tmp_path / "quarantine.json"
    (error,) = checked(root, to=file).of("error")
    assert error.kind == "blank" and len(assembled(root).train) == COUNT
    assert len(assembled(root, quarantine=str(file)).train) == COUNT - 1


@pytest.mark.parametrize("side", ["image", "label"])
def test_a_folder_in_the_place_of_a_file(png: Path, side: Side) -> None:
    """It is no file, so the other one of the pair has no partner."""
    pair = split_of(png).pairs[5]
    file = pair.image if side == "image" else pair.labels
    assert file is not None
    file.unlink()
    file.mkdir()
    (error,) = checked(png).of("error")
    assert error.kind == "files" and pair.key in error.sentence
    with pytest.raises(Mistake, match=pair.key):
        assembled(png)


def test_a_folder_called_like_an_image_is_no_image(png: Path) -> None:
    (split_of(png).pairs[0].image.parent / "x_leftImg8bit.png").mkdir()
    assert len(split_of(png)) == COUNT and checked(png).of("error") == []


def test_a_label_that_is_gone_can_be_quarantined(png: Path, tmp_path: Path) -> None:
    """The data's fingerprint needs no file that cannot be read."""
    key = plant(png, DAMAGES["no label"]).pair.key
    file = tmp_path / "quarantine.json"
    checked(png, to=file)
    assembly = assembled(png, quarantine=str(file), bad_share=0)
    assert key not in quarantine.keys(assembly.train) and assembly.set_aside == {"train": {}, "val": {}}


def test_random_damage_is_a_mistake_or_an_image(png: Path) -> None:
    """Of every format that is read, header and all."""
    random = np.random.default_rng(0)
    good = split_of(png).pairs[0]
    file = png / "file.png"
    files: list[bytes] = []
    with Image.open(good.image) as image:
        for mode, coding, more in (
            ("RGB", "PNG", {}),
            ("P", "PNG", {}),
            ("RGB", "JPEG", {}),
            ("RGB", "TIFF", {}),
            ("L", "TIFF", {"compression": "tiff_lzw"}),
            ("P", "TIFF", {}),
            ("RGB", "WEBP", {}),
            ("RGB", "BMP", {}),
            ("RGB", "PPM", {}),
        ):
            image.convert(mode).save(file, coding, **more)
            files.append(file.read_bytes())
    mistakes = 0
    for _ in range(40):
        for before in files:
            data = np.frombuffer(before, np.uint8).copy()
            data[random.integers(0, random.choice([30, 300, len(data)]), 3)] = random.integers(0, 256, 3)
            file.write_bytes(data[: random.integers(1, len(data)) if random.random() < 0.2 else None].tobytes())
            for read in (
                lambda: read_image(file),
                lambda: read_labels(Pair(good.image, file, ""), CITYSCAPES_TRAIN_IDS),
            ):
                try:
                    read()
                except Mistake as mistake:
                    assert str(mistake).startswith(f"{file}: ") and "\n" not in str(mistake)
                    mistakes += 1
    assert 300 < mistakes < 720


@pytest.mark.parametrize(("tag", "kind", "error"), [(273, 2, TypeError), (320, 4, OverflowError)])
def test_pillows_own_slips_are_the_files_fault(png: Path, tag: int, kind: int, error: type[Exception]) -> None:
    """A TIFF's header says that its strips begin at a text, or that its palette holds large numbers."""
    file = png / "file.tif"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).convert("P").save(file)
    data = bytearray(file.read_bytes())
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        at = directory + 2 + 12 * entry
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<H", data, at + 2, kind)
    file.write_bytes(data)
    with pytest.raises(Mistake, match=r"file\.tif: damaged or unreadable") as caught:
        read_image(file)
    assert isinstance(caught.value.__cause__, error)


def test_odd_metadata_are_no_noise(png: Path) -> None:
    """Even where warnings are errors: what Pillow warns of is nothing that is read here."""
    file = png / "file.tif"
    Image.new("RGB", (WIDTH, HEIGHT)).save(file)
    data = bytearray(file.read_bytes())
    directory = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, directory)[0]
    at = directory + 2 + 12 * (entries - 1)
    struct.pack_into("<HHII", data, at, 37500, 7, 9999, len(data) - 4)  # a note of its maker's, longer than the file
    file.write_bytes(data)
    program = "import sys; from pathlib import Path; from segdistill.datasets import read_image; "
    program += "print(tuple(read_image(Path(sys.argv[1])).shape))"
    command = [sys.executable, "-W", "error", "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"(3, {HEIGHT}, {WIDTH})\n", "")
    with pytest.warns(UserWarning), Image.open(file):
        pass  # else nothing is shown here


def test_a_large_image_is_no_bomb(png: Path) -> None:
    file = png / "file.png"
    Image.new("1", (9000, 9000)).save(file)
    with opened(file) as image:
        assert image.size == (9000, 9000)


# The assembly


def spoil(root: Path, split: str, *damages: str) -> list[str]:
    """The keys of the first samples, one damage each."""
    pairs = split_of(root, split).pairs
    for name, pair in zip(damages, pairs, strict=False):
        file = pair.image if DAMAGES[name].side == "image" else pair.labels
        assert file is not None
        DAMAGES[name].do(file)
    return [pair.key for pair in pairs[: len(damages)]]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("cache", [False, True])
def test_past_the_share_a_run_does_not_begin(png: Path, split: str, cache: bool) -> None:
    """One sentence with the first file; what is still allowed is set aside."""
    count = len(split_of(png, split))
    spoil(png, split, "unknown id", "empty image")
    share = 2 / count
    assert len(assembled(png, bad_share=share, cache=cache).set_aside[split]) == 2
    first = split_of(png, split).pairs[0].labels
    percent = f"{100 * share:.3g}%, data.bad_share allows {100 * share - 1:.3g}%"
    expected = f"data: {split}: 2 of {count} samples cannot be read ({percent}): {first}: label values 77 in 6 pixels"
    with pytest.raises(Mistake) as caught:
        assembled(png, bad_share=share - 0.01, cache=cache)
    assert str(caught.value).startswith(expected) and str(caught.value).endswith("; data check names them all")
    assert "\n" not in str(caught.value)


def test_all_of_a_split_is_too_much(png: Path) -> None:
    spoil(png, "val", *["empty label"] * 3)
    with pytest.raises(Mistake, match=r"data: val: 3 of 3 samples cannot be read \(100%, data\.bad_share allows 99%\)"):
        assembled(png, bad_share=0.99)


def test_what_is_set_aside_is_not_counted(png: Path, whole: Path, cache_folder: Path) -> None:
    (key,) = spoil(png, "train", "unknown id")
    assembly = assembled(png)
    others = split_of(whole / "png").only(range(1, COUNT))
    expected = sum(np.bincount(others.labels(i).ravel(), minlength=256)[:19] for i in range(COUNT - 1))
    assert assembly.class_pixels == expected.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    assert assembly.fingerprints["train"] == others.fingerprint() == assembly.train.fingerprint()
    assert list(assembly.set_aside["train"]) == [key]
    assert (cache_folder / "segdistill" / "class-pixels" / f"{others.fingerprint()}.json").exists()


def test_a_cached_set_also_goes_without_images(png: Path) -> None:
    """They are decoded at the start; the others are the same data as without a cache."""
    keys = spoil(png, "train", "unknown id", "image cut")
    assembly = assembled(png, cache=True)
    assert list(assembly.set_aside["train"]) == keys
    rest = split_of(png).only(range(2, COUNT))
    assert assembly.train.fingerprint() == rest.fingerprint() and quarantine.keys(assembly.train) == quarantine.keys(
        rest
    )
    for index in range(len(rest)):
        assert torch.equal(assembly.train[index].image, rest[index].image)
        assert np.array_equal(assembly.train.labels(index), rest.labels(index))


class Numbers(Dataset):
    """No files: images of one grey value, the third of which is out of order."""

    classes = ClassTable(("a",), ((1, 2, 3),))

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        if index == 2:
            raise Mistake("numbers: the third is out of order")
        grey = torch.full((8, 8), index, dtype=torch.uint8)
        return Sample(grey.expand(3, 8, 8), torch.zeros_like(grey), f"number-{index}")

    def fingerprint(self) -> str:
        return "0" * 16


def test_samples_that_are_no_files() -> None:
    numbers = Numbers()
    assert dict(unreadable(numbers)) == {2: "numbers: the third is out of order"}
    assert [numbers.key(index) for index in (1, 2)] == ["number-1", "sample 2"]
    for rest in (numbers.only([0, 1, 3, 4]), Cached(numbers).only([0, 1, 3, 4])):
        assert quarantine.keys(rest) == ["number-0", "number-1", "number-3", "number-4"]
        assert rest[2].key == "number-3" and rest[2].image[0, 0, 0] == 3 and len(rest) == 4
        assert rest.fingerprint() == numbers.only([0, 1, 3, 4]).fingerprint() != numbers.only([0, 1]).fingerprint()
    with pytest.raises(Mistake, match="out of order"):
        Cached(numbers)[2]


# Training


@pytest.fixture
def holed(png: Path) -> Path:
    """One image in twelve cannot be decoded, which only its turn shows."""
    cut(split_of(png).pairs[5].image)
    return png


STEPS = 9
"""Of four images: three epochs of twelve."""


@pytest.mark.parametrize("sampling", ["uniform", "rare_class", "class_uniform"])
def test_batches_with_a_substitute_depend_on_nothing_else(holed: Path, sampling: str) -> None:
    """Not on workers, nor on where a run began, nor on how many processes share a batch."""
    more: dict[str, Any] = {"sampling": {"kind": sampling}}
    alone = batches(holed, STEPS, **more)
    assert all(equal(a, b) for a, b in zip(alone, batches(holed, STEPS, **more, workers=2), strict=True))
    assert all(equal(a, b) for a, b in zip(alone[4:], batches(holed, STEPS - 4, start=4, **more), strict=True))
    parts = [batches(holed, STEPS, rank=rank, ranks=2, **more) for rank in range(2)]
    for together, *shares in zip(alone, *parts, strict=True):
        for rank, share in enumerate(shares):
            assert share.keys == together.keys[rank::2]
            assert torch.equal(share.image, together.image[rank::2])
            assert torch.equal(share.labels, together.labels[rank::2])
        assert {key: why for share in shares for key, why in share.bad.items()} == together.bad


def test_a_bad_sample_is_named_and_the_other_places_stay(holed: Path, whole: Path) -> None:
    pair = split_of(holed).pairs[5]
    names = 0
    others: set[str] = set()
    for found, expected in zip(batches(holed, STEPS), batches(whole / "png", STEPS), strict=True):
        assert expected.bad == {} and pair.key not in found.keys
        for place, key in enumerate(expected.keys):
            if key == pair.key:
                others.add(found.keys[place])
                assert list(found.bad) == [pair.key] and found.bad[key].startswith(f"{pair.image}: damaged")
                assert not torch.equal(found.image[place], expected.image[place])
                names += 1
            else:
                assert found.keys[place] == key and torch.equal(found.image[place], expected.image[place])
        assert bool(found.bad) == (pair.key in expected.keys)
    assert names == 3 and len(others) > 1, "every epoch another"


def test_a_substitute_gets_the_crop_of_its_place(holed: Path) -> None:
    """And of its own image and labels: without scaling and jitter it is a window of it."""
    plain: dict[str, Any] = {"augment": {"scale": [1, 1], "flip": False, "jitter": 0}}
    dataset = split_of(holed)
    feed = Augmented(dataset, spec(holed, **plain), (32, 48), 3)
    crop, mate = feed[0, 5], feed[0, 4]
    assert not isinstance(crop, Mistake) and not isinstance(mate, Mistake)
    sample = dataset[[pair.key for pair in dataset.pairs].index(crop.key)]
    random = np.random.default_rng([3, 0, 5])
    random.uniform(0, 0)  # the scale
    top, left = int(random.integers(0, HEIGHT - 32 + 1)), int(random.integers(0, WIDTH - 48 + 1))
    assert torch.equal(crop.image, sample.image[:, top : top + 32, left : left + 48])
    assert torch.equal(crop.labels, sample.labels[top : top + 32, left : left + 48])
    assert mate.bad == {}


def test_when_nothing_can_be_read_the_run_stops(png: Path) -> None:
    for pair in split_of(png).pairs:
        cut(pair.image)
    with pytest.raises(Mistake, match=r"leftImg8bit\.png: damaged or unreadable"):
        batches(png, 1)


def test_what_is_no_samples_fault_is_still_raised(png: Path) -> None:
    for pair in split_of(png).pairs:
        assert pair.labels is not None
        Image.new("L", (WIDTH, HEIGHT)).save(pair.labels)  # 0 is `unlabeled`
    with pytest.raises(Mistake, match=r"data\.sampling: rare_class looks for classes, but no training"):
        batches(png, 1, sampling={"kind": "rare_class"})


def test_the_crops_size_needs_no_decoded_image(png: Path) -> None:
    cut(split_of(png).pairs[0].image)
    assert crop_size(split_of(png), spec(png, crop=None)) == (HEIGHT, WIDTH)


def test_workers_leave_ctrl_c_to_the_main_process(png: Path) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    feed = training_batches(split_of(png), spec(png, workers=2), 3, start=0, batch=4, rank=0, ranks=1)
    found = list(islice(feed, 2))  # one of each worker: both have begun
    workers = [child.pid for child in multiprocessing.active_children() if child.pid not in before]
    assert len(workers) == 2
    for pid in workers:
        assert pid is not None
        os.kill(pid, signal.SIGINT)
    found += islice(feed, 7)
    assert all(equal(a, b) for a, b in zip(found, batches(png, 9), strict=True))


# Looking


@pytest.fixture
def blind(png: Path) -> tuple[Path, Pair]:
    """One of three validation images cannot be decoded."""
    pair = split_of(png, "val").pairs[1]
    cut(pair.image)
    return png, pair


def test_measuring_goes_without_it(blind: tuple[Path, Pair], capsys: pytest.CaptureFixture[str]) -> None:
    root, pair = blind
    assembly = assembled(root, bad_share=0.4)
    val, models = split_of(root, "val"), assembly.models()
    for model in models.values():
        model.eval()
    probe = Measure(classes=val.classes, input_size=None, bad_share=0.4)
    capsys.readouterr()
    found = [probe(models, val) for _ in range(2)]
    assert found[0] == found[1] and found[0].numbers["unreadable"] == 1
    assert capsys.readouterr().err.count(f"segdistill: {pair.key} left out: {pair.image}: damaged") == 1, "once"
    rest = Measure(classes=val.classes, input_size=None)(models, val.only([0, 2]))
    assert rest.numbers == {name: value for name, value in found[0].numbers.items() if name != "unreadable"}
    with pytest.raises(Mistake, match=r"^measure: 1 of 3 samples cannot be read .33.3%, data.bad_share allows 30%"):
        Measure(classes=val.classes, input_size=None, bad_share=0.3)(models, val)


def test_pictures_are_of_the_next_image(blind: tuple[Path, Pair]) -> None:
    root, _ = blind
    val, models = split_of(root, "val"), assembled(root, bad_share=0.4).models()
    for model in models.values():
        model.eval()

    def looked(count: int) -> list[str]:
        table = Predictions(count, classes=val.classes, input_size=None)(models, val).tables["wrong"]
        return [str(row[0]) for row in table.rows]

    keys = quarantine.keys(val)
    assert looked(1) == [keys[2]] and looked(2) == [keys[0], keys[2]] and looked(3) == [keys[0], keys[2]]


def test_readable_says_each_once(blind: tuple[Path, Pair], capsys: pytest.CaptureFixture[str]) -> None:
    root, pair = blind
    val = split_of(root, "val")
    bad: dict[str, str] = {}
    named: set[str] = set()
    samples: Iterator[str] = (sample.key for _ in range(2) for sample in readable(val, range(3), bad, named))
    assert list(samples) == [val.key(0), val.key(2)] * 2 and list(bad) == [pair.key]
    assert capsys.readouterr().err.count("left out") == 1

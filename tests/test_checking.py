"""`data check`: every planted fault is found and named with its file, and clean data raise no alarm."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill import quarantine
from segdistill.assemble import open_split
from segdistill.checking import Check, check
from segdistill.cli import main
from segdistill.data import training_batches
from segdistill.datasets import Dataset, FileDataset
from segdistill.datasets.bdd100k import Bdd100k
from segdistill.datasets.streets import Streets
from segdistill.make_data import make
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec, dump, parse
from segdistill.training import train
from segdistill.types import IGNORE
from small import content

IMAGES, MASKS = Path("images", "10k"), Path("labels", "sem_seg", "masks")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in both layouts, large enough that each has several classes."""
    root = tmp_path_factory.mktemp("clean")
    make(root / "bdd100k", "bdd100k", 6, (64, 96))
    make(root / "cityscapes", "cityscapes", 4, (64, 96))
    return root


@pytest.fixture
def bdd(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "bdd100k", tmp_path / "bdd100k"))


@pytest.fixture
def cityscapes(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "cityscapes", tmp_path / "cityscapes"))


def checked(root: Path, kind: str = "bdd100k", to: Path | None = None, **more: Any) -> Check:
    return check(recipe(root.parent, {"kind": kind, "root": str(root), **more}), quarantine_to=to)


def recipe(folder: Path, data: dict[str, Any], **more: Any) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(dump(parse({**content(**more), "data": {"batch": 2, "crop": [32, 48], **data}})))
    return file


def first(folder: Path) -> Path:
    return sorted(folder.iterdir())[0]


def labels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image)


def rewrite(file: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(labels_of(file))).save(file)


def resave(file: Path, mode: str, coding: str) -> None:
    with Image.open(file) as image:
        converted = image.convert(mode)
    converted.save(file, coding)


def bomb(file: Path) -> None:
    """A PNG of a few bytes that claims 60000×60000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def wide(file: Path) -> None:
    """A colour PNG of 16 bits a channel, which Pillow reads but cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 96, 64, 16, 2, 0, 0, 0)
    pixels = np.random.default_rng(0).integers(0, 2**16, (64, 96 * 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def zeroed(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))


def turned(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        image.load()
        image.save(file, exif=exif, quality=95)


def png_in_jpg(file: Path) -> None:
    resave(file, "RGB", "PNG")


def half(labels: np.ndarray) -> np.ndarray:
    out = labels.copy()
    out[len(out) // 2 :] = 0
    out[len(out) // 2 - 4 : len(out) // 2, ::2] = 2  # whatever the scene: the row above the cut is no single class
    return out


FAULTS: dict[str, tuple[Path, Callable[[Path], object], str, str, str]] = {
    # folder, what is done to its first file, and the finding: level, kind, words
    "truncated jpeg": (IMAGES, lambda f: f.write_bytes(f.read_bytes()[:700]), "error", "image", "not written whole"),
    "jpeg with zeros": (IMAGES, zeroed, "error", "image", ""),
    "empty image": (IMAGES, lambda f: f.write_bytes(b""), "error", "image", "not an image"),
    "text as image": (IMAGES, lambda f: f.write_text("<html>404</html>"), "error", "image", "not an image"),
    "truncated png": (MASKS, lambda f: f.write_bytes(f.read_bytes()[:-40]), "error", "labels", "damaged or unread"),
    "other size": (MASKS, lambda f: rewrite(f, lambda a: a[:-2]), "error", "labels", "96x62 labels for a 96x64 image"),
    "unknown value": (MASKS, lambda f: rewrite(f, lambda a: np.where(a == 0, 77, a).astype(np.uint8)), "error",
                      "labels", "label values 77"),
    "colour mask": (MASKS, lambda f: resave(f, "RGB", "PNG"), "error", "colours", "class ids are expected"),
    "jpeg mask": (MASKS, lambda f: resave(f, "L", "JPEG"), "error", "labels", "stored as JPEG"),
    "blank mask": (MASKS, lambda f: rewrite(f, np.zeros_like), "error", "blank", "one class fills it all"),
    "half a mask": (MASKS, lambda f: rewrite(f, half), "error", "blank", "50% from the bottom are nothing but"),
    "bomb": (IMAGES, bomb, "error", "image", "too many pixels"),
    "label bomb": (MASKS, bomb, "error", "labels", "too many pixels"),
    "one pixel": (IMAGES, lambda f: Image.new("RGB", (1, 1)).save(f), "error", "image", "1x1; expected at least 8"),
    "16 bit grey": (IMAGES, lambda f: Image.fromarray(np.zeros((64, 96), np.uint16)).save(f, "PNG"), "error",
                    "image", "mode I;16"),
    "16 bit colour": (IMAGES, wide, "warning", "16 bit", "only the upper 8"),
    "void": (MASKS, lambda f: rewrite(f, lambda a: np.full_like(a, IGNORE)), "warning", "void", "all void"),
    "cmyk": (IMAGES, lambda f: resave(f, "CMYK", "JPEG"), "warning", "mode", "mode CMYK"),
    "grey": (IMAGES, lambda f: resave(f, "L", "JPEG"), "warning", "mode", "mode L"),
    "alpha": (IMAGES, lambda f: resave(f, "RGBA", "PNG"), "warning", "mode", "mode RGBA"),
    "palette": (IMAGES, lambda f: resave(f, "P", "PNG"), "warning", "mode", "mode P"),
    "turned": (IMAGES, turned, "warning", "exif", "EXIF orientation 6"),
    "png in jpg": (IMAGES, png_in_jpg, "warning", "extension", "it holds PNG, not what '.jpg' says"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_planted_fault_is_named_with_its_file(bdd: Path, fault: str, split: str) -> None:
    folder, plant, level, kind, words = FAULTS[fault]
    file = first(bdd / folder / split)
    plant(file)
    found = checked(bdd)
    named = [problem for problem in found.problems if problem.sentence.startswith(f"{file}: ")]
    assert any((each.level, each.kind) == (level, kind) and words in each.sentence for each in named), found.problems
    assert all((each.key, each.split) == (file.stem, split) for each in named)
    others = [each for each in found.problems if each not in named and each.kind != "absent"]
    assert others == [], "nothing else is blamed"
    assert bool(found.of("error")) == (level == "error")


@pytest.mark.parametrize("layout", ["bdd100k", "cityscapes"])
@pytest.mark.parametrize("side", ["image", "label"])
def test_files_without_a_partner(request: pytest.FixtureRequest, layout: str, side: str) -> None:
    root: Path = request.getfixturevalue("bdd" if layout == "bdd100k" else "cityscapes")
    folder = {
        ("bdd100k", "image"): IMAGES / "val",
        ("bdd100k", "label"): MASKS / "val",
        ("cityscapes", "image"): Path("leftImg8bit", "val", "val"),
        ("cityscapes", "label"): Path("gtFine", "val", "val"),
    }[layout, side]
    file = next(file for file in sorted((root / folder).iterdir()) if "_gtFine_" not in file.name or "Ids" in file.name)
    if "instanceIds" in file.name:
        file = file.with_name(file.name.replace("instanceIds", "labelIds"))
    partner = file.with_name(file.name.replace("000000_000000", "000000_900000") if layout == "cityscapes" else
                             f"extra{file.suffix}")  # fmt: skip
    shutil.copy(file, partner)
    found = checked(root, layout)
    (error,) = found.of("error")
    assert (error.kind, error.split) == ("files", "val") and partner.name in error.sentence
    assert "images have no label" in error.sentence if side == "image" else "labels have no image" in error.sentence
    assert found.classes.columns == ["class", "train pixels"], "the other split is checked all the same"


@pytest.mark.parametrize("layout", ["bdd100k", "cityscapes"])
def test_masks_shifted_by_one(request: pytest.FixtureRequest, layout: str) -> None:
    """Class 0 is never used and one more than the largest is: said once, beside the values that are refused."""
    root: Path = request.getfixturevalue("bdd" if layout == "bdd100k" else "cityscapes")
    ending = "*.png" if layout == "bdd100k" else "*_labelIds.png"
    folder, last = (MASKS, 18) if layout == "bdd100k" else (Path("gtFine"), 33)
    for file in (root / folder).rglob(ending):
        rewrite(file, lambda a: np.where(a == IGNORE, a, a + 1).astype(np.uint8))
        labels = labels_of(file)
        labels[0, 0] = last + 1
        Image.fromarray(labels).save(file)
    shifts = [problem for problem in checked(root, layout).problems if problem.kind == "shift"]
    assert [problem.split for problem in shifts] == ["train", "val"]
    assert all(f"{last + 1} is used and 0 never, where 0…{last} are" in each.sentence for each in shifts)


def test_the_same_picture_twice(bdd: Path) -> None:
    files = sorted((bdd / IMAGES / "train").iterdir())
    shutil.copy(files[1], files[3])
    (warning,) = [problem for problem in checked(bdd).problems if problem.kind == "duplicate"]
    assert (warning.level, warning.key) == ("warning", files[3].stem)
    assert warning.sentence == f"{files[3]}: the same picture as {files[1]}"


def test_a_picture_in_both_splits_is_a_leak(bdd: Path) -> None:
    """The training sample is the one to set aside: what is measured stays."""
    train_file, val_file = sorted((bdd / IMAGES / "train").iterdir())[2], first(bdd / IMAGES / "val")
    shutil.copy(val_file, train_file)
    (error,) = checked(bdd).of("error")
    assert (error.kind, error.split, error.key) == ("leak", "train", train_file.stem)
    assert str(train_file) in error.sentence and str(val_file) in error.sentence


def test_nearly_the_same_picture_in_both_splits(bdd: Path) -> None:
    """Encoded again, darker."""
    train_file, val_file = sorted((bdd / IMAGES / "train").iterdir())[2], first(bdd / IMAGES / "val")
    with Image.open(val_file) as image:
        image.point(lambda value: value * 0.9).save(train_file, quality=90)
    found = checked(bdd)
    (warning,) = [problem for problem in found.problems if problem.kind == "near"]
    assert (warning.level, warning.split, warning.key) == ("warning", "train", train_file.stem)
    assert str(val_file) in warning.sentence and found.of("error") == []


def test_a_class_that_never_occurs(bdd: Path) -> None:
    for file in (bdd / MASKS / "train").iterdir():
        rewrite(file, lambda a: np.where(a == 0, IGNORE, a).astype(np.uint8))
    absent = {problem.split: problem for problem in checked(bdd).problems if problem.kind == "absent"}
    assert "road" in absent["train"].sentence and "road" not in absent["val"].sentence
    assert absent["train"].level == "warning"


def test_many_faults_at_once(bdd: Path) -> None:
    images, masks = sorted((bdd / IMAGES / "train").iterdir()), sorted((bdd / MASKS / "train").iterdir())
    zeroed(images[0])
    rewrite(masks[1], np.zeros_like)
    images[2].write_bytes(b"")
    resave(masks[2], "RGB", "PNG")
    found = checked(bdd)
    assert {problem.key for problem in found.of("error")} == {images[k].stem for k in (0, 1, 2)}


# No false alarm


@pytest.mark.parametrize("layout", ["bdd100k", "cityscapes"])
def test_made_data_are_clean(clean: Path, tmp_path: Path, layout: str) -> None:
    root = Path(shutil.copytree(clean / layout, tmp_path / "copy"))
    found = checked(root, layout)
    assert [problem for problem in found.problems if problem.kind != "absent"] == []
    pixels = sum(int(row[1] or 0) for row in found.classes.rows)
    assert pixels == (6 if layout == "bdd100k" else 4) * 64 * 96


def test_procedural_scenes_are_clean(tmp_path: Path) -> None:
    data = {"kind": "streets", "count": 12, "val_count": 4, "unlabelled": 2, "scene_size": [96, 192]}
    found = check(recipe(tmp_path, data))
    assert [problem for problem in found.problems if problem.kind != "absent"] == []


@pytest.mark.parametrize(
    ("kind", "folder", "pixels"),
    [
        pytest.param("camvid", "camvid", 367 * 360 * 480, marks=pytest.mark.slow),
        pytest.param("bdd100k", "bdd100k", 16 * 720 * 1280, marks=pytest.mark.slow),
        ("kitti", "kitti/aligned", 4 * 370 * 1224),
    ],
)
def test_real_samples_are_clean(real_data: Path, tmp_path: Path, kind: str, folder: str, pixels: int) -> None:
    found = check(recipe(tmp_path, {"kind": kind, "root": str(real_data / folder)}))
    assert [problem for problem in found.problems if problem.kind != "absent"] == []
    assert sum(int(row[1] or 0) for row in found.classes.rows) == pixels


def test_kitti_as_found_is_refused(real_data: Path, tmp_path: Path) -> None:
    found = check(recipe(tmp_path, {"kind": "kitti", "root": str(real_data / "kitti" / "as_found")}))
    assert len(found.of("error")) == 5 and found.of("warning") == []
    assert all("1242x375 labels for a 1224x370 image" in problem.sentence for problem in found.of("error"))


# What the verb says


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        main(["data", "check", *words])
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), out, err


def test_the_verb(bdd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe(bdd.parent, {"kind": "bdd100k", "root": str(bdd)})
    code, out, err = said(capsys, str(file))
    assert code == 0 and "0 errors" in out and err == ""
    turned(first(bdd / IMAGES / "val"))
    code, out, _ = said(capsys, str(file))
    assert code == 0 and "warning: val: " in out, "a warning is none of the work's failures"
    rewrite(first(bdd / MASKS / "train"), np.zeros_like)
    code, out, _ = said(capsys, str(file), "--json")
    found = json.loads(out)
    assert code == 1
    assert [(each["kind"], each["split"]) for each in found["bad"]] == [("blank", "train")]
    assert "exif" in {each["kind"] for each in found["warnings"]}
    assert found["classes"][0]["class"] == "road"


def test_a_wrong_recipe_is_the_users_mistake(bdd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe(bdd.parent, {"kind": "bdd100k", "root": str(bdd)})
    assert said(capsys, str(file), "--set", "data.kind=bdd")[0] == 2
    assert said(capsys, str(file), "--set", "data.rot=x")[0] == 2
    assert said(capsys, str(file), "--set", "data.train=trian")[0] == 1, "a finding: the folder could be missing"


def test_many_of_a_kind_are_shortened_for_people(bdd: Path) -> None:
    for file in (bdd / IMAGES / "train").iterdir():
        resave(file, "L", "JPEG")
    found = checked(bdd)
    lines = list(found.sentences(2))
    assert sum("mode L" in line for line in lines) == 2 and any("and 4 more of this kind" in line for line in lines)


# Quarantine


@pytest.fixture
def broken(bdd: Path) -> Path:
    """One bad training sample and one bad validation sample."""
    rewrite(sorted((bdd / MASKS / "train").iterdir())[1], np.zeros_like)
    make(bdd.parent / "more", "bdd100k", 8, (64, 96), seed=9)
    for folder in (IMAGES, MASKS):
        for number, file in enumerate(sorted((bdd.parent / "more" / folder / "val").iterdir())):
            shutil.copy(file, bdd / folder / "val" / f"more-{number}{file.suffix}")
    image = bdd / IMAGES / "val" / "more-0.jpg"
    image.write_bytes(image.read_bytes()[:-300])
    return bdd


def test_a_quarantine_names_what_is_wrong(broken: Path) -> None:
    file = broken.parent / "quarantine.json"
    found = checked(broken, to=file)
    written = json.loads(file.read_text())["splits"]
    assert {split: list(said["samples"]) for split, said in written.items()} == {
        "train": ["train-00001"],
        "val": ["more-0"],
    }
    reasons = {each.key: each.sentence for each in found.of("error")}
    assert written["train"]["samples"]["train-00001"] == reasons["train-00001"]
    assert written["val"]["fingerprint"] == Bdd100k(broken, split="val").fingerprint()
    again = checked(broken, quarantine=str(file))
    assert again.of("error") == [] and sum("(set aside)" in each.sentence for each in again.of("warning")) == 2


def test_samples_are_set_aside(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = broken.parent / "quarantine.json"
    checked(broken, to=file)
    for split, key, left in (("train", "train-00001", 5), ("val", "more-0", 2)):
        whole = Bdd100k(broken, split=split)
        kept = quarantine.without(whole, split, str(file))
        assert f"{split}: 1 of {left + 1} samples set aside by {file}" in capsys.readouterr().err
        assert quarantine.keys(kept) == [pair.key for pair in whole.pairs if pair.key != key]
        assert len(kept) == left and kept.classes == whole.classes
        assert kept.fingerprint() != whole.fingerprint(), "a run is not resumed on other data"
        for index in range(left):
            assert np.array_equal(kept.labels(index), kept[index].labels.numpy())
    spec = DataSpec.model_validate({"kind": "bdd100k", "batch": 4, "crop": [16, 16]})
    train_split = quarantine.without(Bdd100k(broken, split="train"), "train", str(file))
    feed = training_batches(train_split, spec, 0, start=0, batch=5, rank=0, ranks=1)
    assert sorted(next(feed).keys) == sorted(quarantine.keys(train_split))


def test_without_a_quarantine_nothing_changes(bdd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Bdd100k(bdd, split="train")
    assert quarantine.without(whole, "train", None) is whole
    file = bdd.parent / "quarantine.json"
    checked(bdd, to=file)
    assert quarantine.without(whole, "train", str(file)) is whole, "nothing was wrong"
    assert capsys.readouterr().err == ""


def test_training_goes_without_them(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The damaged validation image would stop the run when it is measured."""
    file = broken.parent / "quarantine.json"
    checked(broken, to=file)
    data = {"kind": "bdd100k", "root": str(broken), "quarantine": str(file)}
    split = open_split(DataSpec.model_validate(data), "train")
    assert len(split) == 5 and split.fingerprint() != Bdd100k(broken, split="train").fingerprint()
    assert isinstance(split, FileDataset), "its files' attributes are looked for by their names"
    capsys.readouterr()
    done = train(recipe(broken.parent, data, steps=1), broken.parent / "run")
    err = capsys.readouterr().err
    assert "train: 1 of 6 samples set aside" in err and "val: 1 of 3 samples set aside" in err
    assert done.last_findings("measure") is not None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("samples", {"train-00009": "?"}, "has no sample 'train-00009' .did you"),
        ("fingerprint", "0" * 16, "it is of other data: 'train' had the fingerprint 0000000000000000"),
        ("more", 1, "expected a file that data check --quarantine wrote"),
        ("samples", ["train-00001"], "expected a file that data check --quarantine wrote"),
        ("samples", {f"train-{k:05d}": "" for k in range(6)}, "sets every sample of 'train' aside"),
    ],
)
def test_a_wrong_quarantine_is_a_mistake(bdd: Path, key: str, value: object, sentence: str) -> None:
    file = bdd.parent / "quarantine.json"
    checked(bdd, to=file)
    said = json.loads(file.read_text())
    said["splits"]["train"][key] = value
    file.write_text(json.dumps(said))
    with pytest.raises(Mistake, match=rf"^data\.quarantine: .*{sentence}"):
        quarantine.without(Bdd100k(bdd, split="train"), "train", str(file))


def test_a_missing_or_torn_quarantine_is_a_mistake(bdd: Path, tmp_path: Path) -> None:
    whole = Bdd100k(bdd, split="train")
    (tmp_path / "quarantine.json").write_text('{"splits":')
    with pytest.raises(Mistake, match="expected a file that"):
        quarantine.without(whole, "train", str(tmp_path / "quarantine.json"))
    with pytest.raises(Mistake, match=r"there is no such file \(did you mean 'quarantine.json'"):
        quarantine.without(whole, "train", str(tmp_path / "quarantin.json"))


def test_samples_that_are_no_files_have_keys_too() -> None:
    scenes: Dataset = Streets(3, (48, 64), split="train")
    assert quarantine.keys(scenes) == ["train-00000", "train-00001", "train-00002"]


def test_damage_never_ends_the_check(bdd: Path) -> None:
    """Random bytes changed in random places: a finding or none, but no crash."""
    random = np.random.default_rng(0)
    files = [*(bdd / IMAGES / "train").iterdir(), *(bdd / MASKS / "train").iterdir()]
    whole = {file: file.read_bytes() for file in files}
    for _ in range(15):
        for file, before in whole.items():
            data = np.frombuffer(before, np.uint8).copy()
            data[random.integers(0, min(len(data), 600), 3)] = random.integers(0, 256, 3)
            file.write_bytes(data[: random.integers(1, len(data)) if random.random() < 0.3 else None].tobytes())
        assert checked(bdd).classes.columns[0] == "class"

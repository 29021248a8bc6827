"""Samples in tar files: the same as in a folder, read where they lie; and files made to mislead are refused by name."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segdistill import parts
from segdistill.data import training_batches
from segdistill.datasets import _tar
from segdistill.datasets.archive import Archive
from segdistill.datasets.folder import Folder
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec

CLASSES = [{"name": "road", "colour": [128, 64, 128]}, {"name": "car", "colour": [0, 0, 142]}]
Entry = tuple[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "segdistill" / "archives"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pair(key: str, seed: int = 0, size: tuple[int, int] = (12, 16), ending: str = "labels.png") -> list[Entry]:
    random = np.random.default_rng(seed)
    image, labels = random.integers(0, 256, (*size, 3), np.uint8), random.choice([0, 1, 255], size).astype(np.uint8)
    return [(f"{key}.png", png(image)), (f"{key}.{ending}", png(labels))]


def pack(file: Path, entries: list[Entry], form: int = tarfile.PAX_FORMAT, time: float = 0.0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as tar:
        for name, content in entries:
            about = tarfile.TarInfo(name)
            about.size, about.mtime = len(content), time
            tar.addfile(about, io.BytesIO(content))
    return file


def opened(root: Path, split: str = "train", **said: Any) -> Archive:
    """The dataset as a recipe would have it built, after a round trip through YAML."""
    given = yaml.safe_load(yaml.safe_dump({"root": str(root), "classes": CLASSES} | said))
    return parts.build(Archive, parts.settings(Archive, given, "data"), split=split)


def said_of(root: Path, **said: Any) -> str:
    with pytest.raises(Mistake) as caught:
        opened(root, **said)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is in them


def test_a_sample_is_what_it_is_in_a_folder(tmp_path: Path) -> None:
    keys = ["ulm/0001", "ulm/0000", "bonn/7"]
    entries = [entry for seed, key in enumerate(keys) for entry in pair(key, seed)]
    pack(tmp_path / "shards" / "train-0000.tar", entries[:3])
    pack(tmp_path / "shards" / "train-0001.tar", entries[3:])
    for name, content in entries:
        file = tmp_path / ("masks" if "labels" in name else "images") / name.replace(".labels", "")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    said = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "masks"), "classes": CLASSES}
    folder = parts.build(Folder, parts.settings(Folder, said, "data"), split="train")
    archive = opened(tmp_path / "shards")
    assert [archive.key(i) for i in range(3)] == [folder.key(i) for i in range(3)] == sorted(keys)
    for i in range(3):
        assert torch.equal(archive[i].image, folder[i].image) and torch.equal(archive[i].labels, folder[i].labels)
        assert archive[i].key == folder[i].key and np.array_equal(archive.labels(i), folder.labels(i))
    spec = DataSpec.model_validate({"kind": "archive", "crop": [8, 8]})
    one, other = (next(training_batches(d, spec, 3, start=2, batch=4, rank=0, ranks=1)) for d in (archive, folder))
    assert torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels) and one.keys == other.keys


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_of_tar(form: int, tmp_path: Path) -> None:
    """Long names and times with fractions, which pax writes records for."""
    key = "/".join(["a" * 60, "b" * 60, "c" * 60]) if form != tarfile.USTAR_FORMAT else "a" * 60 + "/" + "b" * 60
    pack(tmp_path / "train-0.tar", [*pair(key, 0), *pair("ü" if form != tarfile.USTAR_FORMAT else "u", 1)], form, 1.5)
    archive = opened(tmp_path)
    assert archive.key(0) == key and archive[0].image.shape == (3, 12, 16)
    with tarfile.open(tmp_path / "train-0.tar") as tar:
        expected = [(each.name, each.offset_data, each.size) for each in tar.getmembers()]
    assert [tuple(each) for each in _tar.index(tmp_path / "train-0.tar").members] == expected


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar")
def test_what_tar_writes(tmp_path: Path) -> None:
    for seed, key in enumerate(("x/1", "x/2")):
        for name, content in [*pair(key, seed), (f"{key}.json", b"{}"), (f"x/.{seed}.png", b"hidden")]:
            (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / name).write_bytes(content)
    (tmp_path / "s").mkdir()
    command = ["tar", "--sort=name", "-cf", tmp_path / "s" / "train-0000.tar", "-C", tmp_path / "files", "."]
    subprocess.run(command, check=True)
    archive = opened(tmp_path / "s")
    assert archive.keys == ["x/1", "x/2"] and archive.labels(1).shape == (12, 16)


def test_endings(tmp_path: Path) -> None:
    entries = [
        e
        for n, word in enumerate(("labels", "label", "seg", "mask", "SEG"))
        for e in pair(f"{n}", n, ending=f"{word}.png")
    ]
    pack(tmp_path / "train-0.tar", [*entries, ("note.txt", b"no sample"), ("0.depth.png", b"passed over")])
    assert len(opened(tmp_path)) == 5


def test_without_labels(tmp_path: Path) -> None:
    pack(tmp_path / "train-0.tar", [pair("a")[0], pair("b")[0]])
    assert "train-0.tar: a.png: 2 of 2 images have no label" in said_of(tmp_path)
    dataset = opened(tmp_path, labelled=False)
    assert (dataset[1].labels == 255).all() and dataset[1].labels.shape == (12, 16)


def test_labels_are_read_as_in_a_folder(tmp_path: Path) -> None:
    pack(tmp_path / "train-0.tar", [pair("a")[0], ("a.seg.png", png(np.full((12, 16), 7, np.uint8)))])
    with pytest.raises(Mistake, match=r"train-0.tar:a.seg.png: label values 7 in 192 pixels"):
        opened(tmp_path)[0]
    assert (opened(tmp_path, remap={7: "car"}).labels(0) == 1).all()
    with pytest.warns(UserWarning, match="a.seg.png: 192 pixels with values outside"):
        assert (opened(tmp_path, unknown="ignore").labels(0) == 255).all()
    pack(tmp_path / "train-0.tar", [pair("a")[0], ("a.seg.png", png(np.full((12, 15), 1, np.uint8)))])
    with pytest.raises(Mistake, match=r"15x12 labels for a 16x12 image \(a.png\)"):
        opened(tmp_path).labels(0)


def test_splits_by_pattern(tmp_path: Path) -> None:
    for name in ("a.train.0.tar", "a.train.1.tar", "a.val.0.tar", "b.train.0.tar"):
        pack(tmp_path / name, pair(name.replace(".", "-")))
    assert len(opened(tmp_path, pattern="a.{split}.*.tar")) == 2
    assert len(opened(tmp_path, "val", pattern="a.{split}.*.tar")) == 1
    for pattern in ("a.*.tar", "{split}{split}", "x/{split}-*.tar"):
        assert said_of(tmp_path, pattern=pattern).startswith(f"pattern: '{pattern}'")
    assert "no file is called '{split}-*.tar'" in said_of(tmp_path)
    assert "there is no such folder" in said_of(tmp_path / "nowhere")


def test_two_of_a_name(tmp_path: Path) -> None:
    pack(tmp_path / "train-0.tar", pair("a"))
    pack(tmp_path / "train-1.tar", pair("a"))
    assert "train-1.tar: a.png is there twice, train-0.tar has a.png" in said_of(tmp_path)
    pack(tmp_path / "train-1.tar", [("a.jpg", b"")])
    assert "train-1.tar: a.jpg is there twice, train-0.tar has a.png" in said_of(tmp_path)
    pack(tmp_path / "train-1.tar", [("a.seg.png", b"")])
    assert "a.seg.png is there twice, train-0.tar has a.labels.png" in said_of(tmp_path)
    pack(tmp_path / "train-1.tar", [("b.labels.png", b"")])
    assert "train-1.tar: b.labels.png: 1 of 2 labels have no image" in said_of(tmp_path)


# What is remembered


def test_headers_are_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = pack(tmp_path / "train-0.tar", pair("a"))
    walks: list[Path] = []
    walk = _tar._walk  # pyright: ignore[reportPrivateUsage]

    def counted(file: Any, shard: Path, length: int) -> Any:
        walks.append(shard)
        return walk(file, shard, length)

    monkeypatch.setattr(_tar, "_walk", counted)
    first = opened(tmp_path)
    again = opened(tmp_path)
    assert len(walks) == 1 and first.fingerprint() == again.fingerprint()
    assert torch.equal(first[0].image, again[0].image)
    pack(shard, [*pair("a"), *pair("b", 1)])
    assert len(opened(tmp_path)) == 2 and len(walks) == 2
    file = next(cache.iterdir())
    content = json.loads(file.read_text())
    members = [[["a.png", 512, 10**12]], [["a.png", -5, 1]], 3]
    for damage in ("", "{", "[]", "{}", *(json.dumps(content | {"members": each}) for each in members)):
        file.write_text(damage)
        assert opened(tmp_path).keys == ["a", "b"]
    assert len(walks) == 9


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    pack(tmp_path / "train-0.tar", pair("a"))
    assert len(opened(tmp_path)) == 1


def test_fingerprints(tmp_path: Path) -> None:
    """A copy elsewhere has the same; another date, size, name, table or place has not."""
    pack(tmp_path / "a" / "train-0.tar", pair("a"))
    shutil.copyfile(tmp_path / "a" / "train-0.tar", (tmp_path / "b").mkdir() or tmp_path / "b" / "train-0.tar")
    prints = [opened(tmp_path / "a").fingerprint()]
    assert opened(tmp_path / "b").fingerprint() == prints[0]
    pack(tmp_path / "c" / "train-0.tar", pair("a"), time=1)
    pack(tmp_path / "d" / "train-0.tar", pair("b"))
    pack(tmp_path / "e" / "train-0.tar", pair("a", 1))
    prints += [opened(tmp_path / name).fingerprint() for name in "cde"]
    prints += [opened(tmp_path / "a", remap={0: "road"}).fingerprint()]
    prints += [opened(tmp_path / "a", labelled=False).fingerprint()]
    assert len(set(prints)) == 6


# What is refused


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: Any) -> bytes:
    about = tarfile.TarInfo(name)
    about.type, about.size = kind, size
    for word, value in more.items():
        setattr(about, word, value)
    return about.tobuf(tarfile.GNU_FORMAT)


def resized(header: bytes, field: bytes) -> bytes:
    """With another size field, and the checksum that fits it."""
    header = header[:124] + field.ljust(12, b"\0") + header[136:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


END = bytes(1024)
WHOLE = b"".join(entry(name, size=len(content)) + content + bytes(-len(content) % 512) for name, content in pair("a"))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a symbolic link": (entry("b.png", tarfile.SYMTYPE, linkname="/etc/passwd") + END, "'b.png' is a link"),
    "a hard link": (entry("b.png", tarfile.LNKTYPE, linkname="a.png") + END, "'b.png' is a link"),
    "a device": (entry("b.png", tarfile.CHRTYPE) + END, "'b.png' is a device"),
    "a pipe": (entry("b.png", tarfile.FIFOTYPE) + END, "'b.png' is a pipe"),
    "a sparse file": (entry("b.png", tarfile.GNUTYPE_SPARSE) + END, "'b.png' is a file with holes"),
    "an unknown kind": (entry("b.png", b"Q") + END, "'b.png' is of an unknown kind"),
    "an absolute path": (entry("/etc/b.png") + END, "a member is called '/etc/b.png'; expected a printable path"),
    "a path outside": (entry("x/../../b.png") + END, "expected a printable path within the archive"),
    "a line break": (entry("b\nsegdistill: all is well.png") + END, r"called 'b\nsegdistill"),
    "more than there is": (entry("b.png", size=10**6) + END, "promises 1000000 bytes, 1024 follow"),
    "absurdly much": (entry("b.png", size=2**62) + END, f"promises {2**62} bytes"),
    "a negative size": (resized(entry("b.png"), b"\xff" * 11 + b"\x00") + END, "expected at least 0"),
    "a long name without end": (entry("x", tarfile.GNUTYPE_LONGNAME, 1 << 20) + bytes(1 << 20) + END, "of records at"),
    "damaged records": (entry("x", tarfile.XHDTYPE, 9) + b"99 path=x".ljust(512, b"\0") + END, "damaged pax records"),
    "a size in letters": (
        entry("x", tarfile.XHDTYPE, 13) + b"13 size=many\n".ljust(512, b"\0") + entry("b.png") + END,
        "'many'; expected a number",
    ),
    "holes by records": (
        entry("x", tarfile.XHDTYPE, 23) + b"23 GNU.sparse.major=1\n".ljust(512, b"\0") + entry("b.png") + END,
        "damaged pax records|'b.png' is a file with holes",
    ),
    "no end": (b"", "cut off after"),
    "half a header": (entry("b.png")[:200], "cut off after"),
    "no header": (b"not a header".ljust(512, b"x") + END, "no tar header at byte"),
    "two archives": (END + WHOLE + END, "something follows its end"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(name: str, tmp_path: Path) -> None:
    content, sentence = HOSTILE[name]
    (tmp_path / "train-0.tar").write_bytes(WHOLE + content)
    said = said_of(tmp_path)
    assert str(tmp_path / "train-0.tar") in said and any(one in said for one in sentence.split("|"))


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed(mode: Any, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", mode) as tar:
        tar.add(__file__, "a.png")
    assert f"train-0.tar: compressed ({ {'gz': 'gzip', 'bz2': 'bzip2', 'xz': 'xz'}[mode[2:]] })" in said_of(tmp_path)


def test_empty_archives(tmp_path: Path) -> None:
    pack(tmp_path / "train-0.tar", [("a.txt", b"")])
    assert "split 'train' is empty; expected <key>.jpg or .png in train-0.tar" in said_of(tmp_path)
    (tmp_path / "train-0.tar").write_bytes(b"")
    assert "cut off after 0 bytes" in said_of(tmp_path)
    (tmp_path / "train-0.tar").unlink()
    (tmp_path / "train-0.tar").mkdir()
    assert "train-0.tar: unreadable (Is a directory); expected a tar file" in said_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda file: file.unlink(), "the file is gone"),
        (lambda file: os.truncate(file, 700), "damaged or unreadable|not an image"),
        (lambda file: file.write_bytes(bytes(file.stat().st_size)), "not an image"),
    ],
)
def test_a_shard_that_changes_meanwhile(change: Callable[[Path], object], sentence: str, tmp_path: Path) -> None:
    shard = pack(tmp_path / "train-0.tar", pair("a", size=(64, 64)))
    dataset = opened(tmp_path)
    change(shard)
    with pytest.raises(Mistake, match=sentence) as caught:
        dataset[0]
    assert "train-0.tar:a.png" in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_damage_ends_in_a_sentence_or_in_members_within(changes: list[tuple[int, int]], fits: bool) -> None:
    """Whatever the bytes say, also where checksums fit."""
    content = bytearray(WHOLE + END)
    for place, value in changes:
        content[place if not fits else place % 512] = value
    if fits:
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
    file = io.BytesIO(content)
    try:
        found = _tar._walk(file, Path("x.tar"), len(content))  # pyright: ignore[reportPrivateUsage]
    except Mistake as mistake:
        assert "x.tar: " in str(mistake)
    else:
        assert all(start >= 512 and start + size <= len(content) for _, start, size in found.members)

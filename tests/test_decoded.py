"""Decoded once: the same samples, one file for all runs, made anew when it has to be, and never half a file."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import decoded
from segdistill.data import Augmented, Cached, unreadable
from segdistill.datasets import Dataset, FileDataset
from segdistill.datasets.folder import Folder
from segdistill.datasets.streets import Streets
from segdistill.decoded import MANIFEST, PIXELS, Ahead, Decoded, ahead
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec
from segdistill.run import Unwritten
from segdistill.training import train
from small import content, small

SIZES = [(24, 40), (17, 33), (24, 40), (9, 8)]


def files(root: Path) -> Folder:
    """Four images of three sizes with random pixels."""
    random = np.random.default_rng(0)
    for index, size in enumerate(SIZES):
        for folder, shape, values in (("images", (*size, 3), 256), ("labels", size, 3)):
            file = root / folder / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, values, shape).astype(np.uint8)).save(file)
    return folder_of(root)


def folder_of(root: Path) -> Folder:
    return Folder(
        root / "images", [{"name": n, "colour": (i, 0, 0)} for i, n in enumerate("abc")], root / "labels", split="train"
    )


def only_file(cache: Path) -> Path:
    (found,) = (cache / "segdistill" / "decoded").glob(f"*/{PIXELS}")
    return found


def same(ours: Dataset, theirs: Dataset) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) and a.key == b.key
        for a, b in ((ours[i], theirs[i]) for i in range(len(theirs)))
    )


def test_the_samples_are_the_same(tmp_path: Path, cache_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = files(tmp_path)
    ours = Decoded(dataset, "train")
    said = capsys.readouterr().err
    assert "train: decoding 4 samples once into" in said and "GB" in said
    assert same(ours, dataset)
    assert all((ours.labels(i) == dataset.labels(i)).all() and ours.key(i) == dataset.key(i) for i in range(4))
    assert ours.fingerprint() == dataset.fingerprint()
    assert only_file(cache_folder).stat().st_size == sum(4 * h * w for h, w in SIZES)
    assert same(ours.only([3, 1]), dataset.only([3, 1]))
    assert ours.only([3, 1]).fingerprint() == dataset.only([3, 1]).fingerprint()


def test_crops_are_the_same_as_from_memory() -> None:
    scenes = Streets(6, (48, 96), split="train")
    spec = DataSpec(kind="streets")
    disk, memory = (Augmented(each, spec, (32, 48), seed=3) for each in (Decoded(scenes), Cached(scenes)))
    for index in range(6):
        one, other = disk[0, index], memory[0, index]
        assert not isinstance(one, Mistake) and not isinstance(other, Mistake)
        assert torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels)


def test_a_second_run_decodes_nothing(
    tmp_path: Path, cache_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = files(tmp_path)
    first = Decoded(dataset)
    capsys.readouterr()
    file = only_file(cache_folder)
    before = file.stat()
    with monkeypatch.context() as patch:
        patch.setattr(FileDataset, "__getitem__", _decoded_again)
        second = Decoded(folder_of(tmp_path))
    assert same(first, dataset) and same(second, dataset)
    assert capsys.readouterr().err == "" and file.stat().st_ino == before.st_ino
    file.write_bytes(bytes(before.st_size))
    assert not second.pixels.any(), "the file is mapped, not read"


def _decoded_again(*_: object) -> None:
    pytest.fail("decoded again")


def test_an_image_changed_in_place_is_seen(tmp_path: Path) -> None:
    """Its size, and so the fingerprint, stays; the time of its file is noted."""
    dataset = files(tmp_path)
    Decoded(dataset)
    image = tmp_path / "images" / "2.png"
    bytes_before = image.stat().st_size
    pixels = np.asarray(Image.open(image)).copy()
    Image.fromarray(pixels[::-1, ::-1]).save(image)
    with image.open("ab") as file:
        file.write(bytes(max(0, bytes_before - image.stat().st_size)))
    os.truncate(image, bytes_before) if image.stat().st_size > bytes_before else None
    later = time.time_ns() + 10**9
    os.utime(image, ns=(later, later))
    changed = folder_of(tmp_path)
    assert changed.fingerprint() == dataset.fingerprint()
    assert same(Decoded(changed), changed)


@pytest.mark.parametrize("damage", ["torn", "no manifest", "other manifest", "other format", "half a place"])
def test_what_is_not_whole_is_made_anew(damage: str, tmp_path: Path, cache_folder: Path) -> None:
    dataset = files(tmp_path)
    Decoded(dataset)
    pixels = only_file(cache_folder)
    manifest = pixels.with_name(MANIFEST)
    match damage:
        case "torn":
            os.truncate(pixels, 100)
        case "no manifest":
            manifest.unlink()
        case "other manifest":
            manifest.write_text("[]")
        case "other format":
            manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
        case _:
            manifest.write_text(manifest.read_text().replace("24", '"x"', 1))
    assert same(Decoded(dataset), dataset)


def test_a_killed_build_is_never_used(tmp_path: Path, cache_folder: Path) -> None:
    """Killed while it writes: what it left is swept away, and its lock is gone with it."""
    dataset = files(tmp_path)
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from segdistill import decoded
        from segdistill.datasets.folder import Folder
        decoded.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        root = Path({str(tmp_path)!r})
        classes = [{{"name": n, "colour": (i, 0, 0)}} for i, n in enumerate("abc")]
        dataset = Folder(root / "images", classes, root / "labels", split="train")
        decoded.Decoded(dataset)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env={**os.environ}, check=False)
    assert killed.returncode == -9
    (left,) = (cache_folder / "segdistill" / "decoded").glob(f"*/{PIXELS}")
    assert left.parent.suffix == ".part"
    assert same(Decoded(dataset), dataset)
    assert not left.exists() and only_file(cache_folder).parent.name == dataset.fingerprint()


def test_several_at_once_build_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = files(tmp_path)
    threads = [threading.Thread(target=Decoded, args=(dataset,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().err.count("decoding") == 1


def test_a_bad_sample_is_a_value_until_it_is_whole(tmp_path: Path) -> None:
    dataset = files(tmp_path)
    image = tmp_path / "images" / "1.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    os.utime(image, ns=(0, 0))
    broken = folder_of(tmp_path)
    for ours in (Decoded(broken), Decoded(broken)):  # made, and opened again
        with pytest.raises(Mistake, match=r"1\.png: damaged"):
            ours[1]
        with pytest.raises(Mistake, match=r"1\.png: damaged"):
            ours.labels(1)
        assert ours.key(1) == "1" and same(ours.only([0, 2, 3]), dataset.only([0, 2, 3]))
        assert list(unreadable(ours)) == [1]
    image.write_bytes(whole)
    os.utime(image, ns=(0, 0))  # neither its size nor its time tells
    assert same(Decoded(folder_of(tmp_path)), folder_of(tmp_path))


def test_a_full_disk_is_one_sentence(tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = files(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoded.os, "fsync", full)
        with pytest.raises(Unwritten, match=r"cannot be written: No space left on device .* MB are free"):
            Decoded(dataset)
    assert not list((cache_folder / "segdistill" / "decoded").glob("*/*"))
    with monkeypatch.context() as patch:
        patch.setattr(decoded.shutil, "disk_usage", lambda _: _Free(100))  # pyright: ignore[reportUnknownLambdaType]
        with pytest.raises(Unwritten, match=r"data\.cache: disk needs about"):
            Decoded(dataset)
    assert same(Decoded(dataset), dataset)


class _Free:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_recipe_trains_from_the_disk(tmp_path: Path, cache_folder: Path) -> None:
    weights = []
    for cache in ("true", "disk"):
        run = train(small("steps=2", f"data.cache={cache}"), tmp_path / cache)
        weights.append(run.weights("student", "last").read_bytes())
    assert weights[0][-1000:] == weights[1][-1000:]
    assert len(list((cache_folder / "segdistill" / "decoded").glob(f"*/{PIXELS}"))) == 2
    with pytest.raises(Mistake, match=r"data\.cache"):
        small("data.cache=dsk")
    assert content()["data"]["cache"] is True


def test_ahead_keeps_the_order_and_is_bounded() -> None:
    begun: list[int] = []

    def read(index: int) -> int:
        begun.append(index)
        time.sleep(0.002 * (index % 3))
        if index == 5:
            raise Mistake("five")
        return index * index

    answers = ahead(read, range(40), threads=2)
    first = [next(answers) for _ in range(3)]
    time.sleep(0.05)
    assert first == [0, 1, 4] and len(begun) <= 3 + 2 * 2 + 1
    rest = list(answers)
    assert [str(x) if isinstance(x, Mistake) else x for x in rest] == [9, 16, "five", *(i * i for i in range(6, 40))]


def test_ahead_ends_with_its_reader_and_passes_failures_on() -> None:
    def read(index: int) -> int:
        if index == 3:
            raise ZeroDivisionError
        return index

    before = threading.active_count()
    answers = ahead(read, range(1000), threads=2)
    assert next(answers) == 0
    answers.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        list(ahead(read, range(5), threads=2))


def test_a_dataset_ahead_is_the_same_dataset(tmp_path: Path) -> None:
    dataset = files(tmp_path)
    ours = Ahead(dataset, [2, 0, 3], threads=2)
    assert len(ours) == 4 and ours.key(1) == "1" and ours.fingerprint() == dataset.fingerprint()
    for index in (2, 0, 3):
        assert torch.equal(ours[index].image, dataset[index].image)

"""What an analysis goes on from is whole, or named."""

from pathlib import Path

import numpy as np
import pytest

from segdistill.analyses._partial import read_arrays, write_arrays
from segdistill.mistakes import Mistake

ARRAYS = {"seen": np.array(3), "keys": np.array(["a", "bc"]), "sums": np.arange(12.0).reshape(3, 4)}


def test_arrays_come_back(tmp_path: Path) -> None:
    write_arrays(tmp_path / "folder" / "kept.npz", ARRAYS)
    found = read_arrays(tmp_path / "folder" / "kept.npz", ARRAYS)
    assert found.keys() == ARRAYS.keys()
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == value.dtype for name, value in ARRAYS.items()
    )


def test_damage_is_one_sentence_or_nothing(tmp_path: Path) -> None:
    """A bit of a date may change: no number does."""
    file = tmp_path / "kept.npz"
    write_arrays(file, ARRAYS)
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    damaged = [whole[: len(whole) * k // 20] for k in range(20)] + [b"", b"\x93NUMPY", np.arange(3).tobytes()]
    for _ in range(3000):
        some = bytearray(whole)
        some[random.integers(len(some))] ^= 1 << int(random.integers(8))
        damaged.append(bytes(some))
    refused = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            found = read_arrays(file, ARRAYS)
        except Mistake as mistake:
            assert str(mistake) == f"{file}: damaged; delete it, and what it kept is counted again"
            refused += 1
            continue
        assert found.keys() == ARRAYS.keys()
        assert all(np.array_equal(found[name], value) for name, value in ARRAYS.items())
    assert refused > 1000


def test_an_array_alone_is_not_what_was_written(tmp_path: Path) -> None:
    with (tmp_path / "kept.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(Mistake, match="damaged"):
        read_arrays(tmp_path / "kept.npz", ["seen"])

"""Where an analysis that was stopped goes on: named arrays in a file of their own."""

import io
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from segdistill.mistakes import Mistake
from segdistill.run import write_bytes

DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error)
"""Of an archive: contents are under checksums; a bit of a header may ask for a password or a method that is none."""


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """All or nothing."""
    written = io.BytesIO()
    np.savez(written, **arrays)  # pyright: ignore[reportArgumentType]  # of no array is allow_pickle the name
    write_bytes(file, written.getvalue())


def read_arrays(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote.

    Raises:
        Mistake: it is damaged, or lacks some of these names.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
            contents = {name.removesuffix(".npy"): io.BytesIO(archive.read(name)) for name in archive.namelist()}
            arrays = {name: np.load(content, allow_pickle=False) for name, content in contents.items()}
        if not set(names) <= arrays.keys():
            raise ValueError(f"{sorted(arrays)} instead of {sorted(names)}")
    except DAMAGE as error:
        raise Mistake(f"{file}: damaged; delete it, and what it kept is counted again") from error
    return arrays

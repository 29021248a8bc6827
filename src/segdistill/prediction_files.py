"""Class maps that any program wrote as image files, against a data set's labels: one histogram of both per image.

Files and numbers as in the official Cityscapes evaluation (mcordts/cityscapesScripts): a prediction's name begins with
its image's, and a labelled pixel that is called nothing is missed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segdistill.data import watched
from segdistill.datasets import Dataset, FileDataset, Pair, images_in, need_folder, opened, read_labels
from segdistill.decoded import ahead
from segdistill.labels import Coding
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE

Ids = Literal["train", "raw"]
"""What the values of prediction files are: train ids (255: nothing), or what the data set's label files hold."""
NOWHERE = -1
"""In a table of values: not accepted."""


def find(folder: Path, dataset: Dataset) -> list[Path]:
    """The prediction of every sample, by its index: the image file whose name, or path below the folder, begins so.

    Other files are left alone.

    Raises:
        Mistake: no such folder, a sample without a prediction, or with two.
    """
    need_folder(folder, "a folder of predicted class maps")
    keys = [dataset.key(index) for index in range(len(dataset))]
    whole = {key: index for index, key in enumerate(keys)}
    names = [key.rpartition("/")[2] for key in keys]
    often = Counter(names)
    unique = {name: index for index, name in enumerate(names) if often[name] == 1}
    found: dict[int, Path] = {}
    for stem, file in images_in(folder).items():
        index = next((whole[start] for start in _beginnings(stem) if start in whole), None)
        if index is None:
            index = next((unique[start] for start in _beginnings(stem.rpartition("/")[2]) if start in unique), None)
        if index is None:
            continue
        if index in found:
            raise Mistake(f"{file}: a second prediction of '{keys[index]}' beside {found[index]}; expected one")
        found[index] = file
    missing = [key for index, key in enumerate(keys) if index not in found]
    if missing:
        some = ", ".join([*missing[:3], *["…"] * (len(missing) > 3)])
        raise Mistake(
            f"{folder}: {len(missing)} of {len(keys)} samples have no prediction: {some}; "
            "expected an image file for each whose name begins with the sample's"
        )
    return [found[index] for index in range(len(keys))]


def _beginnings(stem: str) -> Iterator[str]:
    """The stem, then without its last word, its last two words…"""
    yield stem
    for end in range(len(stem) - 1, stem.rfind("/") + 1, -1):
        if stem[end] in "_-.":
            yield stem[:end]


def pairs(dataset: Dataset, files: Sequence[Path], ids: Ids = "train") -> Tensor:
    """int64 [256, 256]: pixels of all samples by train id and by what they are called, in one pass on every core.

    Raises:
        Mistake: a file cannot be read, has another size than its labels, or holds a value that is not accepted.
    """
    tables = _tables(dataset, ids)
    stored, mapped = np.zeros((256, 256), np.int64), np.zeros((256, 256), np.int64)
    counts = ahead(lambda index: _count(dataset, index, files[index], tables), range(len(files)))
    for count in watched(counts, "reading", len(files)):
        if isinstance(count, Mistake):
            raise count
        total = stored if count.stored else mapped
        total += count.pairs
    np.add.at(mapped, (tables.labels[:, None], tables.called[None]), stored)  # rows and columns of NOWHERE are 0
    return torch.from_numpy(mapped)


class _Tables(NamedTuple):
    """int16 [256]: the train id of each value in label files, and in predictions; and the coding of the latter."""

    labels: np.ndarray
    called: np.ndarray
    coding: Coding


def _tables(dataset: Dataset, ids: Ids) -> _Tables:
    train = Coding({**{k: k for k in range(len(dataset.classes.names))}, IGNORE: IGNORE})
    known = dataset.coding if isinstance(dataset, FileDataset) else None
    if ids == "raw" and known is None:
        raise Mistake("ids: this data set has no files and so no raw ids; accepted is train")
    coding = known if ids == "raw" and known is not None else train
    return _Tables(_table(known or Coding({})), _table(coding), coding)


def _table(coding: Coding) -> np.ndarray:
    table = np.full(256, NOWHERE, np.int16)
    known = {value: train_id for value, train_id in coding.ids.items() if 0 <= value < 256}
    table[list(known)] = list(known.values())
    return table


class _Count(NamedTuple):
    """Pixels by label and by what they are called: [256, 256]."""

    pairs: np.ndarray
    stored: bool
    """The values are those of the files; otherwise train ids."""


def _count(dataset: Dataset, index: int, file: Path, tables: _Tables) -> _Count:
    """As stored where both are 8 bit ids that are all known, which costs little more than decoding."""
    pair = dataset.pairs[index] if isinstance(dataset, FileDataset) else None
    if pair is not None and pair.labels is not None:
        labels, called = _stored(pair.labels), _stored(file)
        if labels is not None and called is not None and labels.shape == called.shape:
            found = _histogram(labels, called)
            if not found[tables.labels == NOWHERE].any() and not found[:, tables.called == NOWHERE].any():
                return _Count(found, True)
    labels = dataset.labels(index)
    called, _ = read_labels(Pair(file, file, dataset.key(index)), tables.coding)
    if labels.shape != called.shape:
        (height, width), (tall, wide) = labels.shape, called.shape
        raise Mistake(f"{file}: a {wide}x{tall} prediction for {width}x{height} labels; both must be of one size")
    return _Count(_histogram(labels, called), False)


def _stored(file: Path) -> np.ndarray | None:
    """uint8 [H, W] as the file has it; None where that is no 8 bit grey or palette image."""
    with opened(file) as image:
        if image.mode not in ("L", "P"):
            return None
        return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)


def _histogram(labels: np.ndarray, called: np.ndarray) -> np.ndarray:
    """int64 [256, 256] of two uint8 [H, W]; a key of 16 bits is quicker and has room for labels below 128."""
    key = labels.astype(np.int16 if labels.max() < 128 else np.int32)
    key <<= 8
    key |= called
    return torch.bincount(torch.from_numpy(key.ravel()), minlength=1 << 16).view(256, 256).numpy()

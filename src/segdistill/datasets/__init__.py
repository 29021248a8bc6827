"""The shelf of datasets: one file reads one kind of data set; this page is what they have in common.

A dataset's constructor takes what a recipe may say, then keyword-only `split`. It lists its files at once, so a missing
folder, an orphan and an empty split are mistakes before anything is decoded; a bad file is one when it is read.
"""

import hashlib
import io
import math
import os
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from typing_extensions import Buffer

from segdistill.labels import Coding
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.types import IGNORE, ClassTable, Colour, Sample

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
"""What a file may hold, whatever it is called; Pillow's other readers, one of which starts a program, stay shut."""
SMALLEST = 8
"""Pixels a side below which a file is no picture of a street."""
DAMAGE = (OSError, ValueError, SyntaxError, TypeError, OverflowError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for files that are not whole."""

warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata, which nobody here reads


class Dataset(ABC):
    """Images with labels: `len(dataset)`, `dataset[i]`, and the classes that the labels name."""

    classes: ClassTable

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the samples do."""

    def labels(self, index: int) -> np.ndarray:
        """uint8 [H, W] train ids of one sample, after every check that needs no decoded image."""
        return self[index].labels.numpy()

    def key(self, index: int) -> str:
        """The name of a sample, which one that cannot be read has as well."""
        try:
            return self[index].key
        except Mistake:
            return f"sample {index}"

    def only(self, indices: Sequence[int]) -> "Dataset":
        """The same set with these of its samples."""
        return _Part(self, indices)

    def without_labels(self, indices: Iterable[int]) -> "Dataset":
        """The same set; the labels of these of its samples are void."""
        return _Withheld(self, indices)


@final
class _Withheld(Dataset):
    """A dataset some of whose labels are void; to know how many there are, they are read."""

    def __init__(self, dataset: Dataset, indices: Iterable[int]) -> None:
        self.dataset, self.withheld = dataset, frozenset(indices)
        self.classes = dataset.classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return sample._replace(labels=torch.full_like(sample.labels, IGNORE)) if index in self.withheld else sample

    def labels(self, index: int) -> np.ndarray:
        labels = self.dataset.labels(index)
        return np.full_like(labels, IGNORE) if index in self.withheld else labels

    def key(self, index: int) -> str:
        return self.dataset.key(index)

    def fingerprint(self) -> str:
        said = f"{self.dataset.fingerprint()} without the labels of {sorted(self.withheld)}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@final
class _Part(Dataset):
    """Some of the samples of a dataset."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.classes = dataset.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def labels(self, index: int) -> np.ndarray:
        return self.dataset.labels(self.indices[index])

    def key(self, index: int) -> str:
        return self.dataset.key(self.indices[index])

    def without_labels(self, indices: Iterable[int]) -> Dataset:
        return _Part(self.dataset.without_labels([self.indices[index] for index in indices]), self.indices)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.dataset.fingerprint()}:{self.indices}".encode()).hexdigest()[:16]


class Pair(NamedTuple):
    """An image file, the label file that belongs to it (none: all void), and the name of both."""

    image: Path
    labels: Path | None
    key: str


class Packed(NamedTuple):
    """A file that lies as it is within another one."""

    archive: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"

    def open(self) -> io.BufferedReader:
        """Its bytes, read when they are asked for: the header of an image is enough to know its size."""
        return io.BufferedReader(_Range(self.archive.open("rb", buffering=0), self.start, self.size), 1 << 17)


@final
class _Range(io.RawIOBase):
    """A part of an open file, which is closed with it."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        self.file, self.start, self.size, self.place = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = max(0, offset + (0, self.place, self.size)[whence])
        return self.place

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.size - self.place))
        self.file.seek(self.start + self.place)
        count = self.file.readinto(view[:wanted]) or 0
        self.place += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


class FileDataset(Dataset):
    """A dataset whose samples are pairs of files; its subclasses are final and know where the files lie."""

    @abstractmethod
    def __init__(self, pairs: Sequence[Pair], classes: ClassTable, coding: Coding) -> None:
        self.pairs = pairs
        self.classes = classes
        self.coding = coding
        self._has_warned = False
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return Sample(read_image(self.pairs[index].image), torch.from_numpy(self.labels(index)), self.pairs[index].key)

    def labels(self, index: int) -> np.ndarray:
        pair = self.pairs[index]
        labels, unknown = read_labels(pair, self.coding)
        if unknown and not self._has_warned:
            self._has_warned = True  # once per file set: thousands of files may have such pixels
            warn_of_unknown(pair.labels, unknown)
        return labels

    def key(self, index: int) -> str:
        return self.pairs[index].key

    def only(self, indices: Sequence[int]) -> "FileDataset":
        fewer = copy(self)
        fewer.pairs, fewer._fingerprint = [self.pairs[index] for index in indices], None
        return fewer

    def without_labels(self, indices: Iterable[int]) -> "FileDataset":
        """Their files are not read."""
        withheld, changed = set(indices), copy(self)
        changed.pairs = [pair._replace(labels=None) if i in withheld else pair for i, pair in enumerate(self.pairs)]
        changed._fingerprint = None
        return changed

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.pairs, self.classes, self.coding)
        return self._fingerprint


def fingerprint_of(pairs: Iterable[Pair], classes: ClassTable, coding: Coding) -> str:
    """Sixteen digits from the tables, every image's name and size, and the bytes of every label file.

    A copy on another disk has the same. An image that is changed and keeps its size is not seen: reading them all would
    take minutes.
    """
    digest = hashlib.sha256(repr((classes, coding)).encode())
    for pair in pairs:
        try:
            digest.update(f"{pair.key}:{pair.image.name}:{pair.image.stat().st_size};".encode())
            if pair.labels is not None:
                digest.update(pair.labels.name.encode() + hashlib.sha256(pair.labels.read_bytes()).digest())
        except OSError:  # a file that is gone or locked: whoever reads the sample says so
            digest.update(f"{pair.key}: unreadable;".encode())
    return digest.hexdigest()[:16]


# Which files there are


def need_folder(folder: Path, expected: str) -> Path:
    """The folder, or the mistake of naming one that is not there."""
    if folder.is_dir():
        return folder
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    raise Mistake(f"{folder}: there is no such folder{nearest(folder.name, siblings)}; expected {expected}")


def need_split(root: Path, split: str, splits: Sequence[str]) -> None:
    """The mistake of asking for a split that the data set does not have."""
    if split not in splits:
        raise Mistake(f"{root}: there is no split '{split}'; there is {one_of(splits)}{nearest(split, splits)}")


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones left out."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_in(folder: Path, ending: str = "") -> dict[str, Path]:
    """The image files below a folder whose stem ends with `ending`, by the rest of their path: `ulm/ulm_000001`."""
    found: dict[str, Path] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for file in (Path(parent, name) for name in names):
            if file.suffix.lower() in IMAGE_SUFFIXES and file.stem.endswith(ending) and not file.name.startswith("."):
                stem = file.relative_to(folder).with_suffix("").as_posix().removesuffix(ending)
                if stem in found:
                    raise Mistake(f"{file}: {found[stem].name} has the same stem; expected one file for each '{stem}'")
                found[stem] = file
    return dict(sorted(found.items()))


def paired(
    images: Mapping[str, Path], labels: Mapping[str, Path] | None, folder: Path, split: str, expected: str
) -> list[Pair]:
    """Images and labels of one stem; none of either may be left over. `labels` None: nothing is labelled."""
    if not images:
        raise Mistake(f"{folder}: split '{split}' is empty; expected {expected}")
    if labels is None:
        return [Pair(image, None, stem) for stem, image in images.items()]
    without_label = [stem for stem in images if stem not in labels]
    without_image = [stem for stem in labels if stem not in images]
    for what, orphans, files, others in (
        ("images have no label", without_label, images, without_image),
        ("labels have no image", without_image, labels, without_label),
    ):
        if orphans:
            names = [files[stem].name for stem in orphans[:3]] + ["…"] * (len(orphans) > 3)
            close = nearest(orphans[0], others)
            raise Mistake(
                f"{folder}: {len(orphans)} of {len(files)} {what}: {', '.join(names)}{close}; expected {expected}"
            )
    return [Pair(image, labels[stem], stem) for stem, image in images.items()]


def without_held_out(pairs: Sequence[Pair], hold_out: Sequence[str], folder: Path, split: str) -> list[Pair]:
    """Of `pairs`, for `train` those of no sequence in `hold_out`, for any other split those of one."""
    for sequence in hold_out:
        if not any(_is_of(pair, sequence) for pair in pairs):
            known = sorted({pair.key.split("/" if "/" in pair.key else "_")[0] for pair in pairs})
            some = [*known[:12], "…"] if len(known) > 12 else known
            raise Mistake(
                f"hold_out: {folder} has no sequence '{sequence}'; it has {one_of(some)}{nearest(sequence, known)}"
            )
    kept = [pair for pair in pairs if any(_is_of(pair, sequence) for sequence in hold_out) != (split == "train")]
    if not kept:
        raise Mistake(
            f"{folder}: split '{split}' is empty; expected some sequence to be left beside {one_of(hold_out)}"
        )
    return kept


def _is_of(pair: Pair, sequence: str) -> bool:
    """Whether the key starts `<sequence>_` or `<sequence>/`."""
    return pair.key.startswith((f"{sequence}_", f"{sequence}/"))


# What a file says


def read_image(file: Path | Packed) -> UInt8[Tensor, "3 H W"]:
    """Any 8 bit image as RGB; transparency is dropped."""
    with opened(file) as image:
        if image.mode not in ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "CMYK", "YCbCr", "1"):
            raise Mistake(
                f"{file}: an image of mode {image.mode}; accepted are 8 bit RGB, RGBA, grey and palette images"
            )
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # straight to RGB, Pillow would replace the transparent colour
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # [H, W, 3]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def read_labels(pair: Pair, coding: Coding) -> tuple[np.ndarray, int]:
    """uint8 [H, W] train ids and how many pixels were outside the table; of the image only the header is read."""
    return labels_of(pair.image, pair.labels, coding)


def labels_of(image_file: Path | Packed, label_file: Path | Packed | None, coding: Coding) -> tuple[np.ndarray, int]:
    """As `read_labels`, of files wherever they lie."""
    with opened(image_file) as image:
        width, height = image.size
    if label_file is None:
        return np.full((height, width), IGNORE, np.uint8), 0
    raw = _raw_labels(label_file, coding)
    if raw.shape[:2] != (height, width):
        raise Mistake(
            f"{label_file}: {raw.shape[1]}x{raw.shape[0]} labels for a {width}x{height} image ({image_file.name});"
            " both must be of one size, and nothing is resized here because a crop would look the same"
        )
    train_ids = _by_colour(raw, coding.colours) if raw.ndim == 3 else _by_id(raw, coding.ids)
    unknown = train_ids < 0
    count = int(unknown.sum())
    if count and coding.unknown == "refuse":
        raise Mistake(f"{label_file}: {_outside(raw[unknown], coding)}")
    return (np.where(unknown, IGNORE, train_ids) if count else train_ids).astype(np.uint8), count


def warn_of_unknown(file: Path | Packed | None, count: int) -> None:
    """Of the first label file that has pixels outside the table, where they become void."""
    warnings.warn(
        f"{file}: {count} pixels with values outside the table count as void"
        " (only the first such file of a split is reported)",
        stacklevel=3,
    )


@contextmanager
def opened(file: Path | Packed) -> Generator[Image.Image]:
    """The header at once, the pixels on demand; what cannot be read is a mistake that names the file."""
    try:
        with ExitStack() as files:
            source = file if isinstance(file, Path) else files.enter_context(file.open())
            image = files.enter_context(Image.open(source, formats=FORMATS))
            if min(image.size) < SMALLEST:
                size = f"{image.width}x{image.height}"
                raise Mistake(f"{file}: {size}; expected at least {SMALLEST} pixels a side")
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            yield image
    except Mistake:
        raise
    except Image.UnidentifiedImageError as error:
        raise Mistake(f"{file}: not an image; accepted are whole files of {one_of(FORMATS)}") from error
    except FileNotFoundError as error:
        raise Mistake(f"{file}: the file is gone; it was there when the folder was listed") from error
    except Image.DecompressionBombError as error:
        raise Mistake(f"{file}: its header promises too many pixels to decode ({error})") from error
    except DAMAGE as error:  # SyntaxError: a broken PNG chunk
        raise Mistake(f"{file}: damaged or unreadable ({error}); expected a whole image file") from error


def _raw_labels(file: Path | Packed, coding: Coding) -> np.ndarray:
    """[H, W] ids as stored (a palette image's indices), or uint8 [H, W, 3] colours where the coding has colours."""
    with opened(file) as image:
        if image.mode in ("L", "P", "1", "I", "I;16", "I;16B"):
            if not coding.ids:
                raise Mistake(f"{file}: labels of mode {image.mode}; accepted are RGB pictures in the classes' colours")
            return np.asarray(image)
        if image.mode in ("RGB", "RGBA") and coding.colours:
            return np.asarray(image)[:, :, :3]
        raise Mistake(f"{file}: labels of mode {image.mode}; accepted are 8 or 16 bit grey and palette images of ids")


def _by_id(raw: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    """int16 [H, W]: train ids, -1 where the id is outside the table."""
    lookup = np.full(256, -1, np.int16)
    lookup[list(ids)] = list(ids.values())
    if raw.dtype.itemsize == 1:
        return lookup[raw.astype(np.uint8)]
    return np.where((raw >= 0) & (raw < 256), lookup[np.clip(raw, 0, 255)], np.int16(-1))


def _by_colour(raw: np.ndarray, colours: Mapping[Colour, int]) -> np.ndarray:
    """int16 [H, W]: train ids, -1 where the colour is outside the table."""
    table = sorted((red << 16 | green << 8 | blue, train_id) for (red, green, blue), train_id in colours.items())
    codes = np.array([code for code, _ in table], np.int32)
    train_ids = np.array([train_id for _, train_id in table], np.int16)
    pixels = raw.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)  # [H, W]
    position = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    return np.where(codes[position] == pixels, train_ids[position], np.int16(-1))


def _outside(unknown: np.ndarray, coding: Coding) -> str:
    """The sentence about label values [N] or colours [N, 3] that the table does not know."""
    values = np.unique(unknown, axis=0).tolist()
    if unknown.ndim == 1:
        found, accepted = [str(int(value)) for value in values], _ranges(sorted(coding.ids))
        close = ""
    else:
        found, accepted = [hexadecimal(value) for value in values], [hexadecimal(colour) for colour in coding.colours]
        close = nearest(found[0], accepted)
        accepted = accepted[:12] + ["…"] * (len(accepted) > 12)
    some = found[:5] + ["…"] * (len(found) > 5)
    what = "label values" if unknown.ndim == 1 else "label colours"
    return f"{what} {one_of(some)} in {len(unknown)} pixels; accepted are {one_of(accepted)}{close}"


def _ranges(numbers: Sequence[int]) -> list[str]:
    """`0…18` and `255`, for sorted numbers."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return [str(a) if a == b else f"{a}…{b}" for a, b in zip(starts, ends, strict=True)]


def hexadecimal(colour: Sequence[int]) -> str:
    """`#804080`."""
    red, green, blue = colour
    return f"#{red:02x}{green:02x}{blue:02x}"

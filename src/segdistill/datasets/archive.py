"""Tar files of images and their labels, read where they are: for sets too large, or of too many files, for a disk.

The members' names are those of WebDataset (https://github.com/webdataset/webdataset); there a shard is read from its
beginning to its end, here any sample is looked up, so that sampling, order and resuming are what they are elsewhere.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from fnmatch import translate
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, final

import numpy as np
import torch

from segdistill.datasets import (
    IMAGE_SUFFIXES,
    Dataset,
    Packed,
    labels_of,
    need_folder,
    need_split,
    read_image,
    warn_of_unknown,
)
from segdistill.datasets._own_classes import OwnClass, coding_of, table_of
from segdistill.datasets._tar import Index, index
from segdistill.mistakes import Mistake, nearest
from segdistill.types import Sample

IMAGES = tuple(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))
LABELS = tuple(f"{word}.png" for word in ("labels", "label", "seg", "mask"))
SPLIT = "{split}"


class _Place(NamedTuple):
    """Where a file lies; as numbers, of which a large set has millions, shared with workers."""

    shard: int
    start: int
    size: int
    ending: int
    """Of IMAGES or LABELS."""


NOWHERE = _Place(-1, 0, 0, 0)


@final
class Archive(Dataset):
    """Images and masks in uncompressed tar files, paired by their names up to the first dot.

        data:
          kind: archive
          root: shards                         # train-0000.tar, train-0001.tar, …, val-0000.tar
          classes:
            - {name: road, colour: [128, 64, 128]}
            - {name: car, colour: [0, 0, 142]}

    A sample `ulm/0007` is `ulm/0007.jpg` (.png, .webp, …) and `ulm/0007.labels.png` (.label.png, .seg.png, .mask.png),
    in any order and any shard of its split; members of other endings, and hidden ones, are passed over. To make shards,
    give files such names in a folder and pack the list of them in pieces, images beside their masks:

        find . -type f | sort > ../names && split -n l/16 -d -a 4 ../names ../part-
        for n in $(seq -w 0 15); do tar -cf ../train-00$n.tar -T ../part-00$n; done

    or a small set in one: `tar --sort=name -cf train-0000.tar *`. Shards must not be compressed: images are. `pattern`
    says how they are called; `{a..b}` and addresses are not understood.

    Of each shard the headers are read, once for all runs, and again when its size or date changes. A sample is then one
    seek in one file; nothing is unpacked. `remap` and `unknown` are as in `folder`; `labelled: false`: only teachers
    teach, and masks are not looked for.
    """

    def __init__(
        self,
        root: Path,
        classes: list[OwnClass],
        remap: dict[int | str, str] | None = None,
        unknown: Literal["refuse", "ignore"] = "refuse",
        pattern: str = "{split}-*.tar",
        labelled: bool = True,
        *,
        split: str,
    ) -> None:
        self.classes = table_of(classes)
        self.coding = coding_of(self.classes, remap or {}, unknown)
        self.shards = _shards(root, pattern, split)
        indices = [index(shard) for shard in self.shards]
        images, labels = _found(self.shards, indices, IMAGES), _found(self.shards, indices, LABELS) if labelled else {}
        if not images:
            raise Mistake(f"{root}: split '{split}' is empty; expected <key>.jpg or .png in {self.shards[0].name}")
        if labelled:
            self._need_pairs(images, labels)
        self.keys = sorted(images)
        self.places = np.array([(*images[key], *labels.get(key, NOWHERE)) for key in self.keys], np.int64)
        self.digests = [(shard.name, found.digest) for shard, found in zip(self.shards, indices, strict=True)]
        self._has_warned = False

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        image, _ = self._files(index)
        return Sample(read_image(image), torch.from_numpy(self.labels(index)), self.keys[index])

    def labels(self, index: int) -> np.ndarray:
        image, mask = self._files(index)
        labels, unknown = labels_of(image, mask, self.coding)
        if unknown and not self._has_warned:
            self._has_warned = True
            warn_of_unknown(mask, unknown)
        return labels

    def key(self, index: int) -> str:
        return self.keys[index]

    def without_labels(self, indices: Iterable[int]) -> "Archive":
        changed = copy(self)
        changed.places = self.places.copy()
        changed.places[list(indices), len(NOWHERE) :] = NOWHERE
        return changed

    def fingerprint(self) -> str:
        """From the tables and every header: names, sizes and dates of all files; a copy on another disk has the same.

        A file that is changed and keeps its size and date is not seen.
        """
        said = repr((self.classes, self.coding, self.digests)).encode()
        return sha256(said + self.places.tobytes()).hexdigest()[:16]

    def _files(self, index: int) -> tuple[Packed, Packed | None]:
        numbers = self.places[index].tolist()
        image, labels = _Place(*numbers[:4]), _Place(*numbers[4:])
        return self._packed(index, image, IMAGES), None if labels == NOWHERE else self._packed(index, labels, LABELS)

    def _packed(self, index: int, place: _Place, endings: Sequence[str]) -> Packed:
        name = f"{self.keys[index]}.{endings[place.ending]}"
        return Packed(self.shards[place.shard], name, place.start, place.size)

    def _need_pairs(self, images: Mapping[str, _Place], labels: Mapping[str, _Place]) -> None:
        """The mistake of an image without labels, or of labels without an image."""
        for what, ones, endings, others in (
            ("images have no label", images, IMAGES, labels),
            ("labels have no image", labels, LABELS, images),
        ):
            orphans = [key for key in ones if key not in others]
            if orphans:
                first = ones[orphans[0]]
                name = f"{self.shards[first.shard]}: {orphans[0]}.{endings[first.ending]}"
                raise Mistake(
                    f"{name}: {len(orphans)} of {len(ones)} {what}{nearest(orphans[0], list(others)[:1000])};"
                    " expected <key>.jpg or .png with <key>.labels.png, or labelled: false"
                )


def _shards(root: Path, pattern: str, split: str) -> list[Path]:
    """The shards of a split, by name."""
    need_folder(root, "a folder of tar files")
    if pattern.count(SPLIT) != 1 or "/" in pattern:
        raise Mistake(f"pattern: '{pattern}'; expected the name of a file with {SPLIT} once, such as '{SPLIT}-*.tar'")
    before, after = (translate(part).removesuffix(r"\Z") for part in pattern.split(SPLIT))
    shape = re.compile(rf"{before}(?P<split>.+?){after}\Z")
    of: dict[str, list[Path]] = {}
    for file in sorted(root.iterdir()):
        fits = shape.match(file.name)
        if fits and not file.name.startswith("."):
            of.setdefault(fits["split"], []).append(file)
    if not of:
        raise Mistake(f"{root}: no file is called '{pattern}'; expected train-0000.tar, …")
    need_split(root, split, list(of))
    return of[split]


def _found(shards: Sequence[Path], indices: Sequence[Index], endings: Sequence[str]) -> dict[str, _Place]:
    """By key, where the files with one of the endings lie; a key has at most one of them."""
    numbers = {ending: number for number, ending in enumerate(endings)}
    found: dict[str, _Place] = {}
    for shard, (members, _) in enumerate(indices):
        for name, start, size in members:
            path = PurePosixPath(name)
            stem, _, ending = path.name.partition(".")
            number = numbers.get(ending.lower())
            if not stem or number is None:
                continue
            key = (path.parent / stem).as_posix()
            if key in found:
                other = f"{shards[found[key].shard].name} has {key}.{endings[found[key].ending]}"
                raise Mistake(f"{shards[shard]}: {name} is there twice, {other}; expected one for each '{key}'")
            found[key] = _Place(shard, start, size, number)
    return found

"""Images without labels: frames of a folder as a second source beside the training split, and labels that are withheld.

Only edges whose target is a model act on them: function matching, Beyer et al. 2022, https://arxiv.org/abs/2106.05237,
where nothing but the teacher speaks on any image; here labels keep their word on the crops that have any.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from segdistill.datasets import Dataset, FileDataset, Pair, images_in, need_folder
from segdistill.disjoint import part_of
from segdistill.labels import Coding
from segdistill.mistakes import Mistake
from segdistill.quarantine import without
from segdistill.recipe import DataSpec
from segdistill.types import ClassTable, Sample

FRAMES = "frames"
"""What they are called beside the names of splits: in fingerprints, a quarantine, what is told of bad samples."""
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm"})


class Sources(NamedTuple):
    """What a run trains on."""

    train: Dataset
    """The training split."""
    frames: Dataset | None
    """The second source; None: there is none, or none of it is shown."""


@final
class Frames(FileDataset):
    """Every image below a folder, all void; its keys begin `frames:`, so that no key of a split is one of them."""

    def __init__(self, folder: Path, classes: ClassTable) -> None:
        if is_video(folder):
            raise Mistake(f"data.frames.path: {folder} is a video; {_extract(folder)}")
        try:
            images = images_in(need_folder(folder, "a folder of images"))
        except Mistake as mistake:
            raise Mistake(f"data.frames.path: {mistake}") from mistake
        if not images:
            video = next(videos_below(folder), None)
            said = f"but the video {video}; {_extract(video)}" if video else "expected .png or .jpg files"
            raise Mistake(f"data.frames.path: there is no image below {folder}, {said}")
        super().__init__([Pair(file, None, f"{FRAMES}:{stem}") for stem, file in images.items()], classes, Coding({}))


def is_video(file: Path) -> bool:
    """By its name."""
    return file.suffix.lower() in VIDEOS and not file.name.startswith(".") and file.is_file()


def videos_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (file for file in (Path(parent, name) for name in sorted(names)) if is_video(file))


def _extract(video: Path) -> str:
    return f"`segdistill data frames {video} --out FOLDER` takes pictures out of it"


def sources(train: Dataset, spec: DataSpec, seed: int) -> Sources:
    """The training split and the frames that a recipe describes; files are listed, not read.

    Withheld are the labels of images spread evenly over the split's order, which every seed and process has alike: of
    0.75 the second to fourth of each four. What is withheld of 0.5 is withheld of 0.75 as well.

    Args:
        train: the training split with its labels, without what a quarantine names.
        seed: of the run, whose part of the split this is where `parts` makes several.

    Raises:
        Mistake: the folder of the frames is missing or holds no images; so few labels that none is withheld; more
            parts than there are images.
    """
    if spec.parts is not None:
        train = train.only(part_of(train, spec.parts, seed))
    withheld = [index for index in range(len(train)) if is_of_share(index, exact(spec.withhold))]
    if spec.withhold and not withheld:
        raise Mistake(f"data.withhold: {spec.withhold:g} of {len(train)} images is none")
    if withheld:
        train = train.without_labels(withheld)
    said = spec.frames
    if said is None:
        return Sources(train, None)
    frames: Dataset | None = None
    if said.path is not None:
        if FRAMES in (spec.train, spec.validate_on):
            raise Mistake(f"data.frames: there is a split '{FRAMES}' already; give it another name")
        if said.rate:
            frames = without(Frames(Path(said.path), train.classes), FRAMES, spec.quarantine)
    else:  # those that are withheld: they leave the split
        assert withheld, "a recipe is refused that says neither where frames lie nor which labels are withheld"
        frames = train.only(withheld) if said.rate else None
        aside = set(withheld)
        train = train.only([index for index in range(len(train)) if index not in aside])
    return Sources(train, frames)


def exact(share: float) -> Fraction:
    """The decimal that a recipe says: 0.1 is a tenth, and ten of them are one."""
    return Fraction(str(share))


def before(position: int, share: Fraction) -> int:
    """How many of the positions before this one belong to a share of them that is spread evenly."""
    return position * share.numerator // share.denominator


def is_of_share(position: int, share: Fraction) -> bool:
    return before(position + 1, share) > before(position, share)


@final
class Mixed(Dataset):
    """The training split, then the frames: what the indices of a batch mean, and of a teacher's remembered answers."""

    def __init__(self, train: Dataset, frames: Dataset) -> None:
        self.train, self.frames = train, frames
        self.classes = train.classes

    def __len__(self) -> int:
        return len(self.train) + len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        dataset, place = self._at(index)
        return dataset[place]

    def labels(self, index: int) -> np.ndarray:
        dataset, place = self._at(index)
        return dataset.labels(place)

    def key(self, index: int) -> str:
        dataset, place = self._at(index)
        return dataset.key(place)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.train.fingerprint()}+{self.frames.fingerprint()}".encode()).hexdigest()[:16]

    def _at(self, index: int) -> tuple[Dataset, int]:
        count = len(self.train)
        return (self.train, index) if index < count else (self.frames, index - count)


def mixed(train: Dataset, frames: Dataset | None) -> Dataset:
    return train if frames is None else Mixed(train, frames)


def keys_of(dataset: Dataset | None, wanted: Sequence[str]) -> set[str]:
    """Those of the keys that a dataset has."""
    if dataset is None or not wanted:
        return set()
    return set(wanted) & {dataset.key(index) for index in range(len(dataset))}

"""`data check`: every file of a recipe's splits is read once; what is wrong with it is an error or a warning.

An error is a sample that training refuses or that would teach something false; a warning is something to look at.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from segdistill import parts, quarantine
from segdistill.assemble import open_split
from segdistill.data import watched
from segdistill.datasets import DAMAGE, Dataset, FileDataset, Pair, opened, read_image, read_labels
from segdistill.frames import FRAMES, Frames
from segdistill.labels import Coding
from segdistill.mistakes import Mistake, one_of
from segdistill.recipe import DataSpec, read
from segdistill.types import IGNORE, ClassTable, Table

BLANK = 0.4
"""Share of a label's rows or columns that have to have one value for it to look cut off."""
NEAR = 20
"""Bits of 256 in which the hashes of nearly the same picture differ: at most 14 where it is encoded again, halved or
darkened; the nearest frames of CamVid's two splits differ in 79, of BDD100K's in 102."""
ORIENTATION = 0x0112
"""EXIF's tag that says how a viewer turns the picture."""

Level = Literal["error", "warning"]


class Note(NamedTuple):
    """Something about one file."""

    level: Level
    kind: str
    sentence: str


class Problem(NamedTuple):
    """A note and where it belongs; without a key it is about the whole split."""

    level: Level
    kind: str
    split: str
    key: str
    sentence: str


class Check(NamedTuple):
    """What was found, and labelled pixels per class and split."""

    problems: list[Problem]
    classes: Table

    def of(self, level: Level) -> list[Problem]:
        return [problem for problem in self.problems if problem.level == level]

    def sentences(self, most: int = 20) -> Iterator[str]:
        """Errors first; of each kind and split so many."""
        kinds = dict.fromkeys(problem[:3] for problem in (*self.of("error"), *self.of("warning")))
        for kind in kinds:
            same = [problem for problem in self.problems if problem[:3] == kind]
            yield from (f"{each.level}: {each.split}: {each.sentence}" for each in same[:most])
            if len(same) > most:
                yield f"{kind[0]}: {kind[2]}: … and {len(same) - most} more of this kind; --json has them all"


class _Look(NamedTuple):
    """What one sample looks like."""

    key: str
    name: str
    notes: list[Note]
    counts: np.ndarray = np.zeros(256, np.int64)
    """Pixels per train id."""
    stored: np.ndarray = np.zeros(256, np.int64)
    """Pixels per value in the label file, where it holds ids."""
    digest: bytes = b""
    """Of the decoded image."""
    hash: np.ndarray | None = None
    """bool [256], nearly the same for nearly the same pictures; None where there is nothing to see."""


def check(recipe: Path | str, settings: Sequence[str] = (), quarantine_to: Path | None = None) -> Check:
    """Read everything that a run of the recipe would read, and the labels that it withholds.

    Args:
        quarantine_to: where to write which samples have errors, for the recipe's `data.quarantine`.

    Raises:
        Mistake: the recipe says something we do not understand.
    """
    spec = read(recipe, settings).data
    part = parts.find("datasets", spec.kind, "data.kind")
    parts.settings(part, spec.parameters, "data", DataSpec.model_fields)
    whole = spec.model_copy(update={"quarantine": None, "withhold": 0.0, "parts": None})
    problems: list[Problem] = []
    datasets: dict[str, Dataset] = {}
    looks: dict[str, list[_Look]] = {}
    for split in _names(spec):
        try:
            datasets[split] = _opened(whole, split, datasets)
        except Mistake as mistake:  # a folder that is missing, a file without its partner
            problems.append(Problem("error", "files", split, "", str(mistake)))
            continue
        looks[split] = _look_at_all(datasets[split], split)
        problems += [Problem(*note[:2], split, look.key, note.sentence) for look in looks[split] for note in look.notes]
        problems += [Problem(*note[:2], split, "", note.sentence) for note in _of_split(datasets[split], looks[split])]
        problems += _twice(looks[split], split)
    for split in looks if spec.validate_on in looks else ():
        if split != spec.validate_on:
            problems += _in_both(split, spec.validate_on, looks[split], looks[spec.validate_on])
    if quarantine_to is not None:
        _write(quarantine_to, datasets, problems)
    if spec.quarantine is not None:
        problems = _without_set_aside(spec.quarantine, datasets, problems)
    classes = next(iter(datasets.values())).classes if datasets else ClassTable((), ())
    return Check(problems, _table(classes, {split: found for split, found in looks.items() if split != FRAMES}))


def _names(spec: DataSpec) -> list[str]:
    """Of everything that is read; the frames come last."""
    of_folder = spec.frames is not None and spec.frames.path is not None
    return list(dict.fromkeys((spec.train, spec.validate_on, *([FRAMES] if of_folder else []))))


def _opened(spec: DataSpec, name: str, others: Mapping[str, Dataset]) -> Dataset:
    if name != FRAMES or spec.frames is None or spec.frames.path is None:
        return open_split(spec, name)
    classes = next((dataset.classes for dataset in others.values()), ClassTable((), ()))
    return Frames(Path(spec.frames.path), classes)


def _write(file: Path, datasets: Mapping[str, Dataset], problems: Sequence[Problem]) -> None:
    bad: dict[str, dict[str, str]] = {split: {} for split in datasets}
    for problem in problems:
        if problem.level == "error" and problem.key:
            bad[problem.split].setdefault(problem.key, problem.sentence)
    quarantine.write(file, datasets, bad)


def _without_set_aside(file: str, datasets: Mapping[str, Dataset], problems: Sequence[Problem]) -> list[Problem]:
    """Errors that a run does not meet are warnings."""
    aside = {split: quarantine.read(Path(file), dataset, split) for split, dataset in datasets.items()}
    return [
        problem._replace(level="warning", sentence=f"{problem.sentence} (set aside)")
        if problem.key in aside.get(problem.split, {})
        else problem
        for problem in problems
    ]


def _table(classes: ClassTable, looks: Mapping[str, Sequence[_Look]]) -> Table:
    totals = [sum((look.counts for look in found), np.zeros(256, np.int64)) for found in looks.values()]
    rows = [[name, *(int(total[i]) for total in totals)] for i, name in enumerate(classes.names)]
    rows.append(["void", *(int(total[IGNORE]) for total in totals)])
    return Table(["class", *(f"{split} pixels" for split in looks)], rows)


# One sample


def _look_at_all(dataset: Dataset, split: str) -> list[_Look]:
    def look(index: int) -> _Look:
        if isinstance(dataset, FileDataset):
            return _look_at_files(dataset.pairs[index], dataset.coding)
        return _look_at_sample(dataset, index)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(watched(pool.map(look, range(len(dataset))), f"reading {split}", len(dataset)))


def _look_at_sample(dataset: Dataset, index: int) -> _Look:
    try:
        sample = dataset[index]
    except Mistake as mistake:
        return _Look(dataset.key(index), f"sample {index}", [Note("error", "image", str(mistake))])
    image, labels = sample.image.permute(1, 2, 0).numpy(), sample.labels.numpy()
    return _Look(sample.key, sample.key, [], _counts(labels), digest=_digest(image), hash=_hash(image))


def _look_at_files(pair: Pair, coding: Coding) -> _Look:
    look = _Look(pair.key, str(pair.image), _about(pair.image))
    if any(note.level == "error" for note in look.notes):
        return look
    try:
        image = read_image(pair.image).permute(1, 2, 0).numpy()
    except Mistake as mistake:
        return look._replace(notes=[*look.notes, Note("error", "image", str(mistake))])
    look = look._replace(digest=_digest(image), hash=_hash(image))
    if pair.labels is None:
        return look
    notes = [*look.notes, *_about_labels(pair.labels, coding)]
    if any(note.level == "error" for note in notes):
        return look._replace(notes=notes)
    stored = _stored(pair.labels)
    try:
        labels, unknown = read_labels(pair, coding)
    except Mistake as mistake:
        return look._replace(notes=[*notes, Note("error", "labels", str(mistake))], stored=stored)
    if unknown:
        notes.append(Note("warning", "unknown", f"{pair.labels}: {unknown} pixels of unknown values become void"))
    notes += _about_map(pair.labels, labels)
    return look._replace(notes=notes, counts=_counts(labels), stored=stored)


def _about(file: Path) -> list[Note]:
    """What the header and the ends of an image file say."""
    try:
        with opened(file) as image:
            notes = list(_about_header(file, image))
            mode, coded = image.mode, image.format
            turned = 1
            if "exif" in image.info:
                with suppress(*DAMAGE):  # it is not needed to read the picture
                    turned = image.getexif().get(ORIENTATION, 1)
    except Mistake as mistake:
        return [Note("error", "image", str(mistake))]
    content = file.read_bytes()
    if mode != "RGB" and not mode.startswith(("I", "F")):  # those are refused when they are read
        notes.append(Note("warning", "mode", f"{file}: an image of mode {mode}; it is read as 8 bit RGB"))
    if coded == "PNG" and content[24] == 16:
        notes.append(Note("warning", "16 bit", f"{file}: 16 bits a channel; only the upper 8 are read"))
    if turned != 1:
        what = f"EXIF orientation {turned} turns or mirrors the picture in viewers; here it is read as it is stored"
        notes.append(Note("warning", "exif", f"{file}: {what}, and so must be its labels"))
    if coded in ("JPEG", "MPO") and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        notes.append(Note("error", "image", f"{file}: it has no end marker; the file is cut or was not written whole"))
    return notes


def _about_labels(file: Path, coding: Coding) -> list[Note]:
    """What the header of a label file says."""
    try:
        with opened(file) as image:
            notes = list(_about_header(file, image))
            mode, coded = image.mode, image.format
    except Mistake as mistake:
        return [Note("error", "labels", str(mistake))]
    if coded in ("JPEG", "MPO"):
        notes.append(Note("error", "labels", f"{file}: labels stored as JPEG, which changes their values; save as PNG"))
    elif mode in ("RGB", "RGBA") and not coding.colours:
        notes.append(Note("error", "colours", f"{file}: a colour picture of mode {mode} where class ids are expected"))
    return notes


def _about_header(file: Path, image: Image.Image) -> Iterator[Note]:
    expected = Image.registered_extensions().get(file.suffix.lower())
    if image.format != expected and (image.format, expected) != ("MPO", "JPEG"):
        yield Note("warning", "extension", f"{file}: it holds {image.format}, not what '{file.suffix}' says")


def _stored(file: Path) -> np.ndarray:
    """int64 [256]: how often the file has each value, if it holds 8 bit ids."""
    with suppress(Mistake), opened(file) as image:
        if image.mode in ("L", "P"):
            return _counts(np.asarray(image))
    return np.zeros(256, np.int64)


def _about_map(file: Path, labels: np.ndarray) -> Iterator[Note]:
    """What the labels look like: nothing but void, nothing but one class, or a part that was never written."""
    if (labels == labels[0, 0]).all():
        if labels[0, 0] == IGNORE:
            yield Note("warning", "void", f"{file}: all void; nothing is labelled")
        else:
            yield Note("error", "blank", f"{file}: one class fills it all (train id {labels[0, 0]}); a blank mask?")
        return
    for side, turned in (("top", labels), ("bottom", labels[::-1]), ("left", labels.T), ("right", labels.T[::-1])):
        least = int(BLANK * len(turned))
        if not (turned[:least] == turned[0, 0]).all():
            continue
        filled = (turned == turned[0, 0]).mean(1)
        rows = int((filled < 1).argmax())
        # A scene's borders are slanted or ragged; a file that was cut ends within a row.
        if filled[min(rows + 1, len(filled) - 1)] < 0.8:
            share = f"{rows / len(turned):.0%} from the {side}"
            what = f"{share} are nothing but train id {turned[0, 0]}, up to a straight edge"
            yield Note("error", "blank", f"{file}: {what}; a mask that was not written whole?")
            return


def _counts(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels.ravel(), minlength=256)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()


def _hash(image: np.ndarray) -> np.ndarray | None:
    """Whether each of 16×16 cells of the picture is brighter than its left neighbour (a difference hash)."""
    small = np.asarray(Image.fromarray(image).convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return (small[:, 1:] > small[:, :-1]).ravel() if small.std() > 4 else None


# Many samples


def _of_split(dataset: Dataset, looks: Sequence[_Look]) -> Iterator[Note]:
    totals = np.sum([look.counts for look in looks], 0)
    absent = [name for name, total in zip(dataset.classes.names, totals, strict=False) if total == 0]
    if absent and totals.any():  # else nothing could be read, which is said of every file
        yield Note("warning", "absent", f"no pixel is labelled {one_of(absent)}")
    if not isinstance(dataset, FileDataset):
        return
    stored = np.sum([look.stored for look in looks], 0)
    ids = [value for value in dataset.coding.ids if value != IGNORE]
    used = [value for value in stored.nonzero()[0].tolist() if value != IGNORE]
    if ids and used and used[-1] == max(ids) + 1 and stored[min(ids)] == 0:
        what = f"{used[-1]} is used and {min(ids)} never, where {min(ids)}…{max(ids)} are expected"
        yield Note("error", "shift", f"label values look shifted by one: {what}")


def _twice(looks: Sequence[_Look], split: str) -> Iterator[Problem]:
    first: dict[bytes, _Look] = {}
    for look in looks:
        same = first.setdefault(look.digest, look) if look.digest else look
        if same is not look:
            yield Problem("warning", "duplicate", split, look.key, f"{look.name}: the same picture as {same.name}")


def _in_both(split: str, other: str, train: Sequence[_Look], val: Sequence[_Look]) -> Iterator[Problem]:
    """Training pictures that the validation split shows too: it would measure what was learned by heart."""
    measured = {look.digest: look for look in val if look.digest}
    for look in train:
        if look.digest in measured:
            what = f"the same picture as {measured[look.digest].name} of '{other}', which it would leak into"
            yield Problem("error", "leak", split, look.key, f"{look.name}: {what}")
    ours = [look for look in train if look.hash is not None and look.digest not in measured]
    theirs = [look for look in val if look.hash is not None]
    if not ours or not theirs:
        return
    signs = np.stack([look.hash for look in theirs]).astype(np.float32) * 2 - 1  # pyright: ignore[reportCallIssue, reportArgumentType]
    for look in ours:
        assert look.hash is not None
        agreement = signs @ (look.hash.astype(np.float32) * 2 - 1)  # 256 - 2 · differing bits
        nearest = int(agreement.argmax())
        if 256 - agreement[nearest] <= 2 * NEAR:
            what = f"nearly the same picture as {theirs[nearest].name} of '{other}'"
            yield Problem("warning", "near", split, look.key, f"{look.name}: {what}")

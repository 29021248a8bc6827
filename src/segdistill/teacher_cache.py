"""A teacher's answers to whole images, written once; for a crop they are cut out where the crop was, scale and flip.

What is stored says the same as long as image, teacher and size are the same; anything else is another folder. What a
crop gets is not quite what the teacher would say of it: it saw no jitter, no other scale, and the surroundings.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from segdistill.crops import canonical, checksum
from segdistill.data import as_float, watched
from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.recipe import CacheSpec
from segdistill.run import Unwritten, alone, read_json, sync_folder, write_bytes, writing
from segdistill.sampling import cache_folder
from segdistill.types import Batch, Sample, Stage

FORMAT = 1
"""Of the files; another one is another folder."""
MANIFEST, ANSWERS = "manifest.json", "answers.bin"
"""The files of a stage."""
ALIGNED = 64
"""Bytes that every part of a record begins at a multiple of."""
ROWS = 16
"""Of a crop that are interpolated at a time on a CPU: what fits its caches."""
FIRST = 3
"""Images from which time and room are estimated."""
_DTYPES = {"fp32": np.float32, "fp16": np.float16, "uint8": np.uint8}


class Form(NamedTuple):
    """How the answers of one stage are stored: cell by cell, the channels of a cell side by side."""

    stage: str
    channels: int
    stride: int
    """Image pixels per cell of the network's stage."""
    cell: int
    """Image pixels per stored cell."""
    dtype: str
    top_k: int | None

    @property
    def name(self) -> str:
        """Of its folder."""
        kept = f"-top{self.top_k}" if self.top_k else ""
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.stage)}-{self.cell}-{self.dtype}{kept}"

    @property
    def values(self) -> int:
        """Stored of each cell; with `top_k` the last is what each of the other classes has."""
        return self.channels if self.top_k is None else self.top_k + 1

    def parts(self, height: int, width: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """name -> (dtype, shape) of what a record of so many cells is made of, in its order."""
        found: dict[str, tuple[Any, tuple[int, ...]]] = {"values": (_DTYPES[self.dtype], (height, width, self.values))}
        if self.dtype == "uint8":
            found["range"] = np.float32, (2, self.values)
        if self.top_k is not None:
            found["classes"] = np.uint8 if self.channels <= 256 else np.int16, (height, width, self.top_k)
        return found

    def bytes(self, height: int, width: int) -> int:
        """Of a record."""
        return sum(
            _aligned(math.prod(shape) * np.dtype(dtype).itemsize) for dtype, shape in self.parts(height, width).values()
        )


class Entry(NamedTuple):
    """What the manifest knows of one sample; one that could not be read has no cells."""

    key: str
    checksum: int
    height: int
    width: int
    crc: int
    """CRC-32 of the record."""


class Estimate(NamedTuple):
    """What a cache will take, or takes: it then needs no more seconds."""

    images: int
    size: int
    """Bytes."""
    seconds: float


@final
class TeacherCache:
    """Called with a batch it says what the teacher said of the whole images, where the crops were cut out.

    Until it is built (`build`) it asks the teacher whenever an image is shown for the first time, and remembers.

    Args:
        where: of the recipe, for mistakes.
        model: the teacher, frozen and in evaluation mode.
        identity: everything that makes it say what it says: the digest of its weights, its kind and parameters.
        dataset: the split whose indices a batch has.
        size: that images are resized to, or None.
        stages: those that somebody learns from.
    """

    def __init__(
        self,
        where: str,
        model: nn.Module,
        identity: Sequence[object],
        dataset: Dataset,
        size: tuple[int, int] | None,
        stages: Mapping[str, Stage],
        spec: CacheSpec,
    ) -> None:
        self.where, self.model, self.dataset, self.size = where, model, dataset, size
        self.forms = [_form(stage, promised, spec, where) for stage, promised in stages.items()]
        self.identity: Mapping[str, object] = {
            "teacher": [str(word) for word in identity],
            "data": dataset.fingerprint(),
            "size": size,
        }
        said = json.dumps([FORMAT, self.identity], sort_keys=True)
        home = Path(spec.folder).expanduser() if spec.folder is not None else cache_folder() / "teachers"
        self.folder = home / hashlib.sha256(said.encode()).hexdigest()[:16]
        self.stores: dict[str, _Store] = {}
        """Of the stages that are on the disk."""
        self.fresh: dict[int, Mapping[str, _Record]] = {}
        """Of what is not, by sample and stage."""
        self.open()

    def open(self) -> list[Form]:
        """Open what is on the disk; what is not is returned.

        Raises:
            Mistake: a file there is damaged, or not what its folder says.
        """
        for form in self.forms:
            place = self.folder / form.name
            if form.stage not in self.stores and place.exists():
                self.stores[form.stage] = _Store(place, form, self._about(form), len(self.dataset))
        return [form for form in self.forms if form.stage not in self.stores]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """{stage: [b, c, h, w]}, as large as the teacher's of the crops; channels last.

        Beyond the border of an image its outermost cells are repeated.

        Raises:
            Mistake: what is stored is damaged or of another image.
        """
        assert batch.shown is not None, "a loader says where crops come from"
        device, crop = batch.image.device, batch.image.shape[-2:]
        said: dict[str, Tensor] = {}
        for form in self.forms:
            grid = [-(-side // form.stride) for side in crop]
            said[form.stage] = torch.empty(len(batch.image), *grid, form.channels, device=device)
        shown = zip(batch.shown.sample.tolist(), batch.shown.checksum.tolist(), batch.shown.axes.tolist(), strict=True)
        for number, (index, seen, axes) in enumerate(shown):
            for form in self.forms:
                _cut(form, self._record(form, index, seen, device), axes, said[form.stage][number])
        return {stage: answer.permute(0, 3, 1, 2) for stage, answer in said.items()}

    def build(self, device: torch.device) -> None:
        """Write what is not there yet; of several processes one writes and the others wait for it.

        Raises:
            Mistake: an answer is not finite, or too large for the dtype.
            Unwritten: the disk is full, or has not enough room; nothing is left of what was begun.
        """
        if not self.open():
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self.folder / ".lock", f"asks the teacher, for {self.folder}"):
            missing = self.open()  # another process may have written it
            if missing:
                with writing(self.folder):
                    self._write(missing, device)
                self.open()
        self.fresh.clear()

    def estimate(self, device: torch.device) -> Estimate:
        """From its first images, where it is not built."""
        missing = self.open()
        size = sum(store.size for store in self.stores.values())
        if not missing:
            return Estimate(len(self.dataset), size, 0.0)
        count, begin = min(FIRST, len(self.dataset)), time.perf_counter()
        written = [self._look(index, missing, device) for index in range(count)]
        seconds = time.perf_counter() - begin
        mean = sum(len(answer.record.content) for one in written if one for answer in one.answers.values()) / count
        return Estimate(len(self.dataset), size + round(mean * len(self.dataset)), seconds / count * len(self.dataset))

    def _about(self, form: Form) -> dict[str, object]:
        return {"format": FORMAT, **self.identity, **form._asdict()}

    def _record(self, form: Form, index: int, seen: int, device: torch.device) -> "_Record":
        """What is stored of a sample's stage."""
        store = self.stores.get(form.stage)
        if store is not None:
            return store.record(index, seen)
        if index not in self.fresh:
            missing = [one for one in self.forms if one.stage not in self.stores]
            looked = self._look(index, missing, device)
            assert looked is not None, "a sample that was just shown can be read"
            self.fresh[index] = {stage: encoded.record for stage, encoded in looked.answers.items()}
        return self.fresh[index][form.stage]

    def _look(self, index: int, forms: Sequence[Form], device: torch.device) -> "_Looked | None":
        """What the teacher says of a sample, as it is stored; None where it cannot be read."""
        try:
            sample = self.dataset[index]
        except Mistake as mistake:
            print(f"segdistill: {self.where}: {self.dataset.key(index)} left out: {mistake}", file=sys.stderr)
            return None
        image = as_float(canonical(sample, self.size)[None].to(device))
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            said: Mapping[str, Tensor] = self.model(image)
        answers: dict[str, _Encoded] = {}
        for form in forms:
            answer = said[form.stage][0].float()
            if not bool(answer.isfinite().all()):
                raise Mistake(f"{self.where}: {form.stage} of {sample.key} is not finite")
            largest = float(answer.abs().max())
            if form.dtype == "fp16" and largest > torch.finfo(torch.float16).max:
                raise Mistake(
                    f"{self.where}.dtype: {form.stage} of {sample.key} is as large as {largest:.3g}, fp16 holds "
                    f"65504; expected fp32 or uint8"
                )
            answers[form.stage] = _encode(form, answer)
        return _Looked(sample, answers)

    def _write(self, forms: Sequence[Form], device: torch.device) -> None:
        """Every sample's answers into folders that get their names when they are complete."""
        torn = [self.folder / f".{form.name}" for form in forms]
        for place in torn:
            shutil.rmtree(place, ignore_errors=True)  # of a process that was killed: nobody else writes here now
        try:
            with ExitStack() as files:
                writers: list[_Writer] = []
                for place, form in zip(torn, forms, strict=True):
                    place.mkdir()
                    writers.append(_Writer(place, form, files.enter_context((place / ANSWERS).open("wb"))))
                self._ask(writers, device)
            for writer in writers:
                writer.place.rename(self.folder / writer.form.name)
            sync_folder(self.folder)
        finally:
            for place in torn:
                shutil.rmtree(place, ignore_errors=True)  # its room is needed

    def _ask(self, writers: "Sequence[_Writer]", device: torch.device) -> None:
        """Look at every sample, having said what it will take."""
        count, first, begin = len(self.dataset), min(FIRST, len(self.dataset)), time.perf_counter()
        for index in range(first):
            self._add(writers, index, device)
        written = sum(writer.size for writer in writers)
        size, seconds = written / first * count, (time.perf_counter() - begin) / first * count
        cost = f"about {size / 1e6:,.1f} MB and {seconds:.0f} s"
        print(f"segdistill: {self.where}: {count} images, once: {cost}, in {self.folder}", file=sys.stderr)
        if size - written > shutil.disk_usage(self.folder).free:
            raise Unwritten(self.folder, f"it needs about {size / 1e6:,.1f} MB")
        for index in watched(range(first, count), "asking the teacher", count - first):
            self._add(writers, index, device)
        for writer in writers:
            writer.finish(self._about(writer.form))
            error = f"the largest error of a value is {writer.error:.2g}"
            mass = f", the stored classes have {writer.mean_mass:.1%} of the probability" if writer.form.top_k else ""
            print(f"segdistill: {self.where}: {writer.form.stage}: {error}{mass}", file=sys.stderr)

    def _add(self, writers: "Sequence[_Writer]", index: int, device: torch.device) -> None:
        looked = self._look(index, [writer.form for writer in writers], device)
        for writer in writers:
            if looked is None:
                writer.entries.append(Entry(self.dataset.key(index), 0, 0, 0, 0))
            else:
                writer.add(looked.sample, looked.answers[writer.form.stage])


def _form(stage: str, promised: Stage, spec: CacheSpec, where: str) -> Form:
    top_k = spec.top_k if stage == "logits" else None
    if top_k is not None and top_k >= promised.channels:
        raise Mistake(f"{where}.top_k: expected fewer than the {promised.channels} classes, got {top_k}; leave it out")
    cell = promised.stride * max(1, spec.stride // promised.stride)
    return Form(stage, promised.channels, promised.stride, cell, spec.dtype, top_k)


class _Record(NamedTuple):
    """One stage of one image, as it is stored."""

    content: np.ndarray
    """uint8 [bytes]."""
    height: int
    width: int


class _Encoded(NamedTuple):
    record: _Record
    error: float
    """The largest, of what is read for what was stored."""
    mass: float
    """Of the stored classes: the mean over cells of the sum of their probabilities."""


class _Looked(NamedTuple):
    sample: Sample
    answers: Mapping[str, _Encoded]


def _encode(form: Form, answer: Float[Tensor, "c h w"]) -> _Encoded:
    cells = answer
    if form.cell > form.stride:
        cells = F.avg_pool2d(answer[None], form.cell // form.stride, ceil_mode=True)[0]
    wanted = cells.permute(1, 2, 0).cpu().contiguous()  # [h, w, c]
    arrays: dict[str, np.ndarray] = {}
    mass = 1.0
    if form.top_k is not None:
        largest, classes = wanted.topk(form.top_k, -1)
        others = wanted.scatter(-1, classes, -math.inf).logsumexp(-1, keepdim=True)
        mass = float(wanted.softmax(-1).gather(-1, classes).sum(-1).mean())
        arrays["classes"] = classes.numpy()
        wanted = torch.cat([largest, others - math.log(form.channels - form.top_k)], -1)
    stored = wanted
    if form.dtype == "uint8":
        low, high = wanted.amin((0, 1)), wanted.amax((0, 1))
        step = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        stored = ((wanted - low) / step).round().clamp(0, 255)
        arrays["range"] = torch.stack([low, step]).numpy()
    arrays["values"] = stored.numpy()
    height, width = wanted.shape[:2]
    content = np.zeros(form.bytes(height, width), np.uint8)
    record = _Record(content, height, width)
    views = _views(form, record)
    for name, view in views.items():
        view[...] = arrays[name]
    read = _values(torch.from_numpy(views["values"]), torch.from_numpy(views["range"]) if "range" in views else None)
    return _Encoded(record, float((read - wanted).abs().max()), mass)


def _views(form: Form, record: _Record) -> dict[str, np.ndarray]:
    """The parts of a record by name; nothing is copied."""
    found: dict[str, np.ndarray] = {}
    begin = 0
    for name, (dtype, shape) in form.parts(record.height, record.width).items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        found[name] = record.content[begin : begin + size].view(dtype).reshape(shape)
        begin += _aligned(size)
    return found


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _values(stored: Tensor, span: Tensor | None) -> Tensor:
    """As float32, of what is stored and for uint8 the least value and the step of each channel."""
    return stored.float() if span is None else torch.addcmul(span[0], stored.float(), span[1])


def _cut(form: Form, record: _Record, axes: Sequence[Sequence[float]], out: Float32[Tensor, "h w c"]) -> None:
    """Bilinear interpolation, one axis after the other: exact where a crop's cells are those that are stored."""
    parts = _views(form, record)
    ys, xs = (
        _taps(axis, side, many, form)
        for axis, side, many in zip(axes, (record.height, record.width), out.shape[:2], strict=True)
    )
    window = slice(ys.first, ys.last + 1), slice(xs.first, xs.last + 1)

    def moved(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(out.device)

    stored = moved(parts["values"][window])
    span = moved(parts["range"]) if "range" in parts else None
    classes = moved(parts["classes"][window]).long() if "classes" in parts else None
    left, right, share = (x.to(out.device) for x in (xs.low - xs.first, xs.high - xs.first, xs.share[:, None]))
    rows = ROWS if out.device.type == "cpu" else len(out)
    for begin in range(0, len(out), rows):
        part = slice(begin, begin + rows)
        top, bottom = int(ys.low[part].min()), int(ys.high[part].max())
        here = slice(top - ys.first, bottom - ys.first + 1)
        cells = _values(stored[here], span)
        if classes is not None:
            every = cells[..., -1:].repeat(1, 1, form.channels)
            cells = every.scatter_(-1, classes[here], cells[..., :-1])
        above, below = (cells.index_select(0, (y[part] - top).to(out.device)) for y in (ys.low, ys.high))
        between = torch.lerp(above, below, ys.share[part, None, None].to(out.device))  # [rows, w of window, c]
        torch.lerp(between.index_select(1, left), between.index_select(1, right), share, out=out[part])


class _Taps(NamedTuple):
    """Between which stored cells every cell of a crop lies, along one axis."""

    low: Tensor
    high: Tensor
    share: Tensor
    """Of `high`, float32."""

    @property
    def first(self) -> int:
        return int(self.low.min())

    @property
    def last(self) -> int:
        return int(self.high.max())


def _taps(axis: Sequence[float], stored: int, wanted: int, form: Form) -> _Taps:
    factor, offset = axis
    middles = (torch.arange(wanted, dtype=torch.float64) + 0.5) * form.stride  # in pixels of the crop
    place = ((factor * middles + offset) / form.cell - 0.5).clamp(0, stored - 1)
    low = place.floor().long()
    return _Taps(low, (low + 1).clamp(max=stored - 1), (place - low).float())


# On the disk


@final
class _Store:
    """The answers of one stage in a file, read where they are asked for.

    Now the manifest is checked, and that the file has its size; each record, when it is read for the first time.

    Raises:
        Mistake: they are damaged, or of something else than `about`.
    """

    def __init__(self, folder: Path, form: Form, about: Mapping[str, object], count: int) -> None:
        self.folder, self.form = folder, form
        manifest = read_json(folder / MANIFEST)
        signature = manifest.pop("sha256", None)
        entries = manifest.get("samples")
        if signature != _signature(manifest) or not isinstance(entries, list):
            raise self.damaged(MANIFEST, "damaged")
        for name, value in about.items():
            found = manifest.get(name)
            if json.dumps(found) != json.dumps(value):
                raise self.damaged(MANIFEST, f"its {name} is {found}, expected {value}")
        self.entries = [Entry(*entry) for entry in entries]
        self.largest_error = float(manifest["largest_error"])
        """Of a stored value."""
        sizes = [form.bytes(entry.height, entry.width) for entry in self.entries]
        self.size = sum(sizes)
        self.begins = [0, *np.cumsum(sizes).tolist()]
        file = folder / ANSWERS
        there = file.stat().st_size if file.is_file() else 0
        if there != self.size or len(self.entries) != count:
            raise self.damaged(ANSWERS, f"{there} bytes, expected {self.size} of {count} samples")
        self.proven: set[int] = set()

    @cached_property
    def content(self) -> np.ndarray:
        """The file, mapped into memory."""
        return np.memmap(self.folder / ANSWERS, np.uint8, "r")

    def record(self, index: int, seen: int) -> _Record:
        """A sample's record.

        Args:
            seen: the checksum of its image.
        """
        entry = self.entries[index]
        content = self.content[self.begins[index] : self.begins[index + 1]]
        if index not in self.proven:
            if not entry.height or entry.checksum != seen:
                saw = "saw another image of this name" if entry.height else "could not read its image"
                raise self.damaged(ANSWERS, f"{entry.key}: the teacher {saw}")
            if crc32(content.data) != entry.crc:
                raise self.damaged(ANSWERS, f"{entry.key}: damaged")
            self.proven.add(index)
        return _Record(content, entry.height, entry.width)

    def damaged(self, file: str, what: str) -> Mistake:
        return Mistake(f"{self.folder / file}: {what}; remove {self.folder}, and the teacher is asked again")


@final
class _Writer:
    """The answers of one stage, sample after sample."""

    def __init__(self, place: Path, form: Form, file: BinaryIO) -> None:
        self.place, self.form, self.file = place, form, file
        self.entries: list[Entry] = []
        self.size = 0
        self.added = 0
        self.error = self.mass = 0.0

    def add(self, sample: Sample, encoded: _Encoded) -> None:
        content, height, width = encoded.record
        self.file.write(content.tobytes())
        self.entries.append(Entry(sample.key, checksum(sample.image), height, width, crc32(content.data)))
        self.size += len(content)
        self.added += 1
        self.error = max(self.error, encoded.error)
        self.mass += encoded.mass

    @property
    def mean_mass(self) -> float:
        return self.mass / max(1, self.added)

    def finish(self, about: Mapping[str, object]) -> None:
        """Everything on the disk, the manifest last."""
        self.file.flush()
        os.fsync(self.file.fileno())
        said = {**about, "largest_error": self.error, "kept_mass": self.mean_mass}
        said["samples"] = [list(entry) for entry in self.entries]
        signed = {**said, "sha256": _signature(said)}
        write_bytes(self.place / MANIFEST, json.dumps(signed).encode())


def _signature(manifest: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

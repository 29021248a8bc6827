"""A random crop of a sample: what it shows, cut out, jittered, resized, flipped; and the whole image without that."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill.recipe import AugmentSpec, ClassUniformSpec, RareClassSpec
from segdistill.sampling import corner
from segdistill.types import IGNORE, Sample

cv2.setNumThreads(0)  # workers are processes, and threads do not survive the fork that makes one


class Wish(NamedTuple):
    """What a crop is to show: a class of the labels, by the way in which it was drawn."""

    sampling: RareClassSpec | ClassUniformSpec
    label: int


class Crop(NamedTuple):
    """One augmented sample."""

    image: Tensor
    labels: Tensor
    pad: Tensor
    key: str
    checksum: int
    axes: Tensor
    """As in Shown."""
    sample: int = -1
    """Its index in the data set; frames follow the training split."""
    bad: Mapping[str, str] = {}
    """Keys of samples that were to be shown here and could not be read, and why."""


class Span(NamedTuple):
    """Along one axis of a crop: the pixels `first` to `last` of an image become `part` pixels of the crop."""

    first: int
    last: int
    part: int
    step: int
    """Pixels of the image whose mean is taken before anything is interpolated; they divide the span."""

    @property
    def pixels(self) -> slice:
        return slice(self.first, self.last)


class Window(NamedTuple):
    """What a crop shows of an image: whole pixels, so that they can be cut out and resized alone."""

    rows: Span
    columns: Span

    @property
    def seen(self) -> tuple[int, int]:
        return self.rows.part, self.columns.part

    def of_labels(self, labels: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Of every pixel of the crop the label that lies at its middle; uint8 [H, W] into [h, w]."""
        part = labels[self.rows.pixels, self.columns.pixels]
        cv2.resize(part, self.seen[::-1], dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
        return out

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 [3, H, W]: nothing else of the image is read, maybe from a disk."""
        return image[:, self.rows.pixels, self.columns.pixels]

    def resize(self, part: np.ndarray, crop: np.ndarray) -> None:
        """What `of_image` cut out, plane by plane into a crop of the size that is seen."""
        means = [(span.last - span.first) // span.step for span in (self.columns, self.rows)]
        for plane, shown in zip(part, crop, strict=True):
            if max(self.rows.step, self.columns.step) > 1:
                plane = cv2.resize(plane, means, interpolation=cv2.INTER_AREA)
            cv2.resize(plane, self.seen[::-1], dst=shown, interpolation=cv2.INTER_LINEAR)


def window(
    labels: np.ndarray,
    size: tuple[int, int] | None,
    crop: tuple[int, int],
    spec: AugmentSpec,
    random: np.random.Generator,
    wish: Wish | None,
) -> Window:
    height, width = labels.shape
    base = size or (height, width)
    scale = float(np.exp(random.uniform(*np.log(spec.scale))))
    scaled = (max(1, round(base[0] * scale)), max(1, round(base[1] * scale)))
    seen = (min(crop[0], scaled[0]), min(crop[1], scaled[1]))
    if wish is None:
        top, left = (int(random.integers(0, whole - part + 1)) for whole, part in zip(scaled, seen, strict=True))
    else:
        top, left = corner(wish.sampling, labels, wish.label, scaled, seen, random)
    return Window(_span(top, seen[0], scaled[0], height), _span(left, seen[1], scaled[1], width))


def _span(begin: int, part: int, scaled: int, size: int) -> Span:
    """The whole pixels of `size` next to `part` pixels from `begin` on of the axis when it is resized to `scaled`."""
    factor = size / scaled
    step = max(1, math.floor(factor + 0.5))
    # The pixels whose middles lie within: whoever drew the crop for one of them finds it there.
    first, last = math.ceil(begin * factor - 0.5), math.floor((begin + part) * factor + 0.5)
    length = min(max(1, -(-(last - first) // step)) * step, size // step * step)
    first = min(first, size - length)
    return Span(first, first + length, part, step)


def augment(
    sample: Sample,
    size: tuple[int, int] | None,
    crop: tuple[int, int],
    spec: AugmentSpec,
    random: np.random.Generator,
    wish: Wish | None = None,
) -> Crop:
    """Cut out, jitter, resize and flip. Padding is marked.

    The part that is cut out has whole pixels, so a crop's scale is up to one of them off what was drawn; `axes` has it.
    It is interpolated between the two nearest pixels along each axis; beyond a factor of 1.5, between means of as many
    pixels. Colours change before that where it leaves fewer pixels to change, else after it.
    """
    whole = sample.labels.numpy()
    shown = window(whole, size, crop, spec, random, wish)
    seen = height, width = shown.seen
    down, right = (int(random.integers(0, side - part + 1)) for side, part in zip(crop, seen, strict=True))
    flip = bool(random.integers(2)) and spec.flip

    image, labels = np.empty((3, *crop), np.uint8), np.empty(crop, np.uint8)
    pad = np.full(crop, seen != crop)
    if seen != crop:
        image.fill(0)
        labels.fill(IGNORE)
    left = crop[1] - right - width if flip else right
    place = (slice(down, down + height), slice(left, left + width))
    made, part = image[:, *place], shown.of_image(sample.image.numpy())
    jitters_first = part.size < made.size
    if spec.jitter and jitters_first:
        part = jitter(part, spec.jitter, random, np.empty(part.shape, np.uint8))
    shown.resize(part, made)
    if spec.jitter and not jitters_first:
        jitter(made, spec.jitter, random, made)
    shown.of_labels(whole, labels[place])
    pad[place] = False
    for plane in (*made, labels[place]) if flip else ():
        cv2.flip(plane, 1, dst=plane)
    return Crop(
        torch.from_numpy(image),
        torch.from_numpy(labels),
        torch.from_numpy(pad),
        sample.key,
        checksum(sample.image),
        _axes(shown, (down, right), crop, flip, whole.shape, size or whole.shape),
    )


def _axes(
    shown: Window,
    corner: tuple[int, int],
    crop: tuple[int, int],
    flip: bool,
    image: Sequence[int],
    canonical: Sequence[int],
) -> Tensor:
    """Shown.axes of a crop in which the window begins at a corner."""
    axes: list[tuple[float, float]] = []
    for axis, span in enumerate(shown):
        unit = canonical[axis] / image[axis]
        factor = (span.last - span.first) * unit / span.part
        offset = span.first * unit - corner[axis] * factor
        axes.append((-factor, offset + crop[axis] * factor) if flip and axis == 1 else (factor, offset))
    return torch.tensor(axes)


def checksum(image: Tensor) -> int:
    """Of some sixteen rows of an image, which may lie on a disk: enough to know it from another one."""
    return zlib.crc32(image[:, :: max(1, image.shape[1] // 16)].numpy().tobytes())


def canonical(sample: Sample, size: tuple[int, int] | None) -> Tensor:
    """The image as a network sees it without augmentation: whole, at `size`; uint8 [3, H, W]."""
    if size is None:
        return sample.image
    pixels = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
    resized = np.asarray(pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized.transpose(2, 0, 1).copy())


def jitter(image: np.ndarray, strength: float, random: np.random.Generator, out: np.ndarray) -> np.ndarray:
    """Random brightness, contrast and saturation, each by a factor in 1 ± strength; uint8 [3, H, W], into `out`.

    Brightness b and contrast c make y = b·c·x + b·(1 - c)·mean of every value, saturation s makes s·y + (1 - s)·grey
    of it: together a sum of the value, the pixel's grey and a constant, which is rounded and cut off once.
    """
    brightness, contrast, saturation = random.uniform(1 - strength, 1 + strength, 3).tolist()
    red, green, blue = image
    mean = sum(cv2.mean(plane)[0] for plane in image) / 3
    grey = cv2.addWeighted(red, 0.299, green, 0.587, 0)
    cv2.addWeighted(grey, 1, blue, 0.114, 0, dst=grey)
    slope, constant = brightness * contrast, brightness * (1 - contrast) * mean
    for plane, done in zip(image, out, strict=True):
        cv2.addWeighted(plane, slope * saturation, grey, slope * (1 - saturation), constant, dst=done)
    return out

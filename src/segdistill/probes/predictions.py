"""Pictures to look at: a few fixed images, their labels, and what every model makes of them and gets wrong."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segdistill.data import readable
from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.prediction import predict
from segdistill.probes import Probe
from segdistill.types import IGNORE, Cell, ClassTable, Findings, Picture, Sample, Table

NARROWEST = 320
"""Pixels; smaller panels are enlarged, so that a person can see them."""
WRONG = (213, 0, 50)
VOID = (150, 150, 150)
CAPTION = 16
"""Pixels of a caption's letters."""
GAP = 8


@final
class Predictions(Probe):
    """The same `count` images every time, spread evenly over the split; for one that cannot be read, the next.

    Per image `<key>` it finds a montage `<key>` with captions (above: image, predictions; below: labels, what is wrong
    with each prediction), which also carries the class maps, and the panels one by one: `<key>/image`, `<key>/labels`,
    `<key>/<model>` and `<key>/<model> errors`. In an error map void is grey and everything that is right is pale. The
    table `classes` is the legend, the table `wrong` tells the share of wrong pixels per image and model.

    Args:
        count: images to look at.
        width: pixels; wider images are reduced to it, which keeps a run directory small.
    """

    def __init__(
        self, count: int = 4, width: int = 512, *, classes: ClassTable, input_size: tuple[int, int] | None
    ) -> None:
        if count < 1 or width < 16:
            raise Mistake(f"predictions: expected count >= 1 and width >= 16, got count {count} and width {width}")
        self.count, self.width = count, width
        self.classes, self.input_size = classes, input_size
        self.palette = classes.palette()
        self.named: set[str] = set()

    def __call__(self, models: Mapping[str, Model], dataset: Dataset) -> Findings:
        images: dict[str, Picture] = {}
        shares: list[list[Cell]] = []
        for sample in self._spread(dataset):
            pictures, wrong = self._look(models, sample)
            images |= pictures
            shares.append([sample.key, *(wrong.get(name) for name in models)])
        legend = Table(
            ("class", "colour"),
            [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(*self.classes, strict=True)],
        )
        return Findings(images=images, tables={"classes": legend, "wrong": Table(("sample", *models), shares)})

    def _spread(self, dataset: Dataset) -> Iterator[Sample]:
        total, count = len(dataset), min(self.count, len(dataset))
        tried: set[int] = set()

        def untried(first: int) -> Iterator[int]:
            for index in (*range(first, total), *range(first)):
                if index not in tried:
                    tried.add(index)
                    yield index

        for place in range(count):
            indices = untried((2 * place + 1) * total // (2 * count))
            yield from islice(readable(dataset, indices, {}, self.named), 1)

    def _look(self, models: Mapping[str, Model], sample: Sample) -> tuple[dict[str, Picture], dict[str, float]]:
        """The pictures of one sample, and the share of labelled pixels that each model gets wrong (if any is)."""
        photograph = _reduced(sample.image.permute(1, 2, 0).numpy(), self.width)
        labels = _reduced(sample.labels.numpy(), self.width)
        said: dict[str, np.ndarray] = {}
        wrong: dict[str, float] = {}
        for name, model in models.items():
            logits = predict(model, sample.image, size=self.input_size)
            full = logits.argmax(0).byte().cpu().numpy()
            counts = sample.labels.numpy() != IGNORE
            if counts.any():
                wrong[name] = float((full != sample.labels.numpy())[counts].mean())
            said[name] = _reduced(full, self.width)
        above = {"image": photograph} | {name: self.palette[classes] for name, classes in said.items()}
        below = {"labels": self.palette[labels]} | {
            f"{name} errors": error_map(photograph, labels, classes) for name, classes in said.items()
        }
        panels = {name: _enlarged(pixels) for name, pixels in (above | below).items()}
        captions = {f"{name} errors": f"{name}: {share:.1%} of pixels wrong" for name, share in wrong.items()}
        rows = [[(captions.get(name, name), panels[name]) for name in row] for row in (above, below)]
        montage = Picture(_montage(rows), masks={"labels": labels, **said}, photograph=photograph)
        parts = {f"{sample.key}/{name}": Picture(pixels) for name, pixels in panels.items()}
        return {sample.key: montage} | parts, wrong


def error_map(photograph: np.ndarray, labels: np.ndarray, said: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: the photograph, pale, with what is wrong in red and what has no label in grey."""
    light = 190 + photograph.mean(2, keepdims=True) * (60 / 255)
    wrong, void = (said != labels)[..., None], (labels == IGNORE)[..., None]
    return np.where(void, VOID, np.where(wrong, WRONG, light)).astype(np.uint8)


def _reduced(pixels: np.ndarray, width: int) -> np.ndarray:
    """No wider than `width`; class maps keep their values."""
    if pixels.shape[1] <= width:
        return pixels
    size = width, max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    way = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize(size, way))


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Each pixel a square of pixels, so that the panel is no narrower than a person needs."""
    times = -(-NARROWEST // pixels.shape[1])
    return pixels.repeat(times, 0).repeat(times, 1)


def _montage(rows: list[list[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Captioned panels of one size, in rows."""
    height, width = rows[0][0][1].shape[:2]
    font = ImageFont.load_default(size=CAPTION)
    strip = CAPTION + GAP
    across, down = width + GAP, height + strip + GAP
    canvas = Image.new("RGB", (GAP + across * len(rows[0]), GAP + down * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for j, row in enumerate(rows):
        for i, (caption, pixels) in enumerate(row):
            x, y = GAP + i * across, GAP + j * down
            draw.text((x, y), caption, fill=(30, 30, 30), font=font)
            canvas.paste(Image.fromarray(pixels), (x, y + strip))
    return np.asarray(canvas)

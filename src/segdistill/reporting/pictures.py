"""The same images as every experiment sees them, lined up: image and labels, then predictions over their errors."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from segdistill.reporting.cast import Group
from segdistill.reporting.verdict import percent
from segdistill.types import Findings

LARGEST = 9_000_000
"""Characters of pictures on a page; what exceeds them is left out, and the page says so."""


class Panel(NamedTuple):
    """A picture as a data URI; `about` is for those who cannot see it."""

    caption: str
    about: str
    source: str
    width: int
    height: int


class Sample(NamedTuple):
    """One image: columns of panels, the upper above the lower; None where an experiment did not look at it."""

    key: str
    columns: Sequence[Sequence[Panel | None]]


class Gallery(NamedTuple):
    samples: Sequence[Sample]
    left_out: int
    legend: Sequence[tuple[str, str]]
    """(class, colour)"""


def gallery(groups: Sequence[Group]) -> Gallery:
    """From the `predictions` of each experiment's first run."""
    found = [group.first.reading.predictions for group in groups]
    looks = {key: sum(key in findings.images for findings in found) for findings in found for key in _keys(findings)}
    keys = sorted(looks, key=lambda key: -looks[key])  # stable: what everybody looked at comes first
    samples: list[Sample] = []
    size = 0
    for key in keys:
        sample = _sample(key, groups)
        size += sum(len(panel.source) for column in sample.columns for panel in column if panel)
        if samples and size > LARGEST:
            break
        samples.append(sample)
    tables = [findings.tables["classes"] for findings in found if "classes" in findings.tables]
    legend = [(str(row[0]), str(row[1])) for row in tables[0].rows] if tables else []
    return Gallery(samples, len(keys) - len(samples), legend)


def data_uri(pixels: np.ndarray, is_photograph: bool) -> str:
    """WebP, without loss where colours mean classes."""
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "webp", lossless=not is_photograph, quality=82, method=4)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"


def _keys(findings: Findings) -> list[str]:
    """Of montages, that is of samples: a panel `a/b` is a part of the picture `a`."""
    return [name for name in findings.images if name.rpartition("/")[0] not in findings.images]


def _sample(key: str, groups: Sequence[Group]) -> Sample:
    findings = next(g.first.reading.predictions for g in groups if key in g.first.reading.predictions.images)
    columns = [
        (
            _panel(findings, f"{key}/image", "image", f"The image {key}", is_photograph=True),
            _panel(findings, f"{key}/labels", "labels", f"The labels of {key}"),
        )
    ]
    for group in groups:
        theirs, model = group.first.reading.predictions, group.first.model
        about = f"{group.name} on {key}"
        share = _wrong(theirs, key, model)
        errors = "errors" if share is None else f"{percent(share)} wrong"
        columns.append(
            (
                _panel(theirs, f"{key}/{model}", group.first.name, f"What {about} predicts"),
                _panel(theirs, f"{key}/{model} errors", errors, f"The errors of {about}", is_photograph=True),
            )
        )
    return Sample(key, [column for column in columns if any(column)])


def _wrong(findings: Findings, key: str, model: str) -> float | None:
    """The share of wrong pixels, where the probe tells it."""
    table = findings.tables.get("wrong")
    if table is None or model not in table.columns:
        return None
    shares = {row[0]: row[list(table.columns).index(model)] for row in table.rows}
    share = shares.get(key)
    return share if isinstance(share, float) else None


def _panel(findings: Findings, name: str, caption: str, about: str, is_photograph: bool = False) -> Panel | None:
    picture = findings.images.get(name)
    if picture is None:
        return None
    height, width = picture.pixels.shape[:2]
    return Panel(caption, about, data_uri(picture.pixels, is_photograph), width, height)

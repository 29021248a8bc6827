"""The page about what teachers say beyond the label, from the findings of the analysis `dark_knowledge`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segdistill.reporting import charts
from segdistill.reporting.pictures import data_uri
from segdistill.types import Cell, Findings, Table

SPLITS = {"train": "training crops", "val": "validation images"}
POOLED = "all"
SHOWN = 0.05
"""Shares from which a heat map says them in figures."""


class Column(NamedTuple):
    """A heading, and the line under it."""

    name: str
    unit: str = ""


class Shown(NamedTuple):
    """A table as text."""

    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[str]]]


class Panel(NamedTuple):
    caption: str
    source: str
    width: int
    height: int


class Match(NamedTuple):
    """One cell of a heat map: what it says, and how strong its colour is, 0…100."""

    text: str
    strength: int


class Heard(NamedTuple):
    """A voice: where its wrong classes' probability goes, how far it can be believed, and its classes."""

    name: str
    similarity: Sequence[tuple[str, Sequence[Match]]]
    reliability: Markup
    classes: Shown


def page(found: Findings, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """The page as one HTML file; arguments as those of the page about a data set."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    voices = [str(row[0]) for row in found.tables["voices"].rows]
    said = [(str(about), str(sentence)) for about, sentence in found.tables["advice"].rows]
    rows = found.tables["correlation"].rows
    return environment.get_template("dark_knowledge.html.jinja").render(
        title=title,
        sentence=_sentence(said, bool(found.tables["students"].rows)),
        advice=said,
        voices=voices,
        classes=[str(row[0]) for row in found.tables["classes"].rows],
        origins=found.tables["voices"].rows,
        measures=_measures(found.tables["measures"], MEASURES, ("whole",)),
        regions=_measures(found.tables["measures"], MEASURES, ("body", "boundary")),
        calibration=_measures(found.tables["measures"], CALIBRATION, ("whole",)),
        calibration_regions=_measures(found.tables["measures"], CALIBRATION, ("body", "boundary")),
        students=_shown(found.tables["students"], STUDENTS, "Experiment"),
        scatters=_scatters(found),
        correlations=[
            ("all temperatures" if t == POOLED else "no temperature" if t == "none" else f"temperature {t}",
             _correlations([row for row in rows if row[0] == t]))
            for t in dict.fromkeys(str(row[0]) for row in reversed(rows))
        ],
        fidelity=_shown(found.tables["fidelity"], FIDELITY, "Student"),
        sweep=_sweep(found.tables["sweep"], voices),
        gallery=_gallery(found, voices),
        scale=Markup(_scale()),
        top=f"{found.numbers['entropy_scale']:.2f}",
        heard=[_heard(found, voice, place) for place, voice in enumerate(voices)],
        similar=[row for row in found.tables["similar"].rows if row[2] == "train"],
        confused=found.tables["confused"].rows,
        number=_number,
        plain=_plain,
        crops=int(found.numbers["crops"]),
        images=int(found.numbers["images"]),
        reach=100 * found.numbers["boundary"],
        facts=facts,
    )  # fmt: skip


def _sentence(said: Sequence[tuple[str, str]], has_students: bool) -> str:
    """What the gains say; where there are none, what the voices do."""
    wanted = "gain" if has_students else "dark knowledge"
    sentence = next(text for about, text in said if about == wanted)
    return sentence[0].upper() + sentence[1:]


def _number(cell: Cell) -> str:
    """`0.123`, `12.3`, – where unknown."""
    if not isinstance(cell, int | float):
        return "–" if cell is None else cell
    if isinstance(cell, int) or not cell:
        return f"{cell:,.0f}"
    return (f"{cell:.1e}" if abs(cell) < 0.001 else f"{cell:.3f}" if abs(cell) < 10 else f"{cell:.1f}").replace(
        "-", "−"
    )


def _plain(cell: Cell) -> str:
    return f"{cell:g}" if isinstance(cell, int | float) else "–"


def _points(cell: Cell) -> str:
    """A share in per cent."""
    return f"{100 * cell:.1f}" if isinstance(cell, int | float) else "–"


def _signed(cell: Cell) -> str:
    """A difference of shares in points."""
    if not isinstance(cell, int | float):
        return "–"
    text = f"{100 * cell:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def _rank(cell: Cell) -> str:
    return f"{cell:+.2f}".replace("-", "−") if isinstance(cell, int | float) else "–"


Format = Mapping[str, tuple[str, str, Callable[[Cell], str]]]
"""Column of a table -> its heading, the unit under it, and how its cells are written; other columns are left out."""

MEASURES: Format = {
    "mean_iou": ("mIoU", "%", _points),
    "entropy": ("Entropy", "nats", _number),
    "entropy_share": ("Entropy", "of ln K, %", _points),
    "entropy_by_class": ("Entropy", "mean of classes", _number),
    "binary": ("H of p(true)", "nats", _number),
    "dark": ("D", "nats", _number),
    "dark_right": ("D, right", "nats", _number),
    "dark_wrong": ("D, wrong", "nats", _number),
    "wrong_mass": ("Wrong mass", "%", _points),
    "wrong_entropy_share": ("Wrong-class entropy", "of ln(K − 1), %", _points),
    "variation": ("Variation", "within a class", _number),
    "row_entropy": ("Row entropy", "nats", _number),
    "mutual_information": ("Information", "nats", _number),
}
CALIBRATION: Format = {
    "accuracy": ("Right", "% of pixels", _points),
    "nll": ("NLL", "nats", _number),
    "brier": ("Brier", "", _number),
    "ece": ("ECE", "%", _points),
    "adaptive_ece": ("ECE", "adaptive, %", _points),
    "classwise_ece": ("ECE", "class-wise, %", _points),
}
BY_CLASS: Format = {
    "pixels": ("Pixels", "", _number),
    "entropy": ("Entropy", "nats", _number),
    "dark": ("D", "nats", _number),
    "wrong_mass": ("Wrong mass", "%", _points),
    "wrong_entropy": ("Wrong-class entropy", "nats", _number),
    "variation": ("Variation", "", _number),
    "row_entropy": ("Row entropy", "nats", _number),
}
STUDENTS: Format = {
    "voice": ("Voice", "", _number),
    "temperature": ("T", "of the loss", _plain),
    "seeds": ("Seeds", "", _number),
    "mean_iou": ("mIoU", "%", _points),
    "baseline": ("On labels", "mIoU, %", _points),
    "gain": ("Gain", "points", _signed),
    "low": ("From", "95 %", _signed),
    "high": ("To", "95 %", _signed),
    "kl": ("KL", "nats", _number),
    "agreement": ("Agreement", "%", _points),
    "gap": ("Entropy gap", "nats", _number),
}
FIDELITY: Format = {
    "voice": ("Voice", "", _number),
    "kl": ("KL", "nats", _number),
    "agreement": ("Agreement", "%", _points),
    "gap": ("Entropy gap", "nats", _number),
}
CORRELATION: Format = {
    "split": ("On", "", lambda cell: SPLITS[str(cell)]),
    "voices": ("Voices", "", _number),
    "rank_correlation": ("Rank correlation", "", _rank),
    "chance": ("Chance", "exceeds in 5 %", _number),
    "share_of_permutations": ("As strong", "% of permutations", _points),
}
SWEPT = {
    "entropy": ("train", "entropy, nats"),
    "wrong_entropy": ("train", "wrong-class entropy, nats"),
    "dark": ("train", "D, nats"),
    "nll": ("val", "NLL, nats"),
    "ece": ("val", "ECE"),
}
"""Column -> the split it is shown of, and what it is called."""
SCATTERED = {
    "entropy": ("train", "entropy on training crops, nats"),
    "dark": ("train", "D on training crops, nats"),
    "row_entropy": ("train", "row entropy on training crops, nats"),
    "nll": ("val", "NLL on validation images, nats"),
}


def _shown(table: Table, form: Format, first: str) -> Shown:
    place = {column: index for index, column in enumerate(table.columns)}
    rows = [(str(row[0]), [write(row[place[key]]) for key, (*_, write) in form.items()]) for row in table.rows]
    return Shown([Column(first), *(Column(name, unit) for name, unit, _ in form.values())], rows)


def _measures(table: Table, form: Format, regions: Sequence[str]) -> list[tuple[str, Shown]]:
    """(split, voices downwards); where there are several regions, each with its own row."""
    shown: list[tuple[str, Shown]] = []
    for split, text in SPLITS.items():
        rows = [row for row in table.rows if row[1] == split and row[2] in regions]
        if len(regions) > 1:
            rows = [[f"{row[0]}, {row[2]}", *row[1:]] for row in rows]
        shown.append((text, _shown(Table(table.columns, rows), form, "Voice")))
    return shown


def _correlations(rows: Sequence[Sequence[Cell]]) -> Shown:
    """The strongest first."""
    ordered = sorted(rows, key=lambda row: -abs(float(row[4] or 0)))
    named = [[str(row[2]).replace("_", " "), row[1], *row[3:]] for row in ordered]
    columns = ("measure", "split", "voices", "rank_correlation", "chance", "share_of_permutations")
    return _shown(Table(columns, named), CORRELATION, "Measure")


def _scatters(found: Findings) -> list[tuple[Markup, str]]:
    """Mean gain of a voice's students against some of its measures, and the measure's name; from three voices on."""
    gains: dict[str, list[float]] = {}
    for row in found.tables["students"].rows:
        gains.setdefault(str(row[1]), []).append(100 * float(row[6] or 0))
    if len(gains) < 3:
        return []
    shown: list[tuple[Markup, str]] = []
    for key, (split, label) in SCATTERED.items():
        points = [
            charts.Point(voice, found.numbers[f"{voice}/{split}/{key}"], float(np.mean(values)), is_sure=False)
            for voice, values in gains.items()
        ]
        shown.append((Markup(charts.scatter(f"gain-{key}", points, "mean gain, points of mIoU", label)), label))
    return shown


def _sweep(table: Table, voices: Sequence[str]) -> list[tuple[Markup, str]]:
    """Each measure over the temperature; nothing where only one was asked for."""
    columns = list(table.columns)
    if len({row[2] for row in table.rows}) < 2:
        return []
    shown: list[tuple[Markup, str]] = []
    for key, (split, label) in SWEPT.items():
        series = [
            [(float(row[2] or 0), float(row[columns.index(key)] or 0)) for row in table.rows
             if row[0] == voice and row[1] == split]
            for voice in voices
        ]  # fmt: skip
        title = f"{label}, {SPLITS[split]}"
        shown.append((Markup(charts.curves(f"sweep-{key}", series, title, "temperature")), title))
    return shown


def _heard(found: Findings, voice: str, place: int) -> Heard:
    bins = [[float(cell or 0) for cell in row] for row in found.tables[f"reliability/{voice}"].rows]
    confidence, accuracy, share = (list(column) for column in zip(*bins, strict=True))
    return Heard(
        voice,
        _similarity(found.tables[f"similarity/{voice}/train"]),
        Markup(charts.reliability(f"reliability-{place}", confidence, accuracy, share)),
        _shown(found.tables[f"by_class/{voice}/train"], BY_CLASS, "Class"),
    )


def _similarity(table: Table) -> list[tuple[str, list[Match]]]:
    """Rows of the heat map; in every colour the text can be read."""
    return [
        (str(row[0]), [Match(f"{100 * share:.0f}" if share >= SHOWN else "", round(55 * share))
                       for share in (float(cell or 0) for cell in row[1:])])
        for row in table.rows
    ]  # fmt: skip


def _gallery(found: Findings, voices: Sequence[str]) -> list[tuple[str, list[Panel]]]:
    """(image, photograph and entropies)."""
    shown: list[tuple[str, list[Panel]]] = []
    for name in found.images:
        start, _, last = name.rpartition("/")
        if last != "image" or not start.startswith("entropy/"):
            continue
        panels = [(what, found.images[f"{start}/{what}"].pixels) for what in ("image", *voices)]
        drawn = [Panel(what, data_uri(p, what == "image"), p.shape[1], p.shape[0]) for what, p in panels]
        shown.append((start.removeprefix("entropy/"), drawn))
    return shown


def _scale() -> str:
    """The pictures' colours from left to right, as CSS."""
    colours = (mpl.colormaps["magma"](np.linspace(0, 1, 9))[:, :3] * 255).round().astype(int)
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colours.tolist())

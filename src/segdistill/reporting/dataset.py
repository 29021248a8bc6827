"""The page about a data set, from the findings of the analysis `dataset`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segdistill.reporting import charts
from segdistill.reporting.pictures import data_uri
from segdistill.types import Cell, Findings, Table

ALL = "all"


class Column(NamedTuple):
    """A heading, and the line under it."""

    name: str
    unit: str = ""


class Shown(NamedTuple):
    """A table as text: classes' rows carry their colour."""

    columns: Sequence[Column]
    rows: Sequence[tuple[str, str | None, Sequence[str]]]


class Map(NamedTuple):
    name: str
    source: str
    caption: str


class Match(NamedTuple):
    """One cell of a heat map: what it says, and how strong its colour is, 0…100."""

    text: str
    strength: int


def page(found: Findings, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """The page as one HTML file.

    Args:
        title: what was analysed, as the recipe's path.
        facts: (name, text) of where the numbers come from.
    """
    colours = {str(name): str(colour) for name, colour in found.tables["classes"].rows}
    splits = [str(row[0]) for row in found.tables["splits"].rows]
    own = [split for split in splits if split != ALL]
    whole = splits[-1]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("dataset.html.jinja").render(
        title=title,
        sentence=_sentence(found, own),
        advice=found.tables["advice"].rows,
        splits=own,
        summary=_shown(found.tables["splits"], SPLITS),
        frequency_chart=Markup(_frequency_chart(found, own)),
        frequency=_frequency(found, own, colours),
        shifts=[_shift(found, other, own[0]) for other in own[1:]],
        maps=_maps(found, whole),
        names=list(colours),
        together=_together(found.tables[f"together/{whole}"]),
        objects=_shown(found.tables[f"objects/{whole}"], OBJECTS, colours),
        boundary=_shown(found.tables["boundary"], {s: (s, "%", _percent) for s in splits}, colours),
        light=Markup(_light(found.tables["luminance"], own)),
        channels=_shown(found.tables["channels"], CHANNELS),
        duplicates=[_duplicates(found, other, own[0]) for other in own[1:]],
        bits=int(found.numbers["duplicate_bits"]),
        reach=100 * found.numbers["boundary"],
        attributes=_attributes(found, colours),
        weights=_shown(found.tables["weights"], WEIGHTS, colours),
        crops=_shown(found.tables["crops"], CROPS, colours),
        facts=facts,
    )


def _percent(cell: Cell) -> str:
    """Of a share: `31.2`, `0.04`, `0`, – where unknown."""
    if not isinstance(cell, int | float):
        return "–" if cell is None else cell
    points = 100 * cell
    if points in (0, 100):
        return f"{points:.0f}"
    return f"{points:.1f}" if points >= 0.95 else f"{points:.2g}" if points >= 0.001 else "<0.001"


def _number(cell: Cell) -> str:
    """`1,234`, `12.3`, `0.123`."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.3g}"
    return "–" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell


Format = Mapping[str, tuple[str, str, Callable[[Cell], str]]]
"""Column of a table -> its heading, the unit under it, and how its cells are written; other columns are left out."""

SPLITS: Format = {
    "images": ("Images", "", _number),
    "unlabelled": ("Unlabelled", "", _number),
    "size": ("Size", "height×width", _number),
    "void": ("Void", "% of pixels", _percent),
    "boundary": ("Near a boundary", "% of labelled", _percent),
    "luminance": ("Luminance", "mean, 0…255", _number),
    "contrast": ("Contrast", "deviation", _number),
    "dark": ("Dark", "% of images", _percent),
    "near-duplicates": ("Near-duplicates", "% have one inside", _percent),
}
OBJECTS: Format = {
    "objects": ("Objects", "", _number),
    "an image": ("An image", "", _number),
    "specks": ("Specks", "% of objects", _percent),
    "10 %": ("10 %", "pixels a side", _number),
    "50 %": ("50 %", "pixels a side", _number),
    "90 %": ("90 %", "pixels a side", _number),
    "50 % at the input": ("50 % at the input", "pixels a side", _number),
}
WEIGHTS: Format = {
    "inverse": ("inverse", "", _number),
    "median_frequency": ("median frequency", "", _number),
    "enet": ("enet", "", _number),
    "erfnet": ("erfnet", "", _number),
    "effective_number": ("effective number", "", _number),
    "rare_class looks for it": ("rare class", "% of draws", _percent),
}
CROPS: Format = {"kind": ("Kind", "", _number)} | {f"{n} %": (f"{n} %", "", _percent) for n in range(10, 101, 10)}
CHANNELS: Format = {
    f"{colour} {moment}": (colour.capitalize(), moment, _number)
    for colour in ("red", "green", "blue")
    for moment in ("mean", "deviation")
}


def _shown(table: Table, form: Format, colours: Mapping[str, str] | None = None) -> Shown:
    place = {column: index for index, column in enumerate(table.columns)}
    columns = [Column("Class" if colours else "Split"), *(Column(name, unit) for name, unit, _ in form.values())]
    rows = [
        (str(row[0]), (colours or {}).get(str(row[0])), [write(row[place[key]]) for key, (*_, write) in form.items()])
        for row in table.rows
    ]
    return Shown(columns, rows)


def _sentence(found: Findings, splits: Sequence[str]) -> str:
    """What there is, in one sentence."""
    counts = [f"{found.numbers[f'{split}/images']:,.0f} in {split}" for split in splits]
    column = list(found.tables["frequency"].columns).index(f"{splits[0]} share")
    known = sorted((float(row[column] or 0), str(row[0])) for row in found.tables["frequency"].rows if row[column])
    said = f"Images: {' and '.join(counts)}; {len(found.tables['classes'].rows)} classes"
    if not known:
        return f"{said}, none of them labelled in {splits[0]}."
    (least, rarest), (most, commonest) = known[0], known[-1]
    return f"{said}: {commonest} has {_percent(most)} % of the labelled pixels, {rarest} {_percent(least)} %."


def _frequency(found: Findings, splits: Sequence[str], colours: Mapping[str, str]) -> Shown:
    form: dict[str, tuple[str, str, Callable[[Cell], str]]] = {}
    for split in splits:
        form[f"{split} share"] = (split, "% of pixels", _percent)
        form[f"{split} images"] = (split, "% of images", _percent)
    return _shown(found.tables["frequency"], form, colours)


def _frequency_chart(found: Findings, splits: Sequence[str]) -> str:
    """Classes by their share in the first split, the most frequent first."""
    table = found.tables["frequency"]
    columns = [list(table.columns).index(f"{split} share") for split in splits]
    rows = sorted(table.rows, key=lambda row: -float(row[columns[0]] or 0))
    values = [[100 * float(row[column] or 0) for row in rows] for column in columns]
    return charts.dots("frequency", [str(row[0]) for row in rows], values, "share of the labelled pixels, %")


def _shift(found: Findings, other: str, train: str) -> tuple[str, Markup, float]:
    """(split, picture, total variation in per cent)."""
    rows = found.tables[f"shift/{other}"].rows
    values = [
        charts.Interval(*(100 * float(row[3] or 0) if cell is None else 100 * float(cell) for cell in row[3:6]))
        for row in rows
    ]
    unit = f"share in {other} minus share in {train}, points"
    picture = charts.intervals(f"shift-{other}", [str(row[0]) for row in rows], values, unit)
    return other, Markup(picture), 100 * found.numbers[f"{other}/total_variation"]


def _maps(found: Findings, split: str) -> list[Map]:
    most = {str(row[0]): row[1] for row in found.tables["where"].rows}
    return [
        Map(name, data_uri(found.images[f"where/{split}/{name}"].pixels, is_photograph=False), _percent(share))
        for name, share in most.items()
        if share
    ]


def _together(table: Table) -> list[tuple[str, list[Match]]]:
    """Rows of the heat map; the weakest colour still lets the text be read, and so does the strongest."""
    return [
        (
            str(row[0]),
            [
                Match("–" if cell is None else f"{100 * float(cell):.0f}", round(45 * float(cell or 0)))
                for cell in row[1:]
            ],
        )
        for row in table.rows
    ]


def _light(table: Table, splits: Sequence[str]) -> str:
    """Each split's images by mean luminance, in per cent of its images."""
    edges = [float(row[0] or 0) for row in table.rows]
    series: list[list[float]] = []
    for column in range(1, 1 + len(splits)):
        counts = [float(row[column] or 0) for row in table.rows]
        series.append([100 * count / max(1.0, sum(counts)) for count in counts])
    return charts.steps("light", [*edges, 256.0], series, "images, %", "mean luminance of the image")


class Copies(NamedTuple):
    """Near-duplicates of a split in the training split."""

    split: str
    train: str
    share: str
    pairs: Sequence[tuple[str, str, str]]
    pictures: Sequence[Map]


def _duplicates(found: Findings, other: str, train: str) -> Copies:
    start = f"duplicates/{other}/"
    pictures = [
        Map(name.removeprefix(start), data_uri(picture.pixels, is_photograph=True), name.removeprefix(start))
        for name, picture in found.images.items()
        if name.startswith(start)
    ]
    pairs = [(str(one), str(two), str(bits)) for one, two, bits in found.tables[f"duplicates/{other}"].rows]
    return Copies(other, train, _percent(found.numbers[f"{other}/near_duplicates_of_{train}"]), pairs, pictures)


def _attributes(found: Findings, colours: Mapping[str, str]) -> list[tuple[str, Shown, Shown]]:
    """(attribute, its values over the splits, classes' shares under each value)."""
    if "attributes" not in found.tables:
        return []
    table = found.tables["attributes"]
    shown: list[tuple[str, Shown, Shown]] = []
    for name in dict.fromkeys(str(row[0]) for row in table.rows):
        values = Table(table.columns[1:], [row[1:] for row in table.rows if row[0] == name])
        one = _shown(values, {column: (column, "", _number) for column in values.columns[1:]})
        by_class = found.tables[f"attributes/{name}"]
        two = _shown(by_class, {column: (column, "% of pixels", _percent) for column in by_class.columns[1:]}, colours)
        shown.append((name, one._replace(columns=[Column(name), *one.columns[1:]]), two))
    return shown

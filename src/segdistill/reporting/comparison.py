"""The page about a study: what each arm is worth, by class and by other measures, what it cost, how to repeat it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segdistill.reporting import charts
from segdistill.run import Run, provenance
from segdistill.standings import Told
from segdistill.study import Job
from segdistill.types import Cell, Table

NAMES = {
    "mean_boundary_iou": "Boundary IoU",
    "ece": "ECE",
    "adaptive_ece": "ECE, adaptive",
    "classwise_ece": "ECE, class-wise",
    "nll": "NLL",
    "brier": "Brier",
    "frequency_weighted_iou": "Frequency-weighted IoU",
    "pixel_accuracy": "Pixel accuracy",
    "entropy": "Entropy",
}
"""In this order, before whatever else was measured."""
BETTER = {
    **dict.fromkeys(("mean_boundary_iou", "frequency_weighted_iou", "pixel_accuracy"), 1),
    **dict.fromkeys(("nll", "brier", "ece", "adaptive_ece", "classwise_ece"), -1),
}
"""1: more is better, -1: less is; of others nobody can say."""
VERDICTS = {"better": ("up", 2), "worse": ("down", 1)}
"""How it is written, and its series in charts."""
LONG = 160
"""Letters of a heading."""

Facts = Sequence[tuple[str, str]]
Record = Mapping[str, Cell]


class Shown(NamedTuple):
    """A cell: text, how it is written, and a second line."""

    text: str
    kind: str = ""
    below: str = ""
    heat: int = 0
    """Per cent of the colour."""


class Row(NamedTuple):
    name: str
    cells: Sequence[Shown]


class Made(NamedTuple):
    """A run."""

    name: str
    seed: str
    cells: Sequence[Shown]
    links: Sequence[tuple[str, str]]
    command: str


def page(told: Told, title: str, folder: Path, facts: Facts, beside: Mapping[str, str]) -> str:
    """The page as one HTML file, for the study's folder.

    Args:
        title: the study's name.
        facts: (name, text) of where all this comes from.
        beside: name -> path of other pages, relative to the folder.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    everything = _records(told.arms)
    arms = [row for row in everything if row["arm"] not in told.teachers]
    taught = [row for row in everything if row["arm"] in told.teachers]
    networks = [str(row["arm"]) for row in everything]
    names = {
        (row["arm"], row["network"]): str(row["arm"])
        if networks.count(str(row["arm"])) == 1
        else f"{row['arm']} · {row['network']}"
        for row in everything
    }
    columns, measures = _measures(told, names)
    heat, past, compared = _heat(told, names)
    classes = sorted(dict.fromkeys(str(row[2]) for row in told.classes.rows), key=lambda c: -told.shares.get(c, 0.0))
    return environment.get_template("comparison.html.jinja").render(
        title=title,
        baseline=told.baseline,
        heading=_heading(told),
        sentences=told.sentences,
        arms=[_arm(row, names) for row in arms],
        gains=_gains(told, names),
        costs=_costs(arms, names),
        classes=[(name, _share(told.shares.get(name))) for name in classes],
        heat=heat,
        past=past,
        compared=compared,
        chance=f"{compared / 20:.0f}",
        columns=columns,
        measures=measures,
        teachers=[_teacher(row, names, told.teachers[str(row["arm"])]) for row in taught],
        runs=[_run(row, names, folder) for row in _records(told.runs)],
        beside={name: quote(path) for name, path in beside.items()},
        facts=facts,
    )


def _heading(told: Told) -> str:
    """The verdict, or where it names many arms how many they are."""
    first = told.sentences[0]
    if len(first) <= LONG:
        return first
    counts = [(sum(gain.verdict == what for gain in told.gains), what) for what in ("better", "worse", "not decided")]
    return f"Against {told.baseline}: {', '.join(f'{count} {what}' for count, what in counts)}."


def facts(todo: Sequence[Job]) -> Facts:
    """Where a comparison comes from: this command, and what the runs tell of themselves."""
    now, infos = provenance(seed=0), [Run(job.run).info() for job in todo]
    dates = sorted(str(info["date"]) for info in infos if "date" in info)
    found = [(name, str(now[name])) for name in ("command", "date", "commit")]
    found += [("runs", f"{len(infos)}, begun {dates[0]} to {dates[-1]}" if dates else str(len(infos)))]
    for name, key in (("commits", "commit"), ("threads", "threads"), ("versions", "versions"), ("hosts", "host")):
        said = dict.fromkeys(_plain(info[key]) for info in infos if key in info)
        found += [(f"{name} of the runs", "; ".join(said))] if said else []
    return found


def _plain(value: object) -> str:
    return ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, Mapping) else str(value)  # pyright: ignore[reportUnknownVariableType]


def _records(table: Table) -> list[Record]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _arm(row: Record, names: Mapping[tuple[Cell, Cell], str]) -> Row:
    verdict = str(row["verdict"] or "")
    kind = VERDICTS[verdict][0] if verdict in VERDICTS else ""
    ends = f"{_number(row['from %'], 0)} … {_number(row['to %'], 0)}" if row["from %"] is not None else ""
    cells = [
        Shown(str(row["seeds"])),
        Shown(_number(row["mIoU %"]), below=_half(row["±"])),
        Shown(_signed(row["gain"]), kind, _half(row["± gain"])),
        Shown(verdict or "–", kind or "absent"),
        Shown(_number(row["recovered %"], 0), below=ends),
        Shown(_number(row["best mIoU %"]), "absent"),
        Shown(_signed(row["best gain"]), "absent", _half(row["± best gain"])),
        Shown(_number(row["minutes"], 1)),
        Shown(_number(row["teacher %"], 0)),
    ]
    return Row(names[row["arm"], row["network"]], cells)


def _teacher(row: Record, names: Mapping[tuple[Cell, Cell], str], taught: Sequence[str]) -> Row:
    cells = [Shown(_number(row["mIoU %"])), Shown(_number(row["best mIoU %"])), Shown(_number(row["minutes"], 1))]
    return Row(names[row["arm"], row["network"]], [*cells, Shown(", ".join(dict.fromkeys(taught)) or "–")])


def _gains(told: Told, names: Mapping[tuple[Cell, Cell], str]) -> Markup | None:
    if not told.gains:
        return None
    rows = [names[each.arm, each.network] for each in told.gains]
    estimates = [
        charts.Estimate(each.mean, each.half, list(each.by_seed.values()), VERDICTS.get(each.verdict or "", ("", 0))[1])
        for each in told.gains
    ]
    return Markup(charts.forest("gains", rows, estimates, f"gain in mIoU over {told.baseline}, points"))


def _costs(arms: Sequence[Record], names: Mapping[tuple[Cell, Cell], str]) -> Markup | None:
    points = [
        charts.Point(names[row["arm"], row["network"]], float(minutes), float(iou), row["verdict"] in VERDICTS)
        for row in arms
        if isinstance(minutes := row["minutes"], int | float) and isinstance(iou := row["mIoU %"], int | float)
    ]
    return Markup(charts.costs("costs", points, "mIoU, %", "minutes of a run")) if len(points) > 1 else None


def _heat(told: Told, names: Mapping[tuple[Cell, Cell], str]) -> tuple[list[Row], int, int]:
    """The classes' gains, the most frequent class first; how many are past their ±, and of how many."""
    rows = [row for row in _records(told.classes) if row["arm"] not in told.teachers]
    known = [row for row in rows if isinstance(row["gain"], float) and isinstance(row["± gain"], float)]
    largest = max((abs(float(row["gain"] or 0)) for row in rows), default=0.0)
    by_network: dict[tuple[Cell, Cell], list[Record]] = {}
    for row in sorted(rows, key=lambda row: -told.shares.get(str(row["class"]), 0.0)):
        by_network.setdefault((row["arm"], row["network"]), []).append(row)
    found: list[Row] = []
    for key in (key for key in names if key in by_network):
        compares = any(row["gain"] is not None for row in by_network[key])
        cells = [_class(row, largest, compares) for row in by_network[key]]
        found.append(Row(names[key] if compares else f"{names[key]}, IoU %", cells))
    return found, sum(_is_past(row) for row in known), len(known)


def _class(row: Record, largest: float, compares: bool) -> Shown:
    if not compares:
        return Shown(_number(row["IoU %"], 1), "absent")
    gain = row["gain"]
    if not isinstance(gain, int | float):
        return Shown("–", "absent")
    sign = "more" if gain > 0 else "less"
    past = " sure" if _is_past(row) else ""
    return Shown(
        _signed(gain, 1), sign + past, _half(row["± gain"], 1), round(45 * abs(gain) / largest) if largest else 0
    )


def _is_past(row: Record) -> bool:
    gain, half = row["gain"], row["± gain"]
    return isinstance(gain, int | float) and isinstance(half, int | float) and abs(gain) > half


def _measures(told: Told, names: Mapping[tuple[Cell, Cell], str]) -> tuple[list[tuple[str, str]], list[Row]]:
    """(name, which way is better) of each, and a row for each network of each arm."""
    rows = [row for row in _records(told.measures) if row["arm"] not in told.teachers]
    there = dict.fromkeys(str(row["measure"]) for row in rows)
    kinds = [kind for kind in NAMES if kind in there] + [kind for kind in there if kind not in NAMES]
    ways = {1: "more is better", -1: "less is better", 0: ""}
    found: list[Row] = []
    for key, name in names.items():
        own = {str(row["measure"]): row for row in rows if (row["arm"], row["network"]) == key}
        if own:
            found.append(Row(name, [_measure(own.get(kind), BETTER.get(kind, 0)) for kind in kinds]))
    return [(NAMES.get(kind, kind.replace("_", " ")), ways[BETTER.get(kind, 0)]) for kind in kinds], found


def _measure(row: Record | None, way: int) -> Shown:
    if row is None:
        return Shown("–", "absent")
    gain = row["gain"]
    below = f"{_signed(gain, 4)} {_half(row['± gain'], 4)}".strip() if gain is not None else ""
    kind = ""
    if way and _is_past(row) and isinstance(gain, int | float):
        kind = "below up" if gain * way > 0 else "below down"
    return Shown(f"{_number(row['value'], 4)} {_half(row['±'], 4)}".strip(), kind, below)


def _run(row: Record, names: Mapping[tuple[Cell, Cell], str], folder: Path) -> Made:
    run = Path(str(row["run"]))
    seconds = row["seconds"]
    minutes = seconds / 60 if isinstance(seconds, int | float) else None
    ious = [100 * iou if isinstance(iou := row[key], int | float) else None for key in ("mean_iou", "best_mean_iou")]
    cells = [Shown(_number(ious[0])), Shown(_number(ious[1]), "absent"), Shown(_number(minutes, 1))]
    places = {
        "run": run,
        "log.jsonl": Run(run).log_file,
        "output": folder / "logs" / run.parent.name / f"{run.name}.log",
    }
    links = [(what, quote(os.path.relpath(place, folder))) for what, place in places.items() if place.exists()]
    return Made(names[row["arm"], row["network"]], str(row["seed"]), cells, links, str(row["command"]))


def _number(value: Cell, digits: int = 2) -> str:
    """With a proper minus sign, and never `−0`."""
    if not isinstance(value, int | float):
        return "–"
    text = f"{value:,.{digits}f}"
    return (text.removeprefix("-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def _signed(value: Cell, digits: int = 2) -> str:
    if not isinstance(value, int | float):
        return "–"
    text = _number(value, digits)
    return text if text.startswith("−") or not text.strip("0.") else f"+{text}"


def _half(value: Cell, digits: int = 2) -> str:
    return f"± {_number(value, digits)}" if value is not None else ""


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if value >= 0.0095 else f"{100 * value:.2g} %"

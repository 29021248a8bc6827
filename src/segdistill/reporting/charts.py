"""Charts of classes and of data as SVG for a page in the style of the curves: dots, intervals, steps, points, lines."""

import io
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from segdistill.reporting.plots import COLOURS, INK, LINE, MARKERS, SERIES, STYLE, for_the_page

ROW = 0.23
"""Inches of a class."""


class Interval(NamedTuple):
    """A value and the interval around it."""

    value: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A mean, half of its interval where there is one, and what it is the mean of."""

    mean: float
    half: float | None
    values: Sequence[float]
    series: int
    """Chooses the colour."""


class Point(NamedTuple):
    """A named point; `is_sure` when its height is surely not zero."""

    name: str
    across: float
    up: float
    is_sure: bool


def dots(name: str, rows: Sequence[str], series: Sequence[Sequence[float | None]], unit: str) -> str:
    """A row per class with one dot per series, on a logarithmic scale; what is 0 or absent has no dot."""
    with _axes(name, (5.4, 0.75 + ROW * len(rows))) as (_, axes, drawn):
        for place, values in enumerate(series):
            known = [(v, i) for i, v in enumerate(values) if v]
            if known:
                across, up = zip(*known, strict=True)
                colour, marker = SERIES[place % COLOURS], MARKERS[place % COLOURS]
                axes.plot(across, up, color=colour, marker=marker, linestyle="", markersize=4.5)
        _logarithmic(axes)
        _rows(axes, rows, unit)
        return drawn()


def intervals(name: str, rows: Sequence[str], values: Sequence[Interval | None], unit: str) -> str:
    """A row per class: its value, its interval, and a line at zero. What is surely not zero is filled."""
    with _axes(name, (5.4, 0.75 + ROW * len(rows))) as (_, axes, drawn):
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, interval in enumerate(values):
            if interval is None:
                continue
            value, low, high = interval
            sure = (low > 0 or high < 0) and low < high  # a value alone has no interval
            colour = SERIES[2] if sure else SERIES[0]
            axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
            axes.plot([value], [place], color=colour, marker="o", markersize=4.5 if sure else 3)
        _rows(axes, rows, unit)
        return drawn()


def forest(name: str, rows: Sequence[str], values: Sequence[Estimate], unit: str) -> str:
    """A row for each mean: its interval, a dot for every value, a larger one for the mean, and a line at zero.

    Intervals that are far wider than the values are apart end at the frame, with an arrow.
    """
    with _axes(name, (6.4, 0.75 + ROW * len(rows))) as (_, axes, drawn):
        seen = [abs(value) for each in values for value in (each.mean, *each.values)]
        ends = max((abs(each.mean) + (each.half or 0.0) for each in values), default=0.0)
        edge = 1.05 * (min(ends, 3 * max(seen)) if any(seen) else ends) or 1.0
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, (mean, half, each, series) in enumerate(values):
            colour = SERIES[series % COLOURS]
            low, high = (max(-edge, mean - (half or 0)), min(edge, mean + (half or 0)))
            axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
            for at, marker in ((low, "<"), (high, ">")):
                if abs(at) == edge:
                    axes.plot([at], [place], color=colour, marker=marker, markersize=4, clip_on=False)
            axes.plot(
                each, [place] * len(each), color=colour, marker="o", linestyle="", markersize=3.5, fillstyle="none"
            )
            axes.plot([mean], [place], color=colour, marker="o", markersize=5)
        axes.set_xlim(-edge, edge)
        axes.tick_params("y", pad=8)  # room for arrows
        _rows(axes, rows, unit)
        return drawn()


def costs(name: str, points: Sequence[Point], unit: str, label: str) -> str:
    """Named points, both axes about as long as they need."""
    with _axes(name, (6.4, 3.6)) as (figure, axes, drawn):
        for point in points:
            colour = SERIES[2] if point.is_sure else SERIES[0]
            axes.plot([point.across], [point.up], color=colour, marker="o", markersize=4.5 if point.is_sure else 3)
        axes.margins(x=0.15, y=0.12)
        axes.set_title(unit, loc="left", fontsize=9)
        axes.set_xlabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", linewidth=0.6)
        _name(figure, axes, points)
        return drawn()


def steps(name: str, edges: Sequence[float], series: Sequence[Sequence[float]], unit: str, label: str) -> str:
    """Histograms over the same bins; `edges` has one number more than each of them."""
    with _axes(name, (5.4, 2.3)) as (_, axes, drawn):
        for place, values in enumerate(series):
            axes.stairs(values, edges, color=SERIES[place % COLOURS], linewidth=1.6)
        axes.set_title(unit, loc="left", fontsize=9)
        axes.set_xlabel(label)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y", linewidth=0.6)
        return drawn()


def scatter(name: str, points: Sequence[Point], unit: str, label: str, is_logarithmic: bool = False) -> str:
    """Named points and a line at zero."""
    with _axes(name, (5.4, 3.2)) as (figure, axes, drawn):
        axes.axhline(0, color=INK, linewidth=0.8)
        for point in points:
            colour = SERIES[2] if point.is_sure else SERIES[0]
            axes.plot([point.across], [point.up], color=colour, marker="o", markersize=4.5 if point.is_sure else 3)
        if is_logarithmic:
            _logarithmic(axes)
        axes.margins(x=0.12, y=0.12)
        axes.set_title(unit, loc="left", fontsize=9)
        axes.set_xlabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", linewidth=0.6)
        _name(figure, axes, points)
        return drawn()


def curves(name: str, series: Sequence[Sequence[tuple[float, float]]], unit: str, label: str) -> str:
    """Lines through few points, over a logarithmic scale; those after the colours' last are dashed."""
    with _axes(name, (3.4, 2.5)) as (_, axes, drawn):
        for place, points in enumerate(series):
            across, up = zip(*points, strict=True)
            colour, marker = SERIES[place % COLOURS], MARKERS[place % COLOURS]
            line = "-" if place < COLOURS else "--"
            axes.plot(across, up, color=colour, marker=marker, markersize=4, linestyle=line)
        axes.set_xscale("log")
        axes.set_xticks(sorted({across for points in series for across, _ in points}))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.set_title(unit, loc="left", fontsize=9)
        axes.set_xlabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", linewidth=0.6)
        return drawn()


def reliability(name: str, confidence: Sequence[float], accuracy: Sequence[float], share: Sequence[float]) -> str:
    """How often what is said with so much confidence is right, bin by bin, above the shares of the pixels."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(3.0, 3.5), layout="constrained")
        FigureCanvasSVG(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        above.plot(confidence, accuracy, color=SERIES[2], marker="o", markersize=4)
        above.set_title("right, share of the bin", loc="left", fontsize=9)
        above.set_xlim(0, 1)
        above.set_ylim(0, 1)
        above.grid(axis="y", linewidth=0.6)
        below.bar(confidence, share, width=0.04, color=SERIES[2], alpha=0.6)
        below.set_title("pixels, share", loc="left", fontsize=9)
        below.set_ylim(0, 1)
        below.yaxis.set_major_locator(MaxNLocator(2))
        below.set_xlabel("confidence")
        below.grid(axis="y", linewidth=0.6)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True)
        return for_the_page(name, written.getvalue())


def _name(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Each name beside its point, where it covers no other name, as far as there is such a place."""
    figure.draw_without_rendering()  # places the axes
    taken: list[tuple[float, float, float]] = []  # left, right, middle, in printer's points

    def is_free(left: float, right: float, middle: float) -> bool:
        return not any(left < end and start < right and abs(middle - at) < 8 for start, end, at in taken)

    for point in sorted(points, key=lambda p: p.across):
        x, y = axes.transData.transform((point.across, point.up)) * 72 / figure.dpi
        width = 4.6 * len(point.name)
        places = [(side, up) for up in (3.0, -8.0, 12.0, -17.0, 21.0, -26.0) for side in (5.0, -5.0 - width)]
        free = [(dx, dy) for dx, dy in places if is_free(x + dx, x + dx + width, y + dy)]
        dx, dy = (free or places)[0]
        taken.append((x + dx, x + dx + width, y + dy))
        axes.annotate(point.name, (point.across, point.up), xytext=(dx, dy), textcoords="offset points", fontsize=8)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.dataLim.intervalx
    subs = (1, 2, 5) if low > 0 and high / low < 1000 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))


@contextmanager
def _axes(name: str, size: tuple[float, float]) -> Generator[tuple[Figure, Axes, Callable[[], str]]]:
    """A figure, axes to draw on, and what makes an `<svg>` of them."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)

        def drawn() -> str:
            written = io.StringIO()
            figure.savefig(written, format="svg", transparent=True)
            return for_the_page(name, written.getvalue())

        yield figure, figure.subplots(), drawn


def _rows(axes: Axes, rows: Sequence[str], unit: str) -> None:
    """Classes downwards, with a faint line each."""
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(unit, loc="left", fontsize=9)
    axes.grid(axis="y", linewidth=0.6)
    axes.grid(axis="x", linewidth=0.6, color=LINE)
    axes.spines["bottom"].set_visible(False)


def _plain(value: float, position: int | None) -> str:
    """`0.001`, `10`: no powers of ten."""
    return f"{value:g}"

"""Curves as SVG for the page itself: no fonts, no links, and colours that follow its light or dark scheme."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

POINTS = 160
"""More would not be seen; a curve is averaged over as many equal stretches of steps."""
MARKERS = "os^Dv*"
ROUND = (1, 2, 2.5, 5, 10)
"""Distances between ticks, times a power of ten."""
COLOURS = 6
"""Series after so many start over; the page defines --series-0 … --series-5."""

# Stand-ins that the page's CSS variables replace, since matplotlib knows no variables.
INK, LINE = "#010203", "#040506"
SERIES = tuple(f"#0708{index:02x}" for index in range(COLOURS))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a $ of somebody's class or arm is a $
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": LINE,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_joinstyle": "round",
}


class Curve(NamedTuple):
    """A line of one experiment: its place among them chooses its colour and, where points are few, its marker."""

    series: int
    points: Sequence[tuple[int, float]]


def plot(name: str, curves: Sequence[Curve], unit: str, size: tuple[float, float]) -> str:
    """An `<svg>` of values against steps; `name` keeps the ids of several plots on one page apart."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for curve in curves:
            steps, values = zip(*_thinned(curve.points), strict=True)
            index = curve.series % COLOURS
            # Few points are measurements, to be seen one by one.
            marker = MARKERS[index] if len(steps) <= 40 else ""
            axes.plot(steps, values, color=SERIES[index], marker=marker, markersize=3.5)
        axes.set_xlabel("step")
        axes.set_title(unit, loc="left", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.grid(axis="y", linewidth=0.6)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True)
    return for_the_page(name, written.getvalue())


def _thousands(value: float, position: int | None) -> str:
    return f"{value:,.0f}"


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    size = max(1, -(-len(points) // POINTS))
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(stretch[-1][0], sum(value for _, value in stretch) / len(stretch)) for stretch in stretches]


def for_the_page(name: str, svg: str) -> str:
    """Only the element; ids of its own; no metadata and no namespaces, which HTML does not need."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"|^<svg height="[^"]*" width="[^"]*"', "<svg", svg)
    for stand_in, variable in (
        (INK, "--muted"),
        (LINE, "--line"),
        *((c, f"--series-{i}") for i, c in enumerate(SERIES)),
    ):
        svg = svg.replace(stand_in, f"var({variable})")
    return svg

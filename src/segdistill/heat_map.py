"""A matrix of numbers as a picture: a coloured cell with its number for each, rows and columns named."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from segdistill.types import Picture

CELL = (0.62, 0.36)
"""Inches, width and height."""
DOTS = 110
"""Per inch."""
UNKNOWN = (0.85, 0.85, 0.85)
DARK = 0.5
"""Of the luminance: numbers are white on darker cells."""


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    ends: tuple[float, float],
    names: tuple[str, str],
    is_difference: bool = False,
) -> Picture:
    """Cells whose row and column have one name are framed; what is not known is grey.

    Args:
        ends: of the scale of colours.
        names: of what the rows are, and the columns.
        is_difference: colours that part at the middle of the scale, and numbers with signs.
    """
    size = 1.3 + CELL[0] * len(columns), 1.2 + CELL[1] * len(rows)
    colours, scale = mpl.colormaps["RdBu_r" if is_difference else "viridis"], Normalize(*ends, clip=True)
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=size, dpi=DOTS, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        shades = np.array([[UNKNOWN if v is None else colours(scale(v))[:3] for v in row] for row in values])
        axes.imshow(shades, aspect="auto", interpolation="nearest")
        for line in range(1, len(rows)):
            axes.axhline(line - 0.5, color="white", linewidth=0.8)
        for line in range(1, len(columns)):
            axes.axvline(line - 0.5, color="white", linewidth=0.8)
        for (down, across), light in np.ndenumerate(shades @ (0.299, 0.587, 0.114) > DARK):
            text = axes.text(across, down, _text(values[down][across], is_difference), ha="center", va="center",
                             fontsize=8, color="black" if light else "white")  # fmt: skip
            text.set_in_layout(False)  # it lies in its cell, and to measure them all takes most of the time
        for down, name in enumerate(rows):
            if name in columns:
                place = list(columns).index(name) - 0.5, down - 0.5
                axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="black", linewidth=1.6, zorder=3))
        axes.set_xlim(-0.55, len(columns) - 0.45)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(names[0])
        axes.set_xlabel(names[1])
        canvas.draw()
    return Picture(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _text(value: float | None, is_difference: bool) -> str:
    if value is None:
        return "–"
    text = f"{value:+.2f}" if is_difference else f"{value:.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")

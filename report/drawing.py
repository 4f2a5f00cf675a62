"""Pieces of figures: their style, panels, lines of methods, axes, legends, and files.

matplotlib is imported where it is used, so that computing tables does not load it.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ken.files import replacing
from report import style

os.environ["MPLBACKEND"] = "agg"  # figures are files; a notebook names a backend that may not be installed here

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
else:
    Axes = Axis = Figure = Line2D = Any

FORMATS = ("svg", "png", "pdf")
SHARE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
WIDTH, WIDE = 5.2, 6.0  # inches of a figure with one column of panels, and with two: readable on a phone
GREY = "#a9afb8"  # of methods without a name
OTHER = {"color": GREY, "linewidth": 0.7, "marker": ".", "markersize": 3, "zorder": 1.5}  # lines of such methods
POINT_TICKS = (0, -1, 1, -10, -50, 10, -0.5, 0.5, -5, -2, -20, 2, 5, 20, 50)  # first ones first if they are too near
POINTS_LABEL = "weighted F1 minus full, points"
CONTROL_LINES = {"full": "-", "none": (0, (1, 1.6))}
DASHED = (0, (4, 2))


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn.

    Attributes:
        draw: draws it; to be called within `figure_style`.
        description: alternative text.
        shown: whether the page shows it. A figure without data is only a file with a note.
        formats: of `FORMATS`.
    """

    draw: Callable[[], Figure]
    description: str
    shown: bool = True
    formats: Sequence[str] = FORMATS


def drawing_of(draw: Callable[..., Figure], frame: pd.DataFrame, *more: object, description: str, note: str) -> Drawing:
    """A drawing of a table, or of a note if the table is empty."""
    if frame.empty:
        return Drawing(partial(draw_note, note), description, shown=False)
    return Drawing(partial(draw, frame, *more), description)


def draw_note(text: str) -> Figure:
    """A figure with nothing but a note."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.8))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=style.MUTED)
    return figure


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure with a size in inches, and its panels (rows, columns); options are those of `Figure.subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def remove_rest(panels: np.ndarray, used: int) -> None:
    """Remove the panels of a grid that are not used; those above them get the labels of the shared axis."""
    wide = panels.shape[1]
    for axes, above in zip(panels.ravel()[used:], panels.ravel()[max(0, used - wide) :], strict=False):
        axes.remove()
        above.tick_params(labelbottom=True)


def height(rows: int) -> float:
    """Inches of a figure with rows of small panels: a single row gets more."""
    return 2.5 * rows + 0.5 if rows > 1 else 3.6


def method_line(method_style: style.MethodStyle) -> dict:
    """Settings for the line and markers of a method."""
    edge: dict = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    if method_style.hollow:
        edge = {"markeredgecolor": method_style.colour, "markeredgewidth": 1.2, "markerfacecolor": "white"}
    shape = {"marker": method_style.marker, "markersize": method_style.size, "linestyle": method_style.line}
    return {"color": method_style.colour, "zorder": 2, **shape, **edge}


def note_others(axes: Axes, others: int) -> None:
    """Say above the right end of a panel how many methods are grey."""
    if others:
        axes.set_title(others_note(others), loc="right", fontsize=8, color=style.MUTED)


def others_note(others: int) -> str:
    """What the grey lines are: "grey: 18 other methods"."""
    return f"grey: {style.count(others, 'other method')}" if others else ""


def note_above(figure: Figure, text: str) -> None:
    """Write a note above all panels of a figure, at the right end."""
    if text:
        figure.suptitle(text, fontsize=8, color=style.MUTED, x=0.99, ha="right")


def entry(label: str, **settings: Any) -> Line2D:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **settings)


def method_entries(methods: Sequence[str], **settings: Any) -> list[Line2D]:
    """Legend entries of methods; settings override those of their lines."""
    styles = style.method_styles(methods)
    return [entry(style.label(name), **method_line(styles[name]) | settings) for name in methods]


def draw_controls(axes: Axes, frame: pd.DataFrame, column: str, words: dict[str, str]) -> None:
    """Draw horizontal lines at the values of the controls in a column; `words` are their names."""
    for control, line in CONTROL_LINES.items():
        for value in frame.loc[frame["method"] == control, column].dropna():
            axes.axhline(value, color=style.INK, linewidth=1.1, linestyle=line, zorder=1, label=words[control])


def shade_near(axes: Axes, near: float, across: bool = False) -> None:
    """Shade the differences that count as near to full: a horizontal stripe, or a vertical one if `across`."""
    stripe = axes.axvspan if across else axes.axhspan
    stripe(-near, near, color=style.GRID, alpha=0.8, linewidth=0, zorder=0)


def set_ticks(axis: Axis, ticks: Sequence[float], text: Callable[[float], str]) -> None:
    """Set ticks at the given values only, without those whose text would touch that of an earlier one.

    The scale and the limits of the axis must be final.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shown: list[tuple[float, float]] = []  # place in inches, half the length of the text
    kept = []
    for tick, place in zip(ticks, _inches(axis, ticks), strict=True):
        half = 0.04 * len(text(tick)) + 0.03 if axis.axis_name == "x" else 0.075
        if all(abs(place - other) >= half + length for other, length in shown):
            shown.append((place, half))
            kept.append(tick)
    axis.set_major_locator(FixedLocator(sorted(kept)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def points_axis(axes: Axes, points: pd.Series, linear: float) -> None:
    """Make the vertical axis, over differences in points, linear within ±1 and logarithmic beyond.

    Args:
        linear: room from 0 to 1, in decades of the logarithmic part.
    """
    low, high = (points.min(), points.max()) if points.notna().any() else (-1.0, 0.0)
    axes.set_yscale("symlog", linthresh=1, linscale=linear)
    axes.set_ylim(min(-1.2, 1.3 * low), max(0.7, 1.5 * high))
    set_ticks(axes.yaxis, [tick for tick in POINT_TICKS if 1.2 * low <= tick <= max(0.5, 1.5 * high)], signed)


def _inches(axis: Axis, values: Sequence[float]) -> np.ndarray:
    """About where values lie on an axis, in inches from its start; the figure may not have its layout yet."""
    low, high = axis.get_transform().transform(np.array(axis.get_view_interval(), float))
    box = axis.axes.bbox
    length = (box.width if axis.axis_name == "x" else box.height) / axis.axes.figure.dpi
    return (axis.get_transform().transform(np.array(values, float)) - low) / (high - low) * length


def share_axis(axes: Axes, shares: pd.Series, ticks: Sequence[float] = SHARE_TICKS) -> None:
    """Make the horizontal axis logarithmic over shares, with ticks in percent."""
    shares = shares[shares > 0]
    low, high = (shares.min(), shares.max()) if len(shares) else (0.01, 1.0)
    low, high = low / 1.15, high * 1.15
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = [10.0**power for power in range(math.floor(math.log10(low)), -2)]
    shown = sorted({tick for tick in (*decades, *ticks) if low <= tick <= high}, reverse=True)
    if len(shown) < 3:
        shown = _round_numbers(low, high)
    set_ticks(axes.xaxis, shown, lambda value: f"{100 * value:g}")


def log_axis(axis: Axis, ticks: Sequence[float] | None = None) -> None:
    """Make an axis with data logarithmic with plain numbers, at `ticks` or at round numbers in its range."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    set_ticks(axis, ticks or _round_numbers(*axis.get_view_interval()), compact)


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten, then 1, 2 and 5 of each decade if they are few; evenly spaced numbers within a short range."""
    from matplotlib.ticker import MaxNLocator

    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    fine = [digit * power for power in powers for digit in (5, 2)] if len(powers) <= 5 else []
    powers = powers[:: max(1, round(len(powers) / 6))]
    ticks = [tick for tick in (*powers, *fine) if low <= tick <= high]
    if len(ticks) >= 3:
        return ticks
    return [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]


def compact(value: float) -> str:
    """1536000 -> "1.54 M", 98304 -> "98.3 k", 0.002 -> "0.002"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{style.NO_BREAK_SPACE}{letter}"
    return f"{value:g}"


def signed(value: float) -> str:
    """A number with a true minus sign."""
    return f"{value:g}".replace("-", "−")


@contextmanager
def figure_style(changes: dict | None = None) -> Iterator[None]:
    """Apply the style of all figures, while one is drawn and saved.

    Args:
        changes: matplotlib settings that differ for this figure.
    """
    import matplotlib

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": style.GRID,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "figure.facecolor": "white",
        "savefig.dpi": 150,
        "svg.fonttype": "path",  # the same letters on every machine
        "svg.hashsalt": "report",
        "text.parse_math": False,  # a name may hold a dollar sign
    }
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), style.INK)
    settings |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), style.MUTED)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not those of a user's matplotlibrc
        matplotlib.rcParams.update(settings | (changes or {}))
        yield


def save(figure: Figure, stem: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write `figure` in every format. Equal figures give equal files, since no date is written.

    Args:
        figure: drawn within `figure_style`.
        stem: path without suffix.
        formats: of `FORMATS`.

    Returns:
        The paths written.
    """
    no_date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
    for path, kind in zip(paths, formats, strict=True):
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=no_date[kind])
    return paths

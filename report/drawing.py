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


def method_line(method_style: style.MethodStyle) -> dict:
    """Settings for the line and markers of a method."""
    edge: dict = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    if method_style.hollow:
        edge = {"markeredgecolor": method_style.colour, "markeredgewidth": 1.2, "markerfacecolor": "white"}
    shape = {"marker": method_style.marker, "markersize": method_style.size, "linestyle": method_style.line}
    return {"color": method_style.colour, "zorder": 2, **shape, **edge}


def entry(label: str, **settings: Any) -> Line2D:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **settings)


def method_entries(methods: Sequence[str], **settings: Any) -> list[Line2D]:
    """Legend entries of methods; settings override those of their lines."""
    styles = style.method_styles(methods)
    return [entry(style.label(name), **method_line(styles[name]) | settings) for name in methods]


def legend_columns(entries: Sequence, letters: float) -> int:
    """Number of columns of a legend in which `letters` fit side by side; a handle takes the space of six."""
    longest = max(len(entry.get_label()) for entry in entries)
    return max(1, min(len(entries), int(letters / (longest + 6))))


def draw_controls(axes: Axes, frame: pd.DataFrame, column: str) -> None:
    """Draw horizontal lines at the values of the controls in a column."""
    for control, line in CONTROL_LINES.items():
        for value in frame.loc[frame["method"] == control, column].dropna():
            axes.axhline(value, color=style.INK, linewidth=1.1, linestyle=line, zorder=1)


def shade_near(axes: Axes, near: float, across: bool = False) -> None:
    """Shade the differences that count as near to full: a horizontal stripe, or a vertical one if `across`."""
    stripe = axes.axvspan if across else axes.axhspan
    stripe(-near, near, color=style.GRID, alpha=0.8, linewidth=0, zorder=0)


def set_ticks(axis: Axis, ticks: Sequence[float], text: Callable[[float], str]) -> None:
    """Set ticks at the given values only."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def share_axis(axes: Axes, shares: pd.Series, ticks: Sequence[float] = SHARE_TICKS) -> None:
    """Make the horizontal axis logarithmic over shares, with ticks in percent."""
    shares = shares[shares > 0]
    low, high = (shares.min(), shares.max()) if len(shares) else (0.01, 1.0)
    low, high = low / 1.15, high * 1.15
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = [10.0**power for power in range(math.floor(math.log10(low)), -2)]
    shown = [tick for tick in (*decades, *ticks) if low <= tick <= high]
    set_ticks(axes.xaxis, shown, lambda value: f"{100 * value:g}")


def log_axis(axis: Axis, ticks: Sequence[float] | None = None) -> None:
    """Make an axis logarithmic with plain numbers, at `ticks` or at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    set_ticks(axis, ticks or [], compact)
    if not ticks:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


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
        "axes.titlesize": 10,
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

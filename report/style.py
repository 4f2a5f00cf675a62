"""How results look, the same in every table and figure: names of methods, colours, markers, number formats, saving.

Colours follow Okabe and Ito's set, told apart by colour-blind readers; markers and dashes tell methods apart in grey.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from report.results import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROLS = ("none", "full")
LABELS = {
    "ken": "KEN",
    "ken-rescaled": "KEN rescaled",
    "random": "Random",
    "magnitude": "Magnitude",
    "delta-magnitude": "Δ-magnitude",
    "full": "Full",
    "none": "None",
}
ACCENT = "#1b82c4"
INK, MUTED, GRID = "#1d2127", "#646b75", "#dfe2e6"  # the page gives these three other values in the dark
FORMATS = ("svg", "png", "pdf")
NO_BREAK_SPACE = "\u00a0"


@dataclass(frozen=True)
class Look:
    """Colour, marker, dash pattern and marker size of a method."""

    colour: str
    marker: str
    line: str | tuple = "-"
    size: float = 4.5  # points


FIXED = {
    "ken": Look("#d55e00", "o"),
    "ken-rescaled": Look("#e69f00", "D"),
    "random": Look("#808792", "s", (0, (4, 1.5)), 6.5),
    "magnitude": Look(ACCENT, "^"),
    "delta-magnitude": Look("#009e73", "v"),
}
OTHERS = [
    Look(colour, marker, line)
    for line in ((0, (1, 1)), (0, (5, 1, 1, 1)))
    for marker in ("P", "X", "p", "h", "<", ">", "*", "d")
    for colour in ("#cc79a7", "#56b4e9", "#8c6d1f", "#7b52ab", "#b01e50", "#5d8a0f", "#00838f")
]


def label(method: str) -> str:
    """Name of a method for people; a method without one keeps its own."""
    return LABELS.get(method, method)


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """Method -> look: fixed for the methods known here, chosen by a hash of the name for others.

    Two names with the same hash get different looks, given out in alphabetical order.
    """
    found, taken = {}, set()
    for method in sorted(set(methods) - set(CONTROLS)):
        if method in FIXED:
            found[method] = FIXED[method]
            continue
        start = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
        places = ((start + step) % len(OTHERS) for step in range(len(OTHERS)))
        place = next((place for place in places if place not in taken), start % len(OTHERS))
        taken.add(place)
        found[method] = OTHERS[place]
    return found


def percent(share: float) -> str:
    """0.025 -> "2.5 %", with a space that does not break."""
    return f"{round(100 * share, 2):g}{NO_BREAK_SPACE}%"


def budget_label(budget: float) -> str:
    """A budget as asked: a share of each row, or the entries kept of each row when above 1."""
    return percent(budget) if budget <= 1 else f"k{NO_BREAK_SPACE}={NO_BREAK_SPACE}{budget:g}"


def score(value: float) -> str:
    """A score of 0 to 1 with three decimals, "" if there is none."""
    return "" if math.isnan(value) else f"{value:.3f}"


def points(value: float) -> str:
    """A difference in points with sign and one decimal, "" if there is none."""
    return (
        "" if math.isnan(value) else f"{value:+.1f}".replace("-0.0", "±0.0").replace("+0.0", "±0.0").replace("-", "−")
    )


def size(count: float) -> str:
    """Bytes for people: "812 kB", "3.2 MB"; powers of 1000."""
    if math.isnan(count):
        return ""
    power = min(4, int(math.log10(count) // 3)) if count >= 1 else 0
    scaled = count / 1000**power
    digits = f"{scaled:.{0 if scaled >= 99.5 else 1}f}".removesuffix(".0")
    return f"{digits}{NO_BREAK_SPACE}{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


@contextmanager
def applied(changes: dict | None = None) -> Iterator[None]:
    """The style of all figures, to be active while a figure is drawn and saved.

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
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "figure.facecolor": "white",
        "savefig.dpi": 150,
        "svg.fonttype": "path",  # the same letters on every machine
        "svg.hashsalt": "report",
        "text.parse_math": False,  # a name may hold a dollar sign
    }
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK)
    settings |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED)
    with matplotlib.rc_context(settings | (changes or {})):
        yield


def save(figure: "Figure", stem: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write `figure` in every format; equal figures give equal files, since no date is written.

    Args:
        figure: drawn inside `applied`.
        stem: path without suffix.
        formats: of `FORMATS`.

    Returns:
        The paths written.
    """
    no_date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        write_whole(path, lambda temporary, kind=kind: figure.savefig(temporary, format=kind, metadata=no_date[kind]))
        paths.append(path)
    return paths

"""How results look, the same in every table and figure: names of methods, colours, markers, number formats, saving.

Colours follow Okabe and Ito's set, told apart by colour-blind readers; markers and dashes tell methods apart in grey.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from report.results import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROLS = ("none", "full")
LABELS = {
    "full": "Full",
    "none": "None",
    "ken": "KEN",
    "ken-grid": "KEN grid",
    "ken-grid-layers": "KEN grid (layers)",
    "ken-delta": "KEN of Δ",
    "random": "Random",
    "magnitude": "Magnitude",
    "magnitude-zero": "Magnitude to zero",
    "delta-magnitude": "Δ-magnitude",
    "delta-global": "Global Δ-magnitude",
    "dare": "DARE",
    "della": "DELLA",
    "bitdelta": "BitDelta",
    "lora": "LoRA",
    "flop": "FLOP",
    "lt-sft": "LT-SFT",
    "fish": "FISH",
    "llm-surgeon": "LLM Surgeon",
    "llm-surgeon-independent": "LLM Surgeon, independent updates",
    "k-obd": "K-OBD",
    "l-obd": "L-OBD",
    "dense": "Dense",
    "surgeon-delta": "Surgeon of Δ",
    "surgeon-delta-updated": "Surgeon of Δ, updated",
}
FAMILY_LABELS = {"reset": "as they are", "rescaled": "rescaled", "other": "other", "trained": "trained"}
RESCALED = "-rescaled"  # ends the name of a method that multiplies the updates which its base keeps
ACCENT = "#1b82c4"
INK, MUTED, GRID = "#1d2127", "#646b75", "#dfe2e6"  # the page gives these three other values in the dark
FORMATS = ("svg", "png", "pdf")
NO_BREAK_SPACE = "\u00a0"


@dataclass(frozen=True)
class Look:
    """Colour, marker, dash pattern, marker size (points) of a method, and whether its markers are hollow."""

    colour: str
    marker: str | tuple
    line: str | tuple = "-"
    size: float = 4.5
    hollow: bool = False


FIXED = {
    "ken": Look("#d55e00", "o"),
    "ken-grid": Look("#e69f00", "D", size=4),
    "ken-grid-layers": Look("#e69f00", "d", (0, (1, 1))),
    "ken-delta": Look("#cc79a7", "P", size=5.5),
    "random": Look("#808792", "s", (0, (2.5, 1)), 6.5),
    "magnitude": Look("#0072b2", "^"),
    "magnitude-zero": Look("#0072b2", "X", (0, (1, 1)), 5.5),
    "delta-magnitude": Look("#009e73", "v"),
    "delta-global": Look("#6f9a1f", ">"),
    "dare": Look("#56b4e9", "p", size=6),
    "della": Look("#7b52ab", "h", size=6),
    "bitdelta": Look("#7f6a60", "8", size=6.5),
    "lora": Look("#d81b60", "*", size=8.5),
    "flop": Look("#00838f", (6, 1, 0), size=8.5),
    "lt-sft": Look("#a6761d", "<", size=6),
    "fish": Look("#6f6fd8", (4, 1, 0), size=8.5),
    "llm-surgeon": Look("#2f4b7c", (8, 1, 0), size=8.5),
    "llm-surgeon-independent": Look("#7b9fd4", "D"),
    "k-obd": Look("#d55e00", "P", size=5.5),
    "l-obd": Look("#e69f00", "v", size=5.5),
    "surgeon-delta": Look("#8b1e3f", "H", size=6),
    "surgeon-delta-updated": Look("#8b1e3f", "d", (0, (5, 1, 1, 1)), 6),
}
OTHERS = [
    Look(colour, marker, line)
    for line in ((0, (1, 1.5)), (0, (5, 1, 1, 1)))
    for marker in ("P", "X", "p", "h", "<", ">", "*", "d")
    for colour in ("#cc79a7", "#56b4e9", "#8c6d1f", "#7b52ab", "#b01e50", "#5d8a0f", "#00838f")
]


def label(method: str) -> str:
    """Name of a method for people; a method without one keeps its own, a rescaled one is named after its base."""
    base = method.removesuffix(RESCALED)
    return f"{LABELS[base]} rescaled" if base != method and base in LABELS else LABELS.get(method, method)


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """Method -> look: fixed for the methods known here, chosen by a hash of the name for others.

    A rescaled method has the look of its base, dashed and hollow. Two names with the same hash get different looks,
    given out in alphabetical order.
    """
    methods = set(methods) - set(CONTROLS)
    bases, taken = dict(FIXED), set()
    for base in sorted({method.removesuffix(RESCALED) for method in methods} - FIXED.keys()):
        start = int.from_bytes(hashlib.sha256(base.encode()).digest()[:4], "big")
        places = ((start + step) % len(OTHERS) for step in range(len(OTHERS)))
        place = next((place for place in places if place not in taken), start % len(OTHERS))
        taken.add(place)
        bases[base] = OTHERS[place]
    return {method: _look(method, bases) for method in sorted(methods)}


def _look(method: str, bases: dict[str, Look]) -> Look:
    base = method.removesuffix(RESCALED)
    return bases[base] if base == method else replace(bases[base], line=(0, (5, 1.5)), size=5, hollow=True)


def count(number: float, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 cell", "2 cells"."""
    return f"{number:.0f} {noun if number == 1 else plural or noun + 's'}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]) -> str:
    """A Markdown table of texts that are Markdown already; `right` says which columns are flush right."""
    lines = [header, ["---:" if flush else "---" for flush in right], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(share: float) -> str:
    """0.025 -> "2.5 %", with a space that does not break."""
    return f"{round(100 * share, 2):g}{NO_BREAK_SPACE}%"


def budget_label(budget: float, unit: str = "share") -> str:
    """A budget as asked, by its unit: share of each row, or entries of it when above 1; rank; remaining size; bits."""
    if unit == "share":
        return percent(budget) if budget <= 1 else f"k{NO_BREAK_SPACE}={NO_BREAK_SPACE}{budget:g}"
    if unit == "size":
        return f"size{NO_BREAK_SPACE}{percent(budget)}"
    if unit == "bits":
        return f"{budget:g}{NO_BREAK_SPACE}bit{'' if budget == 1 else 's'}"
    return f"{unit}{NO_BREAK_SPACE}{budget:g}"


def setting(method: str, budget: float, unit: str) -> str:
    """A method at a budget: "LoRA rank 4"."""
    return f"{label(method)}{NO_BREAK_SPACE}{budget_label(budget, unit)}"


def score(value: float) -> str:
    """A score of 0 to 1 with three decimals, "" if there is none."""
    return "" if math.isnan(value) else f"{value:.3f}"


def points(value: float, decimals: int = 1) -> str:
    """A difference in points with sign, "" if there is none."""
    if math.isnan(value):
        return ""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if float(f"{value:.{decimals}f}") else f"±{text[1:]}"


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

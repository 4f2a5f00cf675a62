"""One look for all figures: colour-blind-safe colours (Okabe and Ito 2008), a marker and a dash of its own per method.

A method has the same colour everywhere; markers and dashes keep the lines apart in grey print.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#66717d", "#e4e7eb"


@dataclass(frozen=True)
class Look:
    """How a method's line is drawn."""

    color: str
    marker: str
    dash: str | tuple


KNOWN = {
    "ken": Look("#0072B2", "o", "-"),
    "ken-rescaled": Look("#56B4E9", "s", "-"),
    "random": Look("#7f7f7f", "x", (0, (4, 2))),
    "magnitude": Look("#E69F00", "^", (0, (1, 1.2))),
    "delta-magnitude": Look("#D55E00", "D", "-"),
}
SPARE = [
    Look(c, m, d) for d in ("-", (0, (5, 1, 1, 1))) for c, m in (("#009E73", "v"), ("#CC79A7", "P"), ("#A6761D", "*"))
]


def looks(methods: list[str]) -> dict[str, Look]:
    """Look of every method; those without a look of their own take the spare ones in alphabetical order."""
    unknown = sorted(set(methods) - set(KNOWN))
    return KNOWN | {method: SPARE[i % len(SPARE)] for i, method in enumerate(unknown)}


def use_style() -> None:
    """Set matplotlib's defaults; SVG files hold no date and no random ids, so that equal figures are equal files."""
    sns.set_theme(style="whitegrid", context="paper", font="DejaVu Sans")
    plt.rcParams.update(
        {
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": GRID,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "text.color": INK,
            "lines.linewidth": 1.6,
            "lines.markersize": 4.5,
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "svg.hashsalt": "ken",
            "svg.fonttype": "path",
        }
    )


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as SVG, PDF and PNG, each under a temporary name first."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None}), ("png", {})):
        path = stem.with_name(f"{stem.name}.{kind}")
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        figure.savefig(temporary, metadata=metadata, dpi=150)
        os.replace(temporary, path)
    plt.close(figure)

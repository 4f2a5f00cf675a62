"""Labels beside the lines of a panel, placed so that none covers another label or, if possible, a line."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from report.drawing import Axes

SIZE = 8  # of the text, in points
NEAR = 9  # distance in points up to which a label needs no line to its point
_DISTANCES = (5, 9, 16, 26, 38, 52, 70, 95, 125)  # of a label from a point of its line, in points
_DIRECTIONS = 16
_STEP = 3  # points between the samples of a line


class Label(NamedTuple):
    """Text and colour of a label, and the points (n, 2) of its line in data coordinates."""

    text: str
    colour: str
    points: np.ndarray


class _Place(NamedTuple):
    """A place of a label: the point it belongs to, the offset of its anchor, and its box, all in points."""

    index: int
    offset: tuple[float, float]
    right: bool
    box: np.ndarray  # left, bottom, right, top


def place(axes: Axes, labels: Sequence[Label], lines: Sequence[np.ndarray]) -> None:
    """Write labels inside a panel whose position and limits are final; the first ones get the best places.

    Args:
        lines: points (n, 2) in data coordinates of all lines that labels should not cover.
    """
    from matplotlib.patheffects import withStroke

    scale = 72 / axes.figure.dpi  # pixels to points
    panel = axes.get_window_extent()
    inside = scale * np.array([panel.x0, panel.y0, panel.x1, panel.y1])
    covered = np.concatenate([_sampled(scale * axes.transData.transform(line)) for line in lines])
    taken: list[np.ndarray] = []
    for label in labels:
        points = scale * axes.transData.transform(label.points)
        shown = ((points >= inside[:2]) & (points <= inside[2:])).all(axis=1)
        points, values = points[shown], label.points[shown]
        places = [one for one in _places(points, _extent(axes, label.text)) if _fits(one.box, inside, taken)]
        if not places:
            continue
        best = min(places, key=lambda one: _cost(one, covered))
        taken.append(best.box)
        distant = math.hypot(*best.offset) > NEAR
        arrow = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            label.text, values[best.index], best.offset, textcoords="offset points", color=label.colour,
            ha="left" if best.right else "right", va="center", fontsize=SIZE, zorder=4,
            arrowprops=arrow if distant else None, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _extent(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height of a text in points."""
    drawn = axes.text(0, 0, text, fontsize=SIZE)
    box = drawn.get_window_extent()
    drawn.remove()
    return box.width * 72 / axes.figure.dpi, box.height * 72 / axes.figure.dpi


def _places(points: np.ndarray, extent: tuple[float, float]) -> Iterator[_Place]:
    width, height = extent
    for index, point in enumerate(points):
        for distance in _DISTANCES:
            for turn in range(_DIRECTIONS):
                angle = 2 * math.pi * turn / _DIRECTIONS
                x, y = distance * math.cos(angle), distance * math.sin(angle) * 1.3
                right = x >= 0
                left = point[0] + x - (0 if right else width)
                bottom = point[1] + y - height / 2
                yield _Place(index, (x, y), right, np.array([left, bottom, left + width, bottom + height]))


def _fits(box: np.ndarray, inside: np.ndarray, taken: Sequence[np.ndarray]) -> bool:
    """Whether a box lies within the panel and two points apart from all others."""
    apart = [(box[:2] > other[2:] + 2).any() or (box[2:] < other[:2] - 2).any() for other in taken]
    return bool((box[:2] >= inside[:2]).all() and (box[2:] <= inside[2:]).all() and all(apart))


def _cost(one: _Place, covered: np.ndarray) -> float:
    """Points of lines under the label, its distance, and a little for every point of its line further right."""
    under = ((covered >= one.box[:2] - 1) & (covered <= one.box[2:] + 1)).all(axis=1).sum()
    return 6 * float(under) + math.hypot(*one.offset) + 2 * one.index


def _sampled(line: np.ndarray) -> np.ndarray:
    """Points along a line, at most `_STEP` apart."""
    parts = [line[:1]]
    for start, end in itertools.pairwise(line):
        steps = max(1, math.ceil(math.hypot(*(end - start)) / _STEP))
        parts.append(start + (end - start) * (np.arange(1, steps + 1) / steps)[:, None])
    return np.concatenate(parts)

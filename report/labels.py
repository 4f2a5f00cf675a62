"""Names beside the lines of panels instead of a legend: none covers another one or, if possible, a line."""

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from report import style
from report.drawing import Axes, Figure, Line2D

SIZE = 8  # of the text, in points
NEAR = 9  # distance in points up to which a label needs no line to its point
_DISTANCES = (5, 9, 16, 26, 38, 52, 70, 95, 125)  # of a label from a point of its line, in points
_DIRECTIONS = 16
_POINTS = 12  # of a line that its label may belong to
_STEP = 3  # points between the samples of a line


class _Place(NamedTuple):
    """A place of a label: the point it belongs to, the offset of its anchor, and its box, all in points."""

    index: int
    offset: tuple[float, float]
    right: bool
    box: np.ndarray  # left, bottom, right, top


def write(figure: Figure, wrap: int = 40) -> None:
    """Write beside every line that has a label its label, in all panels of a figure that is complete otherwise.

    The lines drawn last get the best places. A label without room is left out.

    Args:
        wrap: letters of a line of text.
    """
    figure.draw_without_rendering()  # so that the panels have their places
    figure.set_layout_engine("none")
    for axes in figure.axes:
        lines = [line for line in axes.lines if not line.get_label().startswith("_")]
        if lines:
            _place(axes, list(reversed(lines)), wrap)


def _place(axes: Axes, lines: Sequence[Line2D], wrap: int) -> None:
    from matplotlib.patheffects import withStroke

    scale = 72 / axes.figure.dpi  # pixels to points
    panel = axes.get_window_extent()
    inside = scale * np.array([panel.x0, panel.y0, panel.x1, panel.y1])
    drawn = _drawn(axes)
    covered = np.concatenate([_sampled(points) for points in drawn.values()])
    taken: list[np.ndarray] = []
    for line in lines:
        points = _candidates(line)
        others = [_sampled(drawn[other]) for other in drawn if other is not line]
        points = points[((points >= inside[:2]) & (points <= inside[2:])).all(axis=1)]
        text = textwrap.fill(line.get_label(), wrap)
        places = [one for one in _places(points, _extent(axes, text)) if _fits(one.box, inside, taken)]
        if not places:
            continue
        near = _nearness(points, np.concatenate(others)) if others else np.zeros(len(points))
        best = min(places, key=lambda one: _cost(one, covered) + near[one.index])
        taken.append(best.box)
        colour = line.get_color()
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            text, points[best.index], best.offset, xycoords="figure points", textcoords="offset points", color=colour,
            ha="left" if best.right else "right", va="center", fontsize=SIZE, zorder=4, linespacing=1,
            arrowprops=arrow if math.hypot(*best.offset) > NEAR else None,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _drawn(axes: Axes) -> dict[object, np.ndarray]:
    """What labels should not cover, each (n, 2) in points: all lines but those in the colour of the grid."""
    from matplotlib.collections import LineCollection

    drawn: dict[object, np.ndarray] = {}
    for line in axes.lines:
        if line.get_color() != style.GRID and len(points := _points(line)):
            drawn[line] = points
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            for index, segment in enumerate(collection.get_segments()):
                points = 72 / axes.figure.dpi * collection.get_transform().transform(segment)
                if len(points) and np.isfinite(points).all():
                    drawn[collection, index] = points
    return drawn


def _points(line: Line2D) -> np.ndarray:
    """The finite points of a line, (n, 2) in points of the figure."""
    points = 72 / line.axes.figure.dpi * line.get_transform().transform(line.get_xydata().reshape(-1, 2))
    return points[np.isfinite(points).all(axis=1)]


def _candidates(line: Line2D) -> np.ndarray:
    """The points that a label may belong to: those with markers, or some along a line that has none."""
    points = _points(line)
    if line.get_marker() in ("", "None", None) or not line.get_markersize():
        points = _sampled(points) if len(points) else points
    some = np.linspace(0, len(points) - 1, min(_POINTS, len(points))).round().astype(int)
    return points[some]


def _extent(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height of a text in points."""
    drawn = axes.text(0, 0, text, fontsize=SIZE, linespacing=1)
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


def _nearness(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much another line is near to each point (n, 2), so that a label there could mean that one: 0 if it is not."""
    distances = np.hypot(*(points[:, None] - others[None]).T).min(axis=0)
    return 2 * np.maximum(0, NEAR - distances)


def _sampled(line: np.ndarray) -> np.ndarray:
    """Points along a line (n, 2), at most `_STEP` apart."""
    parts = [line[:1]]
    for start, end in itertools.pairwise(line):
        steps = max(1, math.ceil(math.hypot(*(end - start)) / _STEP))
        parts.append(start + (end - start) * (np.arange(1, steps + 1) / steps)[:, None])
    return np.concatenate(parts)

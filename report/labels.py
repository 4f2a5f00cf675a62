"""Names beside the lines of panels instead of a legend: none covers another one or, if possible, a line."""

import itertools
import math
import textwrap
from collections.abc import Sequence

import numpy as np

from report import style
from report.drawing import Axes, Figure, Line2D

SIZE = 8  # of the text, in points
NEAR = 9  # distance in points up to which a label needs no line to its point
_POINTS = 12  # of a line that its label may belong to
_STEP = 3  # points between the samples of a line
_TURNS = 2 * np.pi * np.arange(16) / 16
_OFFSETS = np.array(  # of a label from a point of its line, in points: (144, 2)
    [
        (distance * np.cos(turn), 1.3 * distance * np.sin(turn))
        for distance in (5, 9, 16, 26, 38, 52, 70, 95, 125)
        for turn in _TURNS
    ]
)


def write(figure: Figure, wrap: int = 40) -> None:
    """Write beside every line that has a label its label, in all panels of a figure that is complete otherwise.

    The lines drawn last get the best places. A label without room is left out.

    Args:
        wrap: letters of a line of text.
    """
    figure.get_layout_engine().execute(figure)  # so that the panels have their places
    figure.set_layout_engine("none")
    for axes in figure.axes:
        lines = [line for line in axes.lines if not line.get_label().startswith("_")]
        if lines:
            _place(axes, list(reversed(lines)), wrap)


def _place(axes: Axes, lines: Sequence[Line2D], wrap: int) -> None:
    """Write the labels of lines into a panel, one after the other."""
    scale = 72 / axes.figure.dpi  # pixels to points
    panel = scale * axes.get_window_extent().get_points()
    drawn = _drawn(axes)
    covered = np.concatenate([_sampled(points) for points in drawn.values()])
    taken: list[np.ndarray] = []
    for line in lines:
        points = _candidates(line)
        points = points[((points >= panel[0]) & (points <= panel[1])).all(axis=1)]
        text = textwrap.fill(line.get_label(), wrap)
        boxes = _boxes(points, _extent(axes, text))
        fits = _fits(boxes, panel, taken)
        if not fits.any():
            continue
        others = [_sampled(drawn[other]) for other in drawn if other is not line]
        near = _nearness(points, np.concatenate(others)) if others else np.zeros(len(points))
        cost = near[:, None] + 2 * np.arange(len(points))[:, None] + np.hypot(*_OFFSETS.T)
        cost[fits] += 6 * _covering(boxes[fits], covered)
        at, turn = np.unravel_index(np.where(fits, cost, np.inf).argmin(), cost.shape)
        taken.append(boxes[at, turn])
        _annotate(axes, text, line.get_color(), points[at], _OFFSETS[turn])


def _annotate(axes: Axes, text: str, colour: str, point: np.ndarray, offset: np.ndarray) -> None:
    """Write a label beside a point of the figure, with a line to it if it is not near."""
    from matplotlib.patheffects import withStroke

    arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    axes.annotate(
        text, point, offset, xycoords="figure points", textcoords="offset points", color=colour,
        ha="left" if _on_right(offset) else "right", va="center", fontsize=SIZE, zorder=4, linespacing=1,
        arrowprops=arrow if np.hypot(*offset) > NEAR else None,
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


def _on_right(offset: np.ndarray) -> np.ndarray:
    """Whether a label starts at its anchor and does not end there; the offsets straight up and down are rounded."""
    return offset[..., 0] > -1e-9


def _boxes(points: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """The boxes of a label at all offsets from points (n, 2): (n, 144, 2, 2), lower left and upper right corner."""
    width, height = extent
    anchors = points[:, None] + _OFFSETS
    corner = anchors - np.stack([np.where(_on_right(_OFFSETS), 0, width), np.full(len(_OFFSETS), height / 2)], axis=1)
    return np.stack([corner, corner + np.array(extent)], axis=2)


def _fits(boxes: np.ndarray, panel: np.ndarray, taken: Sequence[np.ndarray]) -> np.ndarray:
    """Whether boxes (..., 2, 2) lie two points inside the panel and apart from all others: (...) bool."""
    low, high = boxes[..., 0, :], boxes[..., 1, :]
    fits = ((low >= panel[0] + 2) & (high <= panel[1] - 2)).all(axis=-1)
    for other in taken:
        fits &= ((low > other[1] + 2) | (high < other[0] - 2)).any(axis=-1)
    return fits


def _covering(boxes: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """How many points (m, 2) lie under each of the boxes (n, 2, 2): (n,) int."""
    (x, y), low, high = covered.T, boxes[:, 0, :, None] - 1, boxes[:, 1, :, None] + 1
    return ((x >= low[:, 0]) & (x <= high[:, 0]) & (y >= low[:, 1]) & (y <= high[:, 1])).sum(axis=1)


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

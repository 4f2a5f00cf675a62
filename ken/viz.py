"""KENviz: where the kept entries of a weight matrix lie, over all layers of a model (KEN paper, KENviz).

Three views: the kept values, others blank; for every kept entry the number of its kept neighbours; and both
side by side for each layer. The paper claims that kept entries are spread evenly: the mean number of neighbours
that an even random choice would have stands beside the observed one.
"""

import re
from typing import TYPE_CHECKING

import numpy as np
import torch

from ken.selection import as_rows
from ken.subnetwork import Subnetwork

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VIEWS = ("values", "neighbours", "both")
QUERIES = ("query", "q_lin", "in_proj")  # what architectures call the matrix of the queries, fused or not

BLANK = "#f4f4f4"
_LARGEST_SIDE = 256  # pixels of a matrix along its longer side; larger ones are averaged over blocks


def neighbour_counts(mask: torch.Tensor) -> np.ndarray:
    """Kept neighbours (up, down, left, right) of every kept entry.

    Args:
        mask: bool, True = kept; any shape, read as rows (`ken.selection.as_rows`).

    Returns:
        (r, n) int8: 0 to 4 for kept entries, -1 for the others. Entries beyond the border are not kept.
    """
    kept = as_rows(mask).cpu().numpy()
    padded = np.pad(kept, 1).astype(np.int8)
    counts = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.where(kept, counts, np.int8(-1))


def expected_neighbours(mask: torch.Tensor) -> float:
    """Mean of `neighbour_counts` over kept entries, expected if each row kept as many uniformly at random."""
    kept = as_rows(mask).cpu().numpy()
    n, counts = kept.shape[1], kept.sum(1).astype(float)
    if counts.sum() == 0:
        return 0.0
    pairs = (counts * (counts - 1)).sum() / n + (counts[1:] * counts[:-1]).sum() / n
    return float(2 * pairs / counts.sum())


def kinds(subnetwork: Subnetwork) -> dict[str, dict[int, str]]:
    """Matrix kinds that repeat over layers: name with `*` for the number -> layer number -> tensor name."""
    found: dict[str, dict[int, str]] = {}
    for name, mask in subnetwork.masks.items():
        match = re.search(r"(?<=\.)\d+(?=\.)", name)
        if match and mask.ndim >= 2:
            kind = f"{name[: match.start()]}*{name[match.end() :]}"
            found.setdefault(kind, {})[int(match.group())] = name
    return {kind: dict(sorted(layers.items())) for kind, layers in found.items()}


def draw_matrix(subnetwork: Subnetwork, name: str) -> "Figure":
    """Kept values and neighbour counts of one tensor, side by side.

    Args:
        name: of a body tensor.

    Raises:
        ValueError: the sub-network has no such body tensor.
    """
    if name not in subnetwork.masks:
        raise ValueError(f"no body tensor {name!r}: expected one of {', '.join(sorted(subnetwork.masks))}.")
    return _draw(subnetwork, {name: name}, "both", name)


def choose_kind(subnetwork: Subnetwork, part: str | None = None) -> str:
    """The kind of `kinds` that has `part` in its name; without a part the queries, or else the first kind.

    Raises:
        ValueError: no matrix repeats over layers, or `part` is in the name of none or of several kinds.
    """
    known = sorted(kinds(subnetwork))
    if not known:
        raise ValueError("the sub-network has no matrices that repeat over layers: give one of a model with layers.")
    if part is None:
        return next((kind for kind in known if any(name in kind for name in QUERIES)), known[0])
    found = [kind for kind in known if kind == part] or [kind for kind in known if part in kind]
    if len(found) != 1:
        raise ValueError(
            f"{part!r} fits {len(found)} kinds of matrices, expected one of {', '.join(known)}: give a longer or "
            "another name."
        )
    return found[0]


def draw_layers(subnetwork: Subnetwork, kind: str | None = None, view: str = "both") -> "Figure":
    """One matrix kind over all layers.

    Args:
        kind: as the part of `choose_kind`, such as "query.weight".
        view: "values" (kept values), "neighbours" (kept neighbours), or "both", a row of two for each layer.

    Raises:
        ValueError: an unknown view, or `kind` is not part of exactly one kind.
    """
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}: expected one of {', '.join(VIEWS)}.")
    kind = choose_kind(subnetwork, kind)
    layers = {f"layer {number}": name for number, name in kinds(subnetwork)[kind].items()}
    return _draw(subnetwork, layers, view, kind)


def _draw(subnetwork: Subnetwork, tensors: dict[str, str], view: str, title: str) -> "Figure":
    from matplotlib.figure import Figure

    views = ("values", "neighbours") if view == "both" else (view,)
    columns = 2 if view == "both" else min(3, len(tensors))
    rows = -(-len(tensors) * len(views) // columns)
    height = 4 * max(_box_aspect(as_rows(subnetwork.masks[name]).shape) for name in tensors.values())
    figure = Figure(figsize=(4.6 * columns, (height + 0.9) * rows + 1.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    limit = _value_limit(subnetwork, list(tensors.values()))
    images: dict[str, object] = {}
    places = [(label, name, shown) for label, name in tensors.items() for shown in views]
    for axis, (label, name, shown) in zip(axes.flat, places, strict=False):
        draw = _draw_values if shown == "values" else _draw_neighbours
        images[shown] = draw(axis, subnetwork, name, limit)
        prefix = "" if label == title else f"{label} · "
        axis.set_title(prefix + axis.get_title(), fontsize=10)
    for axis in axes.flat[len(places) :]:
        axis.set_axis_off()
    for shown, image in images.items():
        shared = axes[:, views.index(shown)] if view == "both" else axes
        scale = (
            {"label": "kept value", "extend": "both"}
            if shown == "values"
            else {"label": "kept neighbours", "ticks": range(5)}
        )
        figure.colorbar(image, ax=shared, location="bottom", shrink=0.8, aspect=30, **scale)
    subtitle = f"{subnetwork.method}, {subnetwork.kept_share:.1%} of the body kept"
    figure.suptitle(f"{title}\n{subtitle}", fontsize=12)
    return figure


def _draw_values(axis: "Axes", subnetwork: Subnetwork, name: str, limit: float) -> object:
    mask = subnetwork.masks[name]
    values = np.full(mask.shape, np.nan, dtype=np.float32)
    values[mask.numpy()] = subnetwork.values[name].float().cpu().numpy()
    kept, total = subnetwork.counts[name]
    axis.set_title(f"{kept / total:.1%} kept")
    # Dark in the middle, so that a kept value near zero differs from a blank; safe for colour-blind readers.
    return _show(axis, as_rows(torch.from_numpy(values)).numpy(), "berlin", -limit, limit)


def _draw_neighbours(axis: "Axes", subnetwork: Subnetwork, name: str, limit: float) -> object:
    mask = subnetwork.masks[name]
    counts = neighbour_counts(mask).astype(np.float32)
    counts[counts < 0] = np.nan
    observed = np.nanmean(counts) if mask.any() else 0.0
    axis.set_title(f"{observed:.2f} neighbours ({expected_neighbours(mask):.2f} if spread evenly)")
    return _show(axis, counts, "viridis", -0.5, 4.5, levels=5)


def _show(axis: "Axes", matrix: np.ndarray, colours: str, low: float, high: float, levels: int = 256) -> object:
    import matplotlib

    shown, block = block_means(matrix)
    colour_map = matplotlib.colormaps[colours].resampled(levels).with_extremes(bad=BLANK)
    extent = (-0.5, matrix.shape[1] - 0.5, matrix.shape[0] - 0.5, -0.5)
    image = axis.imshow(shown, cmap=colour_map, vmin=low, vmax=high, interpolation="nearest", extent=extent,
                        aspect="auto")  # fmt: skip
    axis.set_box_aspect(_box_aspect(matrix.shape))
    axis.set_xlabel("column" if block == (1, 1) else f"column (a pixel is the mean of {block[0]} × {block[1]})")
    axis.set_ylabel("row")
    axis.tick_params(labelsize=8)
    return image


def _box_aspect(shape: tuple[int, ...]) -> float:
    """Height by width of a panel: that of the matrix, within limits, so that a slim matrix is no line."""
    return min(1.25, max(0.4, shape[0] / max(1, shape[1])))


def block_means(matrix: np.ndarray, largest_side: int = _LARGEST_SIDE) -> tuple[np.ndarray, tuple[int, int]]:
    """Mean over blocks, leaving NaN out, so that no side is longer than `largest_side`.

    Args:
        matrix: (r, n), NaN where nothing is to be shown.

    Returns:
        The means, NaN where a block has nothing, and the size of a block.
    """
    block = tuple(-(-side // largest_side) for side in matrix.shape)
    padding = [(0, -side % size) for side, size in zip(matrix.shape, block, strict=True)]
    padded = np.pad(matrix.astype(np.float64), padding, constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // block[0], block[0], padded.shape[1] // block[1], block[1])
    present = np.isfinite(blocks)
    counts = present.sum((1, 3))
    sums = np.where(present, blocks, 0).sum((1, 3))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), block


def _value_limit(subnetwork: Subnetwork, names: list[str]) -> float:
    """One colour range for all layers: the 99th percentile of the kept sizes."""
    sizes = np.concatenate([subnetwork.values[name].float().abs().cpu().numpy() for name in names])
    return float(np.quantile(sizes, 0.99)) or 1.0 if sizes.size else 1.0

"""Pictures of the kept entries of a weight matrix, over all layers of a model (KEN paper, KENviz).

There are three views: the kept values, with others blank; the number of kept neighbours of every kept entry; and both
side by side for each layer. Titles give the mean number of neighbours, observed and expected for an even random choice.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ken.files import replacing
from ken.subnetwork import Subnetwork
from ken.tensors import as_rows
from ken.viz.matrix_kinds import choose_kind, kinds
from ken.viz.neighbours import expected_neighbours, neighbour_counts
from ken.viz.tiles import tile_means, tile_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VIEWS = ("values", "neighbours", "both")
FORMATS = (".svg", ".pdf", ".png")

BLANK = "#f4f4f4"
_EXACT_SIDE = 1024  # largest number of entries, along the longer side of all panels in a row, that are drawn one by one
_TILES = 256  # tiles along the longer side of a larger matrix


def draw_matrix(subnetwork: Subnetwork, name: str, view: str = "both") -> "Figure":
    """One tensor.

    Args:
        name: of a body tensor.
        view: as `draw_layers`.

    Raises:
        ValueError: an unknown view, or the sub-network has no such body tensor.
    """
    _check_view(view)
    if name not in subnetwork.masks:
        raise ValueError(f"no body tensor {name!r}: expected one of {', '.join(sorted(subnetwork.masks))}.")
    return _draw(subnetwork, {name: name}, view, name)


def draw_layers(
    subnetwork: Subnetwork, kind: str | None = None, view: str = "both", layer: int | None = None
) -> "Figure":
    """One matrix kind over all layers, or of one layer.

    Up to 1,024 entries along the longer side of all panels in a row, every entry is a pixel. A larger matrix
    is drawn by tiles: the share of a tile that is kept, and the mean kept neighbours of its kept entries.

    Args:
        kind: as the part of `choose_kind`, such as "query.weight".
        view: "values" (kept values), "neighbours" (kept neighbours), or "both", a row of two for each layer.
        layer: number of the layer, None for all.

    Raises:
        ValueError: an unknown view or layer, or `kind` is not part of exactly one kind.
    """
    _check_view(view)
    kind = choose_kind(subnetwork, kind)
    layers = kinds(subnetwork)[kind]
    if layer is not None and layer not in layers:
        raise ValueError(f"{kind} has no layer {layer}: expected one of {', '.join(map(str, layers))}.")
    shown = layers if layer is None else {layer: layers[layer]}
    return _draw(subnetwork, {f"layer {number}": name for number, name in shown.items()}, view, kind)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure, whole or not at all. Equal figures give equal files, since no date is written.

    Raises:
        ValueError: the name does not end in .svg, .pdf or .png.
        OSError: the folder does not exist or cannot be written.
    """
    import matplotlib

    if path.suffix not in FORMATS:
        raise ValueError(f"{path} is no picture that can be written: end its name in {', '.join(FORMATS)}.")
    no_date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}[path.suffix]
    with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "ken"}):
        figure.savefig(temporary, format=path.suffix[1:], dpi=200, metadata=no_date)


def _check_view(view: str) -> None:
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}: expected one of {', '.join(VIEWS)}.")


def _draw(subnetwork: Subnetwork, tensors: dict[str, str], view: str, title: str) -> "Figure":
    """Draw a panel for every tensor and view; all panels of a view share a colour scale."""
    columns = 2 if view == "both" else min(3, len(tensors))
    shapes = [_shape(subnetwork, name) for name in tensors.values()]
    binned = max(map(max, shapes)) > _EXACT_SIDE // columns
    tiles = [tile_size(shape, _TILES) if binned else (1, 1) for shape in shapes]
    views = [name for name in ("values", "neighbours") if view in (name, "both")]
    views = ["share" if binned and name == "values" else name for name in views]
    subtitle = f"{subnetwork.method}, {subnetwork.kept_share:.1%} of the body kept"
    figure, axes = _panels(shapes, columns, len(views), f"{title}\n{subtitle}")
    for column, shown in enumerate(views):
        taken = axes[:, column] if view == "both" else axes.flat[: len(tensors)]
        matrices = [_shown(subnetwork, name, shown, tile) for name, tile in zip(tensors.values(), tiles, strict=True)]
        scale, bar = _scale(shown, matrices, binned)
        for axis, (label, name), matrix, tile in zip(taken, tensors.items(), matrices, tiles, strict=True):
            image = _show(axis, matrix, _shape(subnetwork, name), tile, scale)
            prefix = "" if label == title else f"{label} · "
            axis.set_title(prefix + _title(subnetwork, name, shown), fontsize=10)
        shared = axes[:, column] if view == "both" else axes
        figure.colorbar(image, ax=shared, location="bottom", shrink=0.8, aspect=30, **bar)
    for axis in axes.flat[len(tensors) * len(views) :]:
        axis.set_axis_off()
    return figure


def _panels(shapes: list[tuple[int, int]], columns: int, views: int, title: str) -> tuple["Figure", np.ndarray]:
    from matplotlib.figure import Figure

    rows = -(-len(shapes) * views // columns)
    width = 6.4 if columns == 1 else 4.6
    height = (width - 0.6) * max(_box_aspect(shape) for shape in shapes)
    figure = Figure(figsize=(width * columns, (height + 0.9) * rows + 1.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _shape(subnetwork: Subnetwork, name: str) -> tuple[int, int]:
    return subnetwork.specs[name].row_shape


def _title(subnetwork: Subnetwork, name: str, shown: str) -> str:
    mask = subnetwork.masks[name]
    if shown != "neighbours":
        return f"{subnetwork.counts[name][0] / max(1, mask.numel()):.1%} kept"
    observed = neighbour_counts(mask)[as_rows(mask).numpy()]
    mean = observed.mean() if observed.size else 0.0
    return f"{mean:.2f} neighbours ({expected_neighbours(mask):.2f} if spread evenly)"


def _shown(subnetwork: Subnetwork, name: str, shown: str, tile: tuple[int, int]) -> np.ndarray:
    """The data of a panel, NaN for blanks: entries, or tiles if `tile` is larger than an entry."""
    mask = as_rows(subnetwork.masks[name]).numpy()
    if shown == "share":
        share = tile_means(mask.astype(np.float32), tile)
        return np.where(share > 0, share, np.nan)
    matrix = np.full(mask.shape, np.nan, dtype=np.float32)
    if shown == "neighbours":
        matrix[mask] = neighbour_counts(subnetwork.masks[name])[mask]
    else:
        matrix[mask] = subnetwork.values[name].float().cpu().numpy()
    return matrix if tile == (1, 1) else tile_means(matrix, tile)


def _scale(shown: str, matrices: list[np.ndarray], binned: bool) -> tuple[dict, dict]:
    """Colours of a view, the range shared by its panels, and the label of the colour bar."""
    if shown == "neighbours" and binned:
        return {"cmap": _colours("viridis"), "vmin": 0, "vmax": 4}, {"label": "mean kept neighbours of a tile"}
    if shown == "neighbours":
        bar = {"label": "kept neighbours", "ticks": range(5)}
        return {"cmap": _colours("viridis", 5), "vmin": -0.5, "vmax": 4.5}, bar
    sizes = np.concatenate([np.abs(matrix[~np.isnan(matrix)]) for matrix in matrices])
    if shown == "share":
        high = sizes.max(initial=0) or 1.0
        return {"cmap": _colours("cividis"), "vmin": 0, "vmax": high}, {"label": "kept share of a tile"}
    high = (float(np.quantile(sizes, 0.99)) if sizes.size else 0.0) or 1.0
    # Dark in the middle, so that a kept value near zero differs from a blank; safe for colour-blind readers.
    return {"cmap": _colours("berlin"), "vmin": -high, "vmax": high}, {"label": "kept value", "extend": "both"}


def _colours(name: str, levels: int = 256) -> object:
    import matplotlib

    return matplotlib.colormaps[name].resampled(levels).with_extremes(bad=BLANK)


def _show(axis: "Axes", matrix: np.ndarray, shape: tuple[int, int], tile: tuple[int, int], scale: dict) -> object:
    # The last tiles may extend beyond the border of the matrix; the limits of the axes cut them off.
    extent = (-0.5, matrix.shape[1] * tile[1] - 0.5, matrix.shape[0] * tile[0] - 0.5, -0.5)
    # Not "nearest": vector formats then hold the matrix itself, not a picture of it in some resolution.
    image = axis.imshow(matrix, interpolation="none", extent=extent, aspect="auto", **scale)
    axis.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5), ylabel="row")
    axis.set_box_aspect(_box_aspect(shape))
    axis.set_xlabel("column" if tile == (1, 1) else f"column (a pixel is a tile of {tile[0]} × {tile[1]} entries)")
    axis.tick_params(labelsize=8)
    return image


def _box_aspect(shape: tuple[int, int]) -> float:
    """Height by width of a panel: that of the matrix, within limits, so that a narrow matrix is not drawn as a line."""
    return min(1.25, max(0.4, shape[0] / max(1, shape[1])))

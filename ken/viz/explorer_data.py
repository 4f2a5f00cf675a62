"""The data of one matrix in an explorer page, entry by entry or by tiles, and its size in bytes."""

import base64
import math

import numpy as np
import torch

from ken import extraction, selection
from ken.storage.exact import Reader
from ken.viz.explorer_inputs import Inputs
from ken.viz.neighbours import expected_neighbours, neighbour_counts
from ken.viz.tiles import tile_means, tile_size, tile_sums

EXACT_ENTRIES = 2**20
"""A larger matrix is always binned: a browser draws this many entries at once without a pause."""
TILES = 128
"""Tiles along a side of a binned matrix, at most."""


def costs(inputs: Inputs, name: str) -> tuple[int | None, int]:
    """Size of a matrix in the page in bytes, entry by entry (None: too large) and by tiles."""
    spec, files = inputs.readers[0].body[name], len(inputs.readers)
    with_base, with_tuned = inputs.base is not None, inputs.pair is not None
    kept = sum(reader.tensors[name].kept for reader in inputs.readers)
    exact = 2 * spec.size * (with_base + with_tuned) + files * (spec.size // 8 + 1) + kept * (2 + 2 * with_base)
    height, width = tile_size(spec.row_shape, TILES)
    tiles = -(-spec.row_shape[0] // height) * -(-spec.row_shape[1] // width)
    binned = tiles * files * (8 + 2 * with_base + 2 * with_tuned)
    around = 400 * (files + 1)  # keys, names and counts
    return (None if spec.size > EXACT_ENTRIES else _encoded(exact) + around), _encoded(binned) + around


def _encoded(size: int) -> int:
    """Bytes in base64."""
    return size * 4 // 3


def layer_data(inputs: Inputs, name: str, how: str) -> dict:
    """One matrix in all files; `limits` are the ends of its colour scales, for every file."""
    base, tuned = inputs.pretrained(name), inputs.finetuned(name)
    rows, columns = inputs.readers[0].body[name].row_shape
    tile = tile_size((rows, columns), TILES) if how == "binned" else None
    changes = None if tuned is None else _numbers(tuned) - _numbers(base)
    layer = {"tensor": name, "rows": rows, "columns": columns, "tile": tile}
    if how == "exact":
        layer["pretrained"] = None if base is None else packed(_numbers(base))
        layer["changes"] = None if changes is None else packed(changes)
    layer |= {"files": [], "limits": []}
    for reader in inputs.readers:
        mask, kept = _kept(reader, name)
        if tuned is not None:
            _check_finetuned(reader, name, mask, kept, tuned, base)
        mask, values = mask.numpy(), _numbers(kept)
        updates = None if base is None else values - _numbers(base)[mask]
        shown = exact_file(mask, values, updates) if tile is None else binned_file(mask, values, updates, changes, tile)
        limits = {"values": _high(values), "updates": _high(updates), "lost": _high(changes)}
        layer["limits"].append(
            {"share": 0.0, "tile_updates": 0.0, "tile_lost": 0.0, **shown.pop("limits", {}), **limits}
        )
        layer["files"].append(counts_of(mask, changes) | shown)
    return layer


def counts_of(mask: np.ndarray, changes: np.ndarray | None) -> dict:
    """Kept entries, mean of their kept neighbours, the mean expected by chance, and their share of the squared update.

    Args:
        mask: (r, n) bool.
        changes: (r, n) W - W0, or None.
    """
    counted, kept = neighbour_counts(torch.from_numpy(mask))[mask], int(mask.sum())
    squares = None if changes is None else changes.astype(np.float64) ** 2
    return {
        "kept": kept,
        "mean_neighbours": float(counted.mean()) if kept else 0.0,
        "expected_neighbours": expected_neighbours(torch.from_numpy(mask)),
        "update_share": None if squares is None or not squares.any() else float(squares[mask].sum() / squares.sum()),
    }


def exact_file(mask: np.ndarray, values: np.ndarray, updates: np.ndarray | None) -> dict:
    """One matrix of one file, entry by entry.

    Args:
        mask: (r, n) bool.
        values, updates: of the kept entries, row by row.

    Returns:
        mask: base64 of bits, row by row, lowest bit first; values, updates: `packed`.
    """
    bits = np.packbits(mask.reshape(-1), bitorder="little")
    return {"mask": _text(bits), "values": packed(values), "updates": None if updates is None else packed(updates)}


def binned_file(
    mask: np.ndarray,
    values: np.ndarray,
    updates: np.ndarray | None,
    changes: np.ndarray | None,
    tile: tuple[int, int],
) -> dict:
    """One matrix of one file by tiles: how many entries are kept, and means over a tile.

    Args:
        mask: (r, n) bool.
        values, updates: of the kept entries, row by row.
        changes: (r, n) W - W0, or None.
        tile: height and width.

    Returns:
        counts: base64 of uint32; neighbours, and sizes of values and updates (means over the kept entries of a tile,
        0 without any) and lost (the same of W - W0 over its reset entries): `packed`; limits: the largest of these.
    """
    counts, areas = tile_sums(mask, tile), tile_sums(np.ones(mask.shape, dtype=bool), tile)
    matrices = {
        "neighbours": _spread(mask, neighbour_counts(torch.from_numpy(mask))[mask]),
        "values": _spread(mask, np.abs(values)),
        "updates": None if updates is None else _spread(mask, np.abs(updates)),
        "lost": None if changes is None else np.where(mask, np.nan, np.abs(changes)),
    }
    means = {what: np.nan_to_num(tile_means(of, tile)) for what, of in matrices.items() if of is not None}
    limits = {f"tile_{what}": float(means[what].max()) for what in ("updates", "lost") if what in means}
    limits["share"] = float((counts / areas).max())
    encoded = {what: packed(means[what]) if what in means else None for what in matrices}
    return {"counts": _text(counts.astype("<u4")), **encoded, "limits": limits}


def packed(values: np.ndarray) -> dict:
    """Values as float16 for a browser, scaled by a power of two, so that small ones keep their digits.

    Args:
        values: finite, any shape.

    Returns:
        data: base64 of little-endian float16, row by row; exponent: the value is that number / 2^exponent.
    """
    largest = float(np.abs(values).max(initial=0))
    exponent = 15 - math.frexp(largest)[1] if largest else 0
    scaled = np.ldexp(values.astype(np.float64), exponent).astype("<f2")
    return {"data": _text(scaled), "exponent": exponent}


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _spread(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(r, n) with the values at kept entries and NaN elsewhere."""
    matrix = np.full(mask.shape, np.nan, dtype=np.float32)
    matrix[mask] = values
    return matrix


def _kept(reader: Reader, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = [(mask, values) for _, mask, values in reader.blocks(name)]
    return torch.cat([mask for mask, _ in blocks]), torch.cat([values for _, values in blocks])


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().to(torch.promote_types(tensor.dtype, torch.float32)).numpy()


def _high(values: np.ndarray | None) -> float:
    """The 99th percentile of absolute values, 0 if there are none."""
    return 0.0 if values is None or not values.size else float(np.quantile(np.abs(values), 0.99))


def _check_finetuned(
    reader: Reader, name: str, mask: torch.Tensor, kept: torch.Tensor, tuned: torch.Tensor, base: torch.Tensor
) -> None:
    """Check, for methods of KEN, that the fine-tuned model is the pruned one. Other methods may store other values."""
    if reader.settings["method"] not in selection.names() or reader.settings["rule"] not in extraction.RULES:
        return
    expected = extraction.rescaled(tuned, base, mask) if reader.settings["rule"] == "rescale" else tuned
    different = int((expected.masked_select(mask) != kept).sum())
    if different:
        raise ValueError(
            f"{different:,} kept values of {name!r} in {reader.path} differ from the fine-tuned model: give the model "
            "that was pruned."
        )

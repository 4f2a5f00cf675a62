"""Sums and means over tiles of a matrix that is too large to be shown entry by entry."""

import numpy as np


def tile_size(shape: tuple[int, int], largest_side: int) -> tuple[int, int]:
    """Height and width of tiles, so that neither side has more than `largest_side` of them."""
    return -(-shape[0] // largest_side), -(-shape[1] // largest_side)


def tile_sums(matrix: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """Sums over tiles (float64); those at the lower and right border may be smaller than `tile`."""
    rows, columns = (np.arange(0, side, size) for side, size in zip(matrix.shape, tile, strict=True))
    return np.add.reduceat(np.add.reduceat(matrix, rows, 0, np.float64), columns, 1)


def tile_means(matrix: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """Means over tiles without NaN; NaN for an empty tile."""
    present = ~np.isnan(matrix)
    counts, sums = tile_sums(present, tile), tile_sums(np.where(present, matrix, 0), tile)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

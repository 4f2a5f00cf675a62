"""Compute how evenly kept entries are spread: three statistics of their positions, compared with random choices.

The statistics of every matrix in the numbered layers of a stored sub-network are the mean number of kept neighbours
(up, down, left, right) of a kept entry, the entropy of the kept entries over the columns, and Moran's I of the mask
with rook neighbours. Each is compared with the interval for random choices of as many entries in every row.
"""

import argparse
import functools
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ken.errors import UserError, run
from report.results import why_not_stored, write_csv

STATISTICS = ("neighbours", "entropy", "moran")
CONFIDENCE = 0.95


def kept_neighbours(masks: np.ndarray) -> np.ndarray:
    """Mean number of kept neighbours of the kept entries, for each mask.

    Args:
        masks: (..., r, n) bool; a kept entry has 0 to 4 kept neighbours.
    """
    return 2 * _joins(masks) / np.maximum(masks.sum((-2, -1)), 1)


def _joins(masks: np.ndarray) -> np.ndarray:
    """Number of pairs of kept entries that are neighbours in a row or in a column."""
    across = (masks[..., :, 1:] & masks[..., :, :-1]).sum((-2, -1))
    return across + (masks[..., 1:, :] & masks[..., :-1, :]).sum((-2, -1))


def column_entropy(masks: np.ndarray) -> np.ndarray:
    """Entropy of the kept entries over the columns in units of log n, 0 to 1; 1 if all keep equally many."""
    counts = masks.sum(-2)
    share = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    terms = -np.where(share > 0, share * np.log(np.maximum(share, 1e-300)), 0.0)
    return terms.sum(-1) / max(np.log(masks.shape[-1]), 1e-300)


def moran(masks: np.ndarray) -> np.ndarray:
    """Moran's I of each mask with rook neighbours of weight 1 (Moran 1950); 0 for a mask that keeps all or nothing."""
    r, n = masks.shape[-2:]
    pairs = r * (n - 1) + (r - 1) * n
    mean = masks.mean((-2, -1))
    # Products of neighbouring deviations from the mean, computed from counts: an entry is in as many pairs as it has
    # neighbours, which is four except at the border.
    degree = np.full((r, n), 4) - _border((r, n))
    linear = (masks * degree).sum((-2, -1))
    products = _joins(masks) - mean * linear + pairs * mean**2
    variance = masks.shape[-2] * n * mean * (1 - mean)
    return np.where(variance > 0, r * n / pairs * products / np.where(variance > 0, variance, 1), 0.0)


def _border(shape: tuple[int, int]) -> np.ndarray:
    """Number of neighbours that an entry lacks at the border."""
    missing = np.zeros(shape, dtype=int)
    missing[0] += 1
    missing[-1] += 1
    missing[:, 0] += 1
    missing[:, -1] += 1
    return missing


def random_masks(counts: np.ndarray, n: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Masks (draws, r, n) that keep `counts` (r,) entries of each row, drawn uniformly at random."""
    values = generator.random((draws, len(counts), n))
    last = np.take_along_axis(np.sort(values, -1), np.maximum(counts - 1, 0)[None, :, None], -1)
    return (values <= last) & (counts > 0)[:, None]


def describe(mask: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    """Each statistic of a mask (r, n), with its 95 % interval for random choices of as many entries in each row."""
    observed, chance = _statistics(mask[None]), _random_statistics(tuple(mask.sum(1)), mask.shape[1], draws, seed)
    row: dict[str, float] = {}
    for name in STATISTICS:
        low, high = np.quantile(chance[name], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        row |= {f"observed_{name}": float(observed[name][0]), f"{name}_random": float(chance[name].mean())}
        row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _statistics(masks: np.ndarray) -> dict[str, np.ndarray]:
    return {"neighbours": kept_neighbours(masks), "entropy": column_entropy(masks), "moran": moran(masks)}


@functools.cache  # methods that keep equally many entries of each row share the random choices
def _random_statistics(counts: tuple[int, ...], n: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    height = max(1, 2**22 // max(1, len(counts) * n))  # masks held in memory at once
    sizes = [min(height, draws - start) for start in range(0, draws, height)]
    parts = [_statistics(random_masks(np.array(counts), n, size, generator)) for size in sizes]
    return {name: np.concatenate([part[name] for part in parts]) for name in STATISTICS}


def matrices_of(path: Path) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield every matrix of a numbered layer of a stored sub-network: its description and its mask.

    Args:
        path: ``.../<model>/<task>/seed<n>/compressed/<method>/draw<n>/<budget>.safetensors``.

    Raises:
        UserError: the file is not a sub-network.
    """
    from ken.subnetwork import Subnetwork
    from ken.viz.matrix_kinds import kinds

    try:
        subnetwork = Subnetwork.load(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a sub-network ({error}): run its compression again.") from error
    model, task, seed = path.parts[-7:-4]
    for layers in kinds(subnetwork).values():
        for name in layers.values():
            mask = subnetwork.masks[name].reshape(len(subnetwork.masks[name]), -1).numpy()
            axes = {"model": model, "task": task, "seed": seed.removeprefix("seed")}
            yield axes | {"method": subnetwork.method, "budget": subnetwork.k, "matrix": name}, mask


def spread_table(paths: list[Path], draws: int) -> pd.DataFrame:
    """One row per file and matrix; prints progress. Files of rows without a score are skipped."""
    rows, start = [], time.monotonic()
    for done, path in enumerate(paths, 1):
        if reason := why_not_stored(path):
            print(f"{path} was not stored: {reason}", flush=True)
            continue
        for described, mask in matrices_of(path):
            digest = hashlib.sha256(f"{described['matrix']}{mask.shape}".encode()).digest()
            seed = int.from_bytes(digest[:8], "big")
            sizes = {"rows": mask.shape[0], "columns": mask.shape[1], "kept": int(mask.sum())}
            rows.append(described | sizes | describe(mask, draws, seed))
        left = (time.monotonic() - start) / done * (len(paths) - done)
        print(f"{done} of {len(paths)} sub-networks, about {left:.0f} s left", flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Describe where the kept entries of stored sub-networks lie.")
    parser.add_argument("subnetworks", type=Path, nargs="+", help="sub-network files of a study")
    parser.add_argument("--draws", type=int, default=200, help="random choices to compare with (default: 200)")
    parser.add_argument("--out", required=True, type=Path, help="CSV file to write")
    arguments = parser.parse_args()
    write_csv(arguments.out, spread_table(arguments.subnetworks, arguments.draws))


if __name__ == "__main__":
    run(main)

"""Spread of kept entries: each statistic against a plain loop, and random masks inside their interval."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import ken
from ken.errors import UserError
from report import spread


def some_masks():
    generator = np.random.default_rng(0)
    yield from (generator.random(shape) < share for shape in ((5, 9), (1, 7), (6, 1), (4, 4)) for share in (0.2, 0.8))
    yield np.eye(6, dtype=bool)
    yield np.zeros((3, 4), dtype=bool)
    yield np.ones((3, 4), dtype=bool)


def neighbours_of(i, j, shape):
    around = ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))
    return [(a, b) for a, b in around if 0 <= a < shape[0] and 0 <= b < shape[1]]


@pytest.mark.parametrize("mask", list(some_masks()))
def test_statistics_against_loops(mask):
    entries = [(i, j) for i in range(mask.shape[0]) for j in range(mask.shape[1])]
    kept = [entry for entry in entries if mask[entry]]
    counts = [sum(bool(mask[other]) for other in neighbours_of(*entry, mask.shape)) for entry in kept]
    assert spread.kept_neighbours(mask) == pytest.approx(sum(counts) / len(kept) if kept else 0)

    shares = [sum(bool(mask[i, j]) for i in range(mask.shape[0])) / max(1, len(kept)) for j in range(mask.shape[1])]
    entropy = sum(-p * math.log(p) for p in shares if p)
    if mask.shape[1] > 1:
        assert spread.column_entropy(mask) == pytest.approx(entropy / math.log(mask.shape[1]))

    mean = len(kept) / len(entries)
    weights = sum(len(neighbours_of(*entry, mask.shape)) for entry in entries)
    products = sum((mask[p] - mean) * (mask[q] - mean) for p in entries for q in neighbours_of(*p, mask.shape))
    squares = sum((mask[p] - mean) ** 2 for p in entries)
    expected = len(entries) / weights * products / squares if 0 < mean < 1 else 0
    assert spread.moran(mask) == pytest.approx(expected, abs=1e-12)


def test_morans_i_of_a_chessboard_and_a_block():
    board = np.indices((8, 8)).sum(0) % 2 == 0
    block = np.zeros((8, 8), dtype=bool)
    block[:, :4] = True
    assert spread.moran(board) == pytest.approx(-1)
    assert spread.moran(block) > 0.8
    assert spread.kept_neighbours(board) == 0


def test_random_masks_have_exact_row_counts_and_uniform_entries():
    counts = np.array([0, 1, 3, 7, 7])
    masks = spread.random_masks(counts, 7, 3000, np.random.default_rng(0))
    assert (masks.sum(-1) == counts).all()
    often = masks.mean(0)
    assert np.abs(often - counts[:, None] / 7).max() < 5 * math.sqrt(0.25 / 3000)


def test_random_masks_lie_inside_the_interval_and_clusters_outside():
    generator = np.random.default_rng(1)
    counts = np.full(30, 10)
    inside = 0
    for seed, mask in enumerate(spread.random_masks(counts, 40, 40, generator)):
        row = spread.describe(mask, 200, seed)
        inside += row["neighbours_low"] <= row["observed_neighbours"] <= row["neighbours_high"]
    assert inside >= 33, "95 % of 40, minus five"
    clustered = np.zeros((30, 40), dtype=bool)
    clustered[:, :10] = True
    row = spread.describe(clustered, 200, 0)
    assert row["observed_neighbours"] > row["neighbours_high"] and row["observed_moran"] > row["moran_high"]
    assert row["observed_entropy"] < row["entropy_low"]


def test_table_of_stored_files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = {f"layer.{i}.query.weight": torch.randn(12, 16, generator=generator) for i in (0, 1)}
    base["embeddings.weight"] = torch.randn(20, 16, generator=generator)
    tuned = {name: tensor + torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    folder = tmp_path / "bert" / "words" / "seed3" / "compressed" / "ken" / "draw0"
    folder.mkdir(parents=True)
    paths = [folder / "0.25.safetensors", folder / "0.5.safetensors"]
    for path in paths:
        ken.Subnetwork.extract(base, tuned, float(path.stem)).save(path)
    table = spread.spread_table(paths, draws=50)
    assert table["matrix"].tolist() == ["layer.0.query.weight", "layer.1.query.weight"] * 2
    assert table["kept"].tolist() == [48, 48, 96, 96] and set(table["method"]) == {"ken"}
    assert table[["model", "task", "seed"]].drop_duplicates().values.tolist() == [["bert", "words", "3"]]
    pd.testing.assert_frame_equal(table, spread.spread_table(paths, draws=50))
    paths[0].write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as a sub-network"):
        spread.spread_table(paths, draws=5)

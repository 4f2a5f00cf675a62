"""Findings of the committed runs: which studies have cells in common."""

import pandas as pd

from report.findings import STUDIES, overlap_block
from report.results import FINETUNING


def write_cells(folder, *cells):
    """finetuning.csv of (model, task, seed) cells, each with a training from random weights beside it."""
    arms = [(*cell, arm) for cell in cells for arm in ("pretrained", "random-init")]
    table = pd.DataFrame(arms, columns=["model", "task", "seed", "arm"])
    folder.mkdir(parents=True)
    table.reindex(columns=FINETUNING.names).to_csv(folder / "finetuning.csv", index=False)


def test_cells_in_common_are_counted_over_model_task_and_seed(tmp_path):
    write_cells(tmp_path / "mini", ("a", "x", 0), ("b", "x", 0))
    write_cells(tmp_path / "offline", ("a", "x", 0), ("b", "x", 0), ("b", "y", 0))
    write_cells(tmp_path / "real", ("c", "x", 0), ("c", "x", 1))
    write_cells(tmp_path / "small", ("c", "x", 1), ("c", "x", 2))
    dependent = "these columns are not independent."
    assert overlap_block(tmp_path) == (
        f"All 2 cells of the {STUDIES['mini']} are also cells of the {STUDIES['offline']}: {dependent} "
        f"1 of the 2 cells of the {STUDIES['real']} are also cells of the {STUDIES['small']}: {dependent}"
    )


def test_other_seeds_are_other_cells(tmp_path):
    write_cells(tmp_path / "mini", ("a", "x", 0), ("a", "y", 1))
    write_cells(tmp_path / "offline", ("a", "x", 10), ("a", "y", 11))
    assert overlap_block(tmp_path) == (
        f"No cell of the {STUDIES['mini']} is one of the {STUDIES['offline']}: they are separate measurements."
    )

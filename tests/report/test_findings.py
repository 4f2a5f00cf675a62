"""Findings of the committed runs: cells that studies have in common, and methods that hold the embeddings in full."""

import math
from dataclasses import replace
from itertools import product

import pandas as pd

from baselines import METHODS
from baselines.base import selections
from baselines.estimates import FLOAT32_BYTES, ModelShapes
from report import style
from report.findings import STUDIES, overlap_block, whole_embeddings
from report.measurements import frontier, overview
from report.results import FINETUNING
from report.tables import Tables
from tests.report.synthetic import controls, score_row, write_results


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


def bytes_of_an_embedding_entry(method):
    """Bytes by which a file grows with an entry of the embeddings, from the method's own estimate."""
    linear = {"layers.0.dense": (64, 64)}
    shapes = ModelShapes({"embed.weight": (1000, 64), "layers.0.dense.weight": (64, 64)}, 100, linear)
    larger = replace(shapes, body=shapes.body | {"embed.weight": (2000, 64)})
    budget = (method.budgets or [0.25])[0]
    return (method.stored_bytes(budget, larger) - method.stored_bytes(budget, shapes)) / (1000 * 64)


def test_the_methods_that_hold_embeddings_in_full_are_those_that_say_so():
    names = [*METHODS, *(f"{name}-3bit" for name in selections(METHODS))]
    for name in (name for name in names if METHODS[name].family != "control"):
        in_full = math.isclose(bytes_of_an_embedding_entry(METHODS[name]), FLOAT32_BYTES)
        assert style.has_whole_embeddings(name) == in_full, name


def test_methods_that_hold_embeddings_in_full_are_named_and_marked_beside_their_sizes(tmp_path):
    rows = []
    for task in ("topic", "other"):
        rows += controls(task=task)
        for method, (budget, size) in product(("ken", "bitdelta", "bitdelta-rows", "flop"), ((0.25, 40), (0.5, 400))):
            rows.append(score_row(task=task, method=method, budget=budget, f1=0.9, stored_bytes=size))
    tables = Tables.compute(write_results(tmp_path / "study", rows))
    shown = frontier.page(tables)
    for table in (shown["frontier"], shown["smallest_files"], overview.page(tables)["detail"]):
        column = table.heads.index("Method")
        marks = {row[column].text: row[column].behind for row in table.rows}
        assert {marks[label] for label in ("BitDelta", "FLOP")} == {"embeddings in full"}
        assert {marks[label] for label in ("KEN", "BitDelta by row")} == {""}
    assert whole_embeddings(tables.frontier_points) == "\nThe files of BitDelta and FLOP hold the embeddings in full.\n"

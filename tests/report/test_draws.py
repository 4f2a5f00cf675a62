"""KEN beside every random draw: counts in steep cells against a loop, the sentence, and studies without any."""

import pytest

from report.measurements import draws
from report.tables import Tables
from tests.report.synthetic import controls, score_row, write_results

FULL = 0.9
CELLS = [  # KEN and the draws of random, at half kept
    (0.80, (0.70, 0.75, 0.78)),  # above all
    (0.60, (0.70, 0.75, 0.78)),  # below all
    (0.76, (0.70, 0.75, 0.78)),  # between
    (0.81, (0.70, 0.75, 0.80)),  # above all
    (0.80, (0.70, 0.75, 0.80)),  # equal to one: not above all
    (0.90, (0.87, 0.88, 0.89)),  # not steep
]


def rows(cells):
    made = []
    for seed, (ken, values) in enumerate(cells):
        made += [*controls(seed=seed, full=FULL), score_row(seed=seed, budget=0.5, f1=ken)]
        made += [score_row(seed=seed, method="random", budget=0.5, draw=draw, f1=f1) for draw, f1 in enumerate(values)]
    return made


def test_cells_are_counted_where_a_random_choice_loses_much(tmp_path):
    tables = Tables.compute(write_results(tmp_path, rows(CELLS)))
    steep = [(ken, values) for ken, values in CELLS if 100 * (FULL - sum(values) / len(values)) > 5]
    (row,) = tables.draws.itertuples()
    assert (row.budget, row.cells, row.draws) == (0.5, len(steep), 3)
    assert row.above == sum(all(ken > value for value in values) for ken, values in steep) == 2
    assert row.below == sum(all(ken < value for value in values) for ken, values in steep) == 1
    (sentence,) = draws.sentences(tables)
    assert "in 5 cells. KEN is above all 3 draws in 2 of them and below in 1." in sentence and "in 1.2 on" in sentence
    shown = [cell.text for cell in draws.page(tables)["section"].table.rows[0]]
    assert shown[1:] == ["5", "3", "2", "1", "1.2"]


@pytest.mark.parametrize("cells", [CELLS[-1:], [(0.8, (0.7,))]])
def test_a_study_without_steep_cells_or_several_draws_says_nothing(tmp_path, cells):
    tables = Tables.compute(write_results(tmp_path, rows(cells)))
    assert tables.draws.empty and draws.sentences(tables) == []
    assert not draws.page(tables)["section"].table.rows

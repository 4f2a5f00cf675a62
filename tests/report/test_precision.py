"""The section on the precision of evaluations."""

import pandas as pd

from report.measurements import precision
from report.measurements.contract import ResultFiles, ResultTables
from tests.report.synthetic import score_row, write_results


def rows():
    compared = {"precision": "bfloat16", "texts": 100}
    return [
        score_row(method="full", budget=1.0, f1=0.90) | compared | {"changed_share": 0.02, "float32_weighted_f1": 0.89},
        score_row(method="ken", budget=0.1, f1=0.50) | compared | {"changed_share": 0.04, "float32_weighted_f1": 0.53},
        score_row(method="ken", budget=0.5, f1=0.80) | compared | {"changed_share": "", "float32_weighted_f1": ""},
    ]


def test_changes_are_summarised_over_the_rows_that_were_compared(tmp_path):
    table = precision.compute(ResultFiles(write_results(tmp_path, rows())))["precision"]
    (row,) = table.to_dict("records")
    assert row["models"] == 2 and row["precision"] == "bfloat16" and row["texts"] == 100
    assert abs(row["changed_share"] - 0.03) < 1e-9 and row["changed_share_max"] == 0.04
    assert abs(row["change_points"] + 1) < 1e-9 and abs(row["change_points_min"] + 3) < 1e-9
    section = precision.page(ResultTables({"precision": table}, {}))["section"]
    assert len(section.table.rows) == 1


def test_a_study_in_float32_has_no_section(tmp_path):
    plain = [score_row(method="full", budget=1.0, f1=0.9), score_row()]
    table = precision.compute(ResultFiles(write_results(tmp_path, plain)))["precision"]
    assert table.empty and precision.page(ResultTables({"precision": table}, {})) == {}
    assert set(table.columns) == set(precision.COLUMNS["precision"].names)
    assert isinstance(table, pd.DataFrame)

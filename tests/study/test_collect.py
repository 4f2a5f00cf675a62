"""Columns of scores.csv that only the predictions give, compared with plain loops; and what else is recorded."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from baselines import METHODS
from study.cells.finetuned_cell import FinetunedCell
from study.collect import References, full_predictions, read_scores, searched_constants, with_further_scores
from study.compress import compress
from study.definition import config
from study.definition.study import Study

EVALUATION = {"kept_shares": [0.02, 0.5], "draws": 2, "batch_size": 16, "max_length": 24, "methods": {}}
SCALED = {"magnitude-zero": {"budgets": [0.02]}}


def test_worst_class_and_agreement_of_every_row(finetuned_cells, task_folder, tmp_path):
    cell = FinetunedCell(finetuned_cells["bert"], task_folder, EVALUATION | {"methods": SCALED})
    compress(cell, ["full", "random", "magnitude-zero"], tmp_path)
    labels = cell.split("test").labels.tolist()
    references = References(np.array(labels))
    full = full_predictions(tmp_path)
    assert len(full) == len(labels)
    for method in ("full", "random", "magnitude-zero"):
        predictions = pd.read_parquet(tmp_path / method / "predictions.parquet")
        rows = read_scores(tmp_path / method, references)
        assert len(rows) == len(predictions.columns)
        for row in rows.itertuples():
            predicted = predictions[row.file].tolist()
            same = sum(a == b for a, b in zip(predicted, full, strict=True))
            assert row.agreement == same / len(full)
            of_classes = [
                f1_score(labels, predicted, labels=[c], average="macro", zero_division=0) for c in set(labels)
            ]
            assert row.worst_class_f1 == pytest.approx(min(of_classes), abs=1e-12)
    assert (read_scores(tmp_path / "full", references)["agreement"] == 1).all()


def test_rows_without_a_score_have_neither():
    scores = pd.DataFrame({"file": ["a", "b"], "accuracy": [0.5, None]})
    predictions = pd.DataFrame({"a": [0, 1]})
    table = with_further_scores(scores.copy(), predictions, [0, 0], [0, 1])
    assert table["agreement"].tolist()[0] == 1 and table["worst_class_f1"].tolist()[0] == pytest.approx(2 / 3)
    assert table.loc[1, ["worst_class_f1", "agreement"]].isna().all()
    assert with_further_scores(scores.copy(), predictions, [0, 0], None)["agreement"].isna().all()


def test_the_constants_that_methods_choose_are_recorded_with_what_they_try():
    raw = yaml.safe_load((Path(__file__).parents[2] / "config" / "mini.yaml").read_text())
    raw["method_settings"]["lora"]["rate_factors"] = [2, 4]
    raw["method_settings"]["bitdelta-rows"] = {"factors": [1]}
    raw["method_settings"]["fish"].pop("rate_factors")
    assert searched_constants(Study(config.load(raw, METHODS))) == {
        "bitdelta": {"factor": [1.0, 1.25, 1.5, 1.75, 2.0]},
        "bitdelta-rows": {"factor": [1]},
        "lora": {"learning rate": [2, 4]},
        "flop": {"learning rate": [4]},
        "lt-sft": {"learning rate": [1]},
        "fish": {"learning rate": list(METHODS["fish"].learning_rate_multipliers)},
    }

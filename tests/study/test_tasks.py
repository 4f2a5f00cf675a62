"""Building tasks: the order of classes, very many classes, reference scores."""

import pandas as pd
import pytest

from study import tasks
from study.tasks import class_order


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1", "10"], ["-1", "9", "10"]),
        (["b", "10", "9"], ["10", "9", "b"]),
        (["²", "3", "1"], ["1", "3", "²"]),
        (["--1", "2", "1"], ["--1", "1", "2"]),
        (["٣", "1"], ["1", "٣"]),
        (["1.5", "1"], ["1", "1.5"]),
        (["-", "1"], ["-", "1"]),
    ],
)
def test_labels_are_ordered_as_numbers_only_if_all_are_whole_numbers(labels, order):
    assert class_order(pd.Series(labels)) == order


def test_the_tfidf_reference_is_limited_with_very_many_classes(monkeypatch):
    rows = [{"text": f"word{i} other{i} of{i % 7}", "label": f"c{i}"} for i in range(40)] * 2
    splits = {"train": pd.DataFrame(rows), "test": pd.DataFrame(rows)}
    fitted = []
    fit = tasks.LogisticRegression.fit
    monkeypatch.setattr(tasks.LogisticRegression, "fit", lambda self, *data: fitted.append(fit(self, *data)) or self)
    full = tasks.reference_scores(splits)
    monkeypatch.setattr(tasks, "MOST_COEFFICIENTS", 800)
    limited = tasks.reference_scores(splits)
    assert fitted[0].coef_.shape[1] > 100 and fitted[1].coef_.shape == (40, 20)
    assert full["tfidf"]["weighted_f1"] == 1 and limited["tfidf"]["weighted_f1"] < 1
    assert full["majority"] == limited["majority"]

"""Differences in weighted F1 that a number of texts can show, against simulation and scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from statsmodels.stats.power import NormalIndPower

from report import power
from report.documents import REFERENCES, ROOT
from tests.report.test_statistics import small_study


def models(n, seed=0, classes=3, agreement=0.9):
    """Labels, predictions of a good model, and predictions that agree with it to some share."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, p=[0.6, 0.3, 0.1], size=n)
    first = np.where(rng.random(n) < 0.85, labels, rng.integers(classes, size=n))
    second = np.where(rng.random(n) < agreement, first, rng.integers(classes, size=n))
    return labels, first, second


@pytest.mark.parametrize("agreement", [0.98, 0.8])
def test_the_standard_error_is_that_of_repeated_samples(agreement):
    n, rng = 500, np.random.default_rng(1)
    labels, first, second = models(40_000, agreement=agreement)
    gaps = []
    for _ in range(400):
        rows = rng.integers(len(labels), size=n)
        scores = [f1_score(labels[rows], p[rows], average="weighted", zero_division=0) for p in (first, second)]
        gaps.append(scores[0] - scores[1])
    assert power.spread(labels, first, second, 3) / np.sqrt(n) == pytest.approx(np.std(gaps), rel=0.12)


def test_power_is_that_of_the_two_sided_normal_test():
    reference = NormalIndPower(ddof=0)
    for difference, deviation, texts in ((0.01, 0.3, 2000), (0.02, 0.2, 500), (0.001, 0.5, 100)):
        expected = reference.power(difference / deviation, texts, 0.05, ratio=0)
        assert power.power(difference, deviation, texts) == pytest.approx(expected)
    found = power.detectable(0.3, 4000)
    assert power.power(found, 0.3, 4000) == pytest.approx(0.8, abs=1e-3)
    assert power.detectable(0.3, 16_000) == pytest.approx(found / 2)
    assert power.power(0.0, 0.3, 100) == pytest.approx(0.05)


def test_models_that_agree_with_the_full_one_are_compared_on_the_same_texts(tmp_path):
    results = small_study(tmp_path)
    compared = power.comparisons(results)
    scores = pd.read_csv(results / "scores.csv", keep_default_na=False)
    assert len(compared) == ((scores["status"] == "ok") & (scores["method"] != "full")).sum()
    assert compared["agreement"].between(0, 1).all() and (compared["deviation"] >= 0).all()


def test_groups_cover_each_model_once():
    compared = pd.DataFrame({"agreement": [1.0, 0.995, 0.98, 0.91, 0.5], "deviation": [0.0, 0.1, 0.2, 0.4, 0.9]})
    found = power.groups(compared)
    assert [(group["agreement"], group["models"]) for group in found] == [(0.99, 1), (0.97, 1), (0.9, 1)]
    assert found[0]["deviation"] == pytest.approx(0.1)
    assert "| 4,000 |" in power.table(found) and "99 to 100 %" in power.table(found)


def test_the_number_of_texts_of_the_large_study_follows_from_the_committed_table():
    record = json.loads((REFERENCES / "power.json").read_text())
    by_agreement = {group["agreement"]: group["deviation"] for group in record["groups"]}
    text = (ROOT / "docs" / "power.md").read_text()
    for low in (0.97, 0.95):
        assert f"{100 * power.detectable(by_agreement[low], 4000):.2f}" in text
    assert power.power(0.01, by_agreement[0.95], 4000) > 0.8

"""Scores compared with their definitions and scikit-learn; the metric of `evaluate` offline."""

import socket
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from study.training.evaluate_metric import WeightedF1
from study.training.metrics import scores, worst_class_f1

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


def counted_scores(references, predictions):
    """Scores by their definitions: F1 = 2 TP / (2 TP + FP + FN), or 0 without any positives."""
    f1 = {}
    for label in set(references) | set(predictions):
        outcomes = Counter((r == label, p == label) for r, p in zip(references, predictions, strict=True))
        hits, misses = outcomes[True, True], outcomes[True, False] + outcomes[False, True]
        f1[label] = 2 * hits / (2 * hits + misses)
    support = Counter(references)
    return {
        "weighted_f1": sum(f1[label] * count for label, count in support.items()) / len(references),
        "macro_f1": sum(f1.values()) / len(f1),
        "accuracy": sum(r == p for r, p in zip(references, predictions, strict=True)) / len(references),
    }


@settings(deadline=None)
@given(pairs)
def test_scores_follow_their_definitions(rows):
    references, predictions = zip(*rows, strict=True)
    assert scores(references, predictions) == pytest.approx(counted_scores(references, predictions), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("kind", [int, str])
def test_scores_equal_scikit_learn(classes, kind):
    generator = np.random.default_rng(classes)
    references, predictions = generator.integers(classes, size=(2, 500)).astype(kind)
    assert scores(references, predictions) == {
        "weighted_f1": f1_score(references, predictions, average="weighted"),
        "macro_f1": f1_score(references, predictions, average="macro"),
        "accuracy": accuracy_score(references, predictions),
    }


@settings(deadline=None)
@given(pairs)
def test_worst_class_follows_its_definition(rows):
    references, predictions = zip(*rows, strict=True)
    expected = []
    for label in set(references):
        hits = sum(r == p == label for r, p in rows)
        expected.append(2 * hits / (references.count(label) + predictions.count(label)))
    assert worst_class_f1(references, predictions) == pytest.approx(min(expected), abs=1e-12)


def test_single_and_absent_classes():
    assert set(scores(["a"] * 3, ["a"] * 3).values()) == {1.0}
    assert set(scores(["a"] * 3, ["b"] * 3).values()) == {0.0}
    two_of_four = scores(["a", "b"], ["a", "b"], labels=["a", "b", "c", "d"])
    assert two_of_four == {"weighted_f1": 1.0, "macro_f1": 0.5, "accuracy": 1.0}


@pytest.mark.parametrize(("references", "predictions"), [([], []), ([1], [1, 1])])
def test_empty_or_unequal_inputs_are_refused(references, predictions):
    with pytest.raises(ValueError, match="need equally many"):
        scores(references, predictions)


def test_the_evaluate_metric_gives_the_same_and_opens_no_connection(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = WeightedF1(cache_dir=str(tmp_path), keep_in_memory=True)
    generator = np.random.default_rng(0)
    for kind in (int, str):
        references, predictions = generator.integers(5, size=(2, 300)).astype(kind)
        computed = metric.compute(references=references.tolist(), predictions=predictions.tolist())
        assert computed == scores(references, predictions)
    labelled = metric.compute(references=["a"], predictions=["a"], labels=["a", "b"])
    assert labelled == scores(["a"], ["a"], ["a", "b"])
    metric.add(prediction="é", reference="é")
    assert metric.compute()["accuracy"] == 1.0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_importing_the_module_is_cheap():
    slow = {"evaluate", "datasets", "sklearn", "torch"}
    program = f"import sys, study.training.metrics; sys.exit(bool({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0

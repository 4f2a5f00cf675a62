"""Stratified samples of a split, against their definition."""

from fractions import Fraction

import numpy as np
import pytest

from study.data.samples import sampled_rows, stratified


@pytest.mark.parametrize("number", [1, 7, 50, 199, 200])
@pytest.mark.parametrize("seed", range(3))
def test_every_class_has_its_share_to_within_one(number, seed):
    labels = np.random.default_rng(seed).choice(4, p=[0.7, 0.2, 0.07, 0.03], size=200)
    rows = stratified(labels, number, seed)
    assert len(rows) == number and (np.diff(rows) > 0).all() and rows.max() < 200
    drawn = np.bincount(labels[rows], minlength=4)
    for label, count in enumerate(np.bincount(labels, minlength=4)):
        assert abs(drawn[label] - Fraction(int(count) * number, 200)) < 1


def test_a_sample_is_fixed_by_its_seed_and_contains_smaller_ones():
    labels = np.arange(1000) % 5
    assert np.array_equal(stratified(labels, 100, 3), stratified(labels, 100, 3))
    assert not np.array_equal(stratified(labels, 100, 3), stratified(labels, 100, 4))
    assert set(stratified(labels, 50, 3)) < set(stratified(labels, 100, 3))


def test_every_row_is_equally_likely():
    labels = np.array([0] * 6 + [1] * 3)
    drawn = np.zeros(9)
    for seed in range(3000):
        drawn[stratified(labels, 3, seed)] += 1
    assert np.abs(drawn / 3000 - 1 / 3).max() < 0.035  # four standard errors


def test_without_a_number_or_with_too_few_rows_all_are_taken():
    labels = np.array([0, 1, 0, 1])
    assert sampled_rows(labels, None, "task", "test") is None and sampled_rows(labels, 4, "task", "test") is None
    rows = {task: sampled_rows(np.arange(100) % 2, 50, task, "test").tolist() for task in ("a", "b")}
    assert rows["a"] != rows["b"], "the seed is derived from the task"
    with pytest.raises(ValueError, match="a sample of 5 was asked for, but there are 4 rows"):
        stratified(labels, 5, 0)

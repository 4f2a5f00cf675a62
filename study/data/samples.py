"""Samples of a split on which models are scored: fixed, with the class shares of the whole split."""

import numpy as np

from study.running import provenance


def stratified(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Rows of a sample without replacement in which every class has its share of the rows, to within one.

    Places that remain after rounding down go to the classes with the largest remainders (Hamilton's method), the first
    among equals. Rows of a class are drawn in an order that does not depend on `number`, so with equal shares a smaller
    sample is part of a larger one.

    Args:
        labels: class indices, (rows,). number: of the sample, at most rows.

    Returns:
        Ascending row indices, (number,) int64.

    Raises:
        ValueError: there are fewer rows.
    """
    if number > len(labels):
        raise ValueError(f"a sample of {number} was asked for, but there are {len(labels)} rows.")
    counts = np.bincount(labels)
    exact = counts * number / max(1, len(labels))
    sizes = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - sizes), kind="stable")
    sizes[largest[: number - sizes.sum()]] += 1
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == c][:size] for c, size in enumerate(sizes)]))


def sampled_rows(labels: np.ndarray, number: int | None, task: str, split: str) -> np.ndarray | None:
    """Rows of a split of a task on which compressed models are scored, the same for all models; None for all rows."""
    if number is None or number >= len(labels):
        return None
    return stratified(labels, number, provenance.seed_of("sample", task, split))

"""Gaussian kernel density of a row, by its definition."""

import math

import numpy as np


def bandwidth(row):
    """h = 1.06 σ n^(-1/5)."""
    mean = math.fsum(row) / len(row)
    variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
    return 1.06 * math.sqrt(variance) * len(row) ** (-1 / 5)


def density(row, h=None):
    """f(x) = 1 / (n h) Σ φ((x - w) / h) at every entry, one float at a time."""
    row = [float(value) for value in row]
    h = bandwidth(row) if h is None else h
    return [_at(x, row, h) for x in row]


def _at(x, row, h):
    return math.fsum(math.exp(-(((x - w) / h) ** 2) / 2) for w in row) / (len(row) * h * math.sqrt(2 * math.pi))


def scikit_learn_density(row):
    """The density by scikit-learn's kernel density estimate, without its approximations."""
    from sklearn.neighbors import KernelDensity

    row = np.asarray(row, dtype=np.float64)[:, None]
    estimate = KernelDensity(kernel="gaussian", bandwidth=1.06 * row.std() * len(row) ** -0.2, rtol=0, atol=0).fit(row)
    return np.exp(estimate.score_samples(row))

"""Selections of one row by their definitions; they return the set of kept indices."""

import math

from tests.oracles import density


def highest(scores, k):
    """Indices of the k highest scores; ties are broken by index."""
    return set(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])


def ken_grid(row, k):
    """Indices kept by the rule of the authors' released code, computed point by point."""
    row = [float(value) for value in row]
    n = len(row)
    if n <= k:
        return set(range(n))
    low, high = min(row), max(row)
    points = [low + (high - low) / (k - 1) * i for i in range(k)] if k > 1 else [low]
    points[-1] = high if k > 1 else low
    h = density.bandwidth(row) if high > low else 0.0
    rounded = [round(density._at(point, row, h)) if h > 0 else 0 for point in points]
    free = list(range(n))
    for visit in sorted(range(k), key=lambda j: (-rounded[j], j)):
        nearest = min(free, key=lambda i: (abs(row[i] - points[visit]), i))
        free.remove(nearest)
    taken = {row[i] for i in range(n) if i not in free}
    return {i for i in range(n) if row[i] in taken}


def log2_choices(n, k):
    """log2 C(n, k): the bits that a choice of k entries of n needs."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)

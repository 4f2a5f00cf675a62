"""Pruning time against the size of a model and against k, measured on random rows.

The paper's authors name this growth as a limitation of KEN. One row of the table is one selection: k entries kept in
each row of a matrix (rows, n), by the paper's density or by the rule of the released code.
"""

import time

import pandas as pd
import torch

from ken import selection
from study.definition.step import parse_step
from study.running import files, provenance
from study.running.workflow import run

METHODS = ("ken", selection.GRID)


def seconds_of(rows: torch.Tensor, k: int, method: str, repeats: int) -> float:
    """Time of one selection: the fastest of the repeats, because other load can only slow one down."""
    times = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        selection.select(rows, rows, k, method)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def timing_table(heights: list[int], n: int, budgets: list[int], repeats: int) -> pd.DataFrame:
    """One row per method, size and k: every size with the middle k, every k with the largest size."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(max(heights), n, generator=generator) * 0.04
    middle = budgets[len(budgets) // 2]
    points = [(height, middle) for height in heights] + [(max(heights), k) for k in budgets if k != middle]
    rows_of_table = [
        {"method": method, "size": height * n, "k": k, "seconds": seconds_of(rows[:height], k, method, repeats)}
        for method in METHODS
        for height, k in points
    ]
    return pd.DataFrame(rows_of_table)


def main() -> None:
    repeats = {"type": int, "default": 3, "help": "number of repeats, the fastest of which is used"}
    a, study, paths = parse_step("Measure the time of pruning against size and k.", repeats=repeats)
    section = study.config["timing"]
    provenance.make_deterministic(0)
    table = timing_table(section["heights"], section["length"], section["budgets"], a.repeats)
    files.write_csv(paths.table("timing"), table)
    print(table.to_string(index=False))


if __name__ == "__main__":
    run(main)

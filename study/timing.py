"""Pruning time against the number of rows, their width and k, measured on random rows.

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


def timing_table(heights: list[int], n: int, widths: list[int], budgets: list[int], repeats: int) -> pd.DataFrame:
    """One row per method, size, width and k: every height, width and k, with the others as they are mostly.

    Args:
        heights: numbers of rows; the largest is used where another quantity varies.
        n: entries of a row, where the width does not vary. widths: other numbers of entries of a row.
        budgets: numbers of entries kept in a row; the middle one is used where another quantity varies.
        repeats: number of repeats of each selection.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(max(heights), max(n, *widths), generator=generator) * 0.04
    middle, most = budgets[len(budgets) // 2], max(heights)
    points = [(height, n, middle) for height in heights] + [(most, n, k) for k in budgets if k != middle]
    points += [(most, width, middle) for width in widths if width != n]
    table = []
    for method in METHODS:
        for height, width, k in points:
            seconds = seconds_of(rows[:height, :width].contiguous(), k, method, repeats)
            table.append({"method": method, "size": height * width, "width": width, "k": k, "seconds": seconds})
    return pd.DataFrame(table)


def main() -> None:
    repeats = {"type": int, "default": 3, "help": "number of repeats, the fastest of which is used"}
    a, study, paths = parse_step("Measure the time of pruning against rows, their width and k.", repeats=repeats)
    section = study.config["timing"]
    provenance.make_deterministic(0)
    table = timing_table(section["heights"], section["length"], section["widths"], section["budgets"], a.repeats)
    files.write_csv(paths.table("timing"), table)
    print(table.to_string(index=False))


if __name__ == "__main__":
    run(main)

"""Snakemake's benchmark files: which jobs of a study ran, and for how long."""

import csv
from collections.abc import Iterator
from pathlib import Path


def read_jobs(folder: str | Path) -> Iterator[tuple[str, float, float]]:
    """Yield (rule, seconds, end in seconds since the epoch) for every job. Rows without a time are skipped.

    The end is the file's modification time: Snakemake writes a benchmark file when its job ends.

    Args:
        folder: holds a benchmark file (<rule>.tsv) or a folder of them for each rule; may be missing.
    """
    for path in sorted(Path(folder).rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with open(path, newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                try:
                    seconds = float(row["s"])
                except (KeyError, TypeError, ValueError):
                    continue  # an interrupted run may leave an incomplete file
                yield rule, seconds, path.stat().st_mtime

"""Snakemake's benchmark files: which jobs of a study ran, and for how long."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Snakemake 9.27 samples the processor time of a job every half second for 16 seconds, then every 30 seconds.
SHORT, LONG, CHANGE = 0.5, 30.0, 16.0


@dataclass(frozen=True)
class TimedJob:
    """A job that has run.

    Attributes:
        rule: its rule. axes: values of its wildcards, in the order of its benchmark file's path.
        seconds: from start to end.
        end: in seconds since the epoch: Snakemake writes a benchmark file when its job ends.
        processor_seconds: estimate, see `whole_processor_time`; None if Snakemake took no sample.
    """

    rule: str
    axes: tuple[str, ...]
    seconds: float
    end: float
    processor_seconds: float | None


def read_jobs(folder: str | Path) -> Iterator[TimedJob]:
    """Yield every job that was timed. Rows without a time, which an interrupted run may leave, are skipped.

    Args:
        folder: holds a benchmark file (<rule>.tsv) or a folder of them for each rule; may be missing.
    """
    for path in sorted(Path(folder).rglob("*.tsv")):
        rule, *axes = path.relative_to(folder).with_suffix("").parts
        with open(path, newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if (seconds := _number(row, "s")) is not None:
                    sampled = _number(row, "cpu_time")
                    processor = None if sampled is None else whole_processor_time(sampled, seconds)
                    yield TimedJob(rule, tuple(axes), seconds, path.stat().st_mtime, processor)


def _number(row: dict[str, str], column: str) -> float | None:
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError):
        return None


def whole_processor_time(sampled: float, seconds: float) -> float:
    """Processor seconds of a whole job, from those at Snakemake's last sample, at an even load.

    Args:
        seconds: duration of the job.
    """
    last = max(SHORT, seconds // SHORT * SHORT) if seconds < CHANGE else CHANGE + (seconds - CHANGE) // LONG * LONG
    return sampled * max(1.0, seconds / last)

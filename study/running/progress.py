"""One line for every finished job of a run: how many of how many, how long it took, how long the rest will.

Snakemake's own lines for the same events are left out on the terminal (its log file keeps them).
"""

import csv
import logging
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from snakemake.settings.enums import Quietness
from snakemake_interface_executor_plugins.settings import ExecMode
from snakemake_interface_logger_plugins.common import LogEvent

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

REPLACED_EVENTS = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS}
REPLACED_MESSAGES = {"Select jobs to execute..."}
LOG_LINES = 8  # shown of the log of a failed job
ENOUGH = 0.1  # of the jobs: after so many their mean stands for the rules that have not been timed
ROOM = 2**20  # bytes; a disk with less is as good as full


def show_progress(workflow: "Workflow", expected: Mapping[str, float] | None = None) -> None:
    """Print a line to stderr for every job that finishes; to be called once, in the Snakefile.

    Nothing is printed in dry runs, in the child processes that Snakemake starts for single jobs, and where
    ``--quiet`` asks for no progress (Snakemake then does not tell when jobs finish).

    Args:
        workflow: the global of that name in a Snakefile.
        expected: rule -> seconds of a job in earlier runs, used until a job of the rule has finished in this
            one; see `benchmarked_seconds`.

    Example:
        In the Snakefile: ``show_progress(workflow, benchmarked_seconds("results/mini/benchmarks"))``
    """
    from snakemake.logging import logger

    quiet = set(workflow.output_settings.quiet or ())
    if workflow.exec_mode != ExecMode.DEFAULT or workflow.dryrun or quiet & {Quietness.ALL, Quietness.PROGRESS}:
        return
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(_is_not_replaced)
    logger.addHandler(ProgressHandler(expected))


def benchmarked_seconds(folder: str | Path) -> dict[str, float]:
    """Mean seconds of a job of each rule from the benchmark files of earlier runs.

    Args:
        folder: holds, named after each rule, its benchmark file (.tsv) or a folder with its benchmark files;
            it may be missing.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for path in Path(folder).glob("**/*.tsv"):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with open(path, newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                try:
                    seconds[rule].append(float(row["s"]))
                except (KeyError, TypeError, ValueError):
                    continue  # a run that was cut off may leave half a file; an estimate can do without it
    return {rule: fmean(values) for rule, values in seconds.items() if values}


def _is_not_replaced(record: logging.LogRecord) -> bool:
    return getattr(record, "event", None) not in REPLACED_EVENTS and record.msg not in REPLACED_MESSAGES


class ProgressHandler(logging.Handler):
    """Follows the events of one run through the records that Snakemake logs, and their times."""

    def __init__(self, expected: Mapping[str, float] | None = None):
        super().__init__(logging.INFO)
        self.expected = dict(expected or {})
        self.waiting: Counter[str] = Counter()  # rule -> jobs not started yet
        self.running: dict[int, tuple[str, str, float]] = {}  # job -> rule, description, start
        self.finished: dict[str, list[float]] = defaultdict(list)  # rule -> seconds of its jobs
        self.total = 0
        self.start = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            match getattr(record, "event", None):
                case LogEvent.RUN_INFO:
                    self.waiting = Counter(record.stats)
                    self.total = self.waiting.pop("total")
                    self.start = record.created
                case LogEvent.JOB_INFO:
                    description = describe(record.rule_name, record.wildcards)
                    self.running[record.jobid] = (record.rule_name, description, record.created)
                    self.waiting[record.rule_name] -= 1
                case LogEvent.JOB_ERROR:
                    _, description, _ = self.running.pop(record.jobid, ("", record.rule_name, 0.0))
                    print(failure(description, record.log or ()), file=sys.stderr, flush=True)
                case LogEvent.JOB_FINISHED if record.job_id in self.running:
                    print(self.line(record.job_id, record.created), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)

    def line(self, job: int, now: float) -> str:
        """Take note that a running job has finished and say so."""
        rule, description, start = self.running.pop(job)
        self.finished[rule].append(now - start)
        done = sum(map(len, self.finished.values()))
        left = self.seconds_left(now)
        if done >= self.total:
            outlook = "done"
        elif left is None:
            outlook = "time left not known yet"
        else:
            outlook = f"about {duration(left)} left"
        counts = f"[{done:>{len(str(self.total))}}/{self.total}]"
        so_far = duration(now - self.start)
        return f"{counts} {so_far:>11}, {outlook:<23}  {description} ({duration(now - start)})"

    def seconds_left(self, now: float) -> float | None:
        """Work to do at the speed of the run so far; None early on if a rule to come was never timed.

        The speed is the job seconds done in a second: the parallelism with the scheduler's idle times in it.
        """
        timed = self.expected | {rule: fmean(seconds) for rule, seconds in self.finished.items()}
        to_come = +self.waiting + Counter(rule for rule, _, _ in self.running.values())
        busy = [seconds for rule in self.finished.values() for seconds in rule]
        unknown = any(count > 1 and rule not in timed for rule, count in to_come.items())
        if unknown and len(busy) < ENOUGH * self.total:
            return None
        overall = fmean(busy) if busy else 0.0
        work = sum(count * timed.get(rule, overall) for rule, count in to_come.items())
        for rule, _, begun in self.running.values():
            work -= min(now - begun, timed.get(rule, overall))
            busy.append(now - begun)
        elapsed = now - self.start
        return work * elapsed / sum(busy) if sum(busy) > 0 else work


def describe(rule: str, wildcards: Mapping[str, str]) -> str:
    """A job in words, e.g. "finetune_model bert topic seed 0": numbers with their wildcard's name."""
    words = [f"{name} {value}" if value.isdigit() else value for name, value in wildcards.items()]
    return " ".join([rule, *words])


def failure(description: str, logs: Iterable[str]) -> str:
    """What failed and the end of its log, where the step said why."""
    text = f"failed: {description}"
    for log in map(Path, logs):
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        text += "".join(f"\n    {line}" for line in lines[-LOG_LINES:]) + f"\n    (log: {log})"
        if log.parent.exists() and shutil.disk_usage(log.parent).free < ROOM:  # then the log may be cut off too
            text += (
                f"\n    There is no room left on the disk of {log.parent}: make some, then run the same command again."
            )
    return text


def duration(seconds: float) -> str:
    """Seconds in the two largest units, e.g. "18 s", "4 min 10 s", "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

"""A progress line for each finished job: count, elapsed time, estimated time left, and what the job was.

The lines replace Snakemake's own on the terminal. Snakemake's log file is not changed.

The Snakefile adds a handler to Snakemake's logger. Snakemake's interface for logger plugins cannot do the same
(version 9.27):

- A plugin is a package of the environment, and only a profile or the command line can select it. If a profile names a
  plugin that is not installed, `snakemake` does not start, so the lock file alone would no longer make a working
  environment. Runs with another profile (such as `--workflow-profile none`) would have no progress lines.
- A plugin that writes to the terminal replaces Snakemake's handler, including its colours and error messages. A plugin
  that does not cannot hide Snakemake's lines: `--quiet progress` stops the events as well as the lines.
- A plugin is created before the Snakefile is read, so it does not know the study's benchmark files. It runs in a
  separate thread, so its lines mix with what the Snakefile prints.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import IO, TYPE_CHECKING

from snakemake.settings.enums import Quietness
from snakemake_interface_executor_plugins.settings import ExecMode
from snakemake_interface_logger_plugins.common import LogEvent

from study.running.benchmarks import read_jobs

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

REPLACED_EVENTS = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS}
REPLACED_MESSAGES = {"Select jobs to execute..."}
LOG_LINES = 8  # last lines of a failed job's log that are shown
ENOUGH_JOBS = 0.1  # share of finished jobs from which their mean time is used for rules that were never timed
FULL_DISK = 2**20  # a disk with fewer free bytes counts as full
WORTH_PLANNING = 10  # jobs of a run for which the plan is asked
ROOT = Path(__file__).parents[2]
Key = tuple[str, tuple[str, ...]]  # a job: its rule and the values of its wildcards


def show_progress(
    workflow: "Workflow", expected: Mapping[str, float] | None = None, config: dict | None = None
) -> None:
    """Print a line to stderr for each job that finishes. Call this once, in the Snakefile.

    Prints nothing in dry runs, in the child processes that Snakemake starts for single jobs, or where ``--quiet``
    covers progress (Snakemake then sends no event when a job finishes).

    Args:
        workflow: the global of that name in a Snakefile.
        expected: rule -> seconds of a job in earlier runs, used until a job of the rule has finished in this run;
            see `benchmarked_seconds`.
        config: of the study, complete. With it, the plan estimates the jobs of rules that were never timed.

    Example:
        In the Snakefile: ``show_progress(workflow, benchmarked_seconds("results/mini/benchmarks"), STUDY.config)``
    """
    from snakemake.logging import logger

    quiet = set(workflow.output_settings.quiet or ())
    if workflow.exec_mode != ExecMode.DEFAULT or workflow.dryrun or quiet & {Quietness.ALL, Quietness.PROGRESS}:
        return
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(_is_kept)

    def listed() -> list[tuple[str, dict[str, str]]]:
        return [(job.rule.name, dict(job.wildcards_dict)) for job in workflow.dag.needrun_jobs()]

    logger.addHandler(ProgressHandler(expected, config and Plan(config, listed)))


@dataclass(frozen=True)
class Estimate:
    """Planned seconds of a job, and whether the plan knows its work or only the start of its process."""

    seconds: float
    modelled: bool


class Plan:
    """What `study.plan` estimates for each job of a run, computed by a process beside the run.

    If it cannot be computed, there are no estimates.

    Args:
        config: of the study. listed: gives rule and wildcards of every job of the run.
    """

    def __init__(self, config: dict, listed: Callable[[], list[tuple[str, dict[str, str]]]]):
        self.config, self.listed = config, listed
        self.jobs: list[tuple[str, dict[str, str]]] = []
        self.process: subprocess.Popen | None = None
        self.answer: IO[bytes] | None = None
        self.estimates: dict[Key, Estimate] = {}

    def begin(self) -> None:
        """Start the process."""
        self.jobs = self.listed()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with contextlib.suppress(OSError), tempfile.TemporaryFile("w+") as asked:
            json.dump({"config": self.config, "jobs": self.jobs}, asked)
            asked.seek(0)
            self.answer = tempfile.TemporaryFile()  # noqa: SIM115  a pipe would block the process when it is full
            self.process = subprocess.Popen(
                [sys.executable, "-m", "study.planning.job_seconds"],
                stdin=asked, stdout=self.answer, stderr=subprocess.DEVNULL, env=environment,
            )  # fmt: skip

    def of_jobs(self) -> dict[Key, Estimate]:
        """Job -> its estimate; nothing until the process has ended."""
        if self.process is not None and self.process.poll() is not None:
            if self.process.returncode == 0:
                self.answer.seek(0)
                answer = json.load(self.answer)
                pairs = zip(self.jobs, answer["seconds"], answer["modelled"], strict=True)
                self.estimates = {key_of(*job): Estimate(seconds, known) for job, seconds, known in pairs}
            self.process = None
            self.answer.close()
        return self.estimates


def key_of(rule: str, wildcards: Mapping[str, str]) -> Key:
    """Key of a job."""
    return rule, tuple(wildcards.values())


def benchmarked_seconds(folder: str | Path) -> dict[str, float]:
    """Mean seconds of a job of each rule, from the benchmark files of earlier runs; see `read_jobs`."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for job in read_jobs(folder):
        seconds[job.rule].append(job.seconds)
    return {rule: fmean(values) for rule, values in seconds.items()}


def _is_kept(record: logging.LogRecord) -> bool:
    return getattr(record, "event", None) not in REPLACED_EVENTS and record.msg not in REPLACED_MESSAGES


class ProgressHandler(logging.Handler):
    """Follows one run through the events that Snakemake logs."""

    def __init__(self, expected: Mapping[str, float] | None = None, plan: Plan | None = None):
        super().__init__(logging.INFO)
        self.expected = dict(expected or {})
        self.plan = plan
        self.waiting: Counter[str] = Counter()  # rule -> jobs not started yet
        self.running: dict[int, tuple[Key, str, float]] = {}  # job -> key, description, start
        self.finished: dict[str, list[float]] = defaultdict(list)  # rule -> seconds of its jobs
        self.taken: dict[Key, float] = {}  # finished job -> its seconds
        self.total = 0
        self.start = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            match getattr(record, "event", None):
                case LogEvent.RUN_INFO:
                    self.waiting = Counter(record.stats)
                    self.total = self.waiting.pop("total")
                    self.start = record.created
                    if self.plan and self.total >= WORTH_PLANNING and self.waiting.keys() - self.expected.keys():
                        self.plan.begin()
                case LogEvent.JOB_INFO:
                    description = describe(record.rule_name, record.wildcards)
                    key = key_of(record.rule_name, record.wildcards)
                    self.running[record.jobid] = (key, description, record.created)
                    self.waiting[record.rule_name] -= 1
                case LogEvent.JOB_ERROR:
                    _, description, _ = self.running.pop(record.jobid, (("", ()), record.rule_name, 0.0))
                    print(failure(description, record.log or ()), file=sys.stderr, flush=True)
                case LogEvent.JOB_FINISHED if record.job_id in self.running:
                    print(self.finish(record.job_id, record.created), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)

    def finish(self, job: int, now: float) -> str:
        """Move a running job to the finished ones and return its line."""
        key, description, start = self.running.pop(job)
        self.taken[key] = now - start
        self.finished[key[0]].append(now - start)
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
        """Remaining job seconds divided by the run's speed so far; None if a remaining rule was never timed or planned.

        The speed is job seconds done per second of run time, so it includes parallelism and the scheduler's pauses.
        """
        of_rule, of_job = self.expectations()
        remaining = +self.waiting + Counter(key[0] for key, _, _ in self.running.values() if key not in of_job)
        busy = [seconds for rule in self.finished.values() for seconds in rule]
        unknown = any(count > 1 and rule not in of_rule for rule, count in remaining.items())
        if unknown and len(busy) < ENOUGH_JOBS * self.total:
            return None
        overall = fmean(busy) if busy else 0.0
        work = sum(count * of_rule.get(rule, overall) for rule, count in (+self.waiting).items())
        for key, _, begun in self.running.values():
            work += max(0.0, of_job.get(key, of_rule.get(key[0], overall)) - (now - begun))
            busy.append(now - begun)
        elapsed = now - self.start
        return work * elapsed / sum(busy) if sum(busy) > 0 else work

    def expectations(self) -> tuple[dict[str, float], dict[Key, float]]:
        """Mean seconds of the waiting jobs of a rule, and seconds of running jobs of rules that were never timed.

        Times of this run come before those of earlier runs, and these before the plan.
        """
        timed = self.expected | {rule: fmean(seconds) for rule, seconds in self.finished.items()}
        planned = {key: seconds for key, seconds in self.scaled_estimates().items() if key[0] not in timed}
        running = {key for key, _, _ in self.running.values()}
        waiting: dict[str, list[float]] = defaultdict(list)
        for key in planned.keys() - running:
            waiting[key[0]].append(planned[key])
        of_rule = {rule: fmean(seconds) for rule, seconds in waiting.items()} | timed
        return of_rule, {key: planned[key] for key in planned.keys() & running}

    def scaled_estimates(self) -> dict[Key, float]:
        """The plan's seconds of every job, times the ratio of taken to planned seconds of the finished jobs."""
        estimates = self.plan.of_jobs() if self.plan else {}
        compared = [key for key, estimate in estimates.items() if estimate.modelled and key in self.taken]
        planned = sum(estimates[key].seconds for key in compared)
        scale = sum(self.taken[key] for key in compared) / planned if planned else 1.0
        return {key: scale * estimate.seconds for key, estimate in estimates.items()}


def describe(rule: str, wildcards: Mapping[str, str]) -> str:
    """A job's rule and wildcards, numbers with their name, e.g. "finetune_model bert topic seed 0"."""
    words = [f"{name} {value}" if value.isdigit() else value for name, value in wildcards.items()]
    return " ".join([rule, *words])


def failure(description: str, logs: Iterable[str]) -> str:
    """The failed job and the last lines of its log, which give the reason."""
    text = f"failed: {description}"
    for log in map(Path, logs):
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        text += "".join(f"\n    {line}" for line in lines[-LOG_LINES:]) + f"\n    (log: {log})"
        if log.parent.exists() and shutil.disk_usage(log.parent).free < FULL_DISK:  # the log may be incomplete
            text += f"\n    The disk of {log.parent} is full: free some space, then run the same command again."
    return text


def duration(seconds: float) -> str:
    """Seconds in the one or two largest units, e.g. "18 s", "4 min 10 s", "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

"""A plan compared with a finished run of its study, job by job."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ken.errors import UserError
from study.planning.jobs import Job, seconds_by_rule
from study.running import files
from study.running.benchmarks import read_jobs


@dataclass(frozen=True)
class Compared:
    """A job, or all jobs of a rule, with planned seconds and the seconds it took.

    Attributes:
        axes: values of the job's wildcards; None for all jobs of a rule.
        jobs: number of jobs.
    """

    rule: str
    axes: tuple[str, ...] | None
    planned: float
    taken: float
    jobs: int = 1

    @property
    def error(self) -> float:
        """Relative error of the planned seconds: 0.1 if they are 10 % too high."""
        return self.planned / self.taken - 1


def compare_jobs(planned: Sequence[Job], results: Path) -> list[Compared]:
    """Every job that was timed in a run, with its plan.

    Jobs on a CPU are compared in processor seconds, which other work on the machine hardly changes. If the run has no
    times of single jobs, as a committed run, its rules are compared in seconds.

    Args:
        results: of the run.

    Raises:
        UserError: no job or rule of the study was timed there.
    """
    of_job = {(job.rule, tuple(job.wildcards.values())): job for job in planned}
    compared = []
    for timed in read_jobs(results / "benchmarks"):
        if job := of_job.get((timed.rule, timed.axes)):
            taken = timed.seconds if job.on_gpu else timed.processor_seconds
            if taken:
                compared.append(Compared(timed.rule, timed.axes, job.seconds, taken))
    if not compared:
        compared = _compare_rules(planned, results)
    if not compared:
        raise UserError(f"{results} holds no times of jobs of this study: name the results of a run of it.")
    return compared


def _compare_rules(planned: Sequence[Job], results: Path) -> list[Compared]:
    path = results / "provenance.json"
    taken = files.read_json(path)["seconds"] if path.is_file() else {}
    return [
        Compared(rule, None, seconds, taken[rule], sum(job.rule == rule for job in planned))
        for rule, seconds in seconds_by_rule(planned).items()
        if taken.get(rule)
    ]


def by_rule(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Rule -> its jobs; and "all of these" -> all jobs."""
    groups = defaultdict(list)
    for one in compared:
        groups[one.rule].append(one)
    return groups | {"all of these": list(compared)}


def total_error(compared: Sequence[Compared]) -> float:
    """Relative error of the sum of the planned seconds."""
    return sum(one.planned for one in compared) / sum(one.taken for one in compared) - 1


def median_error(compared: Sequence[Compared]) -> float | None:
    """Median size of the relative error of a job; None if only rules were timed."""
    if any(one.axes is None for one in compared):
        return None
    return median(abs(one.error) for one in compared)


def worst(compared: Sequence[Compared], count: int) -> list[Compared]:
    """The jobs whose plans are wrong by the most seconds."""
    return sorted(compared, key=lambda one: -abs(one.planned - one.taken))[:count]

"""The jobs of a study, as a dry run of Snakemake lists them, and their costs on a machine."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from baselines import METHODS
from ken.errors import UserError
from study.definition import config as study_config
from study.planning import cost
from study.planning.sizes import SizedStudy, size_study
from study.running import files
from study.running.device import PARTS

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "config" / "plan.yaml"
HERE = "here"  # the machine at hand
SPEEDS = ("start_s", "ranked", "grid", "chosen", "coded", "file_s", "write_gb_per_s", "read_gb_per_s")  # of a core


@dataclass(frozen=True)
class Job:
    """A job and its estimated cost.

    Attributes:
        rule, wildcards: as Snakemake names them.
        seconds: duration.
        disk: bytes that stay on disk.
        gib: memory in GiB.
        on_gpu: whether it runs on a GPU.
        parts: eighths of the GPU that it takes.
        computed: seconds in which the GPU computes; in the others it could serve other jobs.
    """

    rule: str
    wildcards: dict[str, str]
    seconds: float = 0.0
    disk: float = 0.0
    gib: float = 0.0
    on_gpu: bool = False
    parts: int = PARTS
    computed: float = 0.0


def read_plan() -> dict:
    """Read config/plan.yaml (speeds of machines, sizes of models and data sets) and the measured speeds it names."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    return with_measured(plan, files.read_json(ROOT / plan["measured"]))


def with_measured(plan: dict, record: dict) -> dict:
    """A plan with the measured speeds of a machine's core.

    Args:
        plan: config/plan.yaml.
        record: see `study.planning.speeds.measure`.

    Raises:
        UserError: the record lacks a speed, because an older version measured it.
    """
    if missing := [name for name in SPEEDS if name not in record["core"]]:
        raise UserError(f"the measured speeds lack {missing[0]!r}: measure the machine again (make plan MEASURE=1).")
    basis = f"measured on {record['measured'][:10]} on {record['host']} ({record['machine']['cpu']})"
    cpu = record["cpu"] | {"title": f"one core ({record['machine']['cpu']})", "basis": basis}
    return plan | {"machines": plan["machines"] | {"cpu": cpu}, "core": plan["core"] | record["core"]}


def with_machine_at_hand(plan: dict, record: dict) -> dict:
    """A plan with the machine at hand as `HERE`, and with the speeds of its core."""
    plan = with_measured(plan, record)
    here = cpu = plan["machines"]["cpu"]
    if "gpu" in record:
        beside = {"cores": record["machine"]["cores"], "beside_gib": record["machine"]["memory_gib"]}
        here = record["gpu"] | beside | {"title": record["machine"]["gpu"], "basis": cpu["basis"]}
    return plan | {"machines": plan["machines"] | {HERE: here}}


def read_study(config: Path, plan: dict) -> SizedStudy:
    """Read a study's config and determine the sizes of its models and tasks."""
    return size_study(study_config.read(config, METHODS), plan)


def list_jobs(config: Path, everything: bool = False) -> list[Job]:
    """List the jobs that Snakemake would run, without their costs.

    Args:
        config: of the study.
        everything: whether finished jobs are listed too.

    Raises:
        UserError: Snakemake refuses the study; the message is Snakemake's.
    """
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    options = ["--directory", str(Path.cwd()), "--configfile", str(config.resolve()), "--workflow-profile", "none"]
    options += ["--dry-run", "--nolock", "--cores", "1", *(["--forceall"] if everything else [])]
    done = subprocess.run([*snakemake, *options], capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        errors = [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")]
        raise UserError(f"Snakemake refuses {config}: {errors[0] if errors else output[-800:]}")
    return parse_jobs(output)


def parse_jobs(output: str) -> list[Job]:
    """Jobs in the output of a dry run, without the target rule `all`."""
    jobs = []
    for rule, description in re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", output, re.M):
        line = re.search(r"^ {4}wildcards: (.*)$", description, re.M)
        jobs.append(Job(rule, dict(pair.split("=", 1) for pair in line[1].split(", ")) if line else {}))
    return [job for job in jobs if job.rule != "all"]


def with_costs(study: SizedStudy, jobs: Iterable[Job], machine: dict, plan: dict) -> list[Job]:
    """The same jobs with their costs.

    Args:
        machine: entry of config/plan.yaml; jobs that need no GPU run on the cpu of that file.
    """
    costed = []
    for job in jobs:
        work = cost.work_of(study, job.rule, job.wildcards)
        on_gpu = cost.is_gpu(machine) and job.rule in cost.ON_GPU
        seconds = cost.seconds_of(work, machine if on_gpu else plan["machines"]["cpu"], plan["core"])
        gib = cost.memory_gib(study, job.rule, job.wildcards, half=on_gpu)
        job = replace(job, seconds=seconds, disk=work.disk, gib=gib, on_gpu=on_gpu)
        if on_gpu:
            parts = cost.parts_of_gpu(study, job.rule, job.wildcards, machine)
            job = replace(job, parts=parts, computed=cost.gpu_seconds(work, machine))
        costed.append(job)
    return costed


def seconds_by_rule(jobs: Iterable[Job]) -> Counter[str]:
    """Rule -> seconds of all its jobs."""
    seconds: Counter[str] = Counter()
    for job in jobs:
        seconds[job.rule] += job.seconds
    return seconds


def gpu_seconds(jobs: Iterable[Job], gpus: int, cores: int) -> float:
    """Seconds of the jobs on GPUs if none is ever idle.

    Each takes its part of a GPU and a core for its time. However many jobs share a GPU, it computes for one at a time.
    """
    jobs = [job for job in jobs if job.on_gpu]
    taken = sum(job.seconds * job.parts / PARTS for job in jobs)
    computed, beside = sum(job.computed for job in jobs), sum(job.seconds for job in jobs)
    return max(taken / gpus, computed / gpus, beside / cores)


def wall_seconds(jobs: list[Job], gpus: int, cores: int) -> float:
    """Seconds from start to end if no worker is ever idle, but at least those of the longest job."""
    on_cpu = sum(job.seconds for job in jobs if not job.on_gpu)
    return max([gpu_seconds(jobs, gpus, cores) + on_cpu / cores, *(job.seconds for job in jobs)])

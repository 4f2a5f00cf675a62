"""The jobs of a study, as a dry run of Snakemake lists them, and their costs on a machine."""

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable
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
        rule, wildcards, priority: as in the Snakefile.
        seconds: duration.
        disk: bytes that stay on disk.
        gib: memory in GiB.
        on_gpu: whether it runs on a GPU.
        parts: eighths of the GPU that it takes.
        computed: seconds in which the GPU computes; in the others it could serve other jobs.
        number: of the job in its run.
        after: numbers of the jobs that make its inputs.
    """

    rule: str
    wildcards: dict[str, str]
    seconds: float = 0.0
    disk: float = 0.0
    gib: float = 0.0
    on_gpu: bool = False
    parts: int = PARTS
    computed: float = 0.0
    priority: int = 0
    number: int = 0
    after: tuple[int, ...] = ()


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
    _check_measured(record["core"], SPEEDS)
    basis = f"measured on {record['measured'][:10]} on {record['host']} ({record['machine']['cpu']})"
    cpu = record["cpu"] | {"title": f"one core ({record['machine']['cpu']})", "basis": basis}
    return plan | {"machines": plan["machines"] | {"cpu": cpu}, "core": plan["core"] | record["core"]}


def _check_measured(speeds: dict, names: Iterable[str]) -> None:
    if missing := [name for name in names if name not in speeds]:
        raise UserError(f"the measured speeds lack {missing[0]!r}: measure the machine again (make plan MEASURE=1).")


def with_machine_at_hand(plan: dict, record: dict) -> dict:
    """A plan with the machine at hand as `HERE`, and with the speeds of its core."""
    plan = with_measured(plan, record)
    here = cpu = plan["machines"]["cpu"]
    if "gpu" in record:
        _check_measured(record["gpu"], ("cores", "beside_gib"))
        here = record["gpu"] | {"title": record["machine"]["gpu"], "basis": cpu["basis"]}
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
    options += ["--dry-run", "--nolock", "--rerun-incomplete", "--cores", "1", *(["--forceall"] if everything else [])]
    done = subprocess.run([*snakemake, *options], capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        errors = [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")]
        message = errors or re.findall(r"^\w*(?:Exception|Error)\b.*", output, re.M | re.S) or [output]
        raise UserError(f"Snakemake refuses {config}: {message[0][:800]}")
    return parse_jobs(output)


def parse_jobs(output: str) -> list[Job]:
    """Jobs in the output of a dry run, without the target rule `all`."""
    found = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", output, re.M)
    described = [(rule, dict(re.findall(r"^ {4}(\w+): (.*)$", lines, re.M))) for rule, lines in found if rule != "all"]
    made_by = {path: int(d["jobid"]) for _, d in described for path in _paths(d, "output")}
    jobs = []
    for rule, d in described:
        wildcards = dict(pair.split("=", 1) for pair in d["wildcards"].split(", ")) if "wildcards" in d else {}
        after = sorted({made_by[path] for path in _paths(d, "input") if path in made_by})
        priority, number = int(d.get("priority", 0)), int(d["jobid"])
        jobs.append(Job(rule, wildcards, priority=priority, number=number, after=tuple(after)))
    return jobs


def _paths(description: dict[str, str], what: str) -> list[str]:
    return description[what].split(", ") if what in description else []


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


def too_large(study: SizedStudy, jobs: Iterable[Job], machine: dict) -> list[str]:
    """Models with jobs that need more memory than the GPU of a machine has; none if the machine has no GPU."""
    needed = {
        (job.rule, job.wildcards["model"]) for job in jobs if job.rule in cost.ON_GPU and "model" in job.wildcards
    }
    memory = machine.get("memory_gib", math.inf)
    large = {model for rule, model in needed if cost.gpu_gib(study, rule, model) > memory}
    return [model for model in study.models if model in large]


def without_models(study: SizedStudy, jobs: Iterable[Job], models: Collection[str]) -> tuple[SizedStudy, list[Job]]:
    """A study and its jobs without some of its models."""
    kept = {name: model for name, model in study.config["models"].items() if name not in models}
    sizes = {name: size for name, size in study.models.items() if name not in models}
    jobs = [job for job in jobs if job.wildcards.get("model") not in models]
    return replace(study, config=study.config | {"models": kept}, models=sizes), jobs


def that_fit(study: SizedStudy, jobs: list[Job], machine: dict, plan: dict) -> tuple[SizedStudy, list[Job], list[str]]:
    """A study and its jobs, with their costs, without the models that are too large for a machine; and these models."""
    large = too_large(study, jobs, machine)
    if large:
        study, jobs = without_models(study, jobs, large)
        jobs = with_costs(study, jobs, machine, plan)  # jobs that read all models read fewer
    return study, jobs, large


def seconds_by_rule(jobs: Iterable[Job]) -> Counter[str]:
    """Rule -> seconds of all its jobs."""
    seconds: Counter[str] = Counter()
    for job in jobs:
        seconds[job.rule] += job.seconds
    return seconds

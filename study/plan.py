"""What will a study cost? Jobs, hours, disk and memory, before it starts.

`make plan CONFIG=config/paper.yaml MACHINE=a100`. Which jobs there are is asked of Snakemake itself, by a dry run, so
that what is finished does not count; what one costs says `study.planning.cost`, with the speeds of config/plan.yaml. On
the machine of the committed reference run, what its rules really took corrects the estimate.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

import baselines
from ken.errors import UserError
from study import config as study_config
from study.planning import cost
from study.planning.cost import Study, is_gpu
from study.planning.sizes import model_config, model_size, task_size
from study.record import seconds_per_rule
from study.running import files
from study.running.progress import duration
from study.running.workflow import run

ROOT = Path(__file__).parents[1]
PLAN = ROOT / "config" / "plan.yaml"


@dataclass(frozen=True)
class Job:
    """A rule, the values of its wildcards, and what it is estimated to cost: seconds, bytes that stay, memory."""

    rule: str
    wildcards: dict[str, str]
    seconds: float = 0.0
    disk: float = 0.0
    gib: float = 0.0
    on_gpu: bool = False


def listed_jobs(config: Path, everything: bool = False) -> list[Job]:
    """Jobs that Snakemake would run, without their costs.

    Args:
        config: of the study. everything: also what is finished.

    Raises:
        UserError: Snakemake refuses the study; what it says.
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(Path.cwd()),
    ]
    command += ["--configfile", str(config.resolve()), "--dry-run", "--cores", "1", "--nolock"]
    command += ["--workflow-profile", "none", *(["--forceall"] if everything else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        said = [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")]
        raise UserError(f"Snakemake refuses {config}: {said[0] if said else output[-800:]}")
    return jobs_in(output)


def jobs_in(output: str) -> list[Job]:
    """Jobs that the output of a dry run describes, but for the target of all."""
    jobs = []
    for rule, described in re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", output, re.M):
        found = re.search(r"^ {4}wildcards: (.*)$", described, re.M)
        jobs.append(Job(rule, dict(pair.split("=", 1) for pair in found[1].split(", ")) if found else {}))
    return [job for job in jobs if job.rule != "all"]


def read_plan() -> dict:
    """config/plan.yaml."""
    return yaml.safe_load(PLAN.read_text(encoding="utf-8"))


def sized_study(config: dict, plan: dict) -> Study:
    """A complete config with the sizes of its models and tasks."""
    tasks = {name: task_size(name, config, plan) for name in config["tasks"]}
    classes = max(task.classes for task in tasks.values())
    models = {
        name: model_size(model_config(name, config, plan["repositories"], classes), model["source"] == "pretraining")
        for name, model in (config["models"] | config["language_modelling"]["models"]).items()
    }
    return Study(config, models, tasks)


def costed(study: Study, jobs: Iterable[Job], machine: dict, plan: dict, factors: dict | None = None) -> list[Job]:
    """The same jobs with their costs.

    Args:
        machine: entry of config/plan.yaml; what does not run on a GPU runs on the cpu of that file.
        factors: rule -> what multiplies the seconds; 1 where not given.
    """
    found = []
    for job in jobs:
        work = cost.work_of(study, job.rule, job.wildcards)
        on_gpu = is_gpu(machine) and job.rule in cost.ON_GPU
        on = machine if on_gpu else plan["machines"]["cpu"]
        seconds = cost.seconds_of(work, on, plan["core"]) * (factors or {}).get(job.rule, 1.0)
        gib = cost.memory_gib(study, job.rule, job.wildcards, half=on_gpu)
        found.append(Job(job.rule, job.wildcards, seconds, work.disk, gib, on_gpu))
    return found


def measured_factors(folder: Path, plan: dict, machine: dict) -> dict[str, float]:
    """Rule -> seconds that its jobs took in a finished run, as a multiple of the estimate.

    Args:
        folder: a results folder whose provenance.json has the config and the seconds of every rule.
    """
    record = files.read_json(folder / "provenance.json")
    with tempfile.TemporaryDirectory() as elsewhere:  # the run's config, as if nothing of it was finished
        path = Path(elsewhere, "config.yaml")
        path.write_text(yaml.safe_dump(record["config"]))
        study, jobs = sized_study(study_config.read(path, baselines.METHODS), plan), listed_jobs(path, everything=True)
    estimated = seconds_by_rule(costed(study, jobs, machine, plan))
    return {rule: taken / estimated[rule] for rule, taken in record["seconds"].items() if estimated[rule]}


def calibration(machine: dict) -> Path | None:
    """Results of the run that a machine is calibrated with, if there is one and it is here."""
    folder = ROOT / machine.get("calibrated", "")
    return folder if "calibrated" in machine and (folder / "provenance.json").is_file() else None


def planned(study: Study, jobs: list[Job], name: str, plan: dict) -> list[Job]:
    """Jobs with their costs on a machine, corrected by the run that the machine is calibrated with, if there is one."""
    machine = plan["machines"][name]
    reference = calibration(machine)
    factors = measured_factors(reference, plan, machine) if reference else {}
    return costed(study, jobs, machine, plan, factors)


def seconds_by_rule(jobs: Iterable[Job]) -> Counter[str]:
    """Rule -> seconds of all its jobs."""
    seconds: Counter[str] = Counter()
    for job in jobs:
        seconds[job.rule] += job.seconds
    return seconds


def wall_seconds(jobs: list[Job], gpus: int, cores: int) -> float:
    """Seconds from start to end with that many workers, if they are always busy; those of the longest job at least."""
    busy = sum(job.seconds / (gpus if job.on_gpu else cores) for job in jobs)
    return max([busy, *(job.seconds for job in jobs)])


# The report.


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of fixed width, the first flush left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for first, *others in [header, ["-" * width for width in widths], *rows]:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size_text(count: float) -> str:
    """Bytes in a decimal unit, e.g. "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def rule_table(jobs: list[Job]) -> str:
    """Jobs, time, disk and memory of every rule and of all."""
    grouped: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        grouped[job.rule].append(job)
    rows = []
    for rule, found in [*grouped.items(), ("all", jobs)]:
        seconds, disk = [job.seconds for job in found], sum(job.disk for job in found)
        rows.append(
            [rule, f"{len(found):,}", duration(sum(seconds) / len(found)), duration(max(seconds)),
             f"{sum(seconds) / 3600:,.2f}", size_text(disk) if disk else "", f"{max(job.gib for job in found):.1f}"]
        )  # fmt: skip
    return table(["rule", "jobs", "mean", "longest", "hours", "disk", "GiB"], rows)


def memory_table(study: Study, machines: dict) -> str:
    """Parameters of every model, memory of its fine-tuning on a GPU, and the GPUs that have as much."""
    rows = []
    for name, found in study.models.items():
        gib = cost.training_gib(found, study.settings(name), half=True)
        fits = [kind for kind, machine in machines.items() if machine.get("memory_gib", 0) >= gib]
        rows.append([name, f"{found.parameters / 1e6:,.1f}M", f"{gib:.1f}", " ".join(fits) or "none"])
    return table(["model", "parameters", "GiB", "fits on"], rows)


def kinds_table(study: Study, jobs: list[Job], plan: dict) -> str:
    """Hours of one GPU of every kind for the jobs that use one."""
    rows = []
    for machine in filter(is_gpu, plan["machines"].values()):
        seconds = seconds_by_rule(job for job in costed(study, jobs, machine, plan) if job.on_gpu)
        reached = f"{machine['tflops'] * machine['utilisation']:.0f}"
        tuning = seconds["finetune_model"] + seconds["finetune_random_init"] + seconds["train_method"]
        rows.append([machine["title"], reached, f"{tuning / 3600:,.1f}", f"{seconds.total() / 3600:,.1f}"])
    return table(["GPU", "TFLOP/s assumed", "training, h", "all its jobs, h"], rows)


def comparison(jobs: list[Job], benchmarks: Path) -> str:
    """Estimated seconds beside those that a finished run took, for the rules that Snakemake has timed.

    Args:
        benchmarks: the folder of that name in its results.

    Raises:
        UserError: nothing was timed there.
    """
    estimated, taken = seconds_by_rule(jobs), seconds_per_rule(benchmarks)
    timed = [rule for rule in estimated if taken.get(rule)]
    if not timed:
        raise UserError(f"{benchmarks} holds no times of rules of this study: name the results of a run of it.")
    compared = [(rule, estimated[rule], taken[rule]) for rule in timed]
    compared.append(("all of these", sum(estimated[rule] for rule in timed), sum(taken[rule] for rule in timed)))
    rows = [[rule, f"{guess:,.0f}", f"{real:,.0f}", f"{guess / real:.2f}"] for rule, guess, real in compared]
    return table(["rule", "estimated, s", "took, s", "ratio"], rows)


def report(study: Study, jobs: list[Job], name: str, plan: dict, gpus: int, cores: int) -> str:
    """The plan as text."""
    if not jobs:
        return f"{study.config['study']}: nothing to do."
    machine = plan["machines"][name]
    workers = f"{cores} x {machine['title']}"
    basis = f"corrected by what {machine['calibrated']} took" if calibration(machine) else "not corrected by any run"
    if is_gpu(machine):
        workers, basis = f"{gpus} x {machine['title']} and {cores} cores", "the share of the GPU's peak is assumed"
    disk, wall = size_text(sum(job.disk for job in jobs)), duration(wall_seconds(jobs, gpus, cores))
    left_out = _not_estimated(jobs)
    about = "more than" if left_out else "about"
    parts = [
        f"{study.config['study']}: {len(jobs):,} jobs, {disk} on disk, {about} {wall} on {workers}",
        rule_table(jobs),
        f"Times are estimates ({basis}); GiB is the memory of the largest job.{left_out}",
        "Memory of fine-tuning on a GPU (bfloat16 arithmetic, float32 weights), at the longest batch:",
        memory_table(study, plan["machines"]),
    ]
    if any(job.rule in cost.ON_GPU for job in jobs):
        parts += ["One GPU of each kind:", kinds_table(study, jobs, plan)]
    return "\n\n".join(parts)


def _not_estimated(jobs: list[Job]) -> str:
    rules = [rule for rule in cost.NOT_ESTIMATED if any(job.rule == rule for job in jobs)]
    return f" Not estimated, and counted as if they did nothing: {', '.join(rules)}." if rules else ""


def _workers(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main() -> None:
    plan = read_plan()
    parser = argparse.ArgumentParser(description="Estimate jobs, time, disk and memory of a study before it starts.")
    parser.add_argument("--config", type=Path, default=Path("config/mini.yaml"))
    parser.add_argument("--machine", choices=plan["machines"], default="cpu", help="kind of worker (config/plan.yaml)")
    parser.add_argument("--gpus", type=_workers, default=1, help="GPUs at work at once")
    parser.add_argument("--cores", type=_workers, default=2, help="cores at work at once")
    parser.add_argument("--all", action="store_true", help="count what is finished too")
    against = "compare with what this finished run took, job for job (--all)"
    parser.add_argument("--against", type=Path, metavar="RESULTS", help=against)
    parser.add_argument("--json", type=Path, help="write the jobs with their costs there too")
    a = parser.parse_args()
    study = sized_study(study_config.read(a.config, baselines.METHODS), plan)
    jobs = planned(study, listed_jobs(a.config, a.all or a.against is not None), a.machine, plan)
    print(report(study, jobs, a.machine, plan, a.gpus, a.cores))
    if a.against:
        print(f"\nAgainst {a.against}:\n\n{comparison(jobs, a.against / 'benchmarks')}")
    if a.json:
        files.write_json(a.json, [asdict(job) for job in jobs])


if __name__ == "__main__":
    run(main)

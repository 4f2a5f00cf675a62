"""Write a SLURM profile for a study: memory and time of every rule, by model, from its plan.

`python -m study.slurm --config config/paper.yaml --machine a100 --out profiles/slurm` writes the committed one.
"""

import argparse
import math
from collections import defaultdict
from pathlib import Path

import yaml

from ken.errors import UserError
from study.planning import cost
from study.planning.jobs import ROOT, Job, list_jobs, read_plan, read_study, too_large, with_costs
from study.running import files
from study.running.workflow import run

PROFILE = ROOT / "profiles" / "slurm" / "config.v8+.yaml"
MARK = "# Resources of every rule"
SPARE_TIME, SPARE_MEMORY = 2.0, 1.25  # multiples of its estimate that a job may use before SLURM stops it
MB_PER_GIB = 2**30 / 1e6
LEAST_MB, LEAST_MINUTES = 2000, 10


def resources(jobs: list[Job], with_gpu: bool) -> dict[str, dict[str, str | int]]:
    """Rule -> resources of its largest job, by model if models differ; memory and time grow with every attempt."""
    memory: dict[str, dict[str, int]] = defaultdict(dict)
    minutes: dict[str, dict[str, int]] = defaultdict(dict)
    for job in jobs:
        model = job.wildcards.get("model", "")
        megabytes = 1000 * math.ceil(SPARE_MEMORY * job.gib * MB_PER_GIB / 1000)
        memory[job.rule][model] = max(LEAST_MB, megabytes, memory[job.rule].get(model, 0))
        spare_minutes = 10 * math.ceil(SPARE_TIME * job.seconds / 600)
        minutes[job.rule][model] = max(LEAST_MINUTES, spare_minutes, minutes[job.rule].get(model, 0))
    return {
        rule: {
            "mem_mb": f"attempt * {by_model(memory[rule])}",
            "runtime": f"attempt * {by_model(minutes[rule])}",
            "gpu": int(with_gpu and rule in cost.ON_GPU),
        }
        for rule in sorted(memory)  # Snakemake's order differs between runs
    }


def by_model(values: dict[str, int]) -> str:
    """A number if it is the same for all models, else an expression over wildcards; unknown models get the largest.

    The expression has no braces, because Snakemake 9.27 would treat them as fields of its messages.
    """
    most = max(values.values())
    if set(values.values()) == {most}:
        return str(most)
    return f"dict({sorted(values.items())}).get(wildcards.model, {most})"


def profile(jobs: list[Job], with_gpu: bool, command: str) -> str:
    """The committed profile, with its resources replaced by those of these jobs."""
    general, mark, _ = PROFILE.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise UserError(f"{PROFILE} lacks the line that begins {MARK!r}: take it from the repository.")
    text = yaml.safe_dump({"set-resources": resources(jobs, with_gpu)}, sort_keys=False, width=1000)
    return f"{general}{MARK}, written by `{command}`.\n{text}"


def main() -> None:
    plan = read_plan()
    parser = argparse.ArgumentParser(description="Write a SLURM profile with the resources of a study's plan.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--machine", choices=plan["machines"], required=True, help="kind of worker (config/plan.yaml)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the profile into")
    a = parser.parse_args()
    machine = plan["machines"][a.machine]
    study, jobs = read_study(a.config, plan), list_jobs(a.config, everything=True)
    if large := too_large(study, jobs, machine):
        without = ", ".join(f"{model}: null" for model in large)
        raise UserError(
            f"{machine['title']} is too small for {', '.join(large)}: set models: {{{without}}} in {a.config}."
        )
    jobs = with_costs(study, jobs, machine, plan)
    command = f"python -m study.slurm --config {a.config} --machine {a.machine} --out {a.out}"
    files.write_text(a.out / PROFILE.name, profile(jobs, cost.is_gpu(machine), command))


if __name__ == "__main__":
    run(main)

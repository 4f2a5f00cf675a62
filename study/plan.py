"""Estimate the cost of a study before it starts: jobs, hours, disk and memory.

`make plan CONFIG=config/paper.yaml MACHINE=a100`. A dry run of Snakemake lists the jobs, so finished ones do not count.
`study.planning.cost` estimates each with the speeds of config/plan.yaml. For the machine of the committed reference
run, the measured times of that run correct the estimates.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from ken.errors import UserError
from study.planning import jobs, tables
from study.record import seconds_per_rule
from study.running import files
from study.running.workflow import run


def compare_with_run(planned: list[jobs.Job], benchmarks: Path) -> str:
    """A table of estimated and measured seconds, for the rules that were timed in a finished run.

    Args:
        benchmarks: the folder of that name in the results of the run.

    Raises:
        UserError: no rule of the study was timed there.
    """
    estimated, measured = jobs.seconds_by_rule(planned), seconds_per_rule(benchmarks)
    if not any(measured.get(rule) for rule in estimated):
        raise UserError(f"{benchmarks} holds no times of rules of this study: name the results of a run of it.")
    return tables.comparison_table(estimated, measured)


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main() -> None:
    plan = jobs.read_plan()
    parser = argparse.ArgumentParser(description="Estimate jobs, time, disk and memory of a study before it starts.")
    parser.add_argument("--config", type=Path, default=Path("config/mini.yaml"))
    parser.add_argument("--machine", choices=plan["machines"], default="cpu", help="kind of worker (config/plan.yaml)")
    parser.add_argument("--gpus", type=_workers, default=1, help="GPUs in use at the same time")
    parser.add_argument("--cores", type=_workers, default=2, help="cores in use at the same time")
    parser.add_argument("--all", action="store_true", help="count finished jobs too")
    against = "compare with the times of this finished run, job for job (implies --all)"
    parser.add_argument("--against", type=Path, metavar="RESULTS", help=against)
    parser.add_argument("--json", type=Path, help="also write the jobs with their costs to this file")
    a = parser.parse_args()
    study = jobs.read_study(a.config, plan)
    listed = jobs.list_jobs(a.config, a.all or a.against is not None)
    planned = jobs.calibrated_costs(study, listed, a.machine, plan)
    print(tables.plan_text(study, planned, a.machine, plan, a.gpus, a.cores))
    if a.against:
        print(f"\nAgainst {a.against}:\n\n{compare_with_run(planned, a.against / 'benchmarks')}")
    if a.json:
        files.write_json(a.json, [asdict(job) for job in planned])


if __name__ == "__main__":
    run(main)

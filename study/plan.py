"""Estimate the cost of a study before it starts: jobs, hours, disk and memory.

`make plan CONFIG=config/paper.yaml MACHINE=a100`. A dry run of Snakemake lists the jobs, so finished ones do not count.
`study.planning.cost` estimates each with the speeds of config/plan.yaml, or of the machine at hand, once
`make plan MEASURE=1` has measured it.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from study.planning import comparison, jobs, tables
from study.planning.machines import MEASURED, chosen_machine, known_machines
from study.running import files
from study.running.workflow import run


def measure_into(path: Path) -> dict:
    """Measure the machine at hand and write its speeds to a file."""
    from study.planning import speeds  # imports torch
    from study.running.device import acquire_device

    print("Measuring this machine, for about a minute:", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = speeds.measure(acquire_device(), path.parent)
    files.write_json(path, record)
    print(f"Plans without --machine now use {path}.\n", flush=True)
    return record


def against_text(planned: list[jobs.Job], results: Path) -> str:
    """The plan compared with a finished run."""
    compared = comparison.compare_jobs(planned, results)
    if any(one.axes is None for one in compared):
        return f"Against {results} (seconds, more if other work ran beside):\n\n{tables.comparison_table(compared)}"
    unit = "seconds" if any(job.on_gpu for job in planned) else "processor seconds"
    worst = f"Jobs that are wrong by the most seconds:\n\n{tables.worst_table(compared)}"
    return f"Against {results} ({unit}):\n\n{tables.comparison_table(compared)}\n\n{worst}"


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Estimate jobs, time, disk and memory of a study before it starts.")
    parser.add_argument("--config", type=Path, default=Path("config/mini.yaml"))
    kind = "kind of worker (config/plan.yaml); by default the measured machine, else cpu"
    parser.add_argument("--machine", help=kind)
    parser.add_argument("--measure", action="store_true", help="measure this machine first, and plan for it")
    where = "file of the speeds of this machine (default: %(default)s)"
    parser.add_argument("--measured", type=Path, default=MEASURED, metavar="FILE", help=where)
    parser.add_argument("--gpus", type=_workers, default=1, help="GPUs in use at the same time, if it has any")
    cores = "cores in use at the same time (default: those beside the GPUs in config/plan.yaml, else 2)"
    parser.add_argument("--cores", type=_workers, help=cores)
    parser.add_argument("--all", action="store_true", help="count finished jobs too")
    against = "compare with the times of this finished run, job for job (implies --all)"
    parser.add_argument("--against", type=Path, metavar="RESULTS", help=against)
    parser.add_argument(
        "--json", type=Path, help="also write the jobs that are counted, with their costs, to this file"
    )
    return parser.parse_args()


def main() -> None:
    a = parse()
    if a.measure:
        measure_into(a.measured)
    plan = known_machines(a.measured)
    name = chosen_machine(a.machine, plan)
    machine = plan["machines"][name]
    study = jobs.read_study(a.config, plan)
    listed = jobs.list_jobs(a.config, a.all or a.against is not None)
    planned = jobs.with_costs(study, listed, machine, plan)
    compared = against_text(planned, a.against) if a.against else ""
    cores = a.cores or a.gpus * machine.get("cores", 2)
    print(tables.plan_text(study, planned, name, plan, a.gpus, cores))
    if compared:
        print(f"\n{compared}")
    if a.json:
        _, fitting, _ = jobs.that_fit(study, planned, machine, plan)
        files.write_json(a.json, [asdict(job) for job in fitting])


if __name__ == "__main__":
    run(main)

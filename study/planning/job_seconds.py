"""Planned seconds of given jobs, for the time left of a run: JSON from standard input to standard output.

A process of its own: importing the models' architectures takes seconds, in which Snakemake could start jobs.
"""

import argparse
import json
import os
import sys

from study.planning import cost, jobs
from study.planning.machines import MEASURED, chosen_machine, known_machines
from study.planning.sizes import size_study
from study.running.workflow import run

NICENESS = 10  # so that it takes no time from the jobs


def planned_seconds(config: dict, listed: list[jobs.Job]) -> list[float]:
    """Seconds of jobs of a study on the machine at hand, or on the CPU of the committed runs if it was not measured.

    Args:
        config: of the study, complete.

    Raises:
        UserError: the size of a model or task is not known.
    """
    plan = known_machines(MEASURED)
    machine = plan["machines"][chosen_machine(None, plan)]
    return [job.seconds for job in jobs.with_costs(size_study(config, plan), listed, machine, plan)]


def main() -> None:
    argparse.ArgumentParser(description="Estimate the seconds of the jobs that standard input lists.").parse_args()
    os.nice(NICENESS)
    asked = json.load(sys.stdin)
    seconds = planned_seconds(asked["config"], [jobs.Job(rule, wildcards) for rule, wildcards in asked["jobs"]])
    json.dump({"seconds": seconds, "modelled": [rule in cost.RULES for rule, _ in asked["jobs"]]}, sys.stdout)


if __name__ == "__main__":
    run(main)

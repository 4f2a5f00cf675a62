"""Error of the plan on a finished study, as one row of a table in the documentation.

`python -m benchmarks.planning "default study" --config config/mini.yaml --against results/mini` compares the plan with
a run, job by job (`study.planning.comparison`), with the speeds that config/plan.yaml names. With `--out FILE`, it adds
the row to that file or replaces it. Run it where the study's data are. Nothing of the run corrects its plan.
"""

import argparse
from pathlib import Path

from benchmarks import common
from study.planning import comparison, jobs, tables
from study.running import files


def row_of(compared: list[comparison.Compared]) -> dict[str, object]:
    """The comparison with one run, and of each of its rules."""
    groups = comparison.by_rule(compared)
    return {
        "unit": "seconds" if any(one.axes is None for one in compared) else "processor seconds",
        "jobs": sum(one.jobs for one in compared),
        "planned, s": sum(one.planned for one in compared),
        "taken, s": sum(one.taken for one in compared),
        "median error of a job": comparison.median_error(compared),
        "error of a rule": {rule: comparison.total_error(group) for rule, group in groups.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the plan of a study with a finished run.")
    parser.add_argument("title", help="of the row in the table")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--against", type=Path, required=True, help="results of the run")
    parser.add_argument("--out", type=Path, help="file to add the row to")
    a = parser.parse_args()
    known = jobs.read_plan()
    study, listed = jobs.read_study(a.config, known), jobs.list_jobs(a.config, everything=True)
    planned = jobs.with_costs(study, listed, known["machines"]["cpu"], known)
    compared = comparison.compare_jobs(planned, a.against)
    print(tables.comparison_table(compared))
    rows = files.read_json(a.out)["numbers"] if a.out and a.out.exists() else {}
    common.record("planning", rows | {a.title: row_of(compared)}, a.out)


if __name__ == "__main__":
    main()

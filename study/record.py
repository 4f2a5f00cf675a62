"""Write down what a finished study came from: config, code, versions, machine, time spent."""

import argparse
import csv
import datetime
import json
from pathlib import Path

from study import files, provenance
from study.errors import run


def seconds_per_rule(benchmarks: Path) -> dict[str, float]:
    """Rule -> seconds of all its jobs together, from Snakemake's benchmark files."""
    seconds: dict[str, float] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        with open(path, newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                seconds[rule] = round(seconds.get(rule, 0.0) + float(row["s"]), 1)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Record where the results of a study come from.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--config", required=True, type=json.loads, help="JSON: the whole resolved config")
    arguments = parser.parse_args()
    commit, dirty = provenance.commit()
    record = {
        "study": arguments.config["study"],
        "config": arguments.config,
        "commit": commit,
        "dirty": dirty,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "seconds": seconds_per_rule(arguments.results / "benchmarks"),
        "wall_seconds": None,  # a study may be run in parts
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    files.write_json(arguments.results / "provenance.json", record)


if __name__ == "__main__":
    run(main)

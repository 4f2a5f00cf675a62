"""Write down what a finished study came from: config, inputs, code, versions, machine, time spent."""

import csv
import datetime
import json
from collections.abc import Iterator
from pathlib import Path

from study import manifest
from study.definition.step import parse_step
from study.running import files, provenance
from study.running.workflow import run


def jobs(benchmarks: Path) -> Iterator[tuple[str, float, float]]:
    """(rule, seconds, end as time since the epoch) of every job, from Snakemake's benchmark files.

    A benchmark file is written when its job ends.
    """
    for path in sorted(benchmarks.rglob("*.tsv")):
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        with open(path, newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                yield rule, float(row["s"]), path.stat().st_mtime


def seconds_per_rule(benchmarks: Path) -> dict[str, float]:
    """Rule -> seconds of all its jobs together."""
    seconds: dict[str, float] = {}
    for rule, duration, _ in jobs(benchmarks):
        seconds[rule] = round(seconds.get(rule, 0.0) + duration, 1)
    return seconds


def wall_seconds(benchmarks: Path) -> float:
    """Seconds in which at least one of the jobs ran: pauses of a study that was run in parts do not count."""
    total, covered = 0.0, float("-inf")
    for start, end in sorted((end - seconds, end) for _, seconds, end in jobs(benchmarks)):
        total += max(0.0, end - max(start, covered))
        covered = max(covered, end)
    return round(total, 1)


def inputs(results: Path) -> dict[str, dict]:
    """Where the tasks and models of a study come from, and the hashes of their files."""
    found: dict[str, dict] = {"tasks": {}, "models": {}}
    for path in sorted(results.glob("tasks/*/manifest.json")):
        task = files.read_json(path)
        found["tasks"][path.parts[-2]] = {key: task.get(key) for key in ("origin", "inputs", "sha256")}
    for path in sorted(results.glob("models/*/pretrained/manifest.json")):
        model = files.read_json(path)
        found["models"][path.parts[-3]] = {key: model.get(key) for key in ("source", "hub", "sha256")}
    return found


def makers(results: Path) -> list[dict]:
    """Code and machines that the steps of a study recorded, each with how many manifests and rows it made."""
    counts: dict[str, int] = {}
    for record in manifest.records(results):
        if "made" in record:
            text = json.dumps(record["made"], sort_keys=True)
            counts[text] = counts.get(text, 0) + 1
    return [json.loads(text) | {"records": counts[text]} for text in sorted(counts)]


def main() -> None:
    _, study, paths = parse_step("Record where the results of a study come from.")
    record = {
        "study": study.name,
        "config": study.config,
        "inputs": inputs(paths.results),
        **provenance.made(),
        "makers": makers(paths.results),
        "seconds": seconds_per_rule(paths.benchmarks),
        "wall_seconds": wall_seconds(paths.benchmarks),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    files.write_json(paths.provenance, record)


if __name__ == "__main__":
    run(main)

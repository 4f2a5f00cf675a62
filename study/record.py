"""Record the provenance of a finished study: config, inputs, code, versions, machine, time spent."""

import datetime
import json
from collections import Counter
from pathlib import Path

from study import manifest
from study.definition.paths import Paths
from study.definition.step import parse_step
from study.running import files, provenance
from study.running.benchmarks import read_jobs
from study.running.workflow import run


def seconds_per_rule(benchmarks: Path) -> dict[str, float]:
    """Rule -> total seconds of its jobs."""
    seconds: dict[str, float] = {}
    for job in read_jobs(benchmarks):
        seconds[job.rule] = round(seconds.get(job.rule, 0.0) + job.seconds, 1)
    return seconds


def wall_seconds(benchmarks: Path) -> float:
    """Seconds during which at least one job ran; pauses between the parts of a study do not count."""
    total, covered = 0.0, float("-inf")
    for start, end in sorted((job.end - job.seconds, job.end) for job in read_jobs(benchmarks)):
        total += max(0.0, end - max(start, covered))
        covered = max(covered, end)
    return round(total, 1)


def inputs(results: Path) -> dict[str, dict]:
    """Origins of the tasks and models of a study, and the hashes of their files."""

    def facts(path: Path, *keys: str) -> dict:
        content = files.read_json(path)
        return {key: content.get(key) for key in keys}

    tasks = sorted(results.glob(f"{Paths('').task('*')}/manifest.json"))
    models = sorted(results.glob(f"{Paths('').pretrained('*')}/manifest.json"))
    return {
        "tasks": {path.parts[-2]: facts(path, "origin", "inputs", "sha256") for path in tasks},
        "models": {path.parts[-3]: facts(path, "source", "hub", "sha256") for path in models},
    }


def makers(results: Path) -> list[dict]:
    """Code and machines that made the parts of a study, each with its number of manifests and rows."""
    made = (record["made"] for record in manifest.records(results) if "made" in record)
    counts = Counter(json.dumps(maker, sort_keys=True) for maker in made)
    return [json.loads(text) | {"records": counts[text]} for text in sorted(counts)]


def main() -> None:
    _, study, paths = parse_step("Record where the results of a study come from.")
    record = {
        "study": study.name,
        "config": study.config,
        "inputs": inputs(paths.results),
        **provenance.describe_process(),
        "makers": makers(paths.results),
        "seconds": seconds_per_rule(paths.benchmarks),
        "wall_seconds": wall_seconds(paths.benchmarks),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    files.write_json(paths.provenance, record)


if __name__ == "__main__":
    run(main)

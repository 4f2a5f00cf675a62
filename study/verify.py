"""Hash the files of a study again and list those that have changed: `python -m study.verify results/mini`.

A finished study is compared with its manifest.json, an unfinished one with the hashes that its steps have recorded so
far, and one unpacked from an archive with the list of packed files.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ken.errors import UserError
from study import manifest
from study.running import files
from study.running.workflow import run

KINDS = {
    "corpus": "corpora",
    "tasks": "task splits",
    "models": "imported models",
    "finetuned": "fine-tuned models and initial states",
    "random-init": "controls from random weights",
    "compressed": "predictions, scores, records",
    "suggested": "suggested sub-networks",
    "checks": "checks",
    "statistics": "statistics",
    "tables": "tables",
    "figures": "figures",
    "report": "report",
    "publication": "tables for a paper",
}
# Number of path parts of a folder that one step writes as a whole.
FOLDERS = {"pretraining": 2, "tasks": 2, "models": 3, "cells": 5}
SHOWN = 20  # most files that are named


def kind_of(name: str) -> str:
    """Kind of a file of a study, from its path in the study's folder, in words."""
    parts = name.split("/")
    if parts[0] != "cells":
        return KINDS.get(parts[0], "collected tables, provenance")
    if parts[4] == "compressed" and name.endswith(".safetensors"):
        return "stored sub-networks"
    return KINDS.get(parts[4], "inference times")


def to_remove(name: str) -> str:
    """The output of a rule to remove so that Snakemake makes a file again."""
    parts = name.split("/")
    if parts[0] == "cells" and parts[4] == "compressed":
        return "/".join([*parts[:6], "scores.csv"])  # undamaged rows are kept
    if parts[0] == "cells" and len(parts) == 5:
        return "/".join([*parts[:4], "inference.csv"])
    if parts[0] == "language":  # language/text/<experiment>, or language/<model>/<seed>/<experiment>
        return "/".join(parts[: 3 if parts[1] == "text" else 4])
    return "/".join(parts[: FOLDERS.get(parts[0], len(parts))])


def expected(results: Path) -> tuple[dict[str, str], int]:
    """Path -> SHA-256 of the files that must exist, and the number of files that were not packed.

    Raises:
        UserError: there is no study, or its list is damaged.
    """
    if not results.is_dir():
        raise UserError(f"{results} does not exist: name the results folder of a study, such as results/mini.")
    if not (results / manifest.NAME).exists():
        return manifest.recorded(results), 0
    listed = manifest.read(results / manifest.NAME)
    packed = manifest.read(results / manifest.PACKED) if (results / manifest.PACKED).exists() else listed
    sha256 = {name: entry["sha256"] for name, entry in listed.items() if name in packed}
    return sha256, len(listed) - len(sha256)


def hashes(paths: list[Path]) -> Iterable[str | None]:
    """SHA-256 of each file, None for a missing one."""
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        digests = pool.map(lambda path: files.sha256(path) if path.is_file() else None, paths)
        yield from tqdm(digests, total=len(paths), unit=" files", delay=2, leave=False)


def problems(results: Path, sha256: dict[str, str]) -> dict[str, str]:
    """Path -> "missing" or "changed", for every file without the expected SHA-256."""
    pairs = zip(sha256.items(), hashes([results / name for name in sha256]), strict=True)
    return {name: "changed" if now else "missing" for (name, digest), now in pairs if now != digest}


def summary(sha256: dict[str, str], wrong: dict[str, str]) -> str:
    """One line for each kind of file: how many there are, and how many are changed or missing."""
    counts, bad = Counter(map(kind_of, sha256)), Counter(map(kind_of, wrong))
    lines = [
        f"{kind:<38} {count:>6} files  {f'{bad[kind]} changed or missing' if bad[kind] else 'ok'}"
        for kind, count in counts.items()
    ]
    return "\n".join(lines)


def remedy(results: Path, name: str) -> str:
    """What to do so that Snakemake makes a changed or missing file again."""
    path = results / to_remove(name)
    return f"made again after `rm -r {path}`" if path.exists() else "made again by the same snakemake command"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare the files of a study with the hashes from when they were made."
    )
    parser.add_argument("results", type=Path, help="results folder of a study, such as results/mini")
    results = parser.parse_args().results
    sha256, left_out = expected(results)
    wrong = problems(results, sha256)
    print(summary(sha256, wrong))
    if not (results / manifest.NAME).exists():
        print("The study is not finished: only what its steps have recorded so far was compared.")
    elif more := sorted(set(manifest.result_files(results)) - set(sha256)):
        print(f"{len(more)} files were made later and are not listed, such as {more[0]}.")
    if left_out:
        print(f"{left_out} files were left out when the study was packed.")
    for name, what in list(wrong.items())[:SHOWN]:
        print(f"{what}: {results / name} ({remedy(results, name)})")
    if wrong:
        sys.exit(
            f"error: {len(wrong)} of {len(sha256)} files are changed or missing: run what is named above, then "
            "the same snakemake command again."
        )
    print(f"All {len(sha256)} files are unchanged.")


if __name__ == "__main__":
    run(main)

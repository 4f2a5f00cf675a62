"""The files of a study and what each has to be: the hashes that the steps wrote down, and the list of all of them.

Every step writes the SHA-256 of what it made beside it, as soon as it is made. When a study is finished they are put
together, with the hashes of its tables, figures and pages, in results/<study>/manifest.json, which `study.verify`
compares with the files and `study.archive` packs by.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ken.errors import UserError
from study.running import files
from study.running.workflow import run

NAME = "manifest.json"
PACKED = "archive.json"  # what study.archive puts beside it
UNLISTED = ("logs", "benchmarks")  # how a run went, not what came out
RECORDS = (
    *("corpus/*.json", "tasks/*/manifest.json", "models/*/pretrained/manifest.json", "collected.json"),
    *("cells/*/*/*/*/manifest.json", "cells/*/*/*/inference.json"),
    *("cells/*/*/*/compressed/*/manifest.json", "cells/*/*/*/compressed/*/draw*/*.json"),
)


def result_files(results: Path) -> Iterator[str]:
    """Paths of the files that a study consists of, relative to its folder, in order."""
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] not in UNLISTED and name.as_posix() not in (NAME, PACKED):
            yield name.as_posix()


def records(results: Path) -> Iterator[dict]:
    """What the steps have written down, each with its path: manifests of folders and tables, and records of rows."""
    for place in RECORDS:
        for path in sorted(results.glob(place)):
            yield files.read_json(path) | {"path": path}


def recorded(results: Path) -> dict[str, str]:
    """Path relative to the study's folder -> SHA-256, for every file whose hash a step wrote down when it was made.

    Raises:
        UserError: a manifest is not whole.
    """
    found: dict[str, str] = {}
    for record in records(results):
        folder = record["path"].parent
        if "row" in record:
            stored = record["path"].with_suffix(".safetensors").name
            hashes = {} if record.get("removed") else {stored: record["row"].get("sha256")}
        elif isinstance(record.get("sha256"), str):
            hashes = {record["path"].with_suffix(".parquet").name: record["sha256"]}
        else:
            hashes = record.get("sha256", {})
        for name, digest in hashes.items():
            # A task names the splits.
            file = f"{name}.parquet" if folder.parent == results / "tasks" else name
            found[(folder / file).relative_to(results).as_posix()] = digest
    return {name: digest for name, digest in found.items() if digest}


def describe(results: Path) -> dict[str, dict[str, object]]:
    """Path -> SHA-256 and bytes of every file of a study; hashes that were written down are not computed again."""
    known = recorded(results)
    described = {}
    for name in result_files(results):
        path = results / name
        described[name] = {"sha256": known.get(name) or files.sha256(path), "bytes": path.stat().st_size}
    return described


def read(path: Path) -> dict[str, dict]:
    """Path -> SHA-256 and bytes, from a list that `main` or study.archive has written.

    Raises:
        UserError: it is missing or no such list, or a path leads out of the folder of the study.
    """
    return check(files.read_json(path), path)


def check(found: object, path: Path) -> dict[str, dict]:
    """The files of a list that was read from `path`, see `read`."""
    listed = found.get("files") if isinstance(found, dict) else None
    if not isinstance(listed, dict) or not all(map(_is_entry, listed.values())):
        raise UserError(f"{path} is not a list of the files of a study: take it from where it was written.")
    if outside := [name for name in listed if not name or files.leads_out(name)]:
        raise UserError(f"{path} names {outside[0]!r}, which leads out of the folder of the study: do not trust it.")
    return listed


def _is_entry(entry: object) -> bool:
    found = (entry.get("sha256"), entry.get("bytes")) if isinstance(entry, dict) else (None, None)
    return isinstance(found[0], str) and isinstance(found[1], int) and found[1] >= 0


def main() -> None:
    parser = argparse.ArgumentParser(description="List the files of a finished study with their hashes.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    results = parser.parse_args().results
    described = describe(results)
    files.write_json(results / NAME, {"study": results.name, "files": described})
    print(f"{len(described)} files, {sum(entry['bytes'] for entry in described.values()):,} bytes")


if __name__ == "__main__":
    run(main)

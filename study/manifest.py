"""The manifest of a study: a list of all its files with their sizes and hashes.

Every step records the SHA-256 of its files as soon as they are written. When a study is finished, these hashes and
those of its tables, figures and pages are collected in results/<study>/manifest.json. `study.verify` compares the files
with it, and `study.archive` packs the files that it lists.
"""

import argparse
from collections.abc import Container, Iterator
from pathlib import Path

from ken.errors import UserError
from ken.files import leads_out
from study.definition.paths import Paths
from study.running import files
from study.running.workflow import run

NAME = "manifest.json"
PACKED = "archive.json"  # the list of an unpacked archive
UNLISTED = ("logs", "benchmarks")  # they describe the run and are not results
_ALL = Paths("")
_CELL = ("*", "*", "*")
RECORDS = (  # patterns of the manifests and records that steps write
    _ALL.corpus("*").with_suffix(".json"),
    _ALL.task("*") / "manifest.json",
    _ALL.pretrained("*") / "manifest.json",
    _ALL.collected,
    _ALL.cell(*_CELL) / "*" / "manifest.json",
    _ALL.inference(*_CELL).with_suffix(".json"),
    _ALL.compressed(*_CELL, "*") / "manifest.json",
    _ALL.stored(*_CELL, "*", "*", "*").with_suffix(".json"),
)


def result_files(results: Path) -> Iterator[str]:
    """Paths of the files of a study, relative to its folder, in order."""
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] not in UNLISTED and name.as_posix() not in (NAME, PACKED):
            yield name.as_posix()


def records(results: Path) -> Iterator[dict]:
    """Read the manifests of folders and tables and the records of rows, each with its path added."""
    for pattern in RECORDS:
        for path in sorted(results.glob(str(pattern))):
            yield files.read_json(path) | {"path": path}


def recorded(results: Path) -> dict[str, str]:
    """Path relative to the study's folder -> SHA-256, for every file whose hash a step recorded.

    Raises:
        UserError: a manifest is incomplete or damaged.
    """
    hashes: dict[str, str] = {}
    for record in records(results):
        folder = record["path"].parent.relative_to(results)
        released = record["path"].parent.with_name("released.json")
        if folder.name == "finetuned" and released.exists():
            removed = files.read_json(released)["removed"]
            record["sha256"] = {name: digest for name, digest in record["sha256"].items() if name not in removed}
        suffix = ".parquet" if folder.parent == Path("tasks") else ""  # the manifest of a task lists its splits
        hashes |= {
            (folder / f"{name}{suffix}").as_posix(): digest for name, digest in _hashes(record).items() if digest
        }
    return hashes


def _hashes(record: dict) -> dict[str, str | None]:
    """Name -> SHA-256 of the files beside a record."""
    path: Path = record["path"]
    if "row" in record:
        return {} if record.get("removed") else {path.with_suffix(".safetensors").name: record["row"].get("sha256")}
    sha256 = record.get("sha256", {})
    return {path.with_suffix(".parquet").name: sha256} if isinstance(sha256, str) else sha256


def describe(results: Path) -> dict[str, dict[str, object]]:
    """Path -> SHA-256 and bytes of every file of a study; recorded hashes are reused."""
    known = recorded(results)
    return {
        name: {"sha256": known.get(name) or files.sha256(results / name), "bytes": (results / name).stat().st_size}
        for name in result_files(results)
    }


def read(path: Path) -> dict[str, dict]:
    """Read path -> SHA-256 and bytes from a list that `main` or study.archive has written.

    Raises:
        UserError: it is missing or not such a list, or a path leads out of the folder of the study.
    """
    return check(files.read_json(path), path)


def left_out(results: Path, packed: Container[str]) -> list[str]:
    """Files of a study that its manifest lists, but not the archive from which it is unpacked."""
    path = results / NAME
    return [name for name in read(path) if name not in packed] if path.exists() else []


def check(content: object, path: Path) -> dict[str, dict]:
    """The files of a list that was read from `path`; see `read`."""
    listed = content.get("files") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not all(map(_is_entry, listed.values())):
        raise UserError(f"{path} is not a list of the files of a study: copy it again from its source.")
    if outside := [name for name in listed if not name or leads_out(name)]:
        raise UserError(f"{path} names {outside[0]!r}, which leads out of the folder of the study: do not trust it.")
    return listed


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    digest, size = entry.get("sha256"), entry.get("bytes")
    return isinstance(digest, str) and isinstance(size, int) and size >= 0


def main() -> None:
    parser = argparse.ArgumentParser(description="List the files of a finished study with their hashes.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    results = parser.parse_args().results
    described = describe(results)
    files.write_json(results / NAME, {"study": results.name, "files": described})
    print(f"{len(described)} files, {sum(entry['bytes'] for entry in described.values()):,} bytes")


if __name__ == "__main__":
    run(main)

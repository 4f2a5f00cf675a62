"""Files that are whole or absent: written under a temporary name beside their place, then renamed."""

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from ken.errors import UserError, disk_sentence
from ken.files import replacing

NEEDED = 2**20  # bytes of a disk, without which no step gets far
CHECKSUM = "checksum"  # key of an object that was written with one

if TYPE_CHECKING:  # importing pandas takes most of a second, which steps without tables need not spend
    import pandas as pd


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place on success; `path` may exist.

    When the block raises, the temporary folder is removed and what was at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????"):  # of a step that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as around:
        temporary = Path(around, "new")
        temporary.mkdir()
        yield temporary
        if path.exists():  # a folder that is not empty cannot be renamed over
            os.replace(path, Path(around, "old"))
        os.replace(temporary, path)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files, hidden ones, that writers which were killed have left in a folder and below."""
    for path in Path(folder).rglob(".*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, line ends as they are."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON: keys sorted, indented, a newline at the end. Equal values give equal files.

    An object has one key more, a checksum of the others, which `read_json` compares and takes away.

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON does not have.
    """
    if isinstance(value, dict):
        value = value | {CHECKSUM: _checksum(value)}
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def _checksum(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def write_csv(path: str | Path, frame: "pd.DataFrame") -> None:
    """Write `frame` without its index, UTF-8."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def write_parquet(path: str | Path, frame: "pd.DataFrame") -> None:
    """Write `frame` without its index."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_json(path: str | Path) -> object:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, truncated or otherwise not JSON, or was changed after `write_json` wrote it.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the step that writes it.") from None
    except ValueError as error:  # also what UnicodeDecodeError is
        problem = f"{path} is not a whole JSON file ({error}): delete it and run the step that writes it again."
        raise UserError(problem) from None
    if isinstance(value, dict) and CHECKSUM in value and value.pop(CHECKSUM) != _checksum(value):
        remedy = f"remove it with `rm {path}` and run the same snakemake command again"
        raise UserError(f"{path} was changed or damaged after it was made (its checksum differs): {remedy}.")
    return value


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(folder: str | Path) -> dict[str, str]:
    """Name -> SHA-256 of every file that lies in a folder itself."""
    return {path.name: sha256(path) for path in sorted(Path(folder).iterdir()) if path.is_file()}


def check(folder: str | Path, expected: Mapping[str, str], remove: str | Path | None = None) -> None:
    """Compare files with the hashes that were written down when they were made.

    Args:
        folder: where the files lie.
        expected: name -> SHA-256.
        remove: what to take away so that Snakemake makes them again; the folder by default.

    Raises:
        UserError: a file is missing, or is not the one that it was.
    """
    for name, digest in expected.items():
        path = Path(folder, name)
        found = sha256(path) if path.is_file() else None
        if found != digest:
            changed = "was changed or damaged after it was made (its SHA-256 differs)"
            problem = "is missing" if found is None else changed
            remedy = f"remove it with `rm -r {remove or folder}` and run the same snakemake command again"
            raise UserError(f"{path} {problem}: {remedy}.")


def checked(folder: str | Path) -> dict[str, str]:
    """Hashes that a folder's manifest lists of its files, after comparing them.

    Raises:
        UserError: see `check`; or there is no manifest.
    """
    sha256 = read_json(Path(folder) / "manifest.json")["sha256"]
    check(folder, sha256)
    return sha256


def leads_out(name: str) -> bool:
    """Whether a relative path that others have written would leave the folder it is put into, on any system."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)


def check_writable(folder: str | Path) -> None:
    """Refuse to start a study whose results could not be written.

    A nameless file is written where the folder is, or where it will be, so that nothing is left behind.

    Raises:
        UserError: the disk is full or read-only, or the folder is closed to this user.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * NEEDED)
            file.flush()
    except OSError as error:
        error.filename = str(place)
        raise UserError(disk_sentence(error) or f"{place} cannot be written ({error.strerror}).") from None

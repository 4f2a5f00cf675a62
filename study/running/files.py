"""Files of a study: atomic writes, one-line messages for files that cannot be read, and checks of hashes."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ken.errors import UserError, disk_sentence
from ken.files import honour_umask, replacing

NEEDED = 2**20  # bytes that must be free for a study to start
CHECKSUM = "checksum"  # key that `write_json` adds to an object

if TYPE_CHECKING:  # importing pandas takes most of a second, and some steps have no tables
    import pandas as pd


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` on success; `path` may exist.

    When the block raises, the temporary folder is removed and `path` stays as it was. Its files have the permissions
    that the umask allows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????"):  # from a step that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as around:
        temporary = Path(around, "new")
        temporary.mkdir()
        yield temporary
        honour_umask(temporary)
        if path.exists():  # a rename cannot replace a folder that is not empty
            os.replace(path, Path(around, "old"))
        os.replace(temporary, path)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the hidden temporary files that killed writers have left in a folder and below."""
    for path in Path(folder).rglob(".*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, or a copy if that is not possible, as on another disk."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; line ends are written as they are."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, value: object, sort_keys: bool = True) -> None:
    """Write `value` as JSON: keys sorted, indented, a newline at the end. Equal values give equal files.

    A dict gets one more key, a checksum of the others, which `read_json` checks and removes.

    Args:
        sort_keys: False keeps the order of the keys.

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON does not have.
    """
    if isinstance(value, dict):
        value = value | {CHECKSUM: _checksum(value)}
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False) + "\n")


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
    except ValueError as error:  # UnicodeDecodeError is one
        raise UserError(
            f"{path} is not a complete JSON file ({error}): delete it and run the step that writes it again."
        ) from None
    if isinstance(value, dict) and CHECKSUM in value and value.pop(CHECKSUM) != _checksum(value):
        remedy = f"remove it with `rm {path}` and run the same snakemake command again"
        raise UserError(f"{path} was changed or damaged after it was made (its checksum differs): {remedy}.")
    return value


def read_parquet(path: str | Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a Parquet file that a step has written.

    Args:
        columns: names of the columns to read; all by default.

    Raises:
        UserError: the file is missing, damaged, not a Parquet file, or lacks a column.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path, columns=columns)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the step that writes it.") from None
    except (ValueError, OSError) as error:  # pyarrow's errors are of these types
        if sentence := disk_sentence(error):
            raise UserError(sentence) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{path} cannot be read as Parquet ({reason}): delete it and run the step that writes it again."
        ) from None


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(folder: str | Path) -> dict[str, str]:
    """Name -> SHA-256 of every file directly in a folder."""
    return {path.name: sha256(path) for path in sorted(Path(folder).iterdir()) if path.is_file()}


def check(folder: str | Path, expected: Mapping[str, str], remove: str | Path | None = None) -> None:
    """Compare files with the hashes that were recorded when they were made.

    Args:
        folder: holds the files.
        expected: name -> SHA-256.
        remove: path to remove so that Snakemake makes the files again; the folder by default.

    Raises:
        UserError: a file is missing, or has another hash.
    """
    for name, digest in expected.items():
        path = Path(folder, name)
        actual = sha256(path) if path.is_file() else None
        if actual != digest:
            changed = "was changed or damaged after it was made (its SHA-256 differs)"
            problem = "is missing" if actual is None else changed
            remedy = f"remove it with `rm -r {remove or folder}` and run the same snakemake command again"
            raise UserError(f"{path} {problem}: {remedy}.")


def check_folder(folder: str | Path) -> dict[str, str]:
    """Compare the files of a folder with its manifest, and return the manifest's hashes.

    Raises:
        UserError: see `check`; or there is no manifest.
    """
    hashes = read_json(Path(folder) / "manifest.json")["sha256"]
    check(folder, hashes)
    return hashes


def check_writable(folder: str | Path) -> None:
    """Refuse to start a study whose results could not be written.

    Writes a temporary file to the folder, or to its nearest parent if it does not exist yet.

    Raises:
        UserError: the disk is full or read-only, or this user may not write to the folder.
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * NEEDED)
            file.flush()
    except OSError as error:
        error.filename = str(existing)
        raise UserError(disk_sentence(error) or f"{existing} cannot be written ({error.strerror}).") from None

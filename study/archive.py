"""Pack a finished study into one file, and unpack it elsewhere: `python -m study.archive results/mini --out mini.zip`.

An archive holds everything that the report is made from: tables, predictions, labels of the test sets, records of all
rows, provenance, figures and pages, and the sub-networks and weights that KENviz shows. Other weights and texts are
packed on request. `python -m study.archive --restore mini.zip` unpacks into results/; then `python -m study.rebuild
results/mini` makes tables, figures and pages again. A run of Snakemake makes only what is missing of the packed files.

An archive is untrusted input. It lists the path, size and SHA-256 of every file. All entries are compared with the list
before anything is written: they must be plain files with listed paths inside the folder and the listed sizes. The study
appears under its name only when all its files exist and have their hashes.

Why not tarfile with its data filter: the filter refuses links, devices and outside paths, which zipfile never creates,
and the comparison with the list would still be needed. A zip has an index, so everything is checked first, in memory
bounded by the size of the archive. tarfile reads a compressed header of any size into memory, and has no filter before
Python 3.11.4.
"""

import argparse
import errno
import io
import json
import os
import re
import shutil
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from ken.errors import UserError
from ken.files import replacing
from study import manifest
from study.running import files
from study.running.workflow import run

LEFT_OUT = (
    *("*.safetensors", "corpus/*", "pretraining/*", "tasks/*/train.parquet", "tasks/*/validation.parquet"),
    *("models/*/pretrained/*", "cells/*/finetuned/*"),
)
KEPT = ("models/*/pretrained/manifest.json", "cells/*/finetuned/manifest.json")  # packed although in LEFT_OUT
LIST_BYTES = 2**26  # largest size of the list in an archive
GIBIBYTES = 50.0  # default limit for the unpacked size
BLOCK = 2**20
# Errors of zipfile for a file that is not an archive, or has a changed byte.
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, UnicodeDecodeError, OverflowError)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_progress = partial(tqdm, unit=" files", delay=2, leave=False)


def files_to_pack(results: Path, weights: bool, kenviz: bool) -> list[str]:
    """Paths of the files of a study that are packed, in order."""
    listed = sorted(manifest.read(results / manifest.NAME))
    if weights:
        return [manifest.NAME, *listed]
    shown = shown_by_kenviz(results) if kenviz else set()
    packed = [name for name in listed if name in shown or not _matches(name, LEFT_OUT) or _matches(name, KEPT)]
    return [manifest.NAME, *packed]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def shown_by_kenviz(results: Path) -> set[str]:
    """Paths of the sub-networks and weights from which KENviz was drawn."""
    facts = results / "figures" / "kenviz.json"
    named = files.read_json(facts).get("files", []) if facts.exists() else []
    paths = [(facts.parent / name).resolve() for name in named]
    top = results.resolve()
    return {path.relative_to(top).as_posix() for path in paths if path.is_relative_to(top)}


def pack(results: Path, out: Path, weights: bool = False, logs: bool = False, kenviz: bool = True) -> dict[str, object]:
    """Write the archive `out` of a finished study. Equal studies give equal archives.

    Args:
        weights: pack everything, including all models and sub-networks.
        logs: also pack logs and benchmark files of the jobs.
        kenviz: also pack the weights that KENviz shows.

    Returns:
        The list, which is packed too: study, commit, files (path -> SHA-256 and bytes).

    Raises:
        UserError: the study is not finished, or a file has changed since.
    """
    if not (results / manifest.NAME).exists():
        raise UserError(
            f"{results} is not a finished study (it has no {manifest.NAME}): run snakemake to its end first."
        )
    listed = manifest.read(results / manifest.NAME)
    names = files_to_pack(results, weights, kenviz)
    if logs:
        paths = (path for folder in manifest.UNLISTED for path in sorted((results / folder).rglob("*")))
        names += [path.relative_to(results).as_posix() for path in paths if path.is_file()]
    entries = {name: _entry(results, name, listed.get(name)) for name in _progress(names)}
    provenance = files.read_json(results / "provenance.json")
    packed = {"study": provenance["study"], "commit": provenance["commit"], "files": entries}
    with replacing(out) as temporary:
        _write(temporary, results, packed)
    return packed


def _entry(results: Path, name: str, listed: dict | None) -> dict[str, object]:
    """SHA-256 and bytes of a file, which must have the hash in the study's manifest if it is listed there."""
    path = results / name
    entry = {"sha256": files.sha256(path), "bytes": path.stat().st_size} if path.is_file() else None
    if entry is None or (listed and listed["sha256"] != entry["sha256"]):
        raise UserError(
            f"{path} is missing or has changed: `python -m study.verify {results}` says how to make it again."
        )
    return entry


def _write(archive: Path, results: Path, packed: dict) -> None:
    with zipfile.ZipFile(archive, "w") as zipped:
        _add(zipped, manifest.PACKED, io.BytesIO(json.dumps(packed, sort_keys=True).encode()))
        for name in _progress(packed["files"]):
            with open(results / name, "rb") as file:
                _add(zipped, name, file)


def _add(zipped: zipfile.ZipFile, name: str, file: BinaryIO) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, without an owner, so that equal files make equal archives
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
    with zipped.open(entry, "w", force_zip64=True) as target:
        shutil.copyfileobj(file, target, BLOCK)


def restore(archive: Path, into: Path, gibibytes: float = GIBIBYTES) -> Path:
    """Unpack an archive into a new folder, `into` / name of the study, and return the folder.

    Args:
        gibibytes: limit for the size of all files together.

    Raises:
        UserError: the folder exists, there is no room, or the archive is damaged, not an archive of a study, larger
            than the limit, or holds something that it does not list.
    """
    with _opened(archive) as zipped:
        packed = _read_list(zipped, archive)
        folder, listed = into / packed["study"], packed["files"]
        if folder.exists():
            raise UserError(f"{folder} exists: move it away, or name another folder with --into.")
        _check_entries(zipped.infolist(), listed, archive)
        _check_size(archive, sum(entry["bytes"] for entry in listed.values()), gibibytes, into)
        with files.replacing_folder(folder) as temporary:
            for name in _progress(listed):
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(name) as source, open(path, "xb") as target:
                    shutil.copyfileobj(source, target, BLOCK)
                if files.sha256(path) != listed[name]["sha256"]:
                    raise UserError(f"{archive} is damaged: {name} does not have the listed hash; copy it again.")
            left_out = manifest.left_out(temporary, listed)
            files.write_json(temporary / manifest.PACKED, packed | {"left_out": left_out})
            now = time.time()
            for path in temporary.rglob("*"):  # one time for all: in Snakemake's view, none is newer than another
                os.utime(path, (now, now))
    return folder


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; errors of zipfile become one sentence."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    except FileNotFoundError:
        raise UserError(f"{archive} does not exist: name a file that study.archive has written.") from None
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek to before the first byte
            raise
        raise UserError(f"{archive} is damaged or not an archive of a study ({error}): copy it again.") from None


def _read_list(zipped: zipfile.ZipFile, archive: Path) -> dict:
    """Read the list of an archive, and check that its paths and the name of the study do not lead out of a folder."""
    if manifest.PACKED not in zipped.namelist() or zipped.getinfo(manifest.PACKED).file_size > LIST_BYTES:
        raise UserError(f"{archive} is not an archive of a study: it has no {manifest.PACKED} that can be read.")
    try:
        packed = json.loads(zipped.read(manifest.PACKED))
    except ValueError as error:
        raise UserError(f"{archive} is damaged: its list is not JSON ({error}); copy it again.") from None
    manifest.check(packed, archive)
    study = packed.get("study")
    if not isinstance(study, str) or not NAME.fullmatch(study):
        raise UserError(f"{archive} names its study {study!r}, which is not a valid name: do not trust it.")
    return packed


def _check_entries(entries: Iterable[zipfile.ZipInfo], listed: dict[str, dict], archive: Path) -> None:
    """Refuse an archive unless it holds exactly what it lists: plain files, once each, of the listed size."""
    missing = {name: entry["bytes"] for name, entry in listed.items()} | {manifest.PACKED: None}
    for entry in entries:
        size = missing.pop(entry.filename, -1)
        plain = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
        if not plain or (size != entry.file_size and size is not None):
            raise UserError(f"{archive} holds {entry.filename!r}, which differs from its list: do not trust it.")
    if missing:
        raise UserError(f"{archive} lists {min(missing)!r}, which it does not hold: copy it again.")


def _check_size(archive: Path, total: int, gibibytes: float, into: Path) -> None:
    """Refuse to unpack more than allowed, or more than the disk has room for."""
    if total > gibibytes * 2**30:
        raise UserError(f"{archive} unpacks to {total / 2**30:.1f} GiB: allow that with --gibibytes if you trust it.")
    into.mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(into).free):
        raise UserError(f"{archive} unpacks to {total:,} bytes, and {into} has room for {free:,}: free some space.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack a finished study into one file, or unpack one.")
    parser.add_argument("results", nargs="?", type=Path, help="results folder of a finished study")
    parser.add_argument("--out", type=Path, help="archive to write (default: <study>.zip)")
    parser.add_argument("--weights", action="store_true", help="pack all models, sub-networks and texts too")
    parser.add_argument("--logs", action="store_true", help="pack logs and run times of the jobs too")
    parser.add_argument("--without-kenviz", action="store_true", help="leave out the weights that KENviz shows")
    parser.add_argument("--restore", type=Path, metavar="ARCHIVE", help="unpack this archive instead")
    parser.add_argument("--into", type=Path, default=Path("results"), help="where to unpack (default: results)")
    parser.add_argument("--gibibytes", type=float, default=GIBIBYTES, help="largest total size to unpack, in GiB")
    a = parser.parse_args()
    if (a.results is None) == (a.restore is None):
        parser.error("name either a results folder to pack, or --restore with an archive")
    if a.restore:
        folder = restore(a.restore, a.into, a.gibibytes)
        print(f"{folder}: unpacked, every file has its hash; `python -m study.rebuild {folder}` makes its report again")
        return
    out = a.out or Path(f"{a.results.resolve().name}.zip")
    packed = pack(a.results, out, a.weights, a.logs, not a.without_kenviz)
    print(f"{out}: {len(packed['files'])} files, {out.stat().st_size:,} bytes, SHA-256 {files.sha256(out)}")


if __name__ == "__main__":
    run(main)

"""Pack a finished study into one file, and unpack it elsewhere: `python -m study.archive results/mini --out mini.zip`.

What the report is made from goes in: tables, predictions, labels of the test sets, records of all rows, provenance,
figures and pages, and the stored sub-networks and weights that KENviz shows. Other weights and texts stay out unless
they are asked for. `python -m study.archive --restore mini.zip` unpacks into results/, and `python -m study.rebuild
results/mini` makes tables, figures and pages again from what is there.

An archive is read as something that others have made. A list in it has the paths, sizes and hashes of all files;
only plain files that are listed, with paths that stay in the folder, are written, never more than the list says, and
nothing takes its place unless all of it is there and has its hash.
"""

import argparse
import errno
import hashlib
import io
import json
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
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
KEPT = ("models/*/pretrained/manifest.json", "cells/*/finetuned/manifest.json")  # of those
LIST_BYTES = 2**26  # at most, of the list of an archive
GIBIBYTES = 50.0  # at most by default, of all files that an archive unpacks to
BLOCK = 2**20
ENCRYPTED = 1  # flag of an entry
# What zipfile raises where a file is no archive, or a byte of one has changed.
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, UnicodeDecodeError, OverflowError)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def chosen(results: Path, weights: bool, kenviz: bool) -> list[str]:
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
    """Paths of the stored sub-networks and weights that the picture and the page of KENviz were made from."""
    facts = results / "figures" / "kenviz.json"
    named = files.read_json(facts).get("files", []) if facts.exists() else []
    found = [(facts.parent / name).resolve() for name in named]
    top = results.resolve()
    return {path.relative_to(top).as_posix() for path in found if path.is_relative_to(top)}


def pack(results: Path, out: Path, weights: bool = False, logs: bool = False, kenviz: bool = True) -> dict[str, object]:
    """Write the archive `out` of a finished study; equal studies give equal archives.

    Args:
        weights: everything goes in, all models and stored sub-networks too.
        logs: logs and benchmark files of the jobs go in too.
        kenviz: what KENviz shows goes in.

    Returns:
        The list that goes in too: study, files (path -> SHA-256 and bytes), commit.

    Raises:
        UserError: the study is not finished, or a file is not what it was when the study was finished.
    """
    if not (results / manifest.NAME).exists():
        raise UserError(
            f"{results} is not a finished study (it has no {manifest.NAME}): run snakemake to its end first."
        )
    listed = manifest.read(results / manifest.NAME)
    names = chosen(results, weights, kenviz)
    if logs:
        names += [path.relative_to(results).as_posix() for path in _files_in(results, manifest.UNLISTED)]
    entries = {}
    for name in tqdm(names, unit=" files", delay=2, leave=False):
        path = results / name
        found = {"sha256": files.sha256(path), "bytes": path.stat().st_size} if path.is_file() else None
        if found is None or found["sha256"] != listed.get(name, found)["sha256"]:
            raise UserError(f"{path} is not what it was: `python -m study.verify {results}` says how to make it again.")
        entries[name] = found
    provenance = files.read_json(results / "provenance.json")
    packed = {"study": provenance["study"], "commit": provenance["commit"], "files": entries}
    with replacing(out) as temporary:
        _write(temporary, results, packed)
    return packed


def _files_in(results: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted((results / folder).rglob("*")) if path.is_file())


def _write(archive: Path, results: Path, packed: dict) -> None:
    """Entries without dates or owners, so that equal files make equal archives."""
    with zipfile.ZipFile(archive, "w") as zipped:
        _add(zipped, manifest.PACKED, io.BytesIO(json.dumps(packed, sort_keys=True).encode()))
        for name in tqdm(packed["files"], unit=" files", delay=2, leave=False):
            with open(results / name, "rb") as file:
                _add(zipped, name, file)


def _add(zipped: zipfile.ZipFile, name: str, file: BinaryIO) -> None:
    entry = zipfile.ZipInfo(name)  # of 1980
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
    with zipped.open(entry, "w", force_zip64=True) as target:
        shutil.copyfileobj(file, target, BLOCK)


def restore(archive: Path, into: Path, gibibytes: float = GIBIBYTES) -> Path:
    """Unpack an archive into a new folder, `into` / name of the study, and return that.

    Args:
        gibibytes: what all files together may have.

    Raises:
        UserError: the folder exists, there is no room, or the archive is damaged, no archive of a study, larger than it
            may be, or holds what it does not list.
    """
    with _opened(archive) as zipped:
        packed = _read_list(zipped, archive)
        folder = into / packed["study"]
        if folder.exists():
            raise UserError(f"{folder} exists: move it away, or name another folder with --into.")
        _check_entries(zipped, packed["files"], archive)
        _check_size(archive, sum(entry["bytes"] for entry in packed["files"].values()), gibibytes, into)
        with files.replacing_folder(folder) as temporary:
            for name, expected in tqdm(packed["files"].items(), unit=" files", delay=2, leave=False):
                if _unpack(zipped, name, temporary / name) != expected["sha256"]:
                    raise UserError(
                        f"{archive} is damaged: {name} does not have the hash that is listed; copy it again."
                    )
            files.write_json(temporary / manifest.PACKED, packed)
    return folder


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, open; what it may be instead is one sentence."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    except FileNotFoundError:
        raise UserError(f"{archive} does not exist: name a file that study.archive has written.") from None
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # zipfile was led to before the first byte
            raise
        raise UserError(f"{archive} is damaged or no archive of a study ({error}): copy it again.") from None


def _read_list(zipped: zipfile.ZipFile, archive: Path) -> dict:
    """The list of the archive, checked: its paths stay in the folder of the study, and so does the study's name."""
    if manifest.PACKED not in zipped.namelist() or zipped.getinfo(manifest.PACKED).file_size > LIST_BYTES:
        raise UserError(f"{archive} is not an archive of a study: it has no {manifest.PACKED} that can be read.")
    try:
        packed = json.loads(zipped.read(manifest.PACKED))
    except ValueError as error:
        raise UserError(f"{archive} is damaged: its list is not JSON ({error}); copy it again.") from None
    manifest.check(packed, archive)
    study = packed.get("study")
    if not isinstance(study, str) or not NAME.fullmatch(study):
        raise UserError(f"{archive} is of a study named {study!r}, which is no name of a study: do not trust it.")
    return packed


def _check_entries(zipped: zipfile.ZipFile, listed: dict[str, dict], archive: Path) -> None:
    """The archive holds what it lists and nothing else: plain files, each once, of the size that is listed."""
    seen = {manifest.PACKED}
    for entry in zipped.infolist():
        if entry.filename == manifest.PACKED and not entry.is_dir():
            continue
        plain = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG) and not entry.flag_bits & ENCRYPTED
        size = listed.get(entry.filename, {}).get("bytes")
        if not plain or entry.file_size != size or entry.filename in seen:
            raise UserError(f"{archive} holds {entry.filename!r}, which is not as it lists it: do not trust it.")
        seen.add(entry.filename)
    if missing := listed.keys() - seen:
        raise UserError(f"{archive} lists {min(missing)!r}, which is not in it: copy it again.")


def _check_size(archive: Path, total: int, gibibytes: float, into: Path) -> None:
    """There is room for all files, and they are not more than was allowed."""
    if total > gibibytes * 2**30:
        raise UserError(f"{archive} unpacks to {total / 2**30:.1f} GiB: allow that with --gibibytes if you trust it.")
    into.mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(into).free):
        raise UserError(f"{archive} unpacks to {total:,} bytes, and {into} has room for {free:,}: make room first.")


def _unpack(zipped: zipfile.ZipFile, name: str, path: Path) -> str:
    """Write one entry, of no more bytes than its size, and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with zipped.open(name) as source, open(path, "xb") as file:
        while data := source.read(BLOCK):
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack a finished study into one file, or unpack one.")
    parser.add_argument("results", nargs="?", type=Path, help="results folder of a finished study")
    parser.add_argument("--out", type=Path, help="archive to write (default: <study>.zip)")
    parser.add_argument("--weights", action="store_true", help="pack all models, sub-networks and texts too")
    parser.add_argument("--logs", action="store_true", help="pack logs and run times of the jobs too")
    parser.add_argument("--without-kenviz", action="store_true", help="leave out the weights that KENviz shows")
    parser.add_argument("--restore", type=Path, metavar="ARCHIVE", help="unpack this archive instead")
    parser.add_argument("--into", type=Path, default=Path("results"), help="where to unpack (default: results)")
    parser.add_argument("--gibibytes", type=float, default=GIBIBYTES, help="what may be unpacked at most")
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

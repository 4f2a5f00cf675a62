"""The command `ken library`: a folder with many sub-networks of one base."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ken import options
from ken.errors import UserError
from ken.library import Library

_OF_PRUNE = ("k", "preset", "values", "positions", "seed", "device")
DESCRIPTION = "keep many sub-networks of one base in a folder"


def add_commands(made: argparse.ArgumentParser) -> None:
    """Add the commands below `ken library`."""
    commands = made.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable, description: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=description, description=description)
        made.set_defaults(run=run)
        made.add_argument("folder", type=Path, help="of the library")
        made.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        return made

    made = command("init", init, "make an empty library for a base, which is named and not copied")
    made.add_argument("--pretrained", required=True, help=options.BASE_HELP)
    made.add_argument("--replace", action="store_true", help="name another location of the base of a library")

    made = command("add", add, "prune a fine-tuned model into the library, or copy a sub-network file into it")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--finetuned", help="the fine-tuned model: checkpoint folder, file, or hub repository")
    source.add_argument("--subnetwork", type=Path, help="file written by ken prune, to be copied")
    made.add_argument("--name", help="in the library (default: that of the model or file)")
    made.add_argument("--replace", action="store_true", help="replace the sub-network of this name")
    made.add_argument("--quiet", action="store_true", help="show no progress")
    options.add_coding(made)

    command("list", show, "list the sub-networks and their sizes")

    made = command("verify", verify, "check that every file is whole, of this base, and restores the same weights")
    made.add_argument("names", nargs="*", metavar="name", help="sub-networks to check (default: all)")

    made = command("restore", restore, "write the model of a sub-network to a folder, which transformers loads")
    made.add_argument("name", help="of the sub-network")
    made.add_argument("--out", required=True, type=Path, help="a new folder, or a file ending in .safetensors")
    made.add_argument("--companions", help="folder of the fine-tuned model, for files that the base lacks")
    made.add_argument("--quiet", action="store_true", help="show no progress")

    made = command("remove", remove, "delete a sub-network")
    made.add_argument("name", help="of the sub-network")


def init(a: argparse.Namespace) -> None:
    """Make an empty library."""
    library = Library.create(a.folder, a.pretrained, a.replace)
    described = {"folder": str(a.folder), "pretrained": library.pretrained, "fingerprint": library.fingerprint}
    _print(a, described, f"{a.folder}: a library for {library.pretrained} ({library.fingerprint[:16]}…)")


def add(a: argparse.Namespace) -> None:
    """Add a sub-network."""
    library = Library(a.folder)
    if a.subnetwork:
        given = [f"--{name}" for name in _OF_PRUNE if getattr(a, name) is not None]
        if given:
            raise UserError(f"{', '.join(given)} cannot change a file that is pruned already: give --finetuned.")
        entry = library.add_file(a.subnetwork, a.name, a.replace)
    else:
        choice = options.chosen(a)
        if note := options.note_on_k(choice["k"]):
            print(note, file=sys.stderr)
        entry = library.add(a.finetuned, a.name, a.replace, progress=not a.quiet, **choice)
    for note in entry.notes:
        print(f"note: {note}", file=sys.stderr)
    share = entry.bytes / entry.dense_bytes
    _print(a, asdict(entry), f"{a.folder}: added {entry.name}, {entry.bytes:,} bytes, {share:.2%} of the dense model")


def show(a: argparse.Namespace) -> None:
    """List the sub-networks."""
    library = Library(a.folder)
    entries = [library.entry(name) for name in library.names()]
    total, dense = (sum(getattr(entry, size) for entry in entries) for size in ("bytes", "dense_bytes"))
    if a.json:
        described = {"pretrained": library.pretrained, "fingerprint": library.fingerprint}
        described |= {"bytes": total, "dense_bytes": dense, "entries": [asdict(entry) for entry in entries]}
        print(json.dumps(described, indent=2))
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        how = f"{entry.method} {entry.values} {entry.positions} k {entry.k}"
        labels = f"  {', '.join(entry.labels)}" if entry.labels else ""
        share = entry.bytes / entry.dense_bytes
        print(f"{entry.name:{width}}  {entry.bytes:>12,} bytes {share:7.2%}  {entry.added[:10]}  {how}{labels}")
    print(f"base {library.pretrained} ({library.fingerprint[:16]}…)")
    share = f" ({total / dense:.2%})" if dense else ""
    print(f"{len(entries)} sub-networks: {total:,} bytes, as dense models {dense:,} bytes{share}")


def verify(a: argparse.Namespace) -> None:
    """Check the base and the files; the sentence of each that fails, and status 1 if any does."""
    library = Library(a.folder)
    library.check_base()
    names, problems = a.names or library.names(), {}
    for name in names:
        try:
            library.verify(name)
        except (ValueError, OSError) as error:
            problems[name] = str(error)
        if not a.json:
            print(f"{name}: {problems.get(name, 'whole, of this base, restores the recorded weights')}")
    if a.json:
        print(json.dumps({"checked": len(names), "problems": problems}, indent=2))
    if problems:
        raise UserError(f"{len(problems)} of {len(names)} sub-networks of {a.folder} failed the check.")


def restore(a: argparse.Namespace) -> None:
    """Write the compressed model."""
    start = time.monotonic()
    Library(a.folder).restore(a.name, a.out, progress=not a.quiet, companions=a.companions)
    seconds = round(time.monotonic() - start, 2)
    _print(a, {"out": str(a.out), "seconds": seconds}, f"{a.out}: written in {seconds} s")


def remove(a: argparse.Namespace) -> None:
    """Delete a sub-network."""
    Library(a.folder).remove(a.name)
    _print(a, {"removed": a.name}, f"{a.folder}: removed {a.name}")


def _print(a: argparse.Namespace, described: dict, text: str) -> None:
    print(json.dumps(described, indent=2) if a.json else text)

"""The command `ken`: make, inject, check, describe and draw sub-networks, and find how much to keep."""

import argparse
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from ken import library_cli, options, streaming
from ken.coded import CodedSubnetwork
from ken.errors import import_sentence, run
from ken.files import check_output, starts_with
from ken.pairing import listing, opened_base
from ken.sources import open_source
from ken.storage import AnyReader, is_subnetwork, open_reader
from ken.subnetwork import Subnetwork
from ken.viz.pictures import VIEWS

EXAMPLE = "ken prune --pretrained bert-base-uncased --finetuned my-model --preset small --out my.ken.safetensors"


def _version() -> str:
    try:
        return importlib.metadata.version("ken-benchmark")
    except importlib.metadata.PackageNotFoundError:
        return "(from a checkout that is not installed)"


def summary(path: Path, reader: AnyReader) -> dict:
    """Summary of a sub-network file; sizes are numbers of entries unless named bytes."""
    body = {name: reader.tensors[name] for name in reader.body}
    whole = {name: stored for name, stored in reader.tensors.items() if name not in body}
    total, kept = sum(stored.spec.size for stored in body.values()), sum(stored.kept for stored in body.values())
    return {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "dense_bytes": sum(stored.spec.bytes for stored in reader.tensors.values()),
        **reader.settings,
        **reader.coding,
        "bytes": reader.sizes(),
        "versions": reader.versions,
        "body": total,
        "kept": kept,
        "kept_share": kept / max(1, total),
        "reset_share": 1 - kept / max(1, total),
        "head": sum(stored.spec.size for stored in whole.values()),
        "head_tensors": sorted(whole, key=lambda name: -whole[name].spec.size),
        "tensors": {name: [stored.kept, stored.spec.size] for name, stored in body.items()},
    }


def show(described: dict, as_json: bool) -> None:
    """Print a summary as text or as JSON."""
    if as_json:
        print(json.dumps(described, indent=2))
        return
    smaller = described["dense_bytes"] / described["file_bytes"]
    print(f"{described['file']}: {described['file_bytes']:,} bytes, {smaller:.1f} times less than the whole model")
    print(f"method {described['method']}, k {described['k']}, rule {described['rule']}, scope {described['scope']}")
    seeded = f" {described['seed']}" if described["positions"] == "seed" else ""
    print(f"values {described['values']}, positions {described['positions']}{seeded}")
    parts = {name: size for name, size in described["bytes"].items() if size}
    print(
        "bytes: " + ", ".join(f"{name} {size:,} ({size / described['file_bytes']:.0%})" for name, size in parts.items())
    )
    body, kept = described["body"], described["kept"]
    print(
        f"body {body:,} entries: {kept:,} kept ({described['kept_share']:.2%}), "
        f"{body - kept:,} reset ({described['reset_share']:.2%})"
    )
    head = described["head"]
    named = f" ({listing(described['head_tensors'])})" if head else ""
    print(f"head {head:,} entries, {head / max(1, head + body):.2%} of the model, stored whole{named}")
    print(f"base {described['base'][:16]}…, written with torch {described['versions']['torch']}")
    if "seconds" in described:
        print(f"took {described['seconds']:.1f} s")


def prune(a: argparse.Namespace) -> None:
    """Write a sub-network file."""
    start = time.monotonic()
    choice = options.chosen(a)
    if note := options.note_on_k(choice["k"]):
        print(note, file=sys.stderr)
    notes = streaming.prune(a.pretrained, a.finetuned, a.out, progress=not a.quiet, **choice)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    seconds = round(time.monotonic() - start, 2)
    show(summary(a.out, open_reader(a.out)) | {"seconds": seconds, "notes": notes}, a.json)


def inject(a: argparse.Namespace) -> None:
    """Write the compressed model."""
    start = time.monotonic()
    streaming.inject(a.pretrained, a.subnetwork, a.out, progress=not a.quiet, companions=a.companions)
    seconds = round(time.monotonic() - start, 2)
    print(json.dumps({"out": str(a.out), "seconds": seconds}) if a.json else f"{a.out}: written in {seconds} s")


def info(a: argparse.Namespace) -> None:
    """Describe a sub-network file."""
    described = summary(a.subnetwork, open_reader(a.subnetwork))
    show(described, a.json)
    if a.tensors and not a.json:
        for name, (kept, total) in described["tensors"].items():
            print(f"{kept / max(1, total):8.2%} {kept:>13,} of {total:>13,}  {name}")


class _Live(nn.Module):
    """A base in memory with the part of a module's interface that `Subnetwork.inject` needs."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        self.tensors = tensors

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.tensors


def check(a: argparse.Namespace) -> None:
    """Inject into the base in memory, compare with what `ken inject` would write, eject, compare with the base."""
    subnetwork = Subnetwork.load(a.subnetwork)
    expected = subnetwork.apply(a.pretrained)
    base, names = opened_base(a.pretrained, subnetwork.specs)
    live = {name: base.tensor(base_name).to(expected[name].dtype, copy=True) for name, base_name in names.items()}
    live |= {name: torch.zeros_like(tensor) for name, tensor in subnetwork.whole.items()}
    before = {name: tensor.clone() for name, tensor in live.items()}
    model = _Live(live)
    subnetwork.inject(model)
    injected = all(_same_bits(live[name], expected[name]) for name in live)
    subnetwork.eject(model)
    ejected = all(_same_bits(live[name], before[name]) for name in live)
    if a.json:
        print(json.dumps({"injected": injected, "ejected": ejected}))
    if not (injected and ejected):
        raise ValueError(f"{a.subnetwork} is not injected into this base and ejected bit for bit: write it again.")
    if not a.json:
        print(f"{a.subnetwork}: fits this base; injected and ejected bit for bit")


def _same_bits(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(tensor.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))


def viz(a: argparse.Namespace) -> None:
    """Draw the kept entries: a picture of one sub-network, a page for several, or both."""
    if a.out is None and a.explorer is None:
        raise ValueError("there is nothing to write: name a picture with --out, or a page with --explorer.")
    if a.out is not None:
        check_output(a.out, a.subnetwork, "a picture of that format", _is_picture)
    if a.explorer is not None:
        models = [file for model in (a.pretrained, a.finetuned) if model for file in open_source(model).files]
        check_output(a.explorer, a.subnetwork + models, "a page of KENviz", _is_page)
    written = {}
    if a.explorer is not None:
        from ken.viz import explorer

        matrices = a.matrices.split(",") if a.matrices else [a.matrix] if a.matrix else []
        facts = explorer.write_page(a.subnetwork, a.explorer, a.pretrained, a.finetuned, matrices, a.megabytes)
        written = {"explorer": str(a.explorer), **facts}
    if a.out is not None:
        _draw(a)
        written["out"] = str(a.out)
    if a.json:
        print(json.dumps(written))
        return
    for name in ("out", "explorer"):
        if name in written:
            print(f"{written[name]}: written")
    for sentence in written.get("notes", ()):
        print(sentence)


def _is_picture(path: Path) -> bool:
    beginnings = {".svg": (b"<?xml", b"<svg"), ".pdf": (b"%PDF",), ".png": (b"\x89PNG",)}
    return starts_with(path, *beginnings.get(path.suffix, (b"",)))  # an unknown suffix has its own sentence


def _is_page(path: Path) -> bool:
    with open(path, "rb") as file:
        return starts_with(path, b"<!doctype html") and b"KENviz" in file.read(4096)


def _draw(a: argparse.Namespace) -> None:
    os.environ["MPLBACKEND"] = "agg"  # a notebook sets its own, which may not be installed here
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(import_sentence(error, "matplotlib", "viz")) from None
    from ken.viz import pictures

    matplotlib.rcdefaults()  # a picture does not depend on a user's matplotlibrc

    if len(a.subnetwork) > 1:
        raise ValueError(f"--out draws one sub-network, found {len(a.subnetwork)}: give one, or use --explorer.")
    subnetwork = Subnetwork.load(a.subnetwork[0])
    if isinstance(subnetwork, CodedSubnetwork):
        if a.pretrained is None:
            raise ValueError(
                f"{a.subnetwork[0]} holds updates in few bits: give its base with --pretrained to draw it."
            )
        subnetwork = subnetwork.decode(a.pretrained)
    if a.matrix in subnetwork.masks:
        if a.layer is not None:
            raise ValueError(f"{a.matrix} is one tensor: leave out --layer, or name a kind such as query.weight.")
        figure = pictures.draw_matrix(subnetwork, a.matrix, a.view)
    else:
        figure = pictures.draw_layers(subnetwork, a.matrix, a.view, a.layer)
    pictures.save(figure, a.out)


def suggest(a: argparse.Namespace) -> None:
    """Find the smallest file on validation data, or with --method the smallest share of one method."""
    from ken import certificate
    from ken.suggestion import suggest as search
    from ken.text import TextClassifier

    if a.method is not None and (a.out or a.minutes):
        raise ValueError("--method finds a share and writes no file: leave out --out and --minutes, or --method.")
    classifier = TextClassifier(a.finetuned, a.pretrained, a.max_length, a.device)
    if a.out is not None:
        files = [file for model in (a.pretrained, a.finetuned) for file in open_source(model).files]
        check_output(a.out, [*files, a.validation], "a sub-network", is_subnetwork)
    texts, labels = classifier.read_csv(a.validation, a.text, a.label)
    if a.method is not None:
        found = search(
            a.pretrained, classifier.model, classifier.predictor(texts), labels, a.margin, a.confidence, a.resolution,
            a.method, a.rule, progress=not a.quiet, allow_head=a.allow_head,
        )  # fmt: skip
    else:
        found = certificate.smallest_file(
            a.pretrained, classifier.model, classifier.predictor(texts), labels, a.margin, a.confidence, rule=a.rule,
            seconds=60 * a.minutes if a.minutes else math.inf, progress=not a.quiet, allow_head=a.allow_head,
        )  # fmt: skip
    print(json.dumps(found.as_dict(), indent=2) if a.json else found.text())
    if a.out is not None:
        if found.smallest is None:
            raise ValueError(f"{a.out} was not written, since no file passed.")
        certificate.write_file(a.pretrained, a.finetuned, a.out, found.smallest, a.rule, a.allow_head)


def export(a: argparse.Namespace) -> None:
    """Write an adapter of peft."""
    from ken.peft_export import export_peft

    exported = export_peft(a.pretrained, a.finetuned, a.out, a.rank, a.allow_head, not a.quiet)
    for note in exported.notes:
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(exported.as_dict(), indent=2) if a.json else exported.text())


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="ken",
        description="Keep part of a fine-tuned transformer, reset the rest to its pre-trained values, and store only "
        "what was kept. Checkpoints are read tensor by tensor from safetensors: models of any size in little memory.",
        epilog=f"Example: {EXAMPLE}",
    )
    top.add_argument("--version", action="version", version=f"ken {_version()}")
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name: str, run, description: str, aliases: Sequence[str] = ()) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=description, description=description, aliases=aliases)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        return made

    made = command("prune", prune, "write the sub-network of a fine-tuned model to a file")
    options.add_pair(made)
    options.add_coding(made)
    made.add_argument("--out", required=True, type=Path, help="file to write, usually *.ken.safetensors")

    about = "write the compressed model, a plain checkpoint: the base with a sub-network injected"
    made = command("inject", inject, about, ["merge"])
    _add_stored(made)
    made.add_argument("--out", required=True, type=Path, help="a new folder, or a file ending in .safetensors")
    made.add_argument(
        "--companions", help="folder of the fine-tuned model, for files besides its weights that the base lacks"
    )
    made.add_argument("--quiet", action="store_true", help="show no progress")

    made = command(
        "export", export, "write a fine-tuned model for another library: an adapter of peft, by truncated SVD"
    )
    made.add_argument("--peft", action="store_true", required=True, help="the format, so far the only one")
    options.add_pair(made)
    options.add_allow_head(made)
    made.add_argument("--rank", required=True, type=int, help="of the update of every matrix, such as 16")
    made.add_argument("--out", required=True, type=Path, help="a new folder, which PeftModel.from_pretrained loads")

    made = command("check", check, "inject a sub-network into its base in memory and eject it, bit for bit")
    _add_stored(made)

    made = command("info", info, "describe a sub-network file, after checking that it is whole")
    made.add_argument("subnetwork", type=Path)
    made.add_argument("--tensors", action="store_true", help="list the kept share of every tensor")

    _add_viz(command("viz", viz, "draw the kept entries of a matrix, as a picture or as a page to explore"))

    library = commands.add_parser("library", help=library_cli.DESCRIPTION, description=library_cli.DESCRIPTION)
    library_cli.add_commands(library)

    made = command("suggest", suggest, "find the smallest file that loses no more than allowed on validation data")
    options.add_pair(made)
    options.add_choice(made)
    made.set_defaults(method=None)
    made.add_argument("--validation", required=True, type=Path, help="CSV file with texts and labels")
    made.add_argument("--text", default="text", help="column with the texts (default: text)")
    made.add_argument("--label", default="label", help="column with the labels (default: label)")
    made.add_argument("--margin", type=float, default=0.01, help="weighted F1 that may be lost (default: 0.01)")
    made.add_argument("--confidence", type=float, default=0.95, help="that no more is lost (default: 0.95)")
    made.add_argument("--out", type=Path, help="file to write: the smallest that passed")
    made.add_argument("--minutes", type=float, help="begin no further file after this time (default: no limit)")
    made.add_argument("--resolution", type=float, default=0.01, help="with --method, of the share (default: 0.01)")
    made.add_argument("--max-length", type=int, default=512, help="tokens of a text, at most (default: 512)")
    made.add_argument("--device", help="where models run, e.g. cuda (default: cpu)")
    return top


def _add_viz(made: argparse.ArgumentParser) -> None:
    made.add_argument("subnetwork", type=Path, nargs="+", help="file written by ken prune; several for --explorer")
    made.add_argument("--matrix", help="a tensor, or a part of the name that one kind of matrix has, e.g. query.weight")
    made.add_argument(
        "--view", default="both", choices=VIEWS, help="kept values, kept neighbours of kept entries, or both (default)"
    )
    made.add_argument("--layer", type=int, help="draw this layer only (default: all, side by side)")
    made.add_argument("--out", type=Path, help="picture to write: .svg, .pdf or .png")
    made.add_argument("--explorer", type=Path, help="page to write, one HTML file that needs no network")
    made.add_argument("--pretrained", help=f"for --explorer, and for updates in few bits: {options.BASE_HELP}")
    made.add_argument("--finetuned", help="for --explorer: the fine-tuned model, to show the updates of reset entries")
    made.add_argument("--matrices", help="for --explorer: kinds separated by commas, e.g. query.weight,key.weight")
    made.add_argument(
        "--megabytes", type=float, default=20.0, help="for --explorer: largest size of the page (default: 20)"
    )


def _add_stored(made: argparse.ArgumentParser) -> None:
    made.add_argument("--pretrained", required=True, help=options.BASE_HELP)
    made.add_argument("--subnetwork", required=True, type=Path, help="file written by ken prune")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error is one sentence and status 1, wrong usage status 2."""

    def program() -> None:
        chosen = parser().parse_args(arguments)
        chosen.run(chosen)

    run(program, expected=(ValueError, OSError, SafetensorError))


if __name__ == "__main__":
    main()

"""Pruning and injection from file to file, for models of any size, with one block of rows in memory."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ken import extraction, selection
from ken.checkpoint_files import is_companion
from ken.coding.coder import ROUNDED, Coder, Coding
from ken.files import check_output, replacing
from ken.pairing import Pair, opened_base
from ken.sources import AnySource, Fingerprint, Source
from ken.storage import AnyReader, is_subnetwork, is_weights, open_reader
from ken.storage.coded import CodedWriter
from ken.storage.container import framed
from ken.storage.exact import Writer
from ken.tensors import DTYPE_NAMES, bytes_of

FAR = 0.7
"""Relative size of an update at which the base is doubted; two random initialisations differ by 1.4."""


def prune(
    pretrained: AnySource,
    finetuned: AnySource,
    out: str | Path,
    k: int | float,
    method: str | selection.Criterion = "ken",
    scope: str = "all",
    rule: str = "reset",
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    allow_head: bool = False,
    values: str = "32bit",
    positions: str = "stored",
) -> list[str]:
    """Write the sub-network of a fine-tuned model to a file, whole or not at all.

    With values of 32 bits the file is the same as that of `Subnetwork.extract(...).save(out)`, which explains the
    arguments, but this takes less memory.

    Args:
        progress: show a bar on stderr.
        values: "32bit": kept values as they are; "16bit" to "1bit": kept updates in so many bits.
        positions: "stored": of the entries that `method` chooses; "seed": derived from `seed`; "base": the entries of
            highest kernel density in the pre-trained rows, which a reader derives from the base. The last two take no
            byte, and need values of 16 bits or fewer.

    Returns:
        What a user should know, one sentence each; mostly nothing.

    Raises:
        ValueError: as `Subnetwork.extract`; the fine-tuned model is the base; or `out` is an input or another file.
        OSError: the folder of `out` does not exist or cannot be written.
    """
    coding = Coding(values, positions, seed or 0)
    choose = extraction.chooser(k, method, seed, device)
    method = _recorded_method(method, coding)
    pair = Pair.opened(pretrained, finetuned, allow_head)
    check_output(out, (*pair.base.files, *pair.finetuned.files), "a sub-network", is_subnetwork)
    with _bar(sum(pair.spec(name).size for name in pair.body), progress) as bar:
        written = write(Path(out), Coder(pair, coding, k, rule, scope, choose), method, bar, allow_unchanged=False)
    unchanged = f"fine-tuning changed nothing of {pair.base.label}; only the head differs"
    return pair.notes + ([] if written.changed else [unchanged]) + _note_on_distance(pair)


@dataclass(frozen=True)
class Written:
    """What a file holds: whether fine-tuning changed the body, and the number of kept entries of the body."""

    changed: bool
    kept: int


def _note_on_distance(pair: Pair) -> list[str]:
    """A note where the largest tensors have moved so far that they hardly come from this base."""
    largest = sorted(pair.body, key=lambda name: -pair.spec(name).size)[:4]
    moved = size = 0.0
    for name in largest:
        block = next(pair.spec(name).blocks())
        base = pair.base_rows(name, block).float()
        moved += float(torch.linalg.vector_norm(pair.finetuned_rows(name, block).float() - base)) ** 2
        size += float(torch.linalg.vector_norm(base)) ** 2
    if moved < FAR**2 * size or not size:
        return []
    return [
        f"the weights differ from those of {pair.base.label} by {(moved / size) ** 0.5:.0%} of their size, where "
        "fine-tuning changes a few per cent: check that the model was fine-tuned from this base"
    ]


def _recorded_method(method: str | selection.Criterion, coding: Coding) -> str:
    """Name of the choice in the file.

    Raises:
        ValueError: the positions leave the method no choice.
    """
    name = selection.method_name(method)
    if coding.values == ROUNDED and name == "ken":
        return ROUNDED
    if name != "ken" and (coding.positions != "stored" or coding.values == ROUNDED):
        how = f"positions {coding.positions!r}" if coding.positions != "stored" else f"values {ROUNDED!r}"
        raise ValueError(f"{how} leave method {name!r} nothing to choose: leave one of them out.")
    return "random" if coding.positions == "seed" else name


def write(out: Path, coder: Coder, method: str, bar: tqdm | None = None, allow_unchanged: bool = True) -> Written:
    """Write the sub-network that a coder describes.

    Args:
        method: name of the choice, for the record.
        allow_unchanged: accept a fine-tuned model that is the base and has no head.

    Raises:
        ValueError: as `prune`.
        OSError: as `prune`.
    """
    pair, exact = coder.pair, coder.coding.exact
    advance = bar.update if bar is not None else lambda entries: None
    settings = {"method": method, "k": coder.k, "rule": coder.rule, "scope": coder.scope}
    fingerprint = Fingerprint(pair.base.digests)
    with (Writer if exact else CodedWriter)(out) as writer:
        written = (_add_exact if exact else _add_coded)(writer, coder, fingerprint, advance)
        if not allow_unchanged:
            _check_changed(pair, written.changed)
        for name in pair.whole:
            writer.add_whole(name, pair.finetuned_tensor(name))
        settings |= {"base": fingerprint.hexdigest()} | ({} if exact else asdict(coder.coding))
        writer.finish(settings, pair.aliases, pair.finetuned.config())
    return written


def _add_exact(writer: Writer, coder: Coder, fingerprint: Fingerprint, advance: Callable[[int], object]) -> Written:
    """Add the blocks of the body to a file of format 1."""
    changed, kept = False, 0
    for block in extraction.kept_blocks(coder.pair, coder.choose, coder.rule, coder.scope, fingerprint):
        writer.add_block(block.name, block.spec, block.mask, block.values)
        changed |= block.changed
        kept += block.values.numel()
        advance(block.mask.numel())
    return Written(changed, kept)


def _add_coded(
    writer: CodedWriter, coder: Coder, fingerprint: Fingerprint, advance: Callable[[int], object]
) -> Written:
    """Add the blocks of the body to a file of format 2."""
    changed, kept = False, 0
    for name in coder.pair.body:
        for number, coding, block in coder.blocks(name, fingerprint, advance):
            writer.add_block(name, coder.pair.spec(name), number, coding, block)
            changed |= block.changed > 0
            kept += block.kept
    return Written(changed, kept)


def _check_changed(pair: Pair, changed: bool) -> None:
    if not changed and not pair.head:
        raise ValueError(
            f"{pair.finetuned.label} has the same values as {pair.base.label} everywhere: give a model that was "
            "fine-tuned."
        )


def inject(
    pretrained: AnySource,
    subnetwork: str | Path,
    out: str | Path,
    progress: bool = False,
    companions: str | Path | None = None,
) -> None:
    """Write the compressed model to disk, whole or not at all.

    Args:
        pretrained: the base, as in `Subnetwork.extract`.
        subnetwork: a file of `prune` or `Subnetwork.save`.
        out: a file ending in .safetensors for the weights alone; otherwise a folder in the Hugging Face layout, with
            the fine-tuned model's config.json (from the sub-network) and further files of the base, except its weights
            (tokenizer, processors, chat templates, files of sentence-transformers).
        progress: show a bar on stderr.
        companions: folder of the fine-tuned model, from which such files are taken first.

    Raises:
        ValueError: `out` is a folder that exists, an input or another file; the base is not the sub-network's; or the
            file is damaged.
        OSError: the folder of `out` does not exist or cannot be written.
    """
    reader, out = open_reader(Path(subnetwork)), Path(out)
    base, names = opened_base(pretrained, reader.body)
    folders = [folder for folder in (base.folder, companions and Path(companions)) if folder]
    if companions and not Path(companions).is_dir():
        raise ValueError(f"{companions} is no folder: give that of the fine-tuned model.")
    if out.suffix == ".safetensors":
        check_output(out, (*base.files, subnetwork), "a file of weights", is_weights)
        with replacing(out) as temporary:
            _write_weights(base, names, reader, temporary, progress)
        return
    if os.path.lexists(out):
        raise ValueError(f"{out} exists already: name a new folder, or a file ending in .safetensors.")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as around:
        folder = Path(around, "model")
        folder.mkdir()
        _write_weights(base, names, reader, folder / "model.safetensors", progress)
        for source in folders:
            _copy_companions(source, folder)
        if reader.config is not None:
            (folder / "config.json").write_text(json.dumps(reader.config, indent=2) + "\n", encoding="utf-8")
        os.replace(folder, out)


def _write_weights(base: Source, names: dict[str, str], reader: AnyReader, path: Path, progress: bool) -> None:
    fingerprint = Fingerprint()
    described, start = {"__metadata__": {"format": "pt"}}, 0
    # Widest first, so that every tensor begins at a multiple of its width.
    sources = {name: name for name in reader.tensors} | reader.aliases
    order = sorted(sources, key=lambda name: -reader.tensors[sources[name]].spec.dtype.itemsize)
    for name in order:
        spec = reader.tensors[sources[name]].spec
        end = start + spec.bytes
        described[name] = {"dtype": DTYPE_NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
        start = end
    with open(path, "wb") as file, _bar(sum(stored.spec.size for stored in reader.tensors.values()), progress) as bar:
        file.write(framed(described))
        for name in order:
            hashed = fingerprint if sources[name] == name else Fingerprint()  # a tied tensor counts once
            for rows in restored_rows(base, reader, sources[name], names, hashed):
                file.write(bytes_of(rows))
                bar.update(rows.numel())
    fingerprint.check(reader.settings["base"])


def restored_rows(
    base: Source, reader: AnyReader, name: str, names: dict[str, str], fingerprint: Fingerprint
) -> Iterator[torch.Tensor]:
    """Rows of a tensor of the compressed model, block by block.

    Args:
        names: body tensor -> its name in the base.
        fingerprint: updated with the pre-trained values.
    """
    if name not in reader.body:
        yield reader.whole(name)
        return
    spec = reader.body[name]

    def read_base(block: slice) -> torch.Tensor:
        rows = base.rows(names[name], block).to("cpu", spec.dtype, copy=True)
        fingerprint.update(name, spec, rows)
        return rows

    yield from reader.restored(name, read_base)


def _copy_companions(source: Path, folder: Path) -> None:
    """Copy what belongs to a model besides its weights; links are followed, as the hub's cache consists of them."""
    for path in sorted([*source.glob("*"), *source.glob("*/*")]):
        name = path.relative_to(source)
        if path.is_file() and is_companion(name.as_posix()) and not is_subnetwork(path):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)


def _bar(entries: int, shown: bool) -> tqdm:
    return tqdm(total=entries, unit="entry", unit_scale=True, disable=not shown, leave=False)

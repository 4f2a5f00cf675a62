"""Pruning and injection from file to file, for models of any size, with one block of rows in memory."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from ken import extraction, selection
from ken.checkpoint_files import CONFIG, GENERATION, TOKENIZER
from ken.files import replacing
from ken.pairing import Pair, names_in
from ken.sources import AnySource, Fingerprint, Source, open_source
from ken.storage import Reader, Writer, framed
from ken.tensors import DTYPE_NAMES, bytes_of


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
) -> None:
    """Write the sub-network of a fine-tuned model to a file, whole or not at all.

    The file is the same as that of `Subnetwork.extract(...).save(out)`, which explains the arguments, but this takes
    less memory.

    Args:
        progress: show a bar on stderr.

    Raises:
        ValueError: as `Subnetwork.extract`.
        OSError: the folder of `out` does not exist or cannot be written.
    """
    choose = extraction.chooser(k, method, seed, device)
    pair, fingerprint = Pair.of(open_source(pretrained), open_source(finetuned)), Fingerprint()
    with Writer(Path(out)) as writer, _bar(sum(pair.spec(name).size for name in pair.body), progress) as bar:
        for block in extraction.kept_blocks(pair, choose, rule, scope, fingerprint):
            writer.add_block(block.name, block.spec, block.mask, block.values)
            bar.update(block.mask.numel())
        for name in pair.whole:
            writer.add_whole(name, pair.finetuned_tensor(name))
        base = fingerprint.hexdigest()
        settings = {"method": selection.method_name(method), "k": k, "rule": rule, "scope": scope, "base": base}
        writer.finish(settings, pair.aliases, pair.finetuned.config())


def inject(pretrained: AnySource, subnetwork: str | Path, out: str | Path, progress: bool = False) -> None:
    """Write the compressed model to disk, whole or not at all.

    Args:
        pretrained: the base, as in `Subnetwork.extract`.
        subnetwork: a file of `prune` or `Subnetwork.save`.
        out: a file ending in .safetensors for the weights alone; otherwise a folder in the Hugging Face layout, with
            the fine-tuned model's config.json (from the sub-network) and further files of the base (tokenizer).
        progress: show a bar on stderr.

    Raises:
        ValueError: `out` is a folder that exists, the base is not the sub-network's, or the file is damaged.
        OSError: the folder of `out` does not exist or cannot be written.
    """
    base, reader, out = open_source(pretrained), Reader(Path(subnetwork)), Path(out)
    if out.suffix == ".safetensors":
        with replacing(out) as temporary:
            _write_weights(base, reader, temporary, progress)
        return
    if out.exists():
        raise ValueError(f"{out} exists already: name a new folder, or a file ending in .safetensors.")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as around:
        folder = Path(around, "model")
        folder.mkdir()
        _write_weights(base, reader, folder / "model.safetensors", progress)
        _copy_other_files(base, reader, folder)
        os.replace(folder, out)


def _write_weights(base: Source, reader: Reader, path: Path, progress: bool) -> None:
    names, fingerprint = names_in(base, reader.body), Fingerprint()
    described, start = {"__metadata__": {"format": "pt"}}, 0
    # Widest first, so that every tensor begins at a multiple of its width.
    order = sorted(reader.tensors, key=lambda name: -reader.tensors[name].spec.dtype.itemsize)
    for name in order:
        spec = reader.tensors[name].spec
        end = start + spec.bytes
        described[name] = {"dtype": DTYPE_NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
        start = end
    with open(path, "wb") as file, _bar(sum(stored.spec.size for stored in reader.tensors.values()), progress) as bar:
        file.write(framed(described))
        for name in order:
            for rows in _rows_of(base, reader, name, names, fingerprint):
                file.write(bytes_of(rows))
                bar.update(rows.numel())
    fingerprint.check(reader.settings["base"])


def _rows_of(
    base: Source, reader: Reader, name: str, names: dict[str, str], fingerprint: Fingerprint
) -> Iterator[torch.Tensor]:
    if name not in reader.body:
        yield reader.whole(name)
        return
    spec = reader.body[name]
    for block, mask, values in reader.blocks(name):
        rows = base.rows(names[name], block).to("cpu", spec.dtype, copy=True)
        fingerprint.update(name, spec, rows)
        yield rows.masked_scatter_(mask, values)


def _copy_other_files(base: Source, reader: Reader, folder: Path) -> None:
    if base.folder is not None:
        for pattern in (*CONFIG, *GENERATION, *TOKENIZER):
            for path in base.folder.glob(pattern):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
    if reader.config is not None:
        (folder / "config.json").write_text(json.dumps(reader.config, indent=2) + "\n", encoding="utf-8")


def _bar(entries: int, shown: bool) -> tqdm:
    return tqdm(total=entries, unit="entry", unit_scale=True, disable=not shown, leave=False)

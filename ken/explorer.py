"""KENviz as one HTML page: kept entries, their updates and their neighbours, to be explored in a browser.

The page holds its data and needs no network. Every matrix of numbered layers is in it, entry by entry while the page
stays within its size, or by tiles: at most `TILES` along a side. What was binned or left out is said in the page.
"""

import base64
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from json import dumps
from pathlib import Path

import numpy as np
import torch

from ken import extraction, selection
from ken.files import replacing
from ken.pairing import Pair, names_in
from ken.selection import as_rows
from ken.sources import Fingerprint, Meta, Source, open_source
from ken.storage import Reader
from ken.subnetwork import check_fingerprint
from ken.viz import expected_neighbours, kinds_of, matching_kind, neighbour_counts, tile_means, tile_size, tile_sums

EXACT_ENTRIES = 2**20
"""A larger matrix is always binned: a browser draws this many entries at once without a pause."""
TILES = 128
"""Tiles along a side of a binned matrix, at most."""

_PAGE_BYTES = 60_000  # the page without its matrices, at most


@dataclass(frozen=True)
class Inputs:
    """What a page is made from.

    Attributes:
        readers: files of sub-networks, all of one base.
        base: the pre-trained values, or None.
        names: body tensor -> its name in the base.
        pair: the base with the fine-tuned model, or None.
    """

    readers: list[Reader]
    base: Source | None
    names: dict[str, str]
    pair: Pair | None

    @classmethod
    def open(cls, subnetworks: Sequence[Path], pretrained=None, finetuned=None) -> "Inputs":
        """Open files and models, and check that they belong together.

        Raises:
            ValueError: a file is no sub-network, or of another base than the others or than `pretrained`; there is a
                fine-tuned model without a base; or the two models differ in their tensors.
        """
        readers = [Reader(Path(path)) for path in subnetworks]
        for reader in readers:
            if reader.settings["base"] != readers[0].settings["base"]:
                raise ValueError(f"{reader.path} is of another base than {readers[0].path}: make a page for each base.")
        if pretrained is None and finetuned is not None:
            raise ValueError("updates are differences from the pre-trained model: give that with the fine-tuned one.")
        if pretrained is None:
            return cls(readers, None, {}, None)
        base, metas = open_source(pretrained), _metas(readers[0])
        names = names_in(base, metas)
        _check_base(base, names, readers[0])
        pair = None if finetuned is None else Pair.of(base, open_source(finetuned))
        if pair and (missing := [name for name in metas if name not in pair.body]):
            raise ValueError(f"{pair.finetuned.label} lacks tensor {missing[0]!r}: give the model that was pruned.")
        return cls(readers, base, names, pair)

    def pretrained(self, name: str) -> torch.Tensor | None:
        """Pre-trained rows of a body tensor in the fine-tuned dtype, or None."""
        if self.base is None:
            return None
        return as_rows(self.base.tensor(self.names[name])).to(self.readers[0].entries[name].meta.dtype)

    def finetuned(self, name: str) -> torch.Tensor | None:
        """Fine-tuned rows of a body tensor, or None."""
        return as_rows(self.pair.finetuned_tensor(name)) if self.pair else None


def write(
    subnetworks: Sequence[str | Path],
    out: str | Path,
    pretrained=None,
    finetuned=None,
    matrices: Sequence[str] = (),
    megabytes: float = 20.0,
) -> dict:
    """Write the page, whole or not at all.

    Args:
        subnetworks: files of `Subnetwork.save` or `ken.prune`, all of one base.
        out: HTML file to write.
        pretrained: the base, as in `Subnetwork.extract`; without it a page has no updates and no pre-trained values.
        finetuned: the fine-tuned model; with it the updates of reset entries are shown too.
        matrices: kinds that the page shows, each a part of one name (`ken.viz.matching_kind`); none: all of them, the
            queries first.
        megabytes: size of the page at most, in 10^6 bytes.

    Returns:
        bytes: size of the page; exact, binned, left_out: names of tensors; notes: the same in sentences.

    Raises:
        ValueError: as `Inputs.open`; an unknown matrix; no matrix fits into the page; or a kept value of KEN is not
            that of the fine-tuned model.
        OSError: the folder of `out` does not exist or cannot be written.

    Example:
        >>> write(["ken.safetensors"], "ken.html", "bert-base-uncased")  # doctest: +SKIP
    """
    if not subnetworks:
        raise ValueError("a page shows sub-networks: give at least one file.")
    if not Path(out).parent.is_dir():
        raise FileNotFoundError(f"the folder of {out} does not exist: make it first.")
    inputs = Inputs.open([Path(path) for path in subnetworks], pretrained, finetuned)
    data, facts = page_data(inputs, matrices, megabytes)
    page = resources.files("ken").joinpath("explorer.html").read_text(encoding="utf-8")
    # Without a "<" no name can end the script element that the data stands in.
    page = page.replace("KENVIZ_DATA", dumps(data, separators=(",", ":")).replace("<", "\\u003c"), 1).encode()
    with replacing(Path(out)) as temporary:
        temporary.write_bytes(page)
    return {"bytes": len(page), **facts}


def page_data(inputs: Inputs, matrices: Sequence[str] = (), megabytes: float = 20.0) -> tuple[dict, dict]:
    """What a page shows, ready for JSON, and which tensors it shows how (see `write`)."""
    kinds = chosen_kinds(_metas(inputs.readers[0]), matrices)
    tensors = [name for layers in kinds.values() for name in layers.values()]
    shown = plan({name: _costs(inputs, name) for name in tensors}, megabytes * 1e6 - _PAGE_BYTES)
    if not shown:
        raise ValueError(f"no matrix fits into {megabytes:g} MB: allow a larger page with --megabytes.")
    described = []
    for kind, layers in kinds.items():
        found = {number: _layer(inputs, name, shown[name]) for number, name in layers.items() if name in shown}
        if found:
            by_file = zip(*(layer.pop("limits") for layer in found.values()), strict=True)
            limits = [{what: max(layer[what] for layer in file) for what in file[0]} for file in by_file]
            listed = [{"layer": number, **layer} for number, layer in found.items()]
            described.append({"name": kind, "limits": limits, "layers": listed})
    ways = ("exact", "binned", "left_out")
    facts = {way: [name for name in tensors if shown.get(name, "left_out") == way] for way in ways}
    facts["notes"] = notes(inputs, kinds, facts, megabytes)
    return {"files": _files(inputs.readers), "kinds": described, "notes": facts["notes"]}, facts


def chosen_kinds(metas: Mapping[str, Meta], matrices: Sequence[str] = ()) -> dict[str, dict[int, str]]:
    """Kind -> layer -> tensor, as `ken.viz.kinds_of`, of the kinds that are asked for, in that order."""
    known = kinds_of({name: meta.shape for name, meta in metas.items()})
    first = [matching_kind(known, part) for part in matrices] or [matching_kind(known), *sorted(known)]
    return {kind: known[kind] for kind in first}


def plan(costs: Mapping[str, tuple[int | None, int]], budget: float) -> dict[str, str]:
    """How each matrix is shown so that all of them stay within the budget.

    Args:
        costs: tensor -> bytes in the page entry by entry (None: too large for that) and by tiles, in order of
            importance.
        budget: bytes.

    Returns:
        Tensor -> "exact" or "binned"; one that does not fit is not in it. First every matrix gets the smaller form,
        then what is left is spent on the exact form of the first ones.
    """
    shown, left = {}, budget
    for name, (exact, binned) in costs.items():
        how, cost = ("exact", exact) if exact is not None and exact <= binned else ("binned", binned)
        if cost <= left:
            shown[name], left = how, left - cost
    for name, how in shown.items():
        exact, binned = costs[name]
        if how == "binned" and exact is not None and exact - binned <= left:
            shown[name], left = "exact", left - (exact - binned)
    return shown


def notes(inputs: Inputs, kinds: Mapping[str, dict[int, str]], facts: dict, megabytes: float) -> list[str]:
    """What a reader has to know of a page: precision, what is missing, binned or left out."""
    said = ["Values are rounded to three digits; the files of the sub-networks hold them in full."]
    if inputs.base is None:
        said.append("Made without the pre-trained model: updates, and the values of reset entries, are not known.")
    elif inputs.pair is None:
        said.append("Made without the fine-tuned model: the updates that the reset took away are not known.")
    total = sum(map(len, kinds.values()))
    metas = _metas(inputs.readers[0])
    for reason, large in ((f"they have more than {EXACT_ENTRIES:,} entries", True), (_too_much(megabytes), False)):
        names = [name for name in facts["binned"] if (metas[name].size > EXACT_ENTRIES) is large]
        if names:
            said.append(
                f"{len(names)} of {total} matrices are shown by tiles, at most {TILES} along a side, since {reason}: "
                f"{listing(kinds, names)}."
            )
    if facts["left_out"]:
        said.append(
            f"{len(facts['left_out'])} of {total} matrices are left out, since {_too_much(megabytes)}: "
            f"{listing(kinds, facts['left_out'])}. `ken viz` shows them with --matrices, or in a larger page with "
            "--megabytes."
        )
    return said


def _too_much(megabytes: float) -> str:
    return f"the page is to stay within {megabytes:g} MB"


def listing(kinds: Mapping[str, dict[int, str]], names: Sequence[str]) -> str:
    """Tensors by kind: "a.*.b (layers 0 to 3, 5); a.*.c (layer 3)"."""
    parts = []
    for kind, layers in kinds.items():
        runs: list[list[int]] = []
        for number in (number for number, name in layers.items() if name in names):
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        if runs:
            spans = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
            parts.append(f"{kind} (layer{'s' * (sum(map(len, runs)) > 1)} {', '.join(spans)})")
    return "; ".join(parts)


def packed(values: np.ndarray) -> dict:
    """Values as float16, scaled by a power of two, so that a browser can read them and small ones keep their digits.

    Args:
        values: finite, any shape.

    Returns:
        data: base64 of little-endian float16, row by row; exponent: the value is that number / 2^exponent.
    """
    largest = float(np.abs(values).max(initial=0))
    exponent = 15 - math.frexp(largest)[1] if largest else 0
    scaled = np.ldexp(values.astype(np.float64), exponent).astype("<f2")
    return {"data": _text(scaled), "exponent": exponent}


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _metas(reader: Reader) -> dict[str, Meta]:
    return {name: entry.meta for name, entry in reader.entries.items() if entry.blocks is not None}


def _check_base(base: Source, names: dict[str, str], reader: Reader) -> None:
    fingerprint = Fingerprint()
    for name, meta in _metas(reader).items():
        for place in meta.blocks():
            fingerprint.update(name, meta, base.rows(names[name], place).to(meta.dtype))
    check_fingerprint(fingerprint, reader.settings["base"])


def _costs(inputs: Inputs, name: str) -> tuple[int | None, int]:
    """Bytes of a matrix in the page, entry by entry (None: too large) and by tiles."""
    meta, files = inputs.readers[0].entries[name].meta, len(inputs.readers)
    with_base, with_tuned = inputs.base is not None, inputs.pair is not None
    kept = sum(reader.entries[name].kept for reader in inputs.readers)
    exact = 2 * meta.size * (with_base + with_tuned) + files * (meta.size // 8 + 1) + kept * (2 + 2 * with_base)
    height, width = tile_size(meta.rows, TILES)
    tiles = -(-meta.rows[0] // height) * -(-meta.rows[1] // width)
    binned = tiles * files * (8 + 2 * with_base + 2 * with_tuned)
    around = 400 * (files + 1)  # keys, names and counts
    return (None if meta.size > EXACT_ENTRIES else _encoded(exact) + around), _encoded(binned) + around


def _encoded(size: int) -> int:
    """Bytes in base64."""
    return size * 4 // 3


def _files(readers: list[Reader]) -> list[dict]:
    """Label and source of every file, the source without the folders that all have in common."""
    labels = [_label(reader.settings) for reader in readers]
    folder = os.path.commonpath([reader.path.absolute().parent for reader in readers])
    sources = [reader.path.absolute().relative_to(folder).as_posix() for reader in readers]
    often = Counter(labels)
    return [
        {"label": label if often[label] == 1 else f"{label} ({source})", "source": source}
        for label, source in zip(labels, sources, strict=True)
    ]


def _label(settings: dict) -> str:
    """Such as "ken, 25% of each row, rescaled"."""
    k, parts = settings["k"], [settings["method"]]
    if k is not None:
        parts.append(f"{100 * k:g}% of each row" if isinstance(k, float) else f"{k} of each row")
    if settings["rule"] == "rescale" and "rescaled" not in settings["method"]:
        parts.append("rescaled")
    return ", ".join(parts)


def _layer(inputs: Inputs, name: str, how: str) -> dict:
    """One matrix in all files; `limits` are the ends of its colour scales, for every file."""
    base, tuned = inputs.pretrained(name), inputs.finetuned(name)
    rows, columns = inputs.readers[0].entries[name].meta.rows
    tile = tile_size((rows, columns), TILES) if how == "binned" else None
    changes = None if tuned is None else _numbers(tuned) - _numbers(base)
    layer = {"tensor": name, "rows": rows, "columns": columns, "tile": tile}
    if how == "exact":
        layer["pretrained"] = None if base is None else packed(_numbers(base))
        layer["changes"] = None if changes is None else packed(changes)
    layer |= {"files": [], "limits": []}
    for reader in inputs.readers:
        mask, kept = _kept(reader, name)
        if tuned is not None:
            _check_finetuned(reader, name, mask, kept, tuned, base)
        mask, values = mask.numpy(), _numbers(kept)
        updates = None if base is None else values - _numbers(base)[mask]
        shown = exact_file(mask, values, updates) if tile is None else binned_file(mask, values, updates, changes, tile)
        limits = {"values": _high(values), "updates": _high(updates), "lost": _high(changes)}
        layer["limits"].append(
            {"share": 0.0, "tile_updates": 0.0, "tile_lost": 0.0, **shown.pop("limits", {}), **limits}
        )
        layer["files"].append(counts_of(mask, changes) | shown)
    return layer


def counts_of(mask: np.ndarray, changes: np.ndarray | None) -> dict:
    """Kept entries, mean of their kept neighbours, the mean expected by chance, and their share of the squared update.

    Args:
        mask: (r, n) bool.
        changes: (r, n) W - W0, or None.
    """
    counted, kept = neighbour_counts(torch.from_numpy(mask))[mask], int(mask.sum())
    squares = None if changes is None else changes.astype(np.float64) ** 2
    return {
        "kept": kept,
        "mean_neighbours": float(counted.mean()) if kept else 0.0,
        "expected_neighbours": expected_neighbours(torch.from_numpy(mask)),
        "update_share": None if squares is None or not squares.any() else float(squares[mask].sum() / squares.sum()),
    }


def exact_file(mask: np.ndarray, values: np.ndarray, updates: np.ndarray | None) -> dict:
    """One matrix of one file, entry by entry.

    Args:
        mask: (r, n) bool.
        values, updates: of the kept entries, row by row.

    Returns:
        mask: base64 of bits, row by row, lowest bit first; values, updates: `packed`.
    """
    bits = np.packbits(mask.reshape(-1), bitorder="little")
    return {"mask": _text(bits), "values": packed(values), "updates": None if updates is None else packed(updates)}


def binned_file(
    mask: np.ndarray,
    values: np.ndarray,
    updates: np.ndarray | None,
    changes: np.ndarray | None,
    tile: tuple[int, int],
) -> dict:
    """One matrix of one file by tiles: how many entries are kept, and means over a tile.

    Args:
        mask: (r, n) bool.
        values, updates: of the kept entries, row by row.
        changes: (r, n) W - W0, or None.
        tile: height and width.

    Returns:
        counts: base64 of uint32; neighbours, and sizes of values and updates (means over the kept entries of a tile,
        0 without any) and lost (the same of W - W0 over its reset entries): `packed`; limits: the largest of these.
    """
    counts, areas = tile_sums(mask, tile), tile_sums(np.ones(mask.shape, dtype=bool), tile)
    matrices = {
        "neighbours": _spread(mask, neighbour_counts(torch.from_numpy(mask))[mask]),
        "values": _spread(mask, np.abs(values)),
        "updates": None if updates is None else _spread(mask, np.abs(updates)),
        "lost": None if changes is None else np.where(mask, np.nan, np.abs(changes)),
    }
    means = {what: np.nan_to_num(tile_means(of, tile)) for what, of in matrices.items() if of is not None}
    limits = {f"tile_{what}": float(means[what].max()) for what in ("updates", "lost") if what in means}
    limits["share"] = float((counts / areas).max())
    found = {what: packed(means[what]) if what in means else None for what in matrices}
    return {"counts": _text(counts.astype("<u4")), **found, "limits": limits}


def _spread(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(r, n) with the values at kept entries and NaN elsewhere."""
    matrix = np.full(mask.shape, np.nan, dtype=np.float32)
    matrix[mask] = values
    return matrix


def _kept(reader: Reader, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = [(mask, values) for _, mask, values in reader.blocks(name)]
    return torch.cat([mask for mask, _ in blocks]), torch.cat([values for _, values in blocks])


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().to(torch.promote_types(tensor.dtype, torch.float32)).numpy()


def _high(values: np.ndarray | None) -> float:
    """The 99th percentile of the sizes, 0 of nothing."""
    return 0.0 if values is None or not values.size else float(np.quantile(np.abs(values), 0.99))


def _check_finetuned(
    reader: Reader, name: str, mask: torch.Tensor, kept: torch.Tensor, tuned: torch.Tensor, base: torch.Tensor
) -> None:
    """Refuse a fine-tuned model that is not the pruned one; other methods than KEN may keep other values than its."""
    if reader.settings["method"] not in selection.names() or reader.settings["rule"] not in extraction.RULES:
        return
    expected = extraction.rescaled(tuned, base, mask) if reader.settings["rule"] == "rescale" else tuned
    different = int((expected.masked_select(mask) != kept).sum())
    if different:
        raise ValueError(
            f"{different:,} kept values of {name!r} in {reader.path} differ from the fine-tuned model: give the model "
            "that was pruned."
        )

"""KENviz as one HTML page to explore kept entries, their updates and their neighbours in a browser.

The page contains its data and needs no network. It has every matrix of numbered layers, entry by entry as long as the
page is within its size limit, otherwise by tiles. It says which matrices were binned or left out.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from json import dumps
from pathlib import Path

from ken.files import replacing
from ken.sources import AnySource
from ken.storage.exact import Reader
from ken.tensors import TensorSpec
from ken.viz import explorer_data
from ken.viz.explorer_inputs import Inputs
from ken.viz.matrix_kinds import kinds_of, matching_kind

_PAGE_BYTES = 60_000  # largest size of the page without its matrices


def write_page(
    subnetworks: Sequence[str | Path],
    out: str | Path,
    pretrained: AnySource | None = None,
    finetuned: AnySource | None = None,
    matrices: Sequence[str] = (),
    megabytes: float = 20.0,
) -> dict:
    """Write the page, whole or not at all.

    Args:
        subnetworks: files of `Subnetwork.save` or `ken.prune`, all of one base.
        out: HTML file to write.
        pretrained: the base, as in `Subnetwork.extract`; without it a page has no updates and no pre-trained values.
        finetuned: the fine-tuned model; with it the updates of reset entries are shown too.
        matrices: kinds of matrices to show, each a part of one name (`matching_kind`). If empty, all of them are shown,
            with the queries first.
        megabytes: largest size of the page, in 10^6 bytes.

    Returns:
        bytes: size of the page; exact, binned, left_out: names of tensors; notes: the same in sentences.

    Raises:
        ValueError: as `Inputs.open`; an unknown matrix; no matrix fits into the page; or a kept value of KEN is not
            that of the fine-tuned model.
        OSError: the folder of `out` does not exist or cannot be written.

    Example:
        >>> write_page(["ken.safetensors"], "ken.html", "bert-base-uncased")  # doctest: +SKIP
    """
    if not subnetworks:
        raise ValueError("a page shows sub-networks: give at least one file.")
    if not Path(out).parent.is_dir():
        raise FileNotFoundError(f"the folder of {out} does not exist: make it first.")
    inputs = Inputs.open([Path(path) for path in subnetworks], pretrained, finetuned)
    data, facts = page_data(inputs, matrices, megabytes)
    page = resources.files("ken.viz").joinpath("explorer.html").read_text(encoding="utf-8")
    # Without a "<" no name can end the script element that holds the data.
    page = page.replace("KENVIZ_DATA", dumps(data, separators=(",", ":")).replace("<", "\\u003c"), 1).encode()
    with replacing(Path(out)) as temporary:
        temporary.write_bytes(page)
    return {"bytes": len(page), **facts}


def page_data(inputs: Inputs, matrices: Sequence[str] = (), megabytes: float = 20.0) -> tuple[dict, dict]:
    """The data of a page, ready for JSON, and how each tensor is shown (see `write_page`)."""
    kinds = chosen_kinds(inputs.readers[0].body, matrices)
    tensors = [name for layers in kinds.values() for name in layers.values()]
    shown = plan({name: explorer_data.costs(inputs, name) for name in tensors}, megabytes * 1e6 - _PAGE_BYTES)
    if not shown:
        raise ValueError(f"no matrix fits into {megabytes:g} MB: allow a larger page with --megabytes.")
    described = []
    for kind, layers in kinds.items():
        numbers = [number for number, name in layers.items() if name in shown]
        data = [explorer_data.layer_data(inputs, layers[number], shown[layers[number]]) for number in numbers]
        if data:
            by_file = zip(*(layer.pop("limits") for layer in data), strict=True)
            limits = [{what: max(layer[what] for layer in file) for what in file[0]} for file in by_file]
            listed = [{"layer": number, **layer} for number, layer in zip(numbers, data, strict=True)]
            described.append({"name": kind, "limits": limits, "layers": listed})
    ways = ("exact", "binned", "left_out")
    facts = {way: [name for name in tensors if shown.get(name, "left_out") == way] for way in ways}
    facts["notes"] = notes(inputs, kinds, facts, megabytes)
    return {"files": _files(inputs.readers), "kinds": described, "notes": facts["notes"]}, facts


def chosen_kinds(specs: Mapping[str, TensorSpec], matrices: Sequence[str] = ()) -> dict[str, dict[int, str]]:
    """Kind -> layer -> tensor (see `ken.viz.matrix_kinds.kinds_of`), for the requested kinds in their order."""
    known = kinds_of({name: spec.shape for name, spec in specs.items()})
    first = [matching_kind(known, part) for part in matrices] or [matching_kind(known), *sorted(known)]
    return {kind: known[kind] for kind in first}


def plan(costs: Mapping[str, tuple[int | None, int]], budget: float) -> dict[str, str]:
    """Decide how each matrix is shown, so that the page stays within its budget.

    Args:
        costs: tensor -> bytes in the page entry by entry (None: too large for that) and by tiles, in order of
            importance.
        budget: bytes.

    Returns:
        Tensor -> "exact" or "binned", without tensors that do not fit. First every matrix gets the smaller form, then
        the rest of the budget is spent on the exact form of the first ones.
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
    """Notes for readers of a page: its precision, and what is missing, binned or left out."""
    sentences = ["Values are rounded to three digits; the files of the sub-networks hold them in full."]
    if inputs.base is None:
        sentences.append("Made without the pre-trained model: updates, and the values of reset entries, are not known.")
    elif inputs.pair is None:
        sentences.append("Made without the fine-tuned model: the updates that the reset removed are not known.")
    total = sum(map(len, kinds.values()))
    specs = inputs.readers[0].body
    limit, tiles = explorer_data.EXACT_ENTRIES, explorer_data.TILES
    for reason, large in ((f"they have more than {limit:,} entries", True), (_too_much(megabytes), False)):
        names = [name for name in facts["binned"] if (specs[name].size > limit) is large]
        if names:
            sentences.append(
                f"{len(names)} of {total} matrices are shown by tiles, at most {tiles} along a side, since {reason}: "
                f"{listing(kinds, names)}."
            )
    if facts["left_out"]:
        sentences.append(
            f"{len(facts['left_out'])} of {total} matrices are left out, since {_too_much(megabytes)}: "
            f"{listing(kinds, facts['left_out'])}. `ken viz` shows them with --matrices, or in a larger page with "
            "--megabytes."
        )
    return sentences


def _too_much(megabytes: float) -> str:
    return f"the page must stay within {megabytes:g} MB"


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


def _files(readers: list[Reader]) -> list[dict]:
    """Label and source of every file; folders common to all sources are left out."""
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

"""What fine-tuning changed, and how much of a method's choice was fixed before it: updates.csv and choices.csv.

- updates.csv: the size of the update relative to the weights, ||Δ|| / ||W0||, per kind of tensor in every cell.
- choices.csv: of the entries that a method keeps, the share that the same criterion keeps of the pre-trained weights
  (`pretrained`) and of another task's model (`task`); and their mean |Δ|, in units of that of all entries (`size`). A
  random choice has the kept share in the first two and 1 in the third.

Tensors are read block by block, so a large model needs little memory.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from torch import nn

from baselines import METHODS
from ken import extraction, selection
from ken.tensors import as_rows, row_blocks
from study.definition.step import parse_step
from study.definition.study import Study
from study.models.classifiers import empty_classifier
from study.running import files, provenance
from study.running.device import acquire_device
from study.running.workflow import run
from study.training.gradients import CPU

FROM_WEIGHTS = ("ken",)  # methods whose criterion needs no update, so that it can also choose of pre-trained weights
DESCRIBED = (*FROM_WEIGHTS, "delta-magnitude")
KINDS = ("body", "linear layers", "embeddings", "attention", "feed-forward", "others", "head")
UPDATE_COLUMNS = ("model", "task", "seed", "kind", "parameters", "relative_update")
CHOICE_COLUMNS = ("model", "task", "seed", "method", "budget", "kept_share", "measure", "other_task", "value")

Block = tuple[str, torch.Tensor, dict[str, torch.Tensor]]
"""Name of a tensor, consecutive pre-trained rows (r, n), and the same rows of every task's fine-tuned model."""


@dataclass(frozen=True)
class Tensors:
    """The initial and the fine-tuned state of a cell, on disk.

    Attributes:
        folder: of the fine-tuned cell. head: names of the tensors of the new head.
    """

    folder: Path
    head: frozenset[str]

    @classmethod
    def open(cls, folder: Path) -> "Tensors | None":
        """The tensors of a cell whose files match its manifest; None if its training failed."""
        manifest = files.read_json(folder / "manifest.json")
        if manifest.get("reason"):
            print(f"{folder}: {manifest['reason']}", flush=True)
            return None
        files.check(folder, manifest["sha256"])
        return cls(folder, frozenset(manifest["head"]))

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Name -> (rows, n) of every tensor of floating-point numbers that has entries."""
        with safe_open(self.folder / "initial.safetensors", framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {}
        for name, part in slices.items():
            shape = part.get_shape()
            if part.get_dtype().startswith(("F", "BF")) and math.prod(shape):
                shapes[name] = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
        return shapes


def blocks(cells: Mapping[str, Tensors], names: Mapping[str, tuple[int, int]], device: torch.device) -> Iterator[Block]:
    """Read the tensors of these names from cells of one model and seed, of which the first has the pre-trained values.

    Args:
        cells: task -> tensors. names: name -> (rows, n).
    """
    first = next(iter(cells.values()))
    with safe_open(first.folder / "initial.safetensors", framework="pt") as initial:
        tuned = {task: safe_open(cell.folder / "model.safetensors", framework="pt") for task, cell in cells.items()}
        for name, (rows, n) in names.items():
            for block in row_blocks(rows, n):
                base, *others = (_rows(file, name, block).to(device) for file in (initial, *tuned.values()))
                yield name, base, dict(zip(tuned, others, strict=True))


def _rows(file: safe_open, name: str, block: slice) -> torch.Tensor:
    part = file.get_slice(name)
    return as_rows(part[block] if len(part.get_shape()) > 1 else file.get_tensor(name))


def kinds_of(skeleton: nn.Module, names: Mapping[str, object], head: frozenset[str]) -> dict[str, str]:
    """Name of a tensor -> its kind, one of `KINDS` without the first two.

    Embeddings are the weights of embedding modules. Linear layers of a numbered layer belong to the attention if a
    module around them is called so, else to the feed-forward network. Vectors and all that remains are "others".
    """
    owners = {f"{name}.weight": module for name, module in skeleton.named_modules()}
    kinds = {}
    for name in names:
        owner = owners.get(name)
        if name in head:
            kinds[name] = "head"
        elif isinstance(owner, nn.Embedding):
            kinds[name] = "embeddings"
        elif isinstance(owner, nn.Linear) and extraction.in_scope(name, "layers"):
            kinds[name] = "attention" if re.search(r"attention|attn", name) else "feed-forward"
        else:
            kinds[name] = "others"
    return kinds


def update_sizes(cell: Tensors) -> list[dict[str, object]]:
    """Entries and ||Δ|| / ||W0|| of every kind of tensor of a cell; a kind without weights has no ratio."""
    names, skeleton = cell.shapes(), empty_classifier(cell.folder)
    kinds = kinds_of(skeleton, names, cell.head)
    linear = {f"{name}.weight" for name, module in skeleton.named_modules() if isinstance(module, nn.Linear)}
    sizes, updates, weights = Counter(), Counter(), Counter()
    for name, base, tuned in blocks({"": cell}, names, CPU):
        groups = [kinds[name]]
        if name not in cell.head:
            groups += ["body", *(["linear layers"] if name in linear else [])]
        for group in groups:
            sizes[group] += base.numel()
            updates[group] += (tuned[""].double() - base.double()).square().sum().item()
            weights[group] += base.double().square().sum().item()
    return [
        {"kind": kind, "parameters": sizes[kind], "relative_update": _ratio(updates[kind], weights[kind]) ** 0.5}
        for kind in KINDS
        if kind in sizes
    ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def choices(cells: Mapping[str, Tensors], budgets: list[float | int], device: torch.device = CPU) -> list[dict]:
    """Rows of choices.csv of the cells of one model and seed: task -> tensors."""
    first = next(iter(cells.values()))
    names = {name: shape for name, shape in first.shapes().items() if name not in first.head}
    sums: Counter[tuple] = Counter()
    for _, base, tuned in blocks(cells, names, device):
        if any(selection.is_fixed(rows, base) for rows in tuned.values()):
            continue
        sums["entries",] += base.numel()
        for task, rows in tuned.items():
            sums["update", task] += _size(rows, base)
        for method in DESCRIBED:
            _count(sums, method, base, tuned, budgets)
    tasks = list(cells)
    rows = [
        row
        for method, budget, task in product(DESCRIBED, budgets, tasks)
        for row in _of_task(sums, method, budget, task)
    ]
    for method, budget, (task, other) in product(DESCRIBED, budgets, combinations(tasks, 2)):
        overlap = _ratio(sums["common", method, budget, task, other], sums["kept", method, budget])
        rows.append(_row(sums, method, budget, task, "task", overlap, other))
    return rows


def _count(
    sums: Counter, method: str, base: torch.Tensor, tuned: dict[str, torch.Tensor], budgets: list[float | int]
) -> None:
    """Add what a method keeps of a block, at every budget, to the sums."""
    criterion = METHODS[method].criterion
    before = selection.rank(base, base, criterion) if method in FROM_WEIGHTS else None
    ranks = {task: selection.rank(rows, base, criterion) for task, rows in tuned.items()}
    for budget in budgets:
        masks = {task: selection.mask_from_ranks(rank, budget) for task, rank in ranks.items()}
        sums["kept", method, budget] += int(next(iter(masks.values())).sum())
        for task, mask in masks.items():
            sums["kept update", method, budget, task] += _size(tuned[task][mask], base[mask])
            if before is not None:
                sums["before", method, budget, task] += int((mask & selection.mask_from_ranks(before, budget)).sum())
        for task, other in combinations(masks, 2):
            sums["common", method, budget, task, other] += int((masks[task] & masks[other]).sum())


def _size(tuned: torch.Tensor, base: torch.Tensor) -> float:
    return (tuned.double() - base.double()).abs().sum().item()


def _of_task(sums: Counter, method: str, budget: float | int, task: str) -> Iterator[dict]:
    """The rows of one task alone."""
    kept, every = sums["kept", method, budget], sums["entries",]
    if method in FROM_WEIGHTS:
        yield _row(sums, method, budget, task, "pretrained", _ratio(sums["before", method, budget, task], kept))
    mean = _ratio(sums["update", task], every)
    size = _ratio(_ratio(sums["kept update", method, budget, task], kept), mean)
    yield _row(sums, method, budget, task, "size", size)


def _row(
    sums: Counter, method: str, budget: float | int, task: str, measure: str, value: float, other: str = ""
) -> dict:
    kept_share = _ratio(sums["kept", method, budget], sums["entries",])
    return {
        "task": task, "method": method, "budget": budget, "kept_share": kept_share, "measure": measure,
        "other_task": other, "value": value,
    }  # fmt: skip


def describe(study: Study, cells: Mapping[tuple, Tensors], device: torch.device) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables updates and choices of a study: (model, task, seed) -> tensors."""
    updates, chosen = [], []
    for (model, task, seed), cell in cells.items():
        updates += [{"model": model, "task": task, "seed": seed} | row for row in update_sizes(cell)]
    for model, seed in dict.fromkeys((model, seed) for model, _, seed in cells):
        of_tasks = {task: cell for (name, task, number), cell in cells.items() if (name, number) == (model, seed)}
        rows = choices(of_tasks, study.config["kept_shares"], device)
        chosen += [{"model": model, "seed": seed} | row for row in rows]
        print(f"{model}, seed {seed}: {len(of_tasks)} tasks", flush=True)
    return pd.DataFrame(updates, columns=list(UPDATE_COLUMNS)), pd.DataFrame(chosen, columns=list(CHOICE_COLUMNS))


def main() -> None:
    _, study, paths = parse_step("Measure what fine-tuning changed, and what methods choose of it.")
    on = acquire_device()
    provenance.make_deterministic(0)
    opened = {cell: Tensors.open(paths.finetuned(*cell)) for cell in study.described_cells}
    tables = describe(study, {cell: tensors for cell, tensors in opened.items() if tensors}, on)
    for name, table in zip(("updates", "choices"), tables, strict=True):
        files.write_csv(paths.table(name), table)


if __name__ == "__main__":
    run(main)

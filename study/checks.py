"""Ablations of KEN on one cell, each a small grid:

- bandwidth: Scott's bandwidth is multiplied by a factor. Does the rule of thumb matter?
- zero: the entries that are not kept are reset to their pre-trained values, or set to zero. Does the reset matter?
- matrices: one kind of matrix is pruned, all others are kept. Which kind loses most?

Every variant is stored, loaded back and evaluated, like the methods.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

from baselines.magnitude import zeros
from ken import kde, selection
from ken.subnetwork import Subnetwork
from study.cells.finetuned_cell import FinetunedCell
from study.definition.step import parse_step
from study.running import files, provenance, scratch
from study.running.device import COMPRESSION, Needs, acquire_device
from study.running.workflow import run
from study.training import metrics

COLUMNS = (
    *("model", "task", "seed", "check", "variant", "method", "kept_share", "stored_bytes", "weighted_f1"),
    *("full_weighted_f1", "none_weighted_f1", "parameters"),
)
KINDS = {
    "embeddings": r"embedding",
    "query, key, value": r"in_proj|query_key_value",
    "query": r"query|q_lin|pos_q_proj",
    "key": r"\bkey\b|k_lin|pos_proj",
    "value": r"\bvalue\b|v_lin",
    "attention output": r"attention.*(output\.dense|out_lin|\bdense\b)",
    "feed-forward": r"intermediate|output\.dense|lin1|lin2|h_to_4h|4h_to_h",
}
OTHERS = "others"


def kind_of(name: str, tensor: torch.Tensor) -> str:
    """Kind of a matrix, from its name in the known architectures; "others" for vectors and unknown names."""
    if tensor.ndim < 2:
        return OTHERS
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), OTHERS)


def bandwidth_masks(cell: FinetunedCell, factor: float, share: float) -> dict[str, torch.Tensor]:
    """KEN's masks with Scott's bandwidth multiplied by a factor."""

    def scaled_density(finetuned: torch.Tensor, _: torch.Tensor, generator: object) -> torch.Tensor:
        return kde.density(finetuned, bandwidth=factor * kde.scott_bandwidth(finetuned))

    return select_masks(cell, scaled_density, share)


def select_masks(cell: FinetunedCell, criterion: str | selection.Criterion, share: float) -> dict[str, torch.Tensor]:
    """Bool masks of all body tensors by a criterion, True where an entry is kept."""
    ranks = selection.rank_tensors(cell.finetuned, cell.pretrained, criterion, device=cell.device)
    return {name: selection.mask_from_ranks(rank, share) for name, rank in ranks.items()}


def variants(cell: FinetunedCell, settings: dict) -> Iterator[tuple[dict, dict, bool]]:
    """Yield description, masks, and whether the other entries are set to zero, of every variant."""
    for share in settings["kept_shares"]:
        for factor in settings["bandwidth_factors"]:
            yield (
                {"check": "bandwidth", "variant": factor, "method": "ken"},
                bandwidth_masks(cell, factor, share),
                False,
            )
        if settings["zero"]:
            for method in ("ken", "magnitude"):
                masks = select_masks(cell, method, share)
                yield {"check": "zero", "variant": "reset", "method": method}, masks, False
                yield {"check": "zero", "variant": "zero", "method": method}, masks, True
    if settings["matrices"]:
        masks = select_masks(cell, "ken", settings["matrices_kept_share"])
        kinds = {name: kind_of(name, tensor) for name, tensor in cell.pretrained.items()}
        for kind in (kind for kind in (*KINDS, OTHERS) if kind in kinds.values()):
            chosen = {name: masks[name] if kinds[name] == kind else torch.ones_like(masks[name]) for name in masks}
            yield {"check": "matrices", "variant": kind, "method": "ken"}, chosen, False


def evaluate(cell: FinetunedCell, masks: dict[str, torch.Tensor], zero: bool, path: Path, stays: bool = True) -> dict:
    """Store the masked entries, load them back, apply them and evaluate the restored model on the scored texts.

    Args:
        stays: whether the file is kept.
    """
    base = zeros(cell.pretrained) if zero else cell.pretrained
    Subnetwork.from_masks(base, cell.finetuned, masks).save(path)
    stored = Subnetwork.load(path)
    cell.model.load_state_dict(stored.apply(base))
    f1 = metrics.scores(cell.split("scored").labels, cell.predict(cell.model))["weighted_f1"]
    size = path.stat().st_size
    if not stays:
        path.unlink()
    return {"kept_share": stored.kept_share, "stored_bytes": size, "weighted_f1": f1}


def run_ablations(cell: FinetunedCell, settings: dict, out: Path, stay: bool = True) -> pd.DataFrame:
    """Evaluate all variants, one row each; the stored files are written into the folder `out`, and `stay` there or not.

    The table of a cell whose training failed is empty.
    """
    if cell.failure:
        print(cell.failure, flush=True)
        return pd.DataFrame(columns=list(COLUMNS))
    sizes: Counter[str] = Counter()
    for name, tensor in cell.pretrained.items():
        sizes[kind_of(name, tensor)] += tensor.numel()
    controls = {}
    for name, keeps in (("full", True), ("none", False)):
        masks = {key: torch.full(tensor.shape, keeps) for key, tensor in cell.pretrained.items()}
        controls[f"{name}_weighted_f1"] = evaluate(cell, masks, False, out / f"{name}.safetensors", stay)["weighted_f1"]
    rows = []
    for index, (variant, masks, zero) in enumerate(variants(cell, settings)):
        result = evaluate(cell, masks, zero, out / f"{index}.safetensors", stay)
        parameters = sizes[variant["variant"]] if variant["check"] == "matrices" else sizes.total()
        rows.append(cell.axes | variant | result | controls | {"parameters": parameters})
        print(f"{variant['check']} {variant['variant']}: weighted F1 {result['weighted_f1']:.3f}", flush=True)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def main() -> None:
    a, study, paths = parse_step("Run the ablations of KEN on one cell.", "model", "task", "seed")
    axes, section = (a.model, a.task, a.seed), study.ablation_settings(a.task)
    on = acquire_device(Needs.of_checkpoint(paths.finetuned(*axes) / "initial.safetensors", COMPRESSION))
    provenance.make_deterministic(0)
    cell = FinetunedCell(paths.finetuned(*axes), paths.task(a.task), section["settings"], on)
    with files.replacing_folder(paths.checks(*axes)) as folder:
        with scratch.folder(cell.dense_bytes, folder) if study.removes_files else nullcontext(folder) as stored:
            table = run_ablations(cell, section["checks"], stored, stay=not study.removes_files)
        files.write_csv(folder / "checks.csv", table)
        provenance.write_manifest(folder, inputs=cell.inputs)


if __name__ == "__main__":
    run(main)

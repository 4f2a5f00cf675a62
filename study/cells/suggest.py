"""Search for the smallest kept share of a cell that is not inferior on validation.

The search is `ken.suggest` and uses validation only. The suggested share is stored and loaded back, and the restored
model is evaluated once on the test set. With too few validation rows for a statement at the confidence, nothing is
searched for, and the rows of the table have no numbers.
"""

import functools
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import pandas as pd

import baselines
from baselines.base import Selection
from ken import suggestion
from ken.errors import UserError
from ken.suggestion import Suggestion, Trial
from study.cells.finetuned_cell import FinetunedCell
from study.running import files, provenance, scratch
from study.training import metrics

COLUMNS = (
    *("model", "task", "seed", "method", "share", "margin", "confidence", "resolution", "validation_full_weighted_f1"),
    *("looks", "kept_share", "stored_bytes", "weighted_f1", "macro_f1", "accuracy", "full_weighted_f1"),
)
CURVE_COLUMNS = ("model", "task", "seed", "method", *(field.name for field in fields(Trial)))


def search(cell: FinetunedCell, method: Selection, settings: dict) -> Suggestion:
    """Bisect over kept shares on the cell's validation examples, or on a sample of them."""
    cell.reset_model()
    cell.model.load_state_dict(cell.finetuned)
    validation = cell.split("searched")
    return suggestion.suggest(
        cell.pretrained,
        cell.model,
        lambda model: cell.predict(model, "searched"),
        validation.labels,
        **settings,
        method=method.criterion,
        rule=method.rule,
        seed=cell.for_method(method, draw=0).seed,
        allow_head=True,  # the head of the manifest
    )


def full_weighted_f1(cell: FinetunedCell) -> float:
    """Weighted F1 of the fine-tuned model on the scored texts; the manifest has that on all texts in float32."""
    if cell.scored_rows is None and cell.precision == "float32":
        return cell.manifest["weighted_f1"]
    cell.reset_model()
    cell.model.load_state_dict(cell.finetuned)
    return metrics.scores(cell.split("scored").labels, cell.predict(cell.model))["weighted_f1"]


def evaluate_on_test(cell: FinetunedCell, method: Selection, share: float, path: Path) -> dict[str, float]:
    """Store a share and evaluate it: kept share of the body, bytes, scores on the scored texts."""
    view = cell.for_method(method, draw=0)
    kept = method.store(view, method.prepare(view), share, path).kept
    cell.reset_model()
    method.restore_into(cell.model, cell.pretrained, path)
    scores = metrics.scores(cell.split("scored").labels, cell.predict(cell.model))
    return {"kept_share": kept / view.body_size, "stored_bytes": path.stat().st_size} | scores


def suggest(cell: FinetunedCell, methods: list[str], settings: dict, out: Path) -> None:
    """Write suggestions.csv (one row per method), curves.csv (one per evaluated share) and stored files to `out`.

    The tables of a cell whose training failed are empty.
    """
    rows, curves = [], []
    examples = len(cell.split("searched").labels)
    full = functools.cache(full_weighted_f1)
    needed = suggestion.examples_needed(settings["margin"], settings["confidence"])
    with (
        files.replacing_folder(out) as folder,
        nullcontext(folder) if cell.keeps_all_files else scratch.folder(cell.dense_bytes, folder) as stored,
    ):
        for name in [] if cell.failure else methods:
            method = baselines.METHODS[name]
            if not isinstance(method, Selection):
                raise UserError(
                    f"{name} does not rank entries, so no share can be suggested for it: remove it from suggestion."
                )
            axes = cell.axes | {"method": name}
            if examples < needed:
                rows.append(axes | settings)
                print(f"{name}: {examples} validation rows are too few to suggest a share, {needed} are needed")
                continue
            suggested = search(cell, method, settings)
            validation = {"validation_full_weighted_f1": suggested.full_weighted_f1, "looks": len(suggested.curve)}
            tested = evaluate_on_test(cell, method, suggested.share, stored / f"{name}.safetensors")
            tested["full_weighted_f1"] = full(cell)
            rows.append(axes | {"share": suggested.share} | settings | validation | tested)
            curves += [axes | vars(look) for look in suggested.curve]
            print(f"{name}: keep {100 * suggested.share:g} %, {len(suggested.curve)} shares evaluated", flush=True)
        files.write_csv(folder / "curves.csv", pd.DataFrame(curves, columns=list(CURVE_COLUMNS)))
        files.write_csv(folder / "suggestions.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
        provenance.write_manifest(folder, inputs=cell.inputs)

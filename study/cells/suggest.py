"""Search for the smallest kept share, or file, of a cell that is not inferior on validation.

The searches are those of `ken suggest` and use validation only. What they suggest is stored and loaded back, and the
restored model is evaluated once on the test set. With too few validation rows for a statement at the confidence,
nothing is searched for, and the rows of the table have no numbers.
"""

from contextlib import nullcontext
from dataclasses import fields
from functools import cache, partial
from pathlib import Path

import pandas as pd

import baselines
from baselines.base import Selection
from ken import certificate, suggestion
from ken.certificate import Certificate, FileTrial
from ken.errors import UserError
from ken.subnetwork import Subnetwork
from ken.suggestion import Suggestion, Trial
from study.cells.finetuned_cell import FinetunedCell
from study.running import files, provenance, scratch
from study.training import metrics

SMALLEST_FILE = "smallest-file"
"""In the column `method`: the search over ways of coding."""
COLUMNS = (
    *("model", "task", "seed", "method", "share", "margin", "confidence", "resolution", "validation_full_weighted_f1"),
    *("looks", "kept_share", "stored_bytes", "weighted_f1", "macro_f1", "accuracy", "full_weighted_f1"),
    *("values", "positions"),
)
CURVE_COLUMNS = tuple(
    dict.fromkeys(("model", "task", "seed", "method", *(field.name for field in (*fields(Trial), *fields(FileTrial)))))
)


def search(cell: FinetunedCell, method: Selection, settings: dict) -> Suggestion:
    """Bisect over kept shares on the cell's validation examples, or on a sample of them."""
    cell.load_finetuned()
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
    cell.load_finetuned()
    return metrics.scores(cell.split("scored").labels, cell.predict(cell.model))["weighted_f1"]


def evaluate_on_test(cell: FinetunedCell, path: Path) -> dict[str, float]:
    """Evaluate a stored file: kept share of the body, bytes, and scores on the scored texts."""
    subnetwork = Subnetwork.load(path)
    cell.reset_model()
    subnetwork.inject(cell.model)
    scores = metrics.scores(cell.split("scored").labels, cell.predict(cell.model))
    return {"kept_share": subnetwork.kept_share, "stored_bytes": path.stat().st_size} | scores


def suggest_share(cell: FinetunedCell, name: str, settings: dict, path: Path) -> tuple[dict, list[dict]]:
    """Search for a share of one method and store its file; the row of the table, and those of the evaluated shares."""
    method = baselines.METHODS[name]
    if not isinstance(method, Selection) or method.scope != "all":
        raise UserError(
            f"{name} does not rank all entries, so no share can be suggested for it: remove it from suggestion."
        )
    suggested = search(cell, method, settings)
    view = cell.for_method(method, draw=0)
    method.store(view, method.prepare(view), suggested.share, path)
    return {"share": suggested.share, **looked(suggested)}, [vars(trial) for trial in suggested.curve]


def suggest_file(cell: FinetunedCell, settings: dict, path: Path) -> tuple[dict, list[dict]]:
    """Search for the smallest file and store it; the row has no share if no file is certified."""
    cell.load_finetuned()
    validation = cell.split("searched")
    found = certificate.smallest_file(
        cell.pretrained,
        cell.model,
        lambda model: cell.predict(model, "searched"),
        validation.labels,
        settings["margin"],
        settings["confidence"],
        allow_head=True,  # the head of the manifest
    )
    trials = [vars(trial) for trial in found.curve]
    if (chosen := found.smallest) is None:
        return looked(found), trials
    certificate.write_file(cell.pretrained, cell.finetuned, path, chosen, "rescale", allow_head=True)
    coding = {name: getattr(chosen, name) for name in ("share", "values", "positions")}
    return coding | looked(found), trials


def looked(found: Suggestion | Certificate) -> dict[str, float]:
    """What a search has looked at."""
    return {"validation_full_weighted_f1": found.full_weighted_f1, "looks": len(found.curve)}


def suggest(cell: FinetunedCell, settings: dict, out: Path) -> None:
    """Write suggestions.csv (a row per search), curves.csv (one per evaluated file) and stored files to `out`.

    The tables of a cell whose training failed are empty.

    Args:
        settings: the section `suggestion` of the configuration.
    """
    rows, curves, settings = [], [], dict(settings)
    searches = {name: partial(suggest_share, name=name) for name in settings.pop("methods")}
    searches |= {SMALLEST_FILE: suggest_file} if settings.pop("smallest_file", False) else {}
    examples = len(cell.split("searched").labels)
    needed = suggestion.examples_needed(settings["margin"], settings["confidence"])
    full = cache(full_weighted_f1)  # the same for every search
    with (
        files.replacing_folder(out) as folder,
        nullcontext(folder) if cell.keeps_all_files else scratch.folder(cell.dense_bytes, folder) as stored,
    ):
        for name, run in {} if cell.failure else searches.items():
            axes, path = cell.axes | {"method": name}, stored / f"{name}.safetensors"
            if examples < needed:
                rows.append(axes | settings)
                print(f"{name}: {examples} validation rows are too few to suggest a share, {needed} are needed")
                continue
            row, trials = run(cell, settings=settings, path=path)
            if path.exists():
                row |= evaluate_on_test(cell, path) | {"full_weighted_f1": full(cell)}
            rows.append(axes | settings | row)
            curves += [axes | trial for trial in trials]
            result = f"keep {100 * row['share']:g} %" if path.exists() else "nothing is certified"
            print(f"{name}: {result}, {row['looks']} files evaluated", flush=True)
        files.write_csv(folder / "curves.csv", pd.DataFrame(curves, columns=list(CURVE_COLUMNS)))
        files.write_csv(folder / "suggestions.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
        provenance.write_manifest(folder, inputs=cell.inputs)

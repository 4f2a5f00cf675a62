"""Choose k for one fine-tuned cell: the smallest kept share that is not inferior on validation, then one look at test.

The search is `ken.suggest`; it sees validation only. The share that it finds is stored, loaded back and applied, and
that restored model answers the test set once.
"""

from pathlib import Path

import pandas as pd

import baselines
from baselines.base import Selection
from ken import suggestion
from ken.errors import UserError
from ken.suggestion import Suggestion
from study.cells.finetuned_cell import FinetunedCell
from study.running import files, provenance
from study.training import metrics
from study.training.examples import predict


def search(cell: FinetunedCell, method: Selection, settings: dict) -> Suggestion:
    """Bisection over kept shares on the cell's validation examples."""
    cell.reset_model()
    cell.model.load_state_dict(cell.finetuned)
    validation = cell.split("validation")
    return suggestion.suggest(
        cell.pretrained,
        cell.model,
        lambda model: predict(model, validation, cell.batch_size),
        validation.labels,
        **settings,
        method=method.criterion,
        rule=method.rule,
        seed=cell.for_method(method, draw=0).seed,
    )


def answer_test(cell: FinetunedCell, method: Selection, share: float, path: Path) -> dict[str, float]:
    """Kept share of the body, stored bytes and scores on test of the stored share; and the full model's weighted F1."""
    seen, test = cell.for_method(method, draw=0), cell.split("test")
    kept = method.store(seen, method.prepare(seen), share, path).kept
    cell.reset_model()
    method.restore_into(cell.model, cell.pretrained, path)
    found = metrics.scores(test.labels, predict(cell.model, test, cell.batch_size))
    body = {"kept_share": kept / seen.body_size, "stored_bytes": path.stat().st_size}
    return body | found | {"full_weighted_f1": cell.manifest["weighted_f1"]}


def suggest(cell: FinetunedCell, methods: list[str], settings: dict, out: Path) -> None:
    """Write suggestions.csv (a row a method), curves.csv (a row a look) and the stored sub-networks into `out`."""
    rows, curves = [], []
    with files.replacing_folder(out) as folder:
        for name in methods:
            method = baselines.METHODS[name]
            if not isinstance(method, Selection):
                raise UserError(f"{name} has no ranking of entries, so no share can be looked for: take it out.")
            found = search(cell, method, settings)
            axes = cell.axes | {"method": name}
            validation = {"validation_full_weighted_f1": found.full_weighted_f1, "looks": len(found.curve)}
            tested = answer_test(cell, method, found.share, folder / f"{name}.safetensors")
            rows.append(axes | {"share": found.share} | settings | validation | tested)
            curves += [axes | vars(look) for look in found.curve]
            print(f"{name}: keep {100 * found.share:g} %, {len(found.curve)} shares looked at", flush=True)
        files.write_csv(folder / "curves.csv", pd.DataFrame(curves))
        files.write_csv(folder / "suggestions.csv", pd.DataFrame(rows))
        provenance.write_manifest(folder, inputs=cell.inputs)

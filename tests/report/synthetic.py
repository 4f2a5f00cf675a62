"""Result files of small invented studies with known scores."""

import csv
import hashlib
import json
from pathlib import Path

SCORE_COLUMNS = [
    *("model", "task", "seed", "draw", "method", "family", "budget", "unit", "kept", "kept_share", "parameters"),
    *("stored_bytes", "weighted_f1", "macro_f1", "accuracy", "learning_rate", "validation_weighted_f1"),
    *("seconds", "peak_mib", "status", "reason"),
]
INFERENCE_COLUMNS = [
    *("model", "task", "seed", "method", "budget", "unit", "form", "parameters", "texts"),
    *("milliseconds_per_text", "relative_time", "peak_mib"),
]
FAMILIES = {
    **dict.fromkeys(("full", "none"), "control"), **dict.fromkeys(("ken-rescaled", "dare"), "rescaled"),
    **dict.fromkeys(("bitdelta", "magnitude-zero"), "other"), **dict.fromkeys(("lora", "flop", "lt-sft"), "trained"),
}  # fmt: skip
UNITS = {"bitdelta": "bits", "lora": "rank", "flop": "size"}

SUGGESTION_COLUMNS = [
    *("model", "task", "seed", "method", "share", "margin", "confidence", "looks", "kept_share", "stored_bytes"),
    *("weighted_f1", "macro_f1", "accuracy", "full_weighted_f1"),
]


def write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def score_row(model="bert", task="t1", seed=0, draw=0, method="ken", budget=0.1, f1: float | None = 0.5, **changes):
    """One row of scores.csv; a row without a score gets a status and a reason in `changes`."""
    family, trains = FAMILIES.get(method, "reset"), FAMILIES.get(method) == "trained"
    measured = {
        "kept": 1000 * budget, "kept_share": budget, "parameters": 1100, "stored_bytes": 4000 * budget + 100,
        "weighted_f1": f1, "macro_f1": f1, "accuracy": f1, "learning_rate": 0.001 if trains else "",
        "validation_weighted_f1": f1 if trains else "", "seconds": 1.5, "peak_mib": 300,
    }  # fmt: skip
    if f1 is None:
        measured = dict.fromkeys(measured, "")
    named = {"model": model, "task": task, "seed": seed, "draw": draw, "method": method, "budget": budget}
    named |= {"family": family, "unit": UNITS.get(method, "share")}
    row = named | measured | {"status": "ok", "reason": ""} | changes
    return {column: row[column] for column in SCORE_COLUMNS}


def controls(model="bert", task="t1", seed=0, full=0.9, none=0.3):
    at = {"model": model, "task": task, "seed": seed}
    return [score_row(**at, method="full", budget=1.0, f1=full), score_row(**at, method="none", budget=0.0, f1=none)]


def write_results(
    folder: Path,
    scores: list[dict],
    finetuning: list[dict] | None = None,
    suggestions: list[dict] | None = None,
    inference: list[dict] | None = None,
    **provenance,
) -> Path:
    """Write a results folder with these scores; the other files have the same models and tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    models = list(dict.fromkeys(row["model"] for row in scores))
    tasks = list(dict.fromkeys(row["task"] for row in scores))
    write_csv(folder / "scores.csv", scores)
    write_csv(folder / "finetuning.csv", finetuning or [arm(models[0], tasks[0], 0, "pretrained", 0.9)])
    (folder / "suggestions.csv").write_text(f"{','.join(SUGGESTION_COLUMNS)}\n", encoding="utf-8")
    (folder / "inference.csv").write_text(f"{','.join(INFERENCE_COLUMNS)}\n", encoding="utf-8")
    if inference:
        write_csv(folder / "inference.csv", inference)
    if suggestions:
        write_csv(folder / "suggestions.csv", suggestions)
    write_csv(folder / "tasks.csv", [task_row(task) for task in tasks])
    write_csv(folder / "models.csv", [model_row(model) for model in models])
    record = {
        "study": "tiny", "config": {"seeds": [0]}, "commit": "0123abcd", "dirty": False, "versions": {"torch": "2.13"},
        "machine": {"cpu": "some cpu", "cores": 2, "gpu": None}, "seconds": {"compress_model": 12.0},
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(record | provenance), encoding="utf-8")
    return folder


def suggestion(model="bert", task="t1", seed=0, method="ken", share=0.4, f1=0.88, full=0.9):
    values = (model, task, seed, method, share, 0.02, 0.95, 5, share, 4000 * share, f1, f1, f1, full)
    return dict(zip(SUGGESTION_COLUMNS, values, strict=True))


def timing(method="full", budget=1.0, form="dense", relative=1.0, model="bert", task="t1", seed=0):
    """One row of inference.csv; the dense model takes 2 ms per text."""
    values = (model, task, seed, method, budget, UNITS.get(method, "share"), form, 1100, 20, 2 * relative, relative, 5)
    return dict(zip(INFERENCE_COLUMNS, values, strict=True))


def arm(model, task, seed, name, f1):
    return {
        "model": model, "task": task, "seed": seed, "arm": name, "learning_rate": 5e-4, "epochs": 4, "best_epoch": 3,
        "validation_weighted_f1": f1, "weighted_f1": f1, "macro_f1": f1, "accuracy": f1, "seconds": 10, "peak_mib": 300,
    }  # fmt: skip


def task_row(task):
    return {
        "task": task, "source": "files", "classes": 2, "train": 60, "validation": 20, "test": 20,
        "majority_share": 0.6, "majority_weighted_f1": 0.45, "tfidf_weighted_f1": 0.8,
        "class_counts": json.dumps({"train": {"yes": 36, "no": 24}, "test": {"yes": 12, "no": 8}}), "sha256": "ab" * 32,
    }  # fmt: skip


def model_row(model):
    return {
        "model": model, "architecture": "bert", "source": "directory", "parameters": 1100, "body_parameters": 1000,
        "head_parameters": 100, "tokenizer": "", "pretraining_tokens": "",
        "sha256": hashlib.sha256(model.encode()).hexdigest(),
    }  # fmt: skip


def study_rows() -> list[dict]:
    """Two models, one task, two seeds, two kept shares, two methods (random with two draws), known scores."""
    rows = []
    for m, model in enumerate(("bert", "bloom")):
        for seed in (0, 1):
            full = 0.9 - 0.1 * m + 0.02 * seed
            rows += controls(model, seed=seed, full=full, none=0.3)
            for budget, loss in ((0.1, 0.2), (0.5, 0.01)):
                at = {"model": model, "seed": seed, "budget": budget}
                rows.append(score_row(**at, method="ken", f1=full - loss * (1 + m)))
                rows += [score_row(**at, method="random", draw=d, f1=full - loss - 0.1 * d) for d in (0, 1)]
    return rows


def wide_rows() -> list[dict]:
    """Two models and seeds, methods of every family and unit; trained ones in one cell, where one declines."""
    rows = []
    for model in ("bert", "bloom"):
        for seed in (0, 1):
            at = {"model": model, "seed": seed}
            full = 0.9 + 0.02 * seed
            rows += controls(model, seed=seed, full=full, none=0.3)
            for budget, loss in ((0.05, 0.4), (0.25, 0.1), (0.5, 0.02)):
                rows.append(score_row(**at, budget=budget, f1=full - loss))
                rows.append(score_row(**at, method="ken-rescaled", budget=budget, f1=full - loss / 10))
                rows += [score_row(**at, method="random", draw=d, budget=budget, f1=full - loss) for d in (0, 1)]
                whole = {"kept_share": 0.5 + budget / 2, "stored_bytes": 2100 + 2000 * budget}
                rows.append(score_row(**at, method="ken-grid-layers", budget=budget, f1=full - loss / 20, **whole))
            rows.append(score_row(**at, method="bitdelta", budget=1, f1=full - 0.03, kept=450, stored_bytes=900))
    for rank, f1 in ((1, 0.8), (4, 0.88)):
        rows.append(
            score_row(
                method="lora", budget=rank, f1=f1, kept=40 * rank, kept_share=0.04 * rank, stored_bytes=400 * rank
            )
        )
    rows += [score_row(method="lt-sft", budget=budget, f1=0.87) for budget in (0.05, 0.25)]
    rows.append(score_row(method="flop", budget=0.25, f1=None, status="declined", reason="nothing to factorise"))
    return rows


def claim_row(claim="ahead", source="paper", subject="all models", verdict="holds", estimate: object = 1.25, **more):
    """One row of claims.csv, in points with an interval of ±1."""
    row = {
        "claim": claim, "source": source, "short": "", "text": f"The text of {claim}.", "subject": subject,
        "rule": f"The rule of {claim}.", "rules_since": "", "unit": "points", "limits": "1", "scope": "", "needs": "",
        "estimate": estimate, "low": "", "high": "",
        "verdict": verdict, "n": 4, "why": f"Because of {claim} {subject}.",
    }  # fmt: skip
    if estimate != "":
        row |= {"low": estimate - 1, "high": estimate + 1}
    return row | more


def comparison_row(method="ken", budget=0.25, reference="full", seed=0, points=-2.0, p=0.01, model="bert", task="t1"):
    """One row of statistics/comparisons.csv."""
    return {
        "model": model, "task": task, "seed": seed, "method": method, "unit": UNITS.get(method, "share"),
        "budget": budget, "reference": reference, "difference_points": points, "low": points - 1, "high": points + 1,
        "mcnemar_p": p / 10, "mcnemar_p_holm": p,
    }  # fmt: skip


def pairwise_row(method="ken", other="random", budget=0.25, points=0.5, p=0.2):
    """One row of statistics/pairwise.csv."""
    return {
        "method": method, "other": other, "unit": "share", "budget": budget, "n": 6, "difference_points": points,
        "low": points - 1, "high": points + 1, "wilcoxon_p": p / 10, "wilcoxon_p_holm": p,
    }  # fmt: skip


def rank_rows(budget=0.25, n=6, difference=1.0, **rank_by_method):
    """Rows of statistics/ranks.csv; the average rank is None for a method that was not ranked."""
    ranked = sum(rank is not None for rank in rank_by_method.values())
    return [
        {
            "unit": "share", "budget": budget, "method": method.replace("_", "-"), "n": n if rank else 1,
            "average_rank": rank or "", "methods": ranked, "critical_difference": difference, "friedman_p": 0.04,
        }
        for method, rank in rank_by_method.items()
    ]  # fmt: skip


def check_row(check="bandwidth", variant: object = 1, f1=0.8, method="ken", share=0.25, parameters=1000, **axes):
    """One row of checks.csv of a cell with full 0.9 and none 0.3."""
    return {
        "model": "bert", "task": "t1", "seed": 0, "check": check, "variant": variant, "method": method,
        "kept_share": share, "stored_bytes": 4000 * share, "weighted_f1": f1, "full_weighted_f1": 0.9,
        "none_weighted_f1": 0.3, "parameters": parameters,
    } | axes  # fmt: skip


def spread_row(matrix="layer.0", observed=1.0, method="ken", model="bert", **more):
    """One row of spread.csv, in which random choices have the value 1 ± 0.1 for every statistic."""
    row = {"model": model, "task": "t1", "seed": 0, "method": method, "budget": 0.25, "matrix": matrix}
    row |= {"rows": 4, "columns": 8, "kept": 8}
    for name in ("neighbours", "entropy", "moran"):
        row |= {f"observed_{name}": observed, f"{name}_random": 1.0, f"{name}_low": 0.9, f"{name}_high": 1.1}
    return row | more


def choice_row(method="ken", measure="size", axis="bert", value=1.0, **more):
    """One row of choices.csv; model, task and other task have the name `axis`."""
    row = {"model": axis, "task": axis, "seed": 0, "method": method, "budget": 0.1, "kept_share": 0.1}
    return row | {"measure": measure, "other_task": axis, "value": value} | more


def update_row(kind="body", axis="bert", size=0.05, **more):
    """One row of updates.csv; model and task have the name `axis`."""
    return {"model": axis, "task": axis, "seed": 0, "kind": kind, "parameters": 9, "relative_update": size} | more


def write_evidence(folder: Path, **files: list[dict]) -> Path:
    """Write more files of a results folder: file name -> rows."""
    (folder / "statistics").mkdir(exist_ok=True)
    for name, rows in files.items():
        inside = folder / "statistics" if name in ("comparisons", "pairwise", "to_full", "ranks") else folder
        write_csv(inside / f"{name}.csv", rows)
    return folder


def whole_evidence() -> dict[str, list[dict]]:
    """All other files of the study of `wide_rows`: file name -> rows."""
    slopes = {"unit": "slope", "estimate": 0.97, "low": 0.9, "high": 1.04}
    kinds = (("embeddings", 0.7, 600), ("query", 0.895, 250), ("feed-forward", 0.88, 150))
    return {
        "claims": [
            claim_row("each", subject="bert", verdict="does not hold", estimate=-3.5),
            claim_row("each", subject="bloom"),
            claim_row("missing", verdict="open", estimate="", n=0),
            claim_row("time", subject="ken, size", **slopes),
            claim_row("own", source="ours", verdict="does not hold", estimate=-0.004),
        ],
        "comparisons": [
            comparison_row(seed=seed, budget=budget, reference=reference, points=points - seed, p=p)
            for reference, points in (("full", -4.0), ("random", 3.0))
            for budget, p in ((0.05, 0.001), (0.25, 0.5))
            for seed in (0, 1)
        ],
        "pairwise": [pairwise_row(budget=budget, points=budget) for budget in (0.05, 0.25)],
        "ranks": [
            *rank_rows(0.25, ken=2.5, random=3.0, ken_rescaled=1.0, lora=None),
            *rank_rows(0.05, n=2, ken=1.0, random=2.0, ken_rescaled=3.0),
        ],
        "checks": [
            *(check_row(variant=factor, f1=0.8 + 0.01 * factor, seed=seed) for factor in (1, 2, 4) for seed in (0, 1)),
            *(check_row("zero", "reset", 0.8, method) for method in ("ken", "magnitude")),
            *(check_row("zero", "zero", 0.4, method) for method in ("ken", "magnitude")),
            *(check_row("matrices", kind, f1, share=0.5, parameters=size) for kind, f1, size in kinds),
        ],
        "spread": [
            spread_row(f"layer.{layer}", observed, method, model)
            for method in ("ken", "magnitude")
            for model in ("bert", "bloom")
            for layer, observed in enumerate((0.8, 1.0, 1.05, 1.1, 1.3))
        ],
        "timing": [
            {"method": method, "size": size, "k": k, "seconds": 1e-6 * size * factor}
            for method, factor in (("ken", 1), ("ken-grid", 5))
            for size, k in ((1000, 16), (2000, 16), (4000, 16), (4000, 8), (4000, 32))
        ],
    }  # fmt: skip

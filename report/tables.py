"""Computing: from the scores of a study to its summary tables, each as CSV (numbers) and Markdown (for people).

`python -m report.tables --results results/mini` writes them to results/mini/tables. Draws of a random method are
averaged within a seed first, so that a spread is always one over seeds. Differences to `full` are paired by model, task
and seed.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from report import style
from report.errors import run
from report.results import (
    read_finetuning,
    read_json,
    read_models,
    read_scores,
    read_suggestions,
    read_table,
    read_tasks,
    write_text,
    write_whole,
)

CELL = ["model", "task", "seed"]
GROUP = ["model", "task", "method", "budget"]
NEAR = 1.0  # points of weighted F1 that still count as near to full
_ROUNDING = 1e-9  # of a difference of two scores with three decimals, so that exactly one point is near

TEXT = {
    "scores_summary": ("model", "task", "method"),
    "overview": ("method",),
    "pretraining_gain": ("model", "task"),
    "finetuned": ("model", "task"),
    "suggestions": ("model", "task", "method"),
    "not_ok": ("model", "task", "method", "status", "reason"),
}
NUMERIC = {
    "scores_summary": (
        *("budget", "seeds", "draws", "declined", "failed", "weighted_f1", "weighted_f1_sd", "difference_points"),
        *("difference_points_sd", "macro_f1", "accuracy", "kept", "kept_share", "stored_bytes", "seconds"),
    ),
    "overview": (
        *("budget", "cells", "without_score", "weighted_f1", "difference_points", "difference_points_q25"),
        *("difference_points_q75", "within_1_point", "kept_share", "stored_bytes"),
    ),
    "pretraining_gain": ("seeds", "random_init", "random_init_sd", "pretrained", "pretrained_sd", "gain_points"),
    "finetuned": ("seeds", "full", "full_sd", "none", "none_sd", "majority", "tfidf", "over_tfidf_points"),
    "suggestions": (
        *("seeds", "share", "share_min", "share_max", "stored_bytes", "loss_points", "loss_points_max", "margin"),
        "confidence",
    ),
    "not_ok": ("seed", "draw", "budget"),
}


def average_draws(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a model, task, seed, method and budget: means over the draws that are ok, and their number.

    `difference_points` is 100 × (weighted F1 − that of `full` of the same model, task and seed).
    """
    ok = scores[scores["status"] == "ok"]
    means = ("weighted_f1", "macro_f1", "accuracy", "kept", "kept_share", "stored_bytes", "seconds")
    seeds = (
        ok.groupby([*CELL, "method", "budget"], sort=False)
        .agg(**{name: (name, "mean") for name in means}, draws=("draw", "nunique"))
        .reset_index()
    )
    full = seeds[seeds["method"] == "full"].groupby(CELL, sort=False)["weighted_f1"].mean().rename("full").reset_index()
    seeds = seeds.merge(full, on=CELL, how="left")
    seeds["difference_points"] = 100 * (seeds["weighted_f1"] - seeds["full"])
    return seeds


def scores_summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (n − 1) over seeds per model, task, method and budget.

    Groups without any score stay, with their number of declined and failed rows.
    """
    found = (
        average_draws(scores)
        .groupby(GROUP, sort=False)
        .agg(
            seeds=("seed", "nunique"),
            draws=("draws", "max"),
            weighted_f1=("weighted_f1", "mean"),
            weighted_f1_sd=("weighted_f1", "std"),
            difference_points=("difference_points", "mean"),
            difference_points_sd=("difference_points", "std"),
            **{name: (name, "mean") for name in ("macro_f1", "accuracy")},
            **{name: (name, "mean") for name in ("kept", "kept_share", "stored_bytes", "seconds")},
        )
        .reset_index()
    )
    status = scores[GROUP].assign(
        declined=(scores["status"] == "declined").astype(int), failed=(scores["status"] == "failed").astype(int)
    )
    table = status.groupby(GROUP, sort=False)[["declined", "failed"]].sum().reset_index().merge(found, "left", on=GROUP)
    table[["seeds", "draws"]] = table[["seeds", "draws"]].fillna(0).astype(int)
    return table[[*TEXT["scores_summary"], *NUMERIC["scores_summary"]]]


def overview(scores: pd.DataFrame) -> pd.DataFrame:
    """Means and differences to full per method and budget, over all cells (model × task × seed)."""
    seeds = average_draws(scores)
    compared = seeds["difference_points"].notna()
    seeds["near"] = (seeds["difference_points"] >= -NEAR - _ROUNDING).astype(float).where(compared)
    difference = seeds.groupby(["method", "budget"], sort=False)["difference_points"]
    table = seeds.groupby(["method", "budget"], sort=False).agg(
        cells=("seed", "size"),
        weighted_f1=("weighted_f1", "mean"),
        difference_points=("difference_points", "mean"),
        within_1_point=("near", "mean"),
        kept_share=("kept_share", "mean"),
        stored_bytes=("stored_bytes", "mean"),
    )
    table["difference_points_q25"] = difference.quantile(0.25)
    table["difference_points_q75"] = difference.quantile(0.75)
    asked = scores.drop_duplicates([*CELL, "method", "budget"]).groupby(["method", "budget"], sort=False).size()
    table = asked.rename("asked").to_frame().join(table)
    table["cells"] = table["cells"].fillna(0).astype(int)
    table["without_score"] = table["asked"] - table["cells"]
    return table.reset_index()[[*TEXT["overview"], *NUMERIC["overview"]]]


def pretraining_gain(finetuning: pd.DataFrame) -> pd.DataFrame:
    """Fine-tuning from the pre-trained body against random initialisation, on the seeds that have both."""
    keys = ["model", "task"]
    arms = finetuning.pivot_table(index=CELL, columns="arm", values="weighted_f1", sort=False)
    both = arms.reindex(columns=["random-init", "pretrained"]).dropna().reset_index()
    both["gain_points"] = 100 * (both["pretrained"] - both["random-init"])
    table = both.groupby(keys, sort=False).agg(
        seeds=("seed", "nunique"),
        random_init=("random-init", "mean"),
        random_init_sd=("random-init", "std"),
        pretrained=("pretrained", "mean"),
        pretrained_sd=("pretrained", "std"),
        gain_points=("gain_points", "mean"),
    )
    return table.reset_index()[[*TEXT["pretraining_gain"], *NUMERIC["pretraining_gain"]]]


def suggestions(found: pd.DataFrame) -> pd.DataFrame:
    """Kept shares chosen on validation, over seeds, and what they lose on test, per model, task and method."""
    lost = found.assign(loss_points=100 * (found["full_weighted_f1"] - found["weighted_f1"]))
    table = lost.groupby(["model", "task", "method"], sort=False).agg(
        seeds=("seed", "nunique"),
        share=("share", "mean"),
        share_min=("share", "min"),
        share_max=("share", "max"),
        stored_bytes=("stored_bytes", "mean"),
        loss_points=("loss_points", "mean"),
        loss_points_max=("loss_points", "max"),
        margin=("margin", "first"),
        confidence=("confidence", "first"),
    )
    return table.reset_index()[[*TEXT["suggestions"], *NUMERIC["suggestions"]]]


def finetuned(scores: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """The span in which compression happens, per model and task: `full`, `none`, majority class and TF-IDF."""
    keys = ["model", "task"]
    seeds = average_draws(scores)
    table = scores[keys].drop_duplicates().set_index(keys)
    for control in ("full", "none"):
        values = seeds[seeds["method"] == control].groupby(keys, sort=False)["weighted_f1"]
        table[control], table[f"{control}_sd"] = values.mean(), values.std()
        if control == "full":
            table["seeds"] = values.size()
    references = tasks.set_index("task")[["majority_weighted_f1", "tfidf_weighted_f1"]]
    table = table.join(references.set_axis(["majority", "tfidf"], axis=1), on="task").reset_index()
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table["over_tfidf_points"] = 100 * (table["full"] - table["tfidf"])
    return table[[*TEXT["finetuned"], *NUMERIC["finetuned"]]]


def not_ok(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows that were declined or failed, with their reasons."""
    columns = [*("model", "task", "seed", "draw", "method", "budget"), "status", "reason"]
    return scores.loc[scores["status"] != "ok", columns]


def counts(scores: pd.DataFrame) -> dict:
    """What was run: names in the order of the scores, and numbers of cells and rows."""

    def names(column: str) -> list:
        return list(dict.fromkeys(scores[column]))

    return {
        "models": names("model"),
        "tasks": names("task"),
        "methods": names("method"),
        "seeds": [int(seed) for seed in sorted(names("seed"))],
        "budgets": sorted(set(scores.loc[~scores["method"].isin(style.CONTROLS), "budget"])),
        "cells": len(scores[CELL].drop_duplicates()),
        "rows": len(scores),
        "draws": int(scores["draw"].nunique()),
        **{status: int((scores["status"] == status).sum()) for status in ("ok", "declined", "failed")},
    }


@dataclass(frozen=True)
class Tables:
    """The computed tables of a study, by the names of their files."""

    scores_summary: pd.DataFrame
    overview: pd.DataFrame
    pretraining_gain: pd.DataFrame
    finetuned: pd.DataFrame
    suggestions: pd.DataFrame
    not_ok: pd.DataFrame
    tasks: pd.DataFrame
    models: pd.DataFrame
    counts: dict

    @classmethod
    def compute(cls, results: Path) -> "Tables":
        """From the result files of a study.

        Raises:
            ReportError: a file is missing or malformed.
        """
        scores, tasks = read_scores(results), read_tasks(results)
        return cls(
            scores_summary(scores),
            overview(scores),
            pretraining_gain(read_finetuning(results)),
            finetuned(scores, tasks),
            suggestions(read_suggestions(results)),
            not_ok(scores),
            tasks,
            read_models(results),
            counts(scores),
        )

    @classmethod
    def read(cls, results: Path) -> "Tables":
        """From the files that `write` has put into the folder `tables` of a study.

        Raises:
            ReportError: a file is missing or malformed.
        """
        folder = results / "tables"
        computed = [read_table(folder / f"{name}.csv", TEXT[name], NUMERIC[name]) for name in TEXT]
        return cls(*computed, read_tasks(folder), read_models(folder), read_json(folder / "counts.json"))

    def write(self, folder: Path) -> None:
        """Write every table as CSV and Markdown, and counts.json."""
        for name, table in vars(self).items():
            if isinstance(table, pd.DataFrame):
                write_table(folder / name, table)
        write_text(folder / "counts.json", json.dumps(self.counts, indent=2, ensure_ascii=False) + "\n")


def write_table(stem: Path, table: pd.DataFrame) -> None:
    """Write `stem`.csv and `stem`.md."""
    rounded = table.round(6)
    write_whole(stem.with_name(f"{stem.name}.csv"), lambda path: rounded.to_csv(path, index=False, lineterminator="\n"))
    write_text(stem.with_name(f"{stem.name}.md"), markdown(table))


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: numbers with four significant digits at least, nothing for missing ones."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return (
                "" if pd.isna(value) else f"{value:.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.4g}"
            )
        return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")

    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    lines = [table.columns, ["---:" if right else "---" for right in numeric], *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the summary tables of a study from its result files.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with scores.csv")
    parser.add_argument("--out", type=Path, help="folder to write to (default: tables in the results folder)")
    arguments = parser.parse_args()
    tables = Tables.compute(arguments.results)
    tables.write(arguments.out or arguments.results / "tables")
    print(f"tables of {tables.counts['rows']} rows from {tables.counts['cells']} cells")


if __name__ == "__main__":
    run(main)

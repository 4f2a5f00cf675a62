"""Write the report: one HTML file that holds its figures and tables and asks the network for nothing."""

import argparse
import base64
import json
from pathlib import Path

import jinja2
import pandas as pd

from report import results
from report.results import CONTROLS, ReportError, Results, label, percent
from report.tables import write

HERE = Path(__file__).parent
SHOWN_BUDGETS = 3  # budgets that the summary names


def data_uri(path: Path) -> str:
    """An SVG figure as a data URI: inlined twice, it would bring the same ids twice."""
    try:
        return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        raise ReportError(f"figure {path} does not exist: run snakemake figures first.") from None


def read(folder: Path, name: str) -> pd.DataFrame:
    """A table of report.tables."""
    try:
        return pd.read_csv(folder / f"{name}.csv", keep_default_na=False)
    except (OSError, pd.errors.EmptyDataError):
        raise ReportError(f"{folder}/{name}.csv does not exist: run report.tables first.") from None


def numbers(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The table with these columns as numbers, empty fields as missing."""
    return table.assign(**{name: pd.to_numeric(table[name].replace("", None)) for name in columns})


def score(value: float, spread: float | None = None) -> str:
    """0.8123 -> "81.2", with spread "81.2 ± 0.4"; in points, empty where missing."""
    if pd.isna(value):
        return ""
    return f"{100 * value:.1f}" if spread is None or pd.isna(spread) else f"{100 * value:.1f} ± {100 * spread:.1f}"


def findings(over: pd.DataFrame, methods: list[str]) -> list[str]:
    """What came out, in sentences made from the overview table."""
    none = over[over["method"] == "none"]
    lines = []
    if len(none):
        lines.append(
            f"With nothing kept but the head, weighted F1 falls by {-100 * none['to_full'].iloc[0]:.1f} points "
            f"on average over {none['cells'].iloc[0]} model-task pairs: that is what there is to save."
        )
    budgets = sorted(set(over.loc[~over["method"].isin(CONTROLS), "budget"]))
    for budget in budgets[:: max(1, len(budgets) // SHOWN_BUDGETS)]:
        rows = over[over["budget"].eq(budget) & over["method"].isin(methods)].sort_values("to_full", ascending=False)
        parts = [f"{label(row.method)} {100 * row.to_full:+.1f}" for row in rows.itertuples()]
        lines.append(f"Keeping {percent(budget)} of each row, points against the full model: {', '.join(parts)}.")
    shares = {method: results.smallest_share(over, method) for method in methods}
    parts = [f"{label(m)} {percent(s) if s is not None else 'at no tried share'}" for m, s in shares.items()]
    lines.append(f"Smallest kept share with a mean loss of at most one point: {', '.join(parts)}.")
    return lines


def scores_rows(summary: pd.DataFrame, budgets: list[float]) -> list[dict]:
    """One row per model, task and method, a score for every kept share; the best of each cell and share is marked."""
    rows = []
    for (model, task), cell in summary.groupby(["model", "task"], sort=False):
        compared = cell[~cell["method"].isin(CONTROLS)]
        best = compared.groupby("budget")["weighted_f1"].max()
        controls = {m: cell.loc[cell["method"] == m, ["weighted_f1", "spread"]] for m in CONTROLS}
        ends = {m: score(*found.iloc[0]) if len(found) else "" for m, found in controls.items()}
        for method, found in compared.groupby("method", sort=False):
            by_budget = found.set_index("budget")
            fields = [
                {
                    "text": score(by_budget["weighted_f1"][b], by_budget["spread"][b]) if b in by_budget.index else "",
                    "best": b in by_budget.index and by_budget["weighted_f1"][b] >= best[b] - 1e-12,
                }
                for b in budgets
            ]
            rows.append({"model": model, "task": task, "method": label(method), "scores": fields, **ends})
    return rows


def context(found: Results, tables: Path, figures: Path) -> dict:
    """Everything the template shows."""
    summary = numbers(read(tables, "scores_summary"), ["weighted_f1", "spread", "to_full", "budget"])
    over = numbers(read(tables, "overview"), ["weighted_f1", "to_full", "budget", "cells", "near_full", "stored_bytes"])
    gain = numbers(read(tables, "pretraining_gain"), ["random_init", "pretrained", "gain"])
    ends = numbers(read(tables, "finetuned"), ["full", "none", "majority_weighted_f1", "tfidf_weighted_f1"])
    provenance = found.provenance()
    budgets = sorted(set(over.loc[~over["method"].isin(CONTROLS), "budget"]))
    draws = found.scores.groupby("method")["draw"].nunique()
    stochastic = {method: int(count) for method, count in draws.items() if count > 1}
    names = ["summary", "stored_bytes", "kenviz", *(["pretraining_gain"] if len(gain) else [])]
    names += [f"curves_{model}" for model in found.model_names]
    return {
        "study": provenance["study"],
        "findings": findings(over, found.methods),
        "methods": found.methods,
        "stochastic": stochastic,
        "budgets": [percent(budget) for budget in budgets],
        "scores": scores_rows(summary, budgets),
        "over": [row for row in over.to_dict("records") if row["method"] not in CONTROLS],
        "gain": gain.to_dict("records"),
        "ends": ends.to_dict("records"),
        "tasks": found.tasks.to_dict("records"),
        "models": found.models.to_dict("records"),
        "not_ok": read(tables, "not_ok").to_dict("records"),
        "seeds": found.seeds,
        "cells": len(found.scores[["model", "task", "seed"]].drop_duplicates()),
        "rows": len(found.scores),
        "model_names": found.model_names,
        "figures": {name: data_uri(figures / f"{name}.svg") for name in names},
        "kenviz": provenance["config"].get("kenviz", {}),
        "provenance": provenance,
        "config": json.dumps(provenance["config"], indent=2),
    }


def render(values: dict) -> str:
    """The page as HTML; everything that comes from data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"score": score, "percent": percent, "label": label}
    return environment.get_template("page.html.j2").render(
        **values, css=(HERE / "page.css").read_text(), script=(HERE / "page.js").read_text()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the report of a study.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study")
    parser.add_argument("--out", required=True, type=Path, help="HTML file")
    arguments = parser.parse_args()
    folder = arguments.results
    write(arguments.out, render(context(Results.read(folder), folder / "tables", folder / "figures")))


if __name__ == "__main__":
    results.run(main)

"""Write the tables of a study for a paper, each as LaTeX (booktabs, adjustbox) and as Markdown.

`python -m report.publication --results results/mini --published config/published.yaml` writes weighted_f1, overview,
claims, ranks and published, as .tex and .md, to results/mini/publication. All numbers are rounded from the CSV files of
report.tables, report.statistics and report.claims. Published figures come from the YAML file, each with its source, and
are marked "as reported".
"""

import argparse
import re
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from ken.errors import UserError, run
from report import style
from report import table as columns
from report.measurements.contract import ResultTables
from report.measurements.finetuned import warning
from report.measurements.scores import control_columns
from report.results import CLAIMS, PAIR, STATISTICS, read_table, read_yaml, write_text
from report.scores import METHOD, keeps_more, same_budgets, with_kept_shares, with_own_budgets
from report.statistics import CONFIDENCE
from report.table import Column, Table, TableCell, latex, markdown
from report.tables import Tables

PACKAGES = "% In the preamble: \\usepackage{booktabs} and \\usepackage{adjustbox}\n"
SCORES_KEYS = {"id": str, "text": str, "source": str, "metric": str, "task": str, "model": str}
RANGE_KEYS = {"text": str, "source": str, "low": (int, float), "high": (int, float), "unit": str, "claim": str}
ROW_KEYS = {"method": str, "millions": (int, float), "value": (int, float)}
METRICS = ("accuracy", "weighted_f1", "macro_f1")
SETTING = ["method", "budget"]


def minus(text: str) -> str:
    """A number with a true minus sign, and no sign on zero."""
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", "−")


def interval(low: float, high: float, form: str = "+.1f") -> str:
    """The ends of an interval, "" if there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f"{minus(f'{low:{form}}')} to {minus(f'{high:{form}}')}"


def weighted_f1_tables(tables: ResultTables, comparisons: pd.DataFrame) -> list[Table]:
    """Weighted F1 per model and task (rows): a table per kept share (a column per method), and one for other budgets.

    At equal budgets, the best of a row is bold. As in the report, a method that holds more than the others at a kept
    share is not marked best, and neither is one that lacks seeds.

    Args:
        comparisons: comparisons.csv of the study; scores that do not differ significantly from full are underlined.
    """
    level, summary = level_with_full(comparisons), tables.scores_summary
    controls = control_columns(summary, _score_cell)
    spread = f"mean ± standard deviation over {style.count(len(tables.counts['seeds']), 'seed')}"
    mark = (
        f"Underlined: the {style.percent(CONFIDENCE)} interval of the difference to full, over test examples, reaches "
        "zero in every seed."
    )
    warned = warning(tables.finetuned)
    mark += f" {warned}" if warned else ""
    bold = "Bold: the best method of a row, among those that hold no more of the body than the others."
    result = []
    for budget, shown in with_kept_shares(summary).groupby("budget"):
        caption = f"Weighted F1 on test with {style.kept(budget)} kept, {spread}. {bold} {mark}"
        heads = {key: style.label(key[0]) for key in dict.fromkeys(columns.tuples(shown, SETTING))}
        marked = _marked(shown, best_rows(shown), level)
        result.append(_score_table(f"weighted-f1-{budget:g}", caption, marked, controls, heads))
    others = with_own_budgets(summary)
    if others.empty:
        return result
    keys = dict.fromkeys(columns.tuples(others, [*SETTING, "unit"]))
    heads = {key[:2]: style.setting(*key) for key in keys}
    caption = f"Weighted F1 on test, {spread} (none with one seed), of methods with budgets of their own. {mark}"
    marked = _marked(others, set(), level)
    return [*result, _score_table("weighted-f1-own-budgets", caption, marked, controls, heads)]


def best_rows(shown: pd.DataFrame) -> set:
    """Index of the rows with the best weighted F1 of their model and task, at one kept share."""
    whole = shown["seeds"] == shown.groupby(PAIR)["seeds"].transform("max")
    comparable = shown[whole & ~keeps_more(shown, PAIR)]
    return set(comparable.index[comparable["weighted_f1"] == comparable.groupby(PAIR)["weighted_f1"].transform("max")])


def level_with_full(comparisons: pd.DataFrame) -> set[tuple]:
    """(model, task, method, budget) of scores whose interval of the difference to full reaches 0 in every seed."""
    to_full = same_budgets(comparisons[comparisons["reference"] == "full"])
    highest = to_full.groupby([*PAIR, *SETTING])["high"].min()
    return set(highest[highest >= 0].index)


def _marked(rows: pd.DataFrame, best: set, level: set[tuple]) -> pd.DataFrame:
    is_level = [key in level for key in columns.tuples(same_budgets(rows), [*PAIR, *SETTING])]
    return rows.assign(best=rows.index.isin(best), level=is_level)


def _score_table(label: str, caption: str, marked: pd.DataFrame, controls: list[Column], heads: dict) -> Table:
    """Scores of the settings in `heads`, between the controls of each model and task."""

    def score(_: Any, row: Any) -> TableCell:
        return replace(_score_cell(row), marks=_marks(row.best, row.level) if row.seeds else "")

    none, full = (replace(column, head=style.label(column.head)) for column in controls)
    rows = columns.groups(marked, PAIR, SETTING)
    return Table.of([*columns.PAIR, none, *columns.wide(heads, score), full], rows, caption, label)


def _score_cell(row: Any) -> TableCell:
    if not row.seeds:
        return TableCell("failed" if row.failed else "declined")
    spread = "" if pd.isna(row.weighted_f1_sd) else f" ± {row.weighted_f1_sd:.3f}"
    return TableCell(f"{row.weighted_f1:.3f}{spread}")


def _marks(best: bool, level: bool) -> str:
    return " ".join(word for word, marked in (("best", best), ("level", level)) if marked)


def overview_tables(tables: ResultTables, pairwise: pd.DataFrame) -> list[Table]:
    """Points to full with their intervals: methods with kept shares (columns), then those with budgets of their own.

    Args:
        pairwise: pairwise.csv of the study, whose estimates are means over pairs of model and task.
    """
    to_full = same_budgets(pairwise[pairwise["other"] == "full"].drop(columns="other"))
    asked = same_budgets(tables.overview[[*METHOD, "stored_share"]])
    rows = asked.merge(to_full, "left", on=["method", "unit", "budget"])
    what = (
        "Points of weighted F1 to the fully fine-tuned model, mean over models and tasks, seeds averaged, with the "
        f"{style.percent(CONFIDENCE)} interval over models and tasks, crossed, or over models and test examples"
    )
    shares = _kept_share_table(with_kept_shares(rows), what)
    others = with_own_budgets(rows)
    if others.empty:
        return [shares]
    heads = [
        columns.method(),
        columns.budget_text(),
        Column("To full", _difference_cell, "number"),
        columns.number("Stored file, of full", "stored_share", style.share),
        columns.number("Pairs", "n", "{:g}".format),
    ]
    caption = f"Methods with budgets of their own. {what}. Pairs: of model and task."
    return [shares, Table.of(heads, others.itertuples(), caption, "overview-own-budgets")]


def _kept_share_table(rows: pd.DataFrame, what: str) -> Table:
    def pairs(row: Any) -> str:
        ends = (row.rows["n"].min(), row.rows["n"].max())
        return " to ".join(dict.fromkeys(f"{n:g}" for n in ends if not pd.isna(n)))

    budgets = columns.over_budgets(sorted(set(rows["budget"])), lambda _, row: _difference_cell(row))
    caption = f"{what}, by the share kept of each row. Pairs: of model and task."
    heads = [columns.method(), *budgets, columns.text("Pairs", pairs, "number")]
    return Table.of(heads, columns.groups(rows, ["method"], "budget"), caption, "overview")


def _difference_cell(row: Any) -> TableCell:
    if pd.isna(row.difference_points):
        return TableCell("no score")
    return TableCell(f"{minus(f'{row.difference_points:+.1f}')} ({interval(row.low, row.high)})")


def claim_tables(claims: pd.DataFrame) -> list[Table]:
    """The claims with their verdicts; a claim with several subjects shows its text once."""
    rows = claims.assign(first=claims["claim"] != claims["claim"].shift())

    def sign(row: Any) -> str:
        return "+" if row.unit == "points" else ""

    def estimate(row: Any) -> str:
        return "" if pd.isna(row.estimate) else minus(f"{row.estimate:{sign(row)}.2f}")

    heads = [
        columns.text("Claim", lambda row: row.text if row.first else "", "prose"),
        columns.text("Made by", lambda row: row.source if row.first else ""),
        columns.text("About", "subject"),
        columns.text("Estimate", estimate, "number"),
        columns.text("Interval", lambda row: interval(row.low, row.high, f"{sign(row)}.2f"), "number"),
        columns.text("Unit", "unit"),
        columns.text("Verdict", lambda row: style.verdict(row.verdict)),
    ]
    caption = "Claims and verdicts, each by its rule in config/claims.yaml, which also says what the interval is of."
    return [Table.of(heads, rows.itertuples(), caption, "claims")]


def rank_tables(ranks: pd.DataFrame) -> list[Table]:
    """Average ranks over models × tasks, and their tests, at every budget with at least two ranked methods."""
    ranked = ranks[(ranks["methods"] > 1) & ranks["average_rank"].notna()]
    keys = ["unit", "budget"]
    best = ranked.groupby(keys)["average_rank"].min()
    tests = {key: rows.iloc[0] for key, rows in ranked.groupby(keys)}

    def cell(row: Any, key: tuple) -> TableCell:
        if row.form:
            value = tests[key][row.column]
            return TableCell("" if pd.isna(value) else f"{value:{row.form}}")
        return _rank_cell(row.at.get(key), best[key])

    budgets = [
        Column(style.budget_label(budget, unit), partial(cell, key=(unit, budget)), "number")
        for unit, budget in dict.fromkeys(columns.tuples(ranked, keys))
    ]
    methods = [
        SimpleNamespace(name=style.label(row.method), at=row.at, form="")
        for row in columns.groups(ranked, ["method"], keys)
    ]
    extra = [
        SimpleNamespace(name="Critical difference", column="critical_difference", form=".2f"),
        SimpleNamespace(name="Friedman p", column="friedman_p", form=".2g"),
    ]
    caption = (
        "Average ranks over models × tasks at equal budgets, 1 is best; methods with a score in every cell. Bold: the "
        "best of a column. Underlined: within the critical difference of Nemenyi's test "
        f"({style.percent(1 - CONFIDENCE)} level) of the best."
    )
    return [Table.of([columns.text("Method", "name"), *budgets], [*methods, *extra], caption, "ranks")]


def _rank_cell(row: Any, best: float) -> TableCell:
    if row is None:
        return TableCell()
    behind = row.average_rank - best
    return TableCell(f"{row.average_rank:.2f}", marks=_marks(behind == 0, 0 < behind < row.critical_difference))


def published_tables(published: dict, tables: ResultTables, claims: pd.DataFrame) -> list[Table]:
    """Published figures next to ours, if the study has their task and model, and its verdicts on published ranges."""
    return [*(_reported_scores(entry, tables) for entry in published["scores"]), _reported_ranges(published, claims)]


def _reported_scores(entry: dict, tables: ResultTables) -> Table:
    summary = tables.scores_summary
    ours = summary[(summary["model"] == entry["model"]) & (summary["task"] == entry["task"]) & (summary["seeds"] > 0)]
    whole = next(row["millions"] for row in entry["rows"] if row.get("ours") == "full")
    rows = [
        SimpleNamespace(
            method=row["method"],
            millions=f"{row['millions']:g}",
            share=style.share(row["millions"] / whole),
            value=f"{row['value']:.2f}",
            **_beside(row.get("ours"), row["millions"] / whole, entry["metric"], ours),
        )
        for row in entry["rows"]
    ]
    reported = {"Parameters (millions)": "millions", "Of full": "share", "As reported (%)": "value"}
    heads = [columns.text("Method", "method"), *columns.texts(reported, "number")]
    where = f"task {entry['task']} with model {entry['model']}"
    rest = f"This study has no {where}, so no figure of ours stands beside them."
    if not ours.empty:
        beside = {"Parameters": "our_kept", "Of full": "our_share", "Ours (%)": "our_score", "Seeds": "our_seeds"}
        heads += [columns.text("Ours", "our_setting"), *columns.texts(beside, "number")]
        rest = f"Ours: {where}, the budget nearest in size, mean over seeds."
    metric = entry["metric"].replace("_", " ")
    caption = f"{entry['text']}: {metric} as reported (source: {entry['source']}), not measured here. {rest}"
    return Table.of(heads, rows, caption, f"published-{entry['id']}")


def _beside(method: str | None, share: float, metric: str, ours: pd.DataFrame) -> dict[str, str]:
    """Our setting, parameters kept, their share of the full model, score and seeds, at the budget nearest in size."""
    rows, full = ours[ours["method"] == method], ours[ours["method"] == "full"]
    if rows.empty or full.empty:
        return dict.fromkeys(("our_setting", "our_kept", "our_share", "our_score", "our_seeds"), "")
    shares = rows["kept"] / full["kept"].iloc[0]
    nearest = (shares - share).abs().idxmin()
    row = rows.loc[nearest]
    return {
        "our_setting": style.label(method) if method == "full" else style.setting(method, row["budget"], row["unit"]),
        "our_kept": f"{row['kept']:.0f}",
        "our_share": style.share(shares[nearest]),
        "our_score": f"{100 * row[metric]:.2f}",
        "our_seeds": f"{row['seeds']:g}",
    }


def _reported_ranges(published: dict, claims: pd.DataFrame) -> Table:
    def reported(entry: dict) -> str:
        return f"{entry['low']:g} to {entry['high']:g} {entry['unit']}"

    def ours(entry: dict) -> str:
        verdicts = columns.tuples(claims[claims["claim"] == entry["claim"]], ["subject", "verdict"])
        return (
            "; ".join(f"{subject}: {style.verdict(verdict)}" for subject, verdict in verdicts)
            or "not judged in this study"
        )

    heads = [
        columns.text("What", itemgetter("text"), "prose"),
        columns.text("As reported", reported),
        columns.text("Source", itemgetter("source"), "prose"),
        columns.text("Ours", ours),
    ]
    caption = "Ranges as reported, and what the same claim came to in this study."
    return Table.of(heads, published["ranges"], caption, "published-ranges")


def read_published(path: Path) -> dict:
    """Read published figures: the lists `scores` and `ranges` of config/published.yaml.

    Raises:
        UserError: the file is missing or not YAML, or an entry lacks a key or has a wrong one, which is named.
    """
    published = read_yaml(path, "the published figures")
    if not isinstance(published, dict) or not all(isinstance(published.get(key), list) for key in ("scores", "ranges")):
        raise UserError(f"{path} must have the lists scores and ranges.")
    for entry in published["scores"]:
        _check(path, entry, SCORES_KEYS | {"rows": list})
        for row in entry["rows"]:
            _check(path, row, ROW_KEYS)
        if entry["metric"] not in METRICS or re.search(r"[^\w.-]", entry["id"]):
            raise UserError(
                f"{path} has {entry['id']!r}: the id is letters, digits, '-', '.'; a metric is {' or '.join(METRICS)}."
            )
        if not any(row.get("ours") == "full" for row in entry["rows"]):
            raise UserError(f"{path} has no row with `ours: full` in {entry['id']!r}: sizes are shares of that row.")
    for entry in published["ranges"]:
        _check(path, entry, RANGE_KEYS)
    return published


def _check(path: Path, entry: object, keys: dict) -> None:
    for key, kind in keys.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise UserError(f"{path} has no or a wrong {key!r} in {entry!r}: expected {', '.join(keys)}.")


def publication_tables(results: Path, published: Path) -> dict[str, list[Table]]:
    """File name -> tables, for all tables of a study.

    Raises:
        UserError: a file is missing or malformed.
    """
    tables, claims = Tables.read(results), read_table(results / "claims.csv", *CLAIMS)
    statistics = {
        name: read_table(results / "statistics" / f"{name}.csv", *STATISTICS[name])
        for name in ("comparisons", "pairwise", "ranks")
    }
    return {
        "weighted_f1": weighted_f1_tables(tables, statistics["comparisons"]),
        "overview": overview_tables(tables, statistics["pairwise"]),
        "claims": claim_tables(claims),
        "ranks": rank_tables(statistics["ranks"]),
        "published": published_tables(read_published(published), tables, claims),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tables of a study as LaTeX and Markdown for a paper.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with its tables")
    parser.add_argument(
        "--published",
        type=Path,
        default=Path("config/published.yaml"),
        help="published figures (default: config/published.yaml)",
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: publication in the results folder)")
    arguments = parser.parse_args()
    tables = publication_tables(arguments.results, arguments.published)
    out = arguments.out or arguments.results / "publication"
    for name, parts in tables.items():
        write_text(out / f"{name}.tex", PACKAGES + "".join(f"\n{latex(table)}" for table in parts))
        write_text(out / f"{name}.md", "\n".join(map(markdown, parts)))
    print(f"{out}: {', '.join(tables)}, each as .tex and .md")


if __name__ == "__main__":
    run(main)

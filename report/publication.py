"""Writing: the tables of a study as a paper prints them, each as LaTeX (booktabs, adjustbox) and as Markdown.

`python -m report.publication --results results/mini --published config/published.yaml` writes weighted_f1, overview,
claims, ranks and published, .tex and .md, to results/mini/publication. All numbers are those of the CSV files that
report.tables, report.statistics and report.claims have written, rounded; the figures of others are those of the YAML
file, each with its source, and are called "as reported".
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from report import style
from report.errors import ReportError, run
from report.results import read_table, read_yaml, write_text
from report.statistics import CONFIDENCE
from report.tables import METHOD, Tables, keeps_more, with_kept_shares, with_own_budgets

PACKAGES = "% In the preamble: \\usepackage{booktabs} and \\usepackage{adjustbox}\n"
COMPARISONS = (
    ("model", "task", "method", "unit", "reference"),
    ("seed", "budget", "difference_points", "low", "high"),
)
PAIRWISE = (("method", "other", "unit"), ("budget", "n", "difference_points", "low", "high"))
RANKS = (("unit", "method"), ("budget", "n", "average_rank", "methods", "critical_difference", "friedman_p"))
CLAIMS = (("claim", "source", "text", "subject", "unit", "verdict"), ("estimate", "low", "high"))
SCORES_KEYS = {"id": str, "text": str, "source": str, "metric": str, "task": str, "model": str}
RANGE_KEYS = {"text": str, "source": str, "low": (int, float), "high": (int, float), "unit": str, "claim": str}
ROW_KEYS = {"method": str, "millions": (int, float), "value": (int, float)}
METRICS = ("accuracy", "weighted_f1", "macro_f1")

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"[": "{[}", "*": "{*}"}  # after \\ they would be its argument
    | {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "Δ": r"$\Delta$", style.NO_BREAK_SPACE: "~", "\n": " ", "\r": " "}
)  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$&#])")


@dataclass(frozen=True)
class Cell:
    """Text of a table cell, not escaped, and how it is set."""

    text: str = ""
    bold: bool = False
    underlined: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table of a paper: label (letters, digits, "-" and "."), caption, heads and rows.

    `columns` has a letter a column: l for names, r for numbers, p for sentences that may take several lines.
    """

    label: str
    caption: str
    columns: str
    heads: list[str]
    rows: list[list[Cell]]


def latex_text(text: str) -> str:
    """Any text as LaTeX that prints it."""
    return text.translate(_LATEX)


def latex(sheet: Sheet) -> str:
    """A floating table over both columns of a page, made narrower where it does not fit."""

    def cell(found: Cell) -> str:
        text = latex_text(found.text)
        text = f"\\underline{{{text}}}" if found.underlined else text
        return f"\\textbf{{{text}}}" if found.bold else text

    kinds = "".join(r"p{0.32\linewidth}" if kind == "p" else kind for kind in sheet.columns)
    lines = [map(latex_text, sheet.heads), *(map(cell, row) for row in sheet.rows)]
    head, *body = [f"{' & '.join(line)} \\\\\n" for line in lines]
    return (
        f"\\begin{{table*}}[t]\n\\centering\n\\caption{{{latex_text(sheet.caption)}}}\n\\label{{tab:{sheet.label}}}\n"
        f"\\begin{{adjustbox}}{{max width=\\linewidth}}\n\\begin{{tabular}}{{{kinds}}}\n\\toprule\n{head}\\midrule\n"
        f"{''.join(body)}\\bottomrule\n\\end{{tabular}}\n\\end{{adjustbox}}\n\\end{{table*}}\n"
    )


def markdown_text(text: str) -> str:
    """Any text as Markdown that shows it, on one line."""
    return _MARKDOWN.sub(r"\\\1", text.replace("\r", " ").replace("\n", " "))


def markdown(sheet: Sheet) -> str:
    """The caption and a table; what is underlined needs the HTML element u, which Markdown has no sign for."""

    def cell(found: Cell) -> str:
        text = markdown_text(found.text)
        text = f"<u>{text}</u>" if found.underlined else text
        return f"**{text}**" if found.bold else text

    heads, rows = [markdown_text(head) for head in sheet.heads], [[cell(found) for found in row] for row in sheet.rows]
    table = style.markdown(heads, rows, [kind == "r" for kind in sheet.columns])
    return f"{markdown_text(sheet.caption)}\n\n{table}"


def minus(text: str) -> str:
    """A number with a true minus sign, and no sign on zero."""
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", "−")


def interval(low: float, high: float, form: str = "+.1f") -> str:
    """The ends of an interval, "" if there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f"{minus(f'{low:{form}}')} to {minus(f'{high:{form}}')}"


def kept(share: float) -> str:
    """A kept share in a sentence, which is a number of entries above 1."""
    return f"{style.budget_label(share)} of each row" if share <= 1 else f"{share:g} entries of each row"


def weighted_f1_sheets(tables: Tables, comparisons: pd.DataFrame) -> list[Sheet]:
    """Weighted F1 per model and task (rows): a table per kept share, a column a method; then the budgets of others.

    The best of a row is bold where budgets are equal. As in the report, a method that holds more than the others at a
    kept share is not marked best, and neither is one that lacks seeds.

    Args:
        comparisons: comparisons.csv of the study; a score that is not told apart from full is underlined.
    """
    level, summary = level_with_full(comparisons), tables.scores_summary
    spread = f"mean ± standard deviation over {style.count(len(tables.counts['seeds']), 'seed')}"
    mark = (
        f"Underlined: the {style.percent(CONFIDENCE)} bootstrap interval of the difference to full, over test "
        "examples, reaches zero in every seed."
    )
    bold = "Bold: the best method of a row, among those that hold no more of the body than the others."
    sheets = []
    for budget, shown in with_kept_shares(summary).groupby("budget"):
        caption = f"Weighted F1 on test with {kept(budget)} kept, {spread}. {bold} {mark}"
        heads = {key: style.label(key[0]) for key in settings(shown)}
        sheets.append(_score_sheet(f"weighted-f1-{budget:g}", caption, shown, summary, heads, best_rows(shown), level))
    own = with_own_budgets(summary)
    if own.empty:
        return sheets
    units = dict(zip(own["method"], own["unit"], strict=True))
    heads = {key: style.setting(*key, units[key[0]]) for key in settings(own)}
    caption = f"Weighted F1 on test, {spread} (none with one seed), of methods with budgets of their own. {mark}"
    return [*sheets, _score_sheet("weighted-f1-own-budgets", caption, own, summary, heads, set(), level)]


def settings(rows: pd.DataFrame) -> list[tuple]:
    """(method, budget) in the order of the rows."""
    return list(dict.fromkeys(rows[["method", "budget"]].itertuples(index=False, name=None)))


def best_rows(shown: pd.DataFrame) -> set:
    """Index of the rows with the best weighted F1 of their model and task, at one kept share."""
    pair = ["model", "task"]
    whole = shown["seeds"] == shown.groupby(pair)["seeds"].transform("max")
    comparable = shown[whole & ~keeps_more(shown, pair)]
    return set(comparable.index[comparable["weighted_f1"] == comparable.groupby(pair)["weighted_f1"].transform("max")])


def level_with_full(comparisons: pd.DataFrame) -> set[tuple]:
    """(model, task, method, budget) where the interval of the difference to full reaches 0 in every seed."""
    found = comparisons[comparisons["reference"] == "full"]
    highest = same_budgets(found).groupby(["model", "task", "method", "budget"])["high"].min()
    return set(highest[highest >= 0].index)


def same_budgets(table: pd.DataFrame) -> pd.DataFrame:
    """With budgets that are equal in all files: they are written with six decimals here, with six digits there."""
    return table.assign(budget=table["budget"].round(5))


def _score_sheet(label: str, caption: str, shown: pd.DataFrame, summary: pd.DataFrame, heads: dict, best, level):
    """Scores of the settings in `heads`, with the controls of each model and task on both sides."""
    none, full = (
        {(row.model, row.task): row for row in summary[summary["method"] == control].itertuples()}
        for control in style.CONTROLS
    )
    rows = []
    for pair, own in shown.groupby(["model", "task"], sort=False):
        found = {(row.method, row.budget): row for row in own.itertuples()}
        marks = {
            key: (row.Index in best, (*pair, row.method, round(row.budget, 5)) in level) for key, row in found.items()
        }
        cells = [_score_cell(found.get(key), *marks.get(key, ())) for key in heads]
        rows.append([*map(Cell, pair), _score_cell(none.get(pair)), *cells, _score_cell(full.get(pair))])
    names = ["Model", "Task", style.label("none"), *heads.values(), style.label("full")]
    return Sheet(label, caption, "ll" + "r" * (len(names) - 2), names, rows)


def _score_cell(row, bold: bool = False, underlined: bool = False) -> Cell:
    if row is None:
        return Cell()
    if not row.seeds:
        return Cell("failed" if row.failed else "declined")
    spread = "" if pd.isna(row.weighted_f1_sd) else f" ± {row.weighted_f1_sd:.3f}"
    return Cell(f"{row.weighted_f1:.3f}{spread}", bold, underlined)


def overview_sheets(tables: Tables, pairwise: pd.DataFrame) -> list[Sheet]:
    """Points to full with their intervals: methods with kept shares (columns), then those with budgets of their own.

    Args:
        pairwise: pairwise.csv of the study, whose estimates are means over pairs of model and task.
    """
    to_full = same_budgets(pairwise[pairwise["other"] == "full"].drop(columns="other"))
    asked = same_budgets(tables.overview[[*METHOD, "stored_share"]])
    rows = asked.merge(to_full, "left", on=["method", "unit", "budget"])
    what = (
        "Points of weighted F1 to the fully fine-tuned model, mean over models and tasks, seeds averaged, with the "
        f"{style.percent(CONFIDENCE)} bootstrap interval over models × tasks, seeds and test examples"
    )
    sheets = [_kept_share_sheet(with_kept_shares(rows), what)]
    own = with_own_budgets(rows)
    body = [
        [
            Cell(style.label(row.method)),
            Cell(style.budget_label(row.budget, row.unit)),
            _difference_cell(row),
            Cell("" if pd.isna(row.stored_share) else style.percent(round(row.stored_share, 3))),
            Cell("" if pd.isna(row.n) else f"{row.n:g}"),
        ]
        for row in own.itertuples()
    ]
    heads = ["Method", "Budget", "To full", "Stored file, of full", "Pairs"]
    caption = f"Methods with budgets of their own. {what}. Pairs: of model and task."
    return [*sheets, Sheet("overview-own-budgets", caption, "llrrr", heads, body)] if body else sheets


def _kept_share_sheet(rows: pd.DataFrame, what: str) -> Sheet:
    budgets = sorted(set(rows["budget"]))
    found = {(row.method, row.budget): row for row in rows.itertuples()}
    body = []
    for method, own in rows.groupby("method", sort=False):
        cells = [_difference_cell(found[method, budget]) if (method, budget) in found else Cell() for budget in budgets]
        pairs = " to ".join(dict.fromkeys(f"{n:g}" for n in (own["n"].min(), own["n"].max()) if not pd.isna(n)))
        body.append([Cell(style.label(method)), *cells, Cell(pairs)])
    heads = ["Method", *map(style.budget_label, budgets), "Pairs"]
    caption = f"{what}, by the share kept of each row. Pairs: of model and task."
    return Sheet("overview", caption, "l" + "r" * (len(heads) - 1), heads, body)


def _difference_cell(row) -> Cell:
    if pd.isna(row.difference_points):
        return Cell("no score")
    return Cell(f"{minus(f'{row.difference_points:+.1f}')} ({interval(row.low, row.high)})")


def claim_sheets(claims: pd.DataFrame) -> list[Sheet]:
    """The claims with their verdicts; a claim about several subjects says its text once."""
    rows, said = [], None
    for row in claims.itertuples():
        words = ("", "") if row.claim == said else (row.text, row.source)
        sign = "+" if row.unit == "points" else ""
        estimate = "" if pd.isna(row.estimate) else minus(f"{row.estimate:{sign}.2f}")
        ends = interval(row.low, row.high, f"{sign}.2f")
        texts = (*words, row.subject, estimate, ends, row.unit, row.verdict)
        rows.append([Cell(text) for text in texts])
        said = row.claim
    heads = ["Claim", "Made by", "About", "Estimate", "Interval", "Unit", "Verdict"]
    caption = "Claims and verdicts, each by its rule in config/claims.yaml, which also says what the interval is of."
    return [Sheet("claims", caption, "pllrrll", heads, rows)]


def rank_sheets(ranks: pd.DataFrame) -> list[Sheet]:
    """Average ranks over models × tasks at every budget where at least two methods were ranked."""
    ranked = ranks[(ranks["methods"] > 1) & ranks["average_rank"].notna()]
    budgets = list(dict.fromkeys(ranked[["unit", "budget"]].itertuples(index=False, name=None)))
    found = {(row.unit, row.budget, row.method): row for row in ranked.itertuples()}
    best = ranked.groupby(["unit", "budget"])["average_rank"].min()
    rows = []
    for method in dict.fromkeys(ranked["method"]):
        cells = [_rank_cell(found.get((*budget, method)), best[budget]) for budget in budgets]
        rows.append([Cell(style.label(method)), *cells])
    tests = ranked.drop_duplicates(["unit", "budget"]).set_index(["unit", "budget"])
    extra = (("Critical difference", "critical_difference", ".2f"), ("Friedman p", "friedman_p", ".2g"))
    for name, column, form in extra:
        values = [tests.loc[budget, column] for budget in budgets]
        rows.append([Cell(name), *(Cell("" if pd.isna(value) else f"{value:{form}}") for value in values)])
    caption = (
        "Average ranks over models × tasks at equal budgets, 1 is best; methods with a score in every cell. Bold: the "
        "best of a column. Underlined: within the critical difference of Nemenyi's test "
        f"({style.percent(1 - CONFIDENCE)} level) of the best."
    )
    heads = ["Method", *(style.budget_label(budget, unit) for unit, budget in budgets)]
    return [Sheet("ranks", caption, "l" + "r" * len(budgets), heads, rows)]


def _rank_cell(row, best: float) -> Cell:
    if row is None:
        return Cell()
    is_best = row.average_rank == best
    return Cell(f"{row.average_rank:.2f}", is_best, not is_best and row.average_rank - best < row.critical_difference)


def published_sheets(published: dict, tables: Tables, claims: pd.DataFrame) -> list[Sheet]:
    """Figures of others beside ours, where the study has their task and model, and what it says of their ranges."""
    return [*(_reported_scores(entry, tables) for entry in published["scores"]), _reported_ranges(published, claims)]


def _reported_scores(entry: dict, tables: Tables) -> Sheet:
    summary = tables.scores_summary
    ours = summary[(summary["model"] == entry["model"]) & (summary["task"] == entry["task"]) & (summary["seeds"] > 0)]
    whole = next(row["millions"] for row in entry["rows"] if row.get("ours") == "full")
    rows = []
    for row in entry["rows"]:
        share = row["millions"] / whole
        texts = [row["method"], f"{row['millions']:g}", style.percent(round(share, 3)), f"{row['value']:.2f}"]
        beside = [] if ours.empty else _beside(row.get("ours"), share, entry["metric"], ours)
        rows.append([Cell(text) for text in (*texts, *beside)])
    heads = ["Method", "Parameters (millions)", "Of full", "As reported (%)"]
    heads += [] if ours.empty else ["Ours", "Parameters", "Of full", "Ours (%)", "Seeds"]
    place = f"task {entry['task']} with model {entry['model']}"
    rest = f"Ours: {place}, the budget nearest in size, mean over seeds."
    if ours.empty:
        rest = f"This study has no {place}, so no figure of ours stands beside them."
    metric = entry["metric"].replace("_", " ")
    caption = f"{entry['text']}: {metric} as reported (source: {entry['source']}), not measured here. {rest}"
    return Sheet(f"published-{entry['id']}", caption, "lrrr" + ("" if ours.empty else "lrrrr"), heads, rows)


def _beside(method: str | None, share: float, metric: str, ours: pd.DataFrame) -> list[str]:
    """Our setting, parameters held, their share of the full model's, score and seeds, at the budget nearest in size."""
    rows, full = ours[ours["method"] == method], ours[ours["method"] == "full"]
    if rows.empty or full.empty:
        return [""] * 5
    shares = rows["kept"] / full["kept"].iloc[0]
    place = (shares - share).abs().idxmin()
    row = rows.loc[place]
    setting = style.label(method) if method == "full" else style.setting(method, row["budget"], row["unit"])
    return [
        setting,
        f"{row['kept']:.0f}",
        style.percent(round(shares[place], 3)),
        f"{100 * row[metric]:.2f}",
        f"{row['seeds']:g}",
    ]


def _reported_ranges(published: dict, claims: pd.DataFrame) -> Sheet:
    rows = []
    for entry in published["ranges"]:
        verdicts = claims.loc[claims["claim"] == entry["claim"], ["subject", "verdict"]].itertuples(index=False)
        ours = "; ".join(f"{subject}: {verdict}" for subject, verdict in verdicts) or "not judged in this study"
        reported = f"{entry['low']:g} to {entry['high']:g} {entry['unit']}"
        rows.append([Cell(text) for text in (entry["text"], reported, entry["source"], ours)])
    heads = ["What", "As reported", "Source", "Ours"]
    caption = "Ranges as reported, and what the same claim came to in this study."
    return Sheet("published-ranges", caption, "plpl", heads, rows)


def read_published(path: Path) -> dict:
    """Figures of others: lists `scores` and `ranges`, as config/published.yaml has them.

    Raises:
        ReportError: the file is missing, no YAML, or an entry lacks a key or has a wrong one; says which.
    """
    found = read_yaml(path, "the published figures")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in ("scores", "ranges")):
        raise ReportError(f"{path} must have the lists scores and ranges.")
    for entry in found["scores"]:
        _check(path, entry, SCORES_KEYS | {"rows": list})
        for row in entry["rows"]:
            _check(path, row, ROW_KEYS)
        if entry["metric"] not in METRICS or re.search(r"[^\w.-]", entry["id"]):
            raise ReportError(
                f"{path} has {entry['id']!r}: the id is letters, digits, '-', '.'; a metric is {' or '.join(METRICS)}."
            )
        if not any(row.get("ours") == "full" for row in entry["rows"]):
            raise ReportError(f"{path} has no row with `ours: full` in {entry['id']!r}: sizes are shares of that row.")
    for entry in found["ranges"]:
        _check(path, entry, RANGE_KEYS)
    return found


def _check(path: Path, entry: object, keys: dict) -> None:
    for key, kind in keys.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise ReportError(f"{path} has no or a wrong {key!r} in {entry!r}: expected {', '.join(keys)}.")


def sheets(results: Path, published: Path) -> dict[str, list[Sheet]]:
    """All tables of a study by the names of their files.

    Raises:
        ReportError: a file is missing or malformed.
    """
    tables, statistics = Tables.read(results), results / "statistics"
    claims = read_table(results / "claims.csv", *CLAIMS)
    return {
        "weighted_f1": weighted_f1_sheets(tables, read_table(statistics / "comparisons.csv", *COMPARISONS)),
        "overview": overview_sheets(tables, read_table(statistics / "pairwise.csv", *PAIRWISE)),
        "claims": claim_sheets(claims),
        "ranks": rank_sheets(read_table(statistics / "ranks.csv", *RANKS)),
        "published": published_sheets(read_published(published), tables, claims),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tables of a study as LaTeX and Markdown for a paper.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with its tables")
    parser.add_argument("--published", type=Path, default=Path("config/published.yaml"), help="figures of others")
    parser.add_argument("--out", type=Path, help="folder to write to (default: publication in the results folder)")
    arguments = parser.parse_args()
    found = sheets(arguments.results, arguments.published)
    out = arguments.out or arguments.results / "publication"
    for name, own in found.items():
        write_text(out / f"{name}.tex", PACKAGES + "".join(f"\n{latex(sheet)}" for sheet in own))
        write_text(out / f"{name}.md", "\n".join(map(markdown, own)))
    print(f"{out}: {', '.join(found)}, each as .tex and .md")


if __name__ == "__main__":
    run(main)

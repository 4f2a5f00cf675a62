"""Writing: the tables of the page, from computed tables to cells with a text, an order and a look.

Nothing is computed here but texts: what a number means and how many digits of it are worth reading.
"""

import json
from dataclasses import dataclass

import pandas as pd

from report import style
from report.errors import ReportError
from report.summary import FORMS, VERDICTS
from report.tables import FINETUNING, MEASURES, PLACES, Tables, is_near, keeps_more, with_own_budgets


@dataclass(frozen=True)
class Value:
    """A table cell: what is read, what it is sorted by, its CSS classes, and the spread behind it."""

    text: str
    sort: float | str = ""
    classes: str = ""
    spread: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table of the page: heads, rows, and how many leading columns name things (these can be filtered by)."""

    heads: list[str]
    rows: list[list[Value]]
    names: int = 1


@dataclass(frozen=True)
class Verdict:
    """A subject of a claim: model or measurement, the verdict's word, estimate with interval, n, and why."""

    subject: str
    word: str
    estimate: str
    n: str
    why: str


@dataclass(frozen=True)
class Claim:
    """A claim with the rule that decides it, and the verdict on each of its subjects."""

    text: str
    rule: str
    verdicts: list[Verdict]

    @property
    def tally(self) -> dict[str, int]:
        """Verdict -> number of subjects, in the order of `VERDICTS`."""
        words = [verdict.word for verdict in self.verdicts]
        return {word: words.count(word) for word in (*VERDICTS, *words) if word in words}


SOURCES = {
    "paper": "Claims of the paper", "ours": "Claims of this suite", "surgeon": "Claims of the paper on LLM Surgeon",
}  # fmt: skip
STATISTIC_LABELS = {
    "neighbours": "kept neighbours", "entropy": "entropy over columns", "moran": "Moran's I",
}  # fmt: skip


def claims_of(tables: Tables) -> dict[str, list[Claim]]:
    """Heading -> claims of that source, in the order of the file."""
    found: dict[str, list[Claim]] = {}
    for (source, _), rows in tables.claims.groupby(["source", "claim"], sort=False):
        verdicts = [
            Verdict(row.subject, row.verdict, estimate(row), integer(row.n).text, row.why) for row in rows.itertuples()
        ]
        first = rows.iloc[0]
        found.setdefault(SOURCES.get(source, source), []).append(Claim(first["text"], first["rule"], verdicts))
    return found


def estimate(row) -> str:
    """An estimate with its interval in its unit: "−6.18 points [−12.33, −0.69]"; "" if there is none."""
    if pd.isna(row.estimate):
        return ""
    values = [row.estimate, row.low, row.high]
    if row.unit == "points":
        texts = [style.points(value, 2) for value in values]
        texts[0] += f"{style.NO_BREAK_SPACE}points"
    elif row.unit == "share":
        texts = ["" if pd.isna(value) else style.percent(round(value, 3)) for value in values]
    else:
        texts = ["" if pd.isna(value) else f"{value:.2f}".replace("-", "−") for value in values]
        texts[0] += f"{style.NO_BREAK_SPACE}({row.unit})" if row.unit else ""
    return texts[0] if pd.isna(row.low) else f"{texts[0]} [{texts[1]},{style.NO_BREAK_SPACE}{texts[2]}]"


def named(*names: object) -> list[Value]:
    """Cells of leading columns."""
    return [Value(str(name), str(name)) for name in names]


def prose(text: str) -> Value:
    """Cell of a sentence, which may take several lines."""
    return Value(text, text, "long" if text else "")


def number(value: float, text: str, classes: str = "") -> Value:
    """Cell of a number, sorted by its value; an empty one sorts last."""
    return Value(text, "" if pd.isna(value) else float(value), f"number {classes}".strip())


def mean(value: float, spread: float, classes: str = "") -> Value:
    """Cell of a mean score with its standard deviation; one seed has none."""
    spread_text = "" if pd.isna(value) or pd.isna(spread) else f"±{spread:.3f}"
    return Value(style.score(value), "" if pd.isna(value) else float(value), f"number {classes}".strip(), spread_text)


def integer(value: float) -> Value:
    """Cell of a count, with thousands set apart."""
    return number(value, "" if pd.isna(value) else f"{value:,.0f}".replace(",", "\u202f"))


def kept_range(shares: pd.Series) -> Value:
    """Cell of the shares of the body that a method's files hold over its budgets."""
    low, high = (style.percent(round(share, 3)) for share in (shares.min(), shares.max()))
    if shares.isna().all():
        return number(float("nan"), "")
    return number(shares.min(), low if low == high else f"{low} to {high}")


def score_sheet(tables: Tables, models: list[str]) -> Sheet:
    """Weighted F1 per model, task and method (rows) at every kept share (columns), between `none` and `full`.

    The best method of a column is marked within model and task, and so is what lies at most one point below full. A
    method that holds more than the others at its budgets is not marked best.
    """
    summary, budgets = tables.scores_summary, tables.counts["budgets"]
    found = {(row.model, row.task, row.method, row.budget): row for row in summary.itertuples()}
    shown = summary[summary["model"].isin(models) & (summary["unit"] == "share") & summary["budget"].isin(budgets)]
    shown = shown[~shown["method"].isin(style.CONTROLS)]
    columns = ["model", "task", "budget"]
    more = keeps_more(shown, columns)
    best = shown[~more].groupby(columns)["weighted_f1"].max()
    rows = []
    for (model, task, method), own in shown.groupby(["model", "task", "method"], sort=False):
        cells = [*named(model, task, style.label(method)), _control_cell(found.get((model, task, "none", 0.0)))]
        for budget in budgets:
            top = None if more[own.index].any() else best.get((model, task, budget))
            cells.append(_score_cell(found.get((model, task, method, budget)), top))
        rows.append([*cells, _control_cell(found.get((model, task, "full", 1.0)))])
    heads = ["none", *(style.budget_label(budget) for budget in budgets), "full"]
    return Sheet(["Model", "Task", "Method", *heads], rows, names=3)


def _control_cell(row) -> Value:
    """Without its spread, which has a table of its own: `finetuned_sheet`."""
    if row is None or not row.seeds:
        return _score_cell(row, None)
    return number(row.weighted_f1, style.score(row.weighted_f1), "control")


def _score_cell(row, best: float | None) -> Value:
    if row is None:
        return Value("")
    if not row.seeds:
        return Value("failed" if row.failed else "declined", "", "number missing")
    classes = ["best"] if row.weighted_f1 == best else []
    if is_near(row.difference_points):
        classes.append("near")
    return mean(row.weighted_f1, row.weighted_f1_sd, " ".join(classes))


def own_budgets_sheet(tables: Tables) -> Sheet:
    """A row per model, task, method and budget of the methods with budgets of their own."""
    rows = [
        [
            *named(row.model, row.task, style.label(row.method)),
            number(row.budget, style.budget_label(row.budget, row.unit)),
            _score_cell(row, None),
            number(row.difference_points, style.points(row.difference_points)),
            integer(row.kept),
            integer(row.parameters),
            _file_cell(row),
            number(row.learning_rate_min, " to ".join(_rates(row.learning_rate_min, row.learning_rate_max))),
            number(row.validation_weighted_f1, style.score(row.validation_weighted_f1)),
            integer(row.seeds),
        ]
        for row in with_own_budgets(tables.scores_summary).itertuples()
    ]
    measured = ["Weighted F1", "To full", "Numbers kept", "Parameters", "Stored file, of full"]
    heads = ["Model", "Task", "Method", "Budget", *measured, "Learning rate", "F1 on validation", "Seeds"]
    return Sheet(heads, rows, names=3)


def _file_cell(row) -> Value:
    share = "" if pd.isna(row.stored_share) else style.percent(round(row.stored_share, 3))
    return Value(style.size(row.stored_bytes), "" if pd.isna(row.stored_bytes) else row.stored_bytes, "number", share)


def _rates(*rates: float) -> list[str]:
    return list(dict.fromkeys(f"{rate:g}" for rate in rates if not pd.isna(rate)))


def overview_sheet(tables: Tables) -> Sheet:
    """Mean difference to full in points per method that was run on all cells and kept share."""
    overview, budgets = tables.over_all_cells(), tables.counts["budgets"]
    found = {(row.method, row.budget): row for row in overview.itertuples()}
    rows = []
    for (method, family), own in overview.groupby(["method", "family"], sort=False):
        cells = named(style.label(method), style.FAMILY_LABELS[family])
        for budget in budgets:
            row = found.get((method, budget))
            cells.append(Value("") if row is None else _difference_cell(row))
        fewest, asked = own["cells"].min(), tables.counts["cells"]
        scored = number(fewest, f"{fewest:.0f}" if fewest == asked else f"{fewest:.0f} of {asked:.0f}")
        rows.append([*cells, kept_range(own["kept_share"]), scored])
    heads = [*(style.budget_label(budget) for budget in budgets), "Body kept", "Cells"]
    return Sheet(["Method", "Updates", *heads], rows, names=2)


def _difference_cell(row) -> Value:
    if pd.isna(row.difference_points):
        return Value("no score", "", "number missing")
    near = "near" if is_near(row.difference_points) else ""
    return number(row.difference_points, style.points(row.difference_points), near)


def overview_detail_sheet(tables: Tables) -> Sheet:
    """Every column of the overview, for all methods and the cells that each was run on."""
    front = tables.pareto[(tables.pareto["cells_of"] == "all") & (tables.pareto["on_front"] == 1)]
    front = set(zip(front["method"], front["budget"], strict=True))
    rows = [
        [
            *named(style.label(row.method)),
            number(row.budget, style.budget_label(row.budget, row.unit)),
            integer(row.cells),
            number(row.weighted_f1, style.score(row.weighted_f1)),
            number(row.difference_points, style.points(row.difference_points)),
            number(row.difference_points_q25, _span(row.difference_points_q25, row.difference_points_q75)),
            *(_share(share) for share in (row.within_1_point, row.kept_share, row.stored_share)),
            number(row.stored_bytes, style.size(row.stored_bytes)),
            Value("yes" if (row.method, row.budget) in front else ""),
        ]
        for row in tables.overview.itertuples()
    ]
    heads = ["Method", "Asked", "Cells", "Weighted F1", "To full", "Middle half of cells", "Cells within 1 point"]
    return Sheet([*heads, "Body kept", "Of full's bytes", "Stored file", "Pareto front"], rows)


def _span(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"{style.points(low)} to {style.points(high)}"


def _share(share: float) -> Value:
    return number(share, "" if pd.isna(share) else style.percent(round(share, 3)))


def matched_sheets(tables: Tables) -> dict[str, Sheet]:
    """Measure -> sheet: methods with kept shares (rows) against settings of the others (columns), in points.

    Columns and rows without any comparison are left out, and so is a measure without any.
    """
    columns = ["method", "budget", "unit"]
    order = list(tables.matched[columns].drop_duplicates().itertuples(index=False, name=None))
    table = tables.matched[tables.matched["cells"] > 0]
    sheets = {}
    for measure in MEASURES:
        own = table[table["equal"] == measure]
        present = set(own[columns].itertuples(index=False, name=None))
        settings = [column for column in order if column in present]
        found = {(row.method, row.budget, row.against): row for row in own.itertuples()}
        rows = [
            [
                *named(style.label(against)),
                *(_matched_cell(found.get((name, budget, against))) for name, budget, _ in settings),
            ]
            for against in dict.fromkeys(own["against"])
        ]
        if rows:
            heads = [f"{style.label(name)} {style.budget_label(budget, unit)}" for name, budget, unit in settings]
            sheets[measure] = Sheet(["Against", *(head.replace("-", "\u2011") for head in heads)], rows)
    return sheets


def _matched_cell(row) -> Value:
    if row is None:
        return Value("", "", "number")
    return Value(style.points(row.difference_points), row.difference_points, "number", f"n={row.cells:.0f}")


def inference_sheet(tables: Tables) -> Sheet:
    """Time of a text relative to the dense model, per method, budget and form of the model."""
    rows = [
        [
            *named(style.label(row.method), FORMS.get(row.form, row.form)),
            number(row.budget, style.budget_label(row.budget, row.unit)),
            Value(f"{row.relative_time:.2f}", row.relative_time, "number"),
            number(row.relative_time_min, f"{row.relative_time_min:.2f} to {row.relative_time_max:.2f}"),
            number(row.milliseconds_per_text, _digits(row.milliseconds_per_text)),
            integer(row.parameters),
            number(row.peak_mib, _digits(row.peak_mib)),
            integer(row.cells),
        ]
        for row in tables.inference.itertuples()
    ]
    times = ["Time, dense = 1", "Over cells", "ms a text", "Parameters", "Memory, MiB", "Cells"]
    return Sheet(["Method", "Form", "Budget", *times], rows, names=2)


def _digits(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def partial_methods(tables: Tables) -> list[str]:
    """Names of methods that were asked for a part of the cells only."""
    overview = tables.overview
    part = overview[overview["cells"] + overview["without_score"] < tables.counts["cells"]]
    return [style.label(method) for method in dict.fromkeys(part["method"]) if method not in style.CONTROLS]


def seed_range(counts: pd.Series) -> str:
    """How many seeds stand behind the rows of a table: "1 seed", "1 to 3 seeds"."""
    if counts.empty:
        return "no seeds"
    low, high = int(counts.min()), int(counts.max())
    return f"{low} seed{'' if low == 1 else 's'}" if low == high else f"{low} to {high} seeds"


def pretraining_sheet(tables: Tables) -> Sheet:
    """Random initialisation against the pre-trained body."""
    rows = [
        [
            *named(row.model, row.task),
            mean(row.random_init, row.random_init_sd),
            mean(row.pretrained, row.pretrained_sd),
            number(row.gain_points, style.points(row.gain_points)),
            integer(row.seeds),
        ]
        for row in tables.pretraining_gain.itertuples()
    ]
    return Sheet(["Model", "Task", "Random initialisation", "Pre-trained", "Gain, points", "Seeds"], rows, names=2)


def finetuned_sheet(tables: Tables) -> Sheet:
    """Controls and references per model and task."""
    rows = [
        [
            *named(row.model, row.task),
            number(row.majority, style.score(row.majority)),
            mean(row.none, row.none_sd),
            number(row.tfidf, style.score(row.tfidf)),
            mean(row.full, row.full_sd),
            number(row.over_tfidf_points, style.points(row.over_tfidf_points)),
        ]
        for row in tables.finetuned.itertuples()
    ]
    heads = ["Model", "Task", "Majority class", "None (body reset)", "TF-IDF", "Full", "Full to TF-IDF, points"]
    return Sheet(heads, rows, names=2)


def suggestions_sheet(tables: Tables) -> Sheet:
    """Kept shares chosen on validation, and what they lose on test."""
    rows = [
        [
            *named(row.model, row.task, style.label(row.method)),
            number(row.share, style.percent(round(row.share, 3))),
            number(row.share_max, f"{style.percent(row.share_min)} to {style.percent(row.share_max)}"),
            number(row.loss_points, style.points(-row.loss_points)),
            number(row.loss_points_max, style.points(-row.loss_points_max)),
            number(row.stored_bytes, style.size(row.stored_bytes)),
            integer(row.seeds),
        ]
        for row in tables.suggestions.itertuples()
    ]
    heads = ["Model", "Task", "Method", "Keep", "Over seeds", "Test F1 to full, points", "Worst seed", "Stored file"]
    return Sheet([*heads, "Seeds"], rows, names=3)


def tasks_sheet(tables: Tables) -> Sheet:
    """Sizes and references of the tasks."""
    rows = [
        [
            *named(row.task, row.source),
            *(integer(getattr(row, name)) for name in ("classes", "train", "validation", "test")),
            number(row.majority_share, style.percent(round(row.majority_share, 3))),
            number(row.majority_weighted_f1, style.score(row.majority_weighted_f1)),
            number(row.tfidf_weighted_f1, style.score(row.tfidf_weighted_f1)),
            Value(row.sha256[:12], row.sha256, "code"),
            prose(getattr(row, "notes", "")),
        ]
        for row in tables.tasks.itertuples()
    ]
    sizes = ["Classes", "Train", "Validation", "Test"]
    references = ["Majority class", "Its F1", "TF-IDF F1"]
    heads = ["Task", "Source", *sizes, *references, "SHA-256", "Notes"]
    return Sheet(heads, rows, names=2)


def models_sheet(tables: Tables) -> Sheet:
    """Sizes of the models and how they were pre-trained."""
    rows = [
        [
            *named(row.model, row.architecture, row.source),
            *(integer(getattr(row, name)) for name in ("parameters", "body_parameters", "head_parameters")),
            *named(getattr(row, "pretraining_objective", "")),
            integer(row.pretraining_tokens),
            number(row.pretraining_loss, "" if pd.isna(row.pretraining_loss) else f"{row.pretraining_loss:.3f}"),
            Value(row.sha256[:12], row.sha256, "code"),
        ]
        for row in tables.models.itertuples()
    ]
    pretraining = ["Pre-training", "Its tokens", "Its loss"]
    heads = ["Model", "Architecture", "Source", "Parameters", "Body", "Head", *pretraining, "SHA-256"]
    return Sheet(heads, rows, names=3)


def classes_sheet(class_counts: str) -> Sheet:
    """Examples per class (rows) and split (columns) from the JSON of tasks.csv; one column if it has no splits."""
    try:
        counts = json.loads(class_counts)
        splits = counts if all(isinstance(split, dict) for split in counts.values()) else {"examples": counts}
        classes = dict.fromkeys(name for split in splits.values() for name in split)
        rows = [[*named(name), *(integer(split.get(name, 0)) for split in splits.values())] for name in classes]
    except (ValueError, AttributeError, TypeError):
        raise ReportError(
            f"tasks.csv has class_counts {class_counts[:60]!r}, expected JSON with a count for every class: "
            "run the step that writes it again."
        ) from None
    return Sheet(["Class", *(name.capitalize() for name in splits)], rows)


def not_ok_sheet(tables: Tables) -> Sheet:
    """Declined and failed rows, with reasons."""
    rows = [
        [
            *named(row.model, row.task, style.label(row.method), row.status),
            *(integer(getattr(row, name)) for name in ("seed", "draw")),
            number(row.budget, style.budget_label(row.budget, row.unit)),
            prose(row.reason),
        ]
        for row in tables.not_ok.itertuples()
    ]
    return Sheet(["Model", "Task", "Method", "Status", "Seed", "Draw", "Budget", "Reason"], rows, names=4)


def p_value(value: float) -> Value:
    """Cell of a p-value; a small one is said to be below 0.001."""
    return number(value, "" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}")


def interval(low: float, high: float) -> Value:
    """Cell of an interval in points, sorted by its low end."""
    return number(low, "" if pd.isna(low) else f"{style.points(low)} to {style.points(high)}")


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by budget, kept shares before other units."""
    other = (table["unit"] != "share").astype(int)
    return (
        table.assign(other_unit=other)
        .sort_values(["other_unit", "unit", "budget"], kind="stable")
        .drop(columns="other_unit")
    )


def pairwise_sheet(tables: Tables) -> Sheet:
    """Every pair of methods at every budget."""
    rows = [
        [
            *named(style.budget_label(row.budget, row.unit), style.label(row.method), style.label(row.other)),
            number(row.difference_points, style.points(row.difference_points)),
            interval(row.low, row.high),
            p_value(row.wilcoxon_p),
            p_value(row.wilcoxon_p_holm),
            integer(row.n),
        ]
        for row in in_order(tables.pairwise).itertuples()
    ]
    heads = ["Budget", "Method", "Against", "Points", "95\u00a0% interval", "p", "p, Holm", "n"]
    return Sheet(heads, rows, names=3)


def ranks_sheet(tables: Tables) -> Sheet:
    """Average rank per method (rows) and budget (columns) of what was ranked, with the tests of each budget below."""
    ranked = tables.ranks[tables.ranks["average_rank"].notna() & (tables.ranks["methods"] > 1)]
    budgets = list(in_order(ranked[["unit", "budget"]].drop_duplicates()).itertuples(index=False))
    found = {(row.method, row.unit, row.budget): row.average_rank for row in ranked.itertuples()}
    rows = []
    for method in dict.fromkeys(ranked["method"]):
        places = [found.get((method, *budget), float("nan")) for budget in budgets]
        rows.append([*named(style.label(method)), *(number(place, _decimals(place)) for place in places)])
    return Sheet(["Method", *(style.budget_label(budget, unit) for unit, budget in budgets)], rows)


def rank_tests_sheet(tables: Tables) -> Sheet:
    """Friedman's test and the critical difference per budget."""
    ranked = tables.ranks[tables.ranks["average_rank"].notna() & (tables.ranks["methods"] > 1)]
    rows = [
        [
            *named(style.budget_label(row.budget, row.unit)),
            integer(row.methods),
            integer(row.n),
            p_value(row.friedman_p),
            number(row.critical_difference, _decimals(row.critical_difference)),
        ]
        for row in in_order(ranked.drop_duplicates(["unit", "budget"])).itertuples()
    ]
    heads = ["Budget", "Methods", "Pairs of model and task", "Friedman's p", "Critical difference"]
    return Sheet(heads, rows)


def _decimals(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def comparisons_sheet(tables: Tables) -> Sheet:
    """Differences to the reference methods per model, task and method (rows) at the study's kept shares (columns).

    Behind each the seeds with a significant difference in its direction, and of how many.
    """
    budgets = tables.counts["budgets"]
    shown = tables.comparisons[(tables.comparisons["unit"] == "share") & tables.comparisons["budget"].isin(budgets)]
    rows = []
    for key, own in shown.groupby(["reference", "model", "task", "method"], sort=False):
        reference, model, task, method = key
        found = {row.budget: row for row in own.itertuples()}
        cells = [_comparison_cell(found.get(budget)) for budget in budgets]
        rows.append([*named(style.label(reference), model, task, style.label(method)), *cells])
    return Sheet(["Against", "Model", "Task", "Method", *map(style.budget_label, budgets)], rows, names=4)


def _comparison_cell(row) -> Value:
    if row is None:
        return Value("", "", "number")
    count = row.better if row.difference_points > 0 else row.worse
    behind = f"{count:.0f}/{row.seeds:.0f}"
    return Value(style.points(row.difference_points), row.difference_points, "number", behind)


def _points_cells(row) -> list[Value]:
    low, high = row.difference_points_min, row.difference_points_max
    span = style.points(low) if low == high else f"{style.points(low)} to {style.points(high)}"
    return [number(row.difference_points, style.points(row.difference_points)), number(low, span)]


def bandwidth_sheet(tables: Tables) -> Sheet:
    """Every factor of the bandwidth and kept share."""
    rows = [
        [
            number(float(row.variant), f"{float(row.variant):g}"),
            _share(row.kept_share),
            number(row.weighted_f1, style.score(row.weighted_f1)),
            *_points_cells(row),
            integer(row.cells),
        ]
        for row in tables.checks[tables.checks["check"] == "bandwidth"].itertuples()
    ]
    return Sheet(["Factor", "Body kept", "Weighted F1", "To full, points", "Over cells", "Cells"], rows)


def zero_sheet(tables: Tables) -> Sheet:
    """Reset beside zero, per method and kept share, in points to full."""
    checks = tables.checks
    found = checks[(checks["check"] == "zero") & checks["variant"].isin(["reset", "zero"])]
    both = {(row.method, row.kept_share, row.variant): row for row in found.itertuples()}
    rows = []
    for method, share in dict.fromkeys(zip(found["method"], found["kept_share"], strict=True)):
        reset, zero = (both.get((method, share, variant)) for variant in ("reset", "zero"))
        points = [float("nan") if row is None else row.difference_points for row in (reset, zero)]
        cells = [number(value, style.points(value)) for value in (*points, points[0] - points[1])]
        present = reset if reset is not None else zero
        rows.append([*named(style.label(method)), _share(share), *cells, integer(present.cells)])
    heads = ["Chosen by", "Body kept", "Rest reset, points to full", "Rest set to zero, points to full"]
    return Sheet([*heads, "Worth of the reset, points", "Cells"], rows)


def matrices_sheet(tables: Tables) -> Sheet:
    """One kind of matrix pruned at a time."""
    rows = [
        [
            *named(row.variant),
            integer(row.parameters),
            _share(row.parameter_share),
            *_points_cells(row),
            integer(row.cells),
        ]
        for row in tables.checks[tables.checks["check"] == "matrices"].itertuples()
    ]
    return Sheet(["Pruned alone", "Its entries", "Of the body", "To full, points", "Over cells", "Cells"], rows)


def spread_sheet(tables: Tables) -> Sheet:
    """Matrices below, inside and above the interval of choices at random."""
    rows = [
        [
            *named(style.label(row.method), STATISTIC_LABELS.get(row.statistic, row.statistic)),
            integer(row.matrices),
            *(integer(getattr(row, place)) for place in PLACES),
            *(number(value, f"{value:+.4f}".replace("-", "−")) for value in (row.difference, row.difference_max)),
        ]
        for row in tables.spread.itertuples()
    ]
    places = [f"{place.capitalize()} the interval" for place in PLACES]
    return Sheet(["Method", "Statistic", "Matrices", *places, "Mean over random", "Largest"], rows, names=2)


def timing_sheet(tables: Tables) -> Sheet:
    """Every measurement of the time of a selection."""
    rows = [
        [*named(style.label(row.method)), integer(row.size), integer(row.k), number(row.seconds, f"{row.seconds:.3g}")]
        for row in tables.timing.itertuples()
    ]
    return Sheet(["Rule", "Entries", "k", "Seconds"], rows)


def cost_sheet(tables: Tables) -> Sheet:
    """Seconds and memory of making one stored file."""
    rows = [
        [
            *named("Fine-tuning" if row.method == FINETUNING else style.label(row.method)),
            number(row.seconds, f"{row.seconds:.3g}"),
            number(row.seconds_min, f"{row.seconds_min:.3g} to {row.seconds_max:.3g}"),
            number(row.relative, "" if pd.isna(row.relative) else f"{row.relative:.3g}"),
            integer(row.peak_mib),
            integer(row.files),
            integer(row.cells),
        ]
        for row in tables.cost.itertuples()
    ]
    heads = ["Method", "Seconds a file", "Over cells", "Fine-tuning = 1", "Peak memory, MiB", "Files", "Cells"]
    return Sheet(heads, rows)


def inputs_sheet(tables: Tables) -> Sheet:
    """Hashes of everything a study started from: every split of the tasks, the weights of the models."""
    splits = {"test": "sha256", "validation": "validation_sha256", "train": "train_sha256"}
    found = [
        ("task", f"{row.task}, {split}", row.source, getattr(row, column))
        for row in tables.tasks.itertuples()
        for split, column in splits.items()
        if hasattr(row, column)
    ]
    found += [("model", row.model, row.source, row.sha256) for row in tables.models.itertuples()]
    rows = [[*named(kind, name, source), Value(digest, digest, "code")] for kind, name, source, digest in found]
    return Sheet(["Input", "Name", "Source", "SHA-256"], rows)


def perplexity_sheet(table: pd.DataFrame, experiment: str) -> Sheet:
    """Perplexity of language models: methods, structures and shots (rows) at every sparsity or kept share (columns)."""
    own = table[table["experiment"] == experiment]
    ends = own[own["method"].isin(("dense", *style.CONTROLS))]
    others = own.drop(ends.index)
    budgets = sorted(set(others["budget"]))
    best = others.groupby(["model", "structure", "budget"])["perplexity"].min()
    rows = [
        [*named(row.model, style.label(row.method), "", ""), *[Value("")] * len(budgets), _perplexity(row.perplexity)]
        for row in ends.itertuples()
    ]
    for (model, method, structure, shots), found in others.groupby(
        ["model", "method", "structure", "shots"], sort=False
    ):
        cells = named(model, style.label(method), structure, f"{shots:.0f}" if shots else "")
        at = {row.budget: row for row in found.itertuples()}
        for budget in budgets:
            cells.append(_perplexity_cell(at.get(budget), best.get((model, structure, budget))))
        rows.append([*cells, Value("")])
    end = "dense" if experiment == "pruning" else "control"
    return Sheet(["Model", "Method", "Structure", "Shots", *map(style.percent, budgets), end], rows, names=4)


def _perplexity(value: float) -> Value:
    return number(value, "" if pd.isna(value) else f"{value:.1f}" if value < 1000 else f"{value:.2g}", "control")


def _perplexity_cell(row, best: float | None) -> Value:
    if row is None:
        return Value("")
    if pd.isna(row.perplexity):
        return Value("failed", "", "number missing")
    return number(row.perplexity, _perplexity(row.perplexity).text, "best" if row.perplexity == best else "")

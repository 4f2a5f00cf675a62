"""Writing: tables, figures and provenance of a study as one HTML page that needs no other file and no network.

`python -m report.page --results results/mini` writes results/mini/report/index.html. Pictures stand in the page as SVG,
and their ink follows the page into the dark; every text that comes from data is escaped by the template.
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from report import style
from report.errors import ReportError, run
from report.figures import file_name
from report.results import read_json, write_text
from report.summary import sentences
from report.tables import NEAR, Tables

HERE = Path(__file__).parent
_INKS = {style.INK: "var(--ink)", style.MUTED: "var(--muted)", style.GRID: "var(--grid)"}
_METADATA = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->| xmlns(:\w+)?=\"[^\"]*\"", re.S)


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


def inline_svg(path: Path, description: str) -> Markup:
    """An SVG file as part of a page: no header, its own ids, ink as a variable of the page.

    Args:
        path: written by `style.save`.
        description: what the picture shows, for readers who do not see it.

    Raises:
        ReportError: there is no such file, or it is no SVG.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist: run the step that draws it (report.figures) first.") from None
    text = _METADATA.sub("", text).strip()
    if not text.startswith("<svg"):
        raise ReportError(f"{path} is not an SVG picture: run the step that draws it again.")
    own = re.sub(r"\W", "-", path.stem)
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = re.sub(r'href="#', f'href="#{own}-', text).replace("url(#", f"url(#{own}-")
    for colour, variable in _INKS.items():
        text = text.replace(colour, variable)
    # White is only used as the ground: behind panels, in hollow markers, around filled ones.
    text = text.replace(": #ffffff", ": var(--paper)")
    width = re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    points = float(width.group(1)) if width else 500.0
    opening = Markup('<svg role="img" aria-label="{}" style="--natural: {:.0f}px"').format(description, points * 4 / 3)
    return Markup(opening + Markup(text.removeprefix("<svg")))


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


def score_sheet(tables: Tables, models: list[str]) -> Sheet:
    """Weighted F1 per model, task and method (rows) at every budget (columns), between `none` and `full`.

    The best method of a column is marked within model and task, and so is what lies at most one point below full.
    """
    summary, budgets = tables.scores_summary, tables.counts["budgets"]
    columns = [("none", 0.0), *((None, budget) for budget in budgets), ("full", 1.0)]
    found = {(row.model, row.task, row.method, row.budget): row for row in summary.itertuples()}
    shown = summary[summary["model"].isin(models) & ~summary["method"].isin(style.CONTROLS)]
    best = shown.groupby(["model", "task", "budget"])["weighted_f1"].max()
    rows = []
    for model, task, method in shown[["model", "task", "method"]].drop_duplicates().itertuples(index=False):
        cells = named(model, task, style.label(method))
        for control, budget in columns:
            row = found.get((model, task, control or method, budget))
            cells.append(_score_cell(row, best.get((model, task, budget)), control is not None))
        rows.append(cells)
    heads = ["none"] + [style.budget_label(budget) for budget in budgets] + ["full"]
    return Sheet(["Model", "Task", "Method", *heads], rows, names=3)


def _score_cell(row, best: float | None, control: bool) -> Value:
    if row is None:
        return Value("")
    if not row.seeds:
        return Value("failed" if row.failed else "declined", "", "number missing")
    classes = ["control"] if control else []
    if not control and row.weighted_f1 == best:
        classes.append("best")
    if not control and row.difference_points >= -NEAR:
        classes.append("near")
    return mean(row.weighted_f1, row.weighted_f1_sd, " ".join(classes))


def overview_sheet(tables: Tables) -> Sheet:
    """Mean difference to full in points per method and budget over all cells."""
    overview = tables.overview[~tables.overview["method"].isin(style.CONTROLS)]
    budgets = tables.counts["budgets"]
    found = {(row.method, row.budget): row for row in overview.itertuples()}
    rows = []
    for method in dict.fromkeys(overview["method"]):
        cells = named(style.label(method))
        for budget in budgets:
            row = found.get((method, budget))
            cells.append(Value("") if row is None else _difference_cell(row))
        own = overview[overview["method"] == method]
        fewest, asked = own["cells"].min(), (own["cells"] + own["without_score"]).max()
        cells.append(number(fewest, f"{fewest:.0f}" if fewest == asked else f"{fewest:.0f} of {asked:.0f}"))
        rows.append(cells)
    return Sheet(["Method", *(style.budget_label(budget) for budget in budgets), "Cells"], rows)


def _difference_cell(row) -> Value:
    if pd.isna(row.difference_points):
        return Value("no score", "", "number missing")
    near = "near" if row.difference_points >= -NEAR else ""
    return number(row.difference_points, style.points(row.difference_points), near)


def overview_detail_sheet(tables: Tables) -> Sheet:
    """Every column of the overview."""
    rows = [
        [
            *named(style.label(row.method)),
            number(row.budget, style.budget_label(row.budget)),
            integer(row.cells),
            number(row.weighted_f1, style.score(row.weighted_f1)),
            number(row.difference_points, style.points(row.difference_points)),
            number(
                row.within_1_point, "" if pd.isna(row.within_1_point) else style.percent(round(row.within_1_point, 2))
            ),
            number(row.kept_share, "" if pd.isna(row.kept_share) else style.percent(round(row.kept_share, 3))),
            number(row.stored_bytes, style.size(row.stored_bytes)),
        ]
        for row in tables.overview.itertuples()
    ]
    heads = ["Method", "Asked", "Cells", "Weighted F1", "To full", "Cells within 1 point", "Kept", "Stored file"]
    return Sheet(heads, rows)


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
            number(row.budget, style.budget_label(row.budget)),
            prose(row.reason),
        ]
        for row in tables.not_ok.itertuples()
    ]
    return Sheet(["Model", "Task", "Method", "Status", "Seed", "Draw", "Kept", "Reason"], rows, names=4)


def kenviz_picture(results: Path) -> dict | None:
    """The KENviz picture and the facts of its caption, if it was drawn for this study."""
    stem = results / "figures" / "kenviz"
    if not stem.with_suffix(".svg").exists():
        return None
    facts = read_json(stem.with_suffix(".json")) if stem.with_suffix(".json").exists() else {}
    source = Path(facts.get("source", ""))
    inside = source.resolve().is_relative_to(results.resolve())
    facts["source"] = source.resolve().relative_to(results.resolve()).as_posix() if inside else source.name
    return {"svg": inline_svg(stem.with_suffix(".svg"), "KENviz: kept entries and their neighbours"), **facts}


def provenance_of(results: Path) -> dict:
    """provenance.json of a study.

    Raises:
        ReportError: it is missing, or one of its parts is.
    """
    path = results / "provenance.json"
    provenance = read_json(path)
    parts = {"study": str, "config": dict, "commit": str, "dirty": bool, "versions": dict, "machine": dict}
    for name, kind in (parts | {"seconds": dict, "created": str}).items():
        if not isinstance(provenance.get(name), kind):
            raise ReportError(f"{path} has no {name!r} ({kind.__name__}): run the step that writes it again.")
    return provenance


def pictures(results: Path, tables: Tables) -> dict:
    """The figures of a study, ready to stand in the page."""
    folder = results / "figures"
    described = {
        "summary": "Difference to full against kept share, a line a method",
        "bytes": "Weighted F1 against stored bytes, a line a method",
        "curves": "Weighted F1 against kept share, a panel for each model and task",
    }
    if not tables.pretraining_gain.empty:
        described["pretraining_gain"] = "Weighted F1 from random initialisation and from the pre-trained body"
    found = {name: inline_svg(folder / f"{name}.svg", text) for name, text in described.items()}
    text = "Weighted F1 against kept share, a panel for each task: "
    found["models"] = {
        model: inline_svg(folder / f"{file_name(model)}.svg", text + model) for model in tables.counts["models"]
    }
    return found


def render(results: Path) -> str:
    """The page of a study as HTML.

    Args:
        results: folder with provenance.json, tables/ and figures/.

    Raises:
        ReportError: a table, a figure or the provenance is missing or malformed.
    """
    tables, provenance = Tables.read(results), provenance_of(results)
    models = tables.counts["models"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"label": style.label, "percent": style.percent, "budget": style.budget_label}
    return environment.get_template("page.html.j2").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        provenance=provenance,
        config=json.dumps(provenance["config"], indent=2, ensure_ascii=False),
        counts=tables.counts,
        methods=[name for name in tables.counts["methods"] if name not in style.CONTROLS],
        sentences=sentences(tables),
        overview=overview_sheet(tables),
        overview_detail=overview_detail_sheet(tables),
        scores=score_sheet(tables, models),
        by_model={model: score_sheet(tables, [model]) for model in models},
        pretraining=pretraining_sheet(tables),
        pretraining_seeds=seed_range(tables.pretraining_gain["seeds"]),
        finetuned=finetuned_sheet(tables),
        suggestions=suggestions_sheet(tables),
        choice=None if tables.suggestions.empty else tables.suggestions.iloc[0],
        tasks=tasks_sheet(tables),
        classes={row.task: classes_sheet(row.class_counts) for row in tables.tasks.itertuples()},
        models=models_sheet(tables),
        not_ok=not_ok_sheet(tables),
        pictures=pictures(results, tables),
        kenviz=kenviz_picture(results),
        near=NEAR,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the page of a study from its tables and figures.")
    parser.add_argument("--results", required=True, type=Path, help="results folder with tables/ and figures/")
    parser.add_argument("--out", type=Path, help="page to write (default: report/index.html in the results folder)")
    arguments = parser.parse_args()
    out = arguments.out or arguments.results / "report" / "index.html"
    write_text(out, render(arguments.results))
    print(f"page: {out}")


if __name__ == "__main__":
    run(main)

"""Writing: tables, figures and provenance of a study as one HTML page that needs no other file and no network.

`python -m report.page --results results/mini` writes results/mini/report/index.html. Pictures stand in the page as SVG,
and their ink follows the page into the dark; every text that comes from data is escaped by the template.
"""

import argparse
import json
import re
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from report import language, sheets, style, summary
from report.errors import ReportError, run
from report.figures import REFERENCES, file_name
from report.results import read_json, sha256, write_text
from report.sheets import partial_methods, score_sheet, seed_range
from report.tables import ALPHA, NEAR, Tables, with_picture

HERE = Path(__file__).parent
_INKS = {style.INK: "var(--ink)", style.MUTED: "var(--muted)", style.GRID: "var(--grid)"}
_METADATA = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->| xmlns(:\w+)?=\"[^\"]*\"", re.S)


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
    # Two equal images have the same id, and nothing refers to it.
    text = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", text)
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
    """The figures of a study, ready to stand in the page; those without anything to draw are left out."""
    folder = results / "figures"
    checked = set(tables.checks["check"])
    described = {
        "summary": (True, "Difference to full against kept share, a panel a family of methods, a line a method"),
        "pareto": (True, "Difference to full against stored bytes, with the Pareto front"),
        "pretraining_gain": (
            not tables.pretraining_gain.empty,
            "Weighted F1 from random initialisation and from the pre-trained body",
        ),
        "ranks": (not with_picture(tables.ranks).empty, "Average ranks of methods with critical differences"),
        "bandwidth": ("bandwidth" in checked, "Difference to full against the factor of the bandwidth"),
        "matrices": ("matrices" in checked, "Difference to full when one kind of matrix is pruned"),
        "spread": (not tables.spread.empty, "Observed minus random places of kept entries, a dot a matrix"),
        "timing": (not tables.timing.empty, "Seconds of one selection against size and against k"),
    }
    found = {name: inline_svg(folder / f"{name}.svg", text) for name, (drawn, text) in described.items() if drawn}
    text = "Weighted F1 against kept share, a panel for each task and family of methods: "
    found["models"] = {
        model: inline_svg(folder / f"{file_name(model)}.svg", text + model) for model in tables.counts["models"]
    }
    return found


def evidence(results: Path, tables: Tables, config: dict) -> dict:
    """What the sections on claims, statistics, checks and cost show."""
    checks = tables.checks
    settings = config.get("checks")
    kept = settings.get("matrices_kept_share") if isinstance(settings, dict) else None
    references = [style.label(name) for name in dict.fromkeys(tables.comparisons["reference"])]
    return {
        "claims": sheets.claims_of(tables),
        "marks": summary.VERDICTS,
        "pairwise": sheets.pairwise_sheet(tables),
        "ranks": sheets.ranks_sheet(tables),
        "rank_sentences": summary.rank_sentences(tables.ranks),
        "rank_tests": sheets.rank_tests_sheet(tables),
        "comparisons": sheets.comparisons_sheet(tables),
        "references_compared": " or ".join(references),
        "alpha": ALPHA,
        "bandwidth": sheets.bandwidth_sheet(tables),
        "zero": sheets.zero_sheet(tables),
        "matrices": sheets.matrices_sheet(tables),
        "matrices_kept": kept if isinstance(kept, float) else None,
        "check_facts": {name: cells_and_seeds(rows) for name, rows in checks.groupby("check")},
        "check_sentences": {
            "bandwidth": summary.bandwidth_sentence(checks),
            "zero": summary.zero_sentence(checks),
            "matrices": summary.matrices_sentence(checks),
            "timing": summary.timing_sentence(tables.claims),
            "cost": summary.cost_sentence(tables.cost),
        },
        "spread": sheets.spread_sheet(tables),
        "spread_sentences": summary.spread_sentences(tables.spread),
        "spread_facts": spread_facts(tables.spread_matrices),
        "timing": sheets.timing_sheet(tables),
        "cost": sheets.cost_sheet(tables),
        "inputs": sheets.inputs_sheet(tables),
        "scores_hash": sha256(results / "scores.csv"),
        "explorer": (results / "report" / "kenviz.html").exists(),
    }


def language_models(results: Path) -> dict | None:
    """What the section on language models shows, None where the study has none."""
    table = language.read_summary(results)
    if table.empty:
        return None
    described = {"perplexity": "Perplexity against sparsity", "adaptation": "Perplexity against kept share"}
    paths = {name: results / "figures" / f"{name}.svg" for name in described}
    sheets_of = {name: sheets.perplexity_sheet(table, name) for name in ("pruning", "adaptation")}
    drawn = {"perplexity": sheets_of["pruning"], "adaptation": sheets_of["adaptation"]}
    return {
        **sheets_of,
        "pictures": {name: inline_svg(paths[name], text) for name, text in described.items() if drawn[name].rows},
        "sentences": language.sentences(table),
        "smaller": language.smaller_sentence(table),
    }


def cells_and_seeds(rows: pd.DataFrame) -> str:
    """How many cells and seeds stand behind the rows of a check: "2 cells, 1 seed"."""
    return f"{style.count(rows['cells'].max(), 'cell')}, {seed_range(rows['seeds'])}"


def spread_facts(matrices: pd.DataFrame) -> str:
    """How many matrices, models and seeds the figure of the spread shows."""
    shown = matrices[["method", "model", "task", "seed", "matrix"]].drop_duplicates()
    each = shown.groupby("method").size()
    if each.empty:
        return ""
    number = f"{each.min()}" if each.min() == each.max() else f"{each.min()} to {each.max()}"
    models, seeds = (style.count(shown[name].nunique(), name) for name in ("model", "seed"))
    return f"{number} matrices a method, {models}, {seeds}"


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
    environment.filters |= {"label": style.label, "percent": style.percent}
    return environment.get_template("page.html.j2").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        provenance=provenance,
        config=json.dumps(provenance["config"], indent=2, ensure_ascii=False),
        counts=tables.counts,
        methods=[name for name in tables.counts["methods"] if name not in style.CONTROLS],
        answer=summary.answer(tables),
        sentences=summary.sentences(tables),
        overview=sheets.overview_sheet(tables),
        overview_detail=sheets.overview_detail_sheet(tables),
        scores=score_sheet(tables, models),
        own_budgets=sheets.own_budgets_sheet(tables),
        partial=partial_methods(tables),
        references=REFERENCES,
        matched=sheets.matched_sheets(tables),
        inference=sheets.inference_sheet(tables),
        speed=summary.speed(tables.inference),
        by_model={model: score_sheet(tables, [model]) for model in models},
        pretraining=sheets.pretraining_sheet(tables),
        pretraining_seeds=seed_range(tables.pretraining_gain["seeds"]),
        finetuned=sheets.finetuned_sheet(tables),
        suggestions=sheets.suggestions_sheet(tables),
        choice=None if tables.suggestions.empty else tables.suggestions.iloc[0],
        tasks=sheets.tasks_sheet(tables),
        classes={row.task: sheets.classes_sheet(row.class_counts) for row in tables.tasks.itertuples()},
        models=sheets.models_sheet(tables),
        not_ok=sheets.not_ok_sheet(tables),
        pictures=pictures(results, tables),
        kenviz=kenviz_picture(results),
        near=NEAR,
        language=language_models(results),
        **evidence(results, tables, provenance["config"]),
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

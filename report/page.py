"""Write the pages of a study: the answer with its pictures, and an appendix with all tables. They need no network.

`python -m report.page --results results/mini` writes results/mini/report/index.html and appendix.html. Pictures are
inline SVG and follow the dark mode of the page. The templates escape all text that comes from data.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from ken.errors import UserError, run
from report import style, summary
from report.figures import drawings
from report.headline import NOT_TESTED, headline
from report.measurements import scores
from report.measurements.contract import ResultTables
from report.measurements.verdicts import Claim
from report.outputs import MEASUREMENTS
from report.results import damaged, read_json, sha256, write_text
from report.scores import NEAR
from report.tables import Tables

PLACED = ("cost", "inference", "suggestions", "pretraining")  # measurements whose sections the template places
HERE = Path(__file__).parent
APPENDIX = "appendix.html"
MACROS = "macros.html.j2"  # of all templates; named here so that a change of it writes the pages again
DEFAULT, CONFIGS = "mini", HERE.parent / "config"  # the study of `make study`, and where configs are
_INKS = {style.INK: "var(--ink)", style.MUTED: "var(--muted)", style.GRID: "var(--grid)"}
_METADATA = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->| xmlns(:\w+)?=\"[^\"]*\"", re.S)


def inline_svg(path: Path, description: str) -> Markup:
    """An SVG file as part of a page: no header, unique ids, and variables of the page as colours.

    Args:
        path: written by `drawing.save`.
        description: alternative text of the picture.

    Raises:
        UserError: the file does not exist or is not an SVG picture.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the step that draws it (report.figures) first.") from None
    text = _METADATA.sub("", text).strip()
    if not text.startswith("<svg"):
        raise UserError(f"{path} is not an SVG picture: run the step that draws it again.")
    # Equal images have the same id, to which nothing refers.
    text = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", text)
    prefix = re.sub(r"\W", "-", path.stem)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text).replace("url(#", f"url(#{prefix}-")
    for colour, variable in _INKS.items():
        text = text.replace(colour, variable)
    # White is only used as the background: behind panels, in hollow markers, around filled ones.
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
        UserError: the file or one of its parts is missing.
    """
    path = results / "provenance.json"
    provenance = read_json(path)
    parts = {"study": str, "config": dict, "commit": str, "dirty": bool, "versions": dict, "machine": dict}
    for name, kind in (parts | {"seconds": dict, "created": str}).items():
        if not isinstance(provenance.get(name), kind):
            raise damaged(path, f"has no {name!r} ({kind.__name__})")
    return provenance


def pictures(results: Path, tables: ResultTables) -> dict[str, Markup]:
    """The figures of a study as parts of the page, without those that have no data."""
    return {
        name: inline_svg(results / "figures" / f"{name}.svg", drawing.description)
        for name, drawing in drawings(tables).items()
        if drawing.shown
    }


def render(results: Path) -> tuple[str, str]:
    """The page of a study and its appendix, as HTML.

    Args:
        results: folder with provenance.json, tables/ and figures/.

    Raises:
        UserError: a table, a figure or the provenance is missing or malformed.
    """
    tables, provenance = Tables.read(results), provenance_of(results)
    measured = {measurement.name: measurement.call("page", tables) for measurement in MEASUREMENTS}
    claims = [claim for listed in measured["verdicts"]["sources"].values() for claim in listed]
    decided = [claim for claim in claims if claim.word != NOT_TESTED and claim.drawn]
    values = dict(
        css=source("page.css"),
        provenance=provenance,
        config=json.dumps(provenance["config"], indent=2, ensure_ascii=False),
        results=f"results/{provenance['study']}",
        command=command(provenance["study"]),
        matrices_kept=kept_of_matrices(provenance["config"]),
        counts=tables.counts,
        methods=[name for name in tables.counts["methods"] if name not in style.CONTROLS],
        near=NEAR,
        answers=headline(tables),
        sentences=summary.sentences(tables),
        decided=decided,
        drawn={source: drawn_claims(listed, decided) for source, listed in measured["verdicts"]["sources"].items()},
        headline_data=as_json(measured["headline"] | {"results": f"results/{provenance['study']}"}),
        pictures=pictures(results, tables),
        first_model=scores.file_name(tables.counts["models"][0]),
        kenviz=kenviz_picture(results),
        explorer=(results / "report" / "kenviz.html").exists(),
        scores_hash=sha256(results / "scores.csv"),
        further=[parts["section"] for name, parts in measured.items() if "section" in parts and name not in PLACED],
        **measured,
    )
    return (
        template("page.html.j2").render(script=source("page.js") + source("chart.js"), **values),
        template("appendix.html.j2").render(script=source("page.js"), **values),
    )


def drawn_claims(claims: Sequence[Claim], decided: Sequence[Claim]) -> list[Claim]:
    """The claims of one source that the page draws: those with a verdict, or all with an estimate if none has one."""
    return [claim for claim in claims if claim in decided] or [claim for claim in claims if claim.drawn]


def template(name: str) -> jinja2.Template:
    """A template of this folder, which escapes all text that comes from data."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"label": style.label, "percent": style.percent, "shown": style.verdict}
    return environment.get_template(name)


def source(name: str) -> Markup:
    """A style or script of the pages."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


def as_json(value: dict) -> Markup:
    """A value as JSON that may stand in a script element."""
    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def command(study: str) -> str:
    """The command that runs a study: with the config of this repository that names it, or with a user's own."""
    if study == DEFAULT:
        return "make study"
    line = re.compile(rf"^study:\s*{re.escape(study)}\s*$", re.M)
    known = [path for path in sorted(CONFIGS.rglob("*.yaml")) if line.search(path.read_text(encoding="utf-8"))]
    return f"snakemake --configfile {known[0].relative_to(CONFIGS.parent).as_posix() if known else 'YOUR_CONFIG.yaml'}"


def kept_of_matrices(config: dict) -> float | None:
    """The kept share in the ablation of kinds of matrices, if the config has one."""
    checks = config.get("checks")
    kept = checks.get("matrices_kept_share") if isinstance(checks, dict) else None
    return kept if isinstance(kept, float) else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the pages of a study from its tables and figures.")
    parser.add_argument("--results", required=True, type=Path, help="results folder with tables/ and figures/")
    results = parser.parse_args().results
    page, appendix = render(results)
    write_text(results / "report" / APPENDIX, appendix)
    write_text(out := results / "report" / "index.html", page)
    print(f"page: {out}")


if __name__ == "__main__":
    run(main)

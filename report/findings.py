"""What committed runs found, as Markdown for README and docs; no number of it is typed."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from report import style
from report.measurements.checks import zero_sentence
from report.measurements.inference import speed
from report.measurements.overview import SHOWN_METHODS
from report.measurements.perplexity import result_sentences
from report.results import read_claims, read_json, read_scores
from report.scores import keeps_more
from report.summary import answer, sentences
from report.tables import Tables

ROOT = Path(__file__).parent.parent
ROWS = 12  # of the table of methods
STUDIES = {"mini": "default study", "offline": "offline study", "real": "real encoder"}  # folder -> its name


def study_block(folder: Path) -> str:
    """What came out of a committed run.

    Args:
        folder: results folder with tables/, figures/summary.png and provenance.json, in this repository.
    """
    tables = Tables.read(folder)
    pairs, seeds = style.count(len(tables.finetuned), "pair"), ", ".join(map(str, tables.counts["seeds"]))
    return f"""**{answer(tables)}**

![Weighted F1 minus that of the full model, against the kept share of the body]({picture(folder, "summary")})

From {pairs} of model and task, seeds {seeds}:

{listed(sentences(tables))}

Points of weighted F1 to the full model, mean over all cells, by the share kept of each row:

{losses(tables)}

{how_long(folder)}"""


def surgeon_block(folder: Path) -> str:
    """What curvature comes to: on language models in sentences, on classifiers beside KEN in a table, and verdicts."""
    tables = Tables.read(folder)
    return f"""{listed(result_sentences(tables.perplexity))}

![Perplexity of pruned language models]({picture(folder, "perplexity")})

On {style.count(tables.counts["cells"], "fine-tuned classifier")}, points of weighted F1 to the full model:

{losses(tables)}

{verdicts({"verdict": read_claims(folder)}, ("surgeon",))}

{surgeon_cost(folder)}
{how_long(folder)}"""


def claims_block(references: Path) -> str:
    """The claims of the paper, and ours, with a verdict in each of `STUDIES` that is among the committed runs."""
    columns = {}
    for name, title in STUDIES.items():
        if (references / name).is_dir():
            cells = Tables.read(references / name).counts["cells"]
            columns[f"{title} ({style.count(cells, 'cell')})"] = read_claims(references / name)
    return verdicts(columns, ("paper", "ours"))


def verdicts(judged: dict[str, pd.DataFrame], sources: Sequence[str]) -> str:
    """Markdown table of the claims of some sources, a row each.

    Args:
        judged: title of a column -> claims of the study that it is for.
        sources: of the claims.
    """
    claims = pd.concat(judged.values())
    rows = []
    for claim in claims[claims["source"].isin(sources)].drop_duplicates("claim").itertuples():
        found = [_verdict(study[study["claim"] == claim.claim]) for study in judged.values()]
        rows.append([claim.source, claim.text, *found])
    return style.markdown(["of", "claim", *judged], rows, [False] * (2 + len(judged))).rstrip()


def _verdict(rows: pd.DataFrame) -> str:
    """Verdict and estimate of a claim; of one that was judged for several subjects, how many have which verdict."""
    if len(rows) > 1:
        return ", ".join(f"{number} × {verdict}" for verdict, number in rows["verdict"].value_counts().items())
    if rows.empty:
        return ""
    claim = rows.iloc[0]
    if pd.isna(claim["estimate"]):
        return claim["verdict"]
    form = style.points if claim["unit"] == "points" else "{:.2f}".format
    estimate, low, high = (form(claim[column]) for column in ("estimate", "low", "high"))
    unit = {"points": "{} points", "share": "a share of {}"}.get(claim["unit"], f"{{}} {claim['unit']}")
    return f"{claim['verdict']}: {unit.format(estimate)} ({low} to {high})"


def losses(tables: Tables) -> str:
    """Markdown table: points of weighted F1 against the full model, a row per method, a column per kept share.

    It holds at most `ROWS` methods with a score in every cell: those of `SHOWN_METHODS` and the best others, best mean
    first, over the kept shares that all of them were run at. A method that holds more than the others at its budgets
    is left out.
    """
    overview = tables.over_all_cells()
    overview = overview[(overview["cells"] == tables.counts["cells"]) & ~keeps_more(overview, ["budget"])]
    points = overview.pivot(index="method", columns="budget", values="difference_points").dropna(how="all")
    common = points.dropna(axis=1)
    means = (common if len(common.columns) else points).mean(axis=1)
    ranked = means.sort_values(ascending=False, kind="stable").index
    always = [name for name in SHOWN_METHODS if name in ranked]
    others = [name for name in ranked if name not in always][: ROWS - len(always)]
    shown = [name for name in ranked if name in (*always, *others)]
    rows = [[style.label(name), *map(_points, points.loc[name])] for name in shown]
    header = ["kept", *map(style.budget_label, points.columns)]
    table = style.markdown(header, rows, [False] + [True] * len(points.columns)).rstrip()
    left_out = [style.label(name) for name in tables.counts["methods"] if name not in (*shown, *style.CONTROLS)]
    rest = f"\n\nThe report has {', '.join(left_out)} too." if left_out else ""
    return table + rest


def _points(value: float) -> str:
    return "" if pd.isna(value) else style.points(value)


def how_long(folder: Path) -> str:
    """How long the run took from its first job to its scores; tables, figures and page take less than a minute more."""
    provenance = read_json(folder / "provenance.json")
    machine, minutes = provenance["machine"], provenance["wall_seconds"] / 60
    return f"Up to its scores the run took {minutes:.0f} minutes on {machine['cores']} cores ({machine['cpu']})."


def random_answer(folder: Path) -> str:
    """What KEN gains over a random choice, choosing by the update over KEN, and the reset over zero."""
    claims = read_claims(folder).set_index("claim")["why"]
    found = [*claims[["ahead-of-random", "update-over-value"]], zero_sentence(Tables.read(folder).checks)]
    return " ".join(found)


def speed_answer(folder: Path) -> str:
    """Time of a text with the restored models."""
    return speed(Tables.read(folder).inference)


def cost_answer(folder: Path) -> str:
    """Time and disk of a committed run."""
    scores = read_scores(folder)
    stored, full = scores["stored_bytes"].sum(), scores.loc[scores["method"] == "full", "stored_bytes"].sum()
    took = how_long(folder)
    return (
        f"{took} Its {len(scores):,} stored files take {style.size(stored)}, the initial states and the fine-tuned "
        f"models {style.size(2 * full)}."
    )


def surgeon_cost(folder: Path) -> str:
    """What curvature adds to a study: seconds of its methods in a cell beside KEN's, and to prune language models."""
    scores, rules = read_scores(folder), read_json(folder / "provenance.json")["seconds"]
    cells = len(scores[["model", "task", "seed"]].drop_duplicates())
    seconds = scores.groupby("method", sort=False)["seconds"].sum() / cells
    curved = [name for name in seconds.index if "surgeon" in name and not name.endswith("-rescaled")]
    parts = ", ".join(f"{style.label(name)} {seconds[name]:.1f} s" for name in ("ken", *curved))
    return (
        f"To choose and store all its budgets took a method in a cell: {parts}. All of the pruning of language models "
        f"took {rules['prune_language_model'] / 60:.0f} minutes of one core."
    )


def listed(lines: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def picture(folder: Path, name: str) -> str:
    """Path of a figure of a committed run, from the root of the repository."""
    return f"{folder.resolve().relative_to(ROOT).as_posix()}/figures/{name}.png"

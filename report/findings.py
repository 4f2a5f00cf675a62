"""Findings of the committed runs as Markdown for README and docs; all numbers come from result files."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from report import style
from report.headline import RANDOM, beside_random, comparison, headline, tested
from report.judging.scores import MEAN
from report.measurements.checks import zero_sentence
from report.measurements.frontier import over_all_cells
from report.measurements.headline import DESCRIPTION
from report.measurements.inference import speed
from report.measurements.perplexity import compared_rows, factor, factors, result_sentences
from report.measurements.verdicts import MIXED, estimate, whole
from report.results import (
    ALL_MODELS,
    CELL,
    CONTROL,
    FINETUNING,
    NOT_TESTED,
    read_claims,
    read_json,
    read_scores,
    read_table,
)
from report.scores import keeps_more
from report.summary import answer, sentences
from report.table import tuples
from report.tables import Tables

ROOT = Path(__file__).parent.parent
ROWS = 12  # of the table of methods
STUDIES = {
    "mini": "default study", "offline": "offline study", "real": "real encoder", "base": "base-size encoder",
    "small": "small files, real encoder",
}  # folder -> its name  # fmt: skip
LOSSES = (
    "Difference to the full model in points of weighted F1, mean over all cells, by the share of each row that is kept"
)
SHOWN_METHODS = ("ken", "ken-rescaled", "random")  # always in the table of methods


def answer_block(folder: Path) -> str:
    """The answer of a committed run: the sentences and the picture at the head of its page.

    Args:
        folder: results folder with tables/, claims.csv and figures/headline.png, in this repository.
    """
    return f"{listed(headline(Tables.read(folder)))}\n\n![{DESCRIPTION}]({picture(folder, 'headline')})"


def others_block(references: Path) -> str:
    """KEN beside a random choice in the committed studies other than the default one, a sentence for each."""
    lines = []
    for name, title in STUDIES.items():
        if name != "mini" and (references / name).is_dir() and tested(claims := read_claims(references / name), RANDOM):
            lines.append(f"{style.capitalised(title)}: {beside_random(claims)}")
    return " ".join(lines)


def summary_figure(folder: Path) -> str:
    """The summary figure of a committed run, as Markdown."""
    text = "Weighted F1 minus that of the full model, against the kept share of the body"
    return f"![{text}]({picture(folder, 'summary')})"


def study_block(folder: Path) -> str:
    """Findings of a committed run: its headline, the summary figure, sentences and the table of methods.

    Args:
        folder: results folder with tables/, figures/summary.png and provenance.json, in this repository.
    """
    tables = Tables.read(folder)
    pairs, seeds = style.count(len(tables.finetuned), "pair"), style.count(len(tables.counts["seeds"]), "seed")
    return f"""**{answer(tables)}**

{summary_figure(folder)}

Over {pairs} of model and task, with {seeds}:

{listed(sentences(tables))}

{LOSSES}:

{losses(tables)}

{how_long(folder)}"""


def small_block(folder: Path) -> str:
    """How small a file can be: the frontier, and every setting of a committed run from the smallest file up."""
    tables = Tables.read(folder)
    points = over_all_cells(tables.frontier_points).sort_values("stored_share")
    rows = [
        [
            style.setting(row.method, row.budget, row.unit),
            f"{100 * row.stored_share:.2f} %",
            style.size(row.stored_bytes),
            style.points(row.difference_points, 2),
            f"{style.points(row.low, 2)} to {style.points(row.high, 2)}",
        ]
        for row in points.itertuples()
        if row.method != "full"
    ]
    head = ["method and budget", "share of the dense file", "file", "points to full", "95 % interval"]
    alt = "Weighted F1 minus that of the full model, against the size of the stored file"
    return f"""![{alt}]({picture(folder, "frontier")})

Means over {style.count(tables.cells, "cell")}:

{style.markdown(head, rows, [False, True, True, True, True]).rstrip()}
{whole_embeddings(points)}
{how_long(folder)}"""


def whole_embeddings(points: pd.DataFrame) -> str:
    """A paragraph on the methods whose files hold embeddings in full, which is most of their bytes; "" without any."""
    names = [style.label(name) for name in dict.fromkeys(points["method"]) if style.has_whole_embeddings(name)]
    return f"\nThe files of {style.listed(names)} hold the embeddings in full.\n" if names else ""


def surgeon_block(folder: Path) -> str:
    """Findings about curvature: sentences on language models, a table of classifiers, verdicts and costs."""
    tables = Tables.read(folder)
    return f"""{listed(result_sentences(tables.perplexity))}

Perplexity in units of the dense model's; for adapted models, of the fully adapted one's:

{rises(tables.perplexity)}

![Perplexity of pruned language models]({picture(folder, "perplexity")})

For {style.count(tables.counts["cells"], "fine-tuned classifier")}. {LOSSES}:

{losses(tables)}

{verdicts({"verdict": read_claims(folder)}, ("surgeon",))}

{surgeon_cost(folder)}
{how_long(folder)}"""


def rises(perplexity: pd.DataFrame) -> str:
    """Markdown table of the factors on perplexity: a row per method, a column per structure or kept share."""
    columns = {name: factors(rows) for name, _, rows in compared_rows(perplexity)}
    methods = list(dict.fromkeys(method for times in columns.values() for method in times.index))
    rows = [
        [style.label(method), *(factor(times[method]) if method in times else "" for times in columns.values())]
        for method in methods
    ]
    return style.markdown(["method", *columns], rows, [False] + [True] * len(columns)).rstrip()


def claims_block(references: Path) -> str:
    """The claims of the paper and ours, with a column of verdicts for each of `STUDIES` that was committed."""
    columns, judged = {}, {}
    for name, title in STUDIES.items():
        if (references / name).is_dir():
            cells = Tables.read(references / name).counts["cells"]
            judged[title] = columns[f"{title} ({style.count(cells, 'cell')})"] = read_claims(references / name)
    return f"{verdicts(columns, ('paper', 'ours'))}{unchanged_rules(judged)}"


def overlap_block(references: Path) -> str:
    """Whether `STUDIES` with a model in common have cells in common, which makes their columns dependent."""
    cells = {
        title: set(tuples(fine_tuned_cells(references / name), CELL))
        for name, title in STUDIES.items()
        if (references / name).is_dir()
    }
    pairs = itertools.combinations(cells, 2)
    return " ".join(filter(None, (_overlap(one, other, cells[one], cells[other]) for one, other in pairs)))


def fine_tuned_cells(folder: Path) -> pd.DataFrame:
    """Model, task and seed of every cell of a committed run that was fine-tuned from the pre-trained weights."""
    trainings = read_table(folder / "finetuning.csv", *FINETUNING)
    return trainings.loc[trainings["arm"] == "pretrained", CELL]


def _overlap(one: str, other: str, cells: set[tuple], others: set[tuple]) -> str:
    """How many of one study's cells are another study's too; "" if the studies have no model in common."""
    if not {cell[0] for cell in cells} & {cell[0] for cell in others}:
        return ""
    shared = len(cells & others)
    if not shared:
        return f"No cell of the {one} is one of the {other}: they are separate measurements."
    number = f"{shared} of the {len(cells)}" if shared < len(cells) else f"All {shared}"
    return f"{number} cells of the {one} are also cells of the {other}: these columns are not independent."


def unchanged_rules(judged: dict[str, pd.DataFrame]) -> str:
    """A paragraph on since when the rules of each study are unchanged; "" if it is not known for any."""
    since = {
        name: [commit for commit in claims["rules_since"].drop_duplicates() if commit]
        for name, claims in judged.items()
    }
    lines = [
        f"{style.capitalised(name)}: words and numbers of the rules unchanged since {style.listed(commits)}."
        for name, commits in since.items()
        if commits
    ]
    return "\n\n" + " ".join(lines) if lines else ""


def verdicts(judged: dict[str, pd.DataFrame], sources: Sequence[str]) -> str:
    """Markdown table of the claims of some sources, with a row per claim.

    Args:
        judged: head of a column -> claims of its study.
        sources: of the claims.
    """
    claims = pd.concat(judged.values())
    rows = []
    for claim in claims[claims["source"].isin(sources)].drop_duplicates("claim").itertuples():
        cells = [_verdict(study[study["claim"] == claim.claim]) for study in judged.values()]
        rows.append([claim.source, claim.text, *cells])
    return style.markdown(["source", "claim", *judged], rows, [False] * (2 + len(judged))).rstrip()


def _verdict(rows: pd.DataFrame) -> str:
    """Verdict and estimate of a claim as a whole, and the number of each verdict on single models or kept shares."""
    if rows.empty:
        return ""
    claim = whole(rows).iloc[0]
    cases = rows[~rows["subject"].str.startswith(CONTROL) & ~rows["subject"].isin([ALL_MODELS, MEAN])]
    if claim["verdict"] == MIXED:
        return _counted(cases)
    text = " ".join(filter(None, (style.verdict(claim["verdict"]), claim["scope"])))
    if pd.notna(claim["estimate"]) and claim["verdict"] != NOT_TESTED:
        value, interval = estimate(claim)
        unit = "%" if claim["unit"] == "percent" else claim["unit"]
        text += f": {value} {unit}" + (f" ({interval})" if interval else "")
    return text + (f". {_case_by_case(cases)}" if len(cases) > 1 else "")


def _case_by_case(cases: pd.DataFrame) -> str:
    """The number of each verdict on single kept shares and models, apart if a claim has both."""
    of_share = cases["subject"].str.endswith(" kept")
    if of_share.nunique() == 1:
        return f"Case by case: {_counted(cases)}"
    return f"By kept share: {_counted(cases[of_share])}. By model: {_counted(cases[~of_share])}"


def _counted(cases: pd.DataFrame) -> str:
    """The number of each verdict: "4 × does not hold; 1 × open"."""
    numbers = cases["verdict"].map(style.verdict).value_counts()
    return "; ".join(f"{number} × {verdict}" for verdict, number in numbers.items())


def losses(tables: Tables) -> str:
    """Markdown table of the difference to the full model in points: a row per method, a column per kept share.

    It has at most `ROWS` methods with a score in every cell: `SHOWN_METHODS` and the best of the others. The best at
    the kept share that most of them have come first, then those without it. Methods whose files hold more than those
    of others at the same budget are left out.
    """
    overview = tables.over_all_cells()
    overview = overview[(overview["cells"] == tables.counts["cells"]) & ~keeps_more(overview, ["budget"])]
    points = overview.pivot(index="method", columns="budget", values="difference_points").dropna(how="all")
    most = points.notna().sum().idxmax()
    by = pd.DataFrame({"at": points[most], "mean": points.mean(axis=1)})
    ranked = by.sort_values(["at", "mean"], ascending=False, kind="stable").index
    always = [name for name in SHOWN_METHODS if name in ranked]
    others = [name for name in ranked if name not in always][: ROWS - len(always)]
    shown = [name for name in ranked if name in (*always, *others)]
    rows = [[style.label(name), *map(_points, points.loc[name])] for name in shown]
    header = ["kept", *map(style.budget_label, points.columns)]
    table = style.markdown(header, rows, [False] + [True] * len(points.columns)).rstrip()
    left_out = [name for name in tables.counts["methods"] if name not in (*shown, *style.CONTROLS)]
    rest = f" The report also has {style.count(len(left_out), 'other method')}." if left_out else ""
    return f"{table}\n\nThe best at {style.budget_label(most)} come first.{rest}"


def _points(value: float) -> str:
    return "" if pd.isna(value) else style.points(value)


def how_long(folder: Path) -> str:
    """Time of a run from its first job to its scores; tables, figures and page take under a minute more."""
    provenance = read_json(folder / "provenance.json")
    machine, minutes = provenance["machine"], provenance["wall_seconds"] / 60
    where = f"{machine['cores']} cores ({machine['cpu']})"
    return f"From its first job to its scores, the run took {minutes:.0f} minutes on {where}."


def random_answer(folder: Path) -> str:
    """KEN against a random choice, choice by update against KEN, and reset against zero."""
    tables = Tables.read(folder)
    by_update = comparison(
        tables.claims, "update-over-value", "a choice by the size of the update", "KEN's choice of as many entries"
    )
    return " ".join([beside_random(tables.claims), by_update, zero_sentence(tables.checks)])


def speed_answer(folder: Path) -> str:
    """Time of a text with the restored models."""
    return speed(Tables.read(folder).inference)


def cost_answer(folder: Path) -> str:
    """Time and disk of a committed run."""
    scores = read_scores(folder)
    stored, full = scores["stored_bytes"].sum(), scores.loc[scores["method"] == "full", "stored_bytes"].sum()
    return (
        f"{how_long(folder)} Its {len(scores):,} stored files take {style.size(stored)}; the initial states and the "
        f"fine-tuned models take {style.size(2 * full)}."
    )


def surgeon_cost(folder: Path) -> str:
    """Cost of curvature: seconds per cell for each method and for KEN, and minutes to prune the language models."""
    scores, rules = read_scores(folder), read_json(folder / "provenance.json")["seconds"]
    cells = len(scores[["model", "task", "seed"]].drop_duplicates())
    seconds = scores.groupby("method", sort=False)["seconds"].sum() / cells
    curved = [name for name in seconds.index if "surgeon" in name and not name.endswith("-rescaled")]
    ken, least, most = (f"{value:.1f} s" for value in (seconds["ken"], seconds[curved].min(), seconds[curved].max()))
    slower = f"Methods with curvature take {least} to {most}." if least != most else f"With curvature it takes {least}."
    return (
        f"KEN takes {ken} to choose and store all its budgets in one cell. {slower} Pruning all language models took "
        f"{rules['prune_language_model'] / 60:.0f} minutes of one core."
    )


def listed(lines: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def picture(folder: Path, name: str) -> str:
    """Path of a figure of a committed run, relative to the root of the repository."""
    return f"{folder.resolve().relative_to(ROOT).as_posix()}/figures/{name}.png"

"""Put a committed run's main numbers into the README and docs/faq.md, between marks; nothing there is typed.

`python -m report.readme results/reference/mini` after that run or results/reference/benchmarks has changed.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from report import language, style
from report.errors import ReportError, run
from report.results import read_claims, read_json, read_scores, read_table, write_text
from report.summary import SHOWN_METHODS, answer, sentences, speed, zero_sentence
from report.tables import Tables, keeps_more

README = Path(__file__).parent.parent / "README.md"
FAQ = README.parent / "docs" / "faq.md"
ROWS = 12  # of the table of methods
BENCHMARKS = README.parent / "results" / "reference" / "benchmarks"


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
    lines = [
        " | ".join(["kept", *map(style.budget_label, points.columns)]),
        "|".join(["---", *["--:"] * len(points.columns)]),
        *(" | ".join([style.label(name), *map(_points, points.loc[name])]) for name in shown),
    ]
    left_out = [style.label(name) for name in tables.counts["methods"] if name not in (*shown, *style.CONTROLS)]
    rest = f"\n\nThe report has {', '.join(left_out)} too." if left_out else ""
    return "\n".join(f"| {line} |" for line in lines) + rest


def _points(value: float) -> str:
    return "" if pd.isna(value) else style.points(value)


def how_long(provenance: dict) -> str:
    """How long the run took from its first job to its scores; tables, figures and page take less than a minute more."""
    machine, minutes = provenance["machine"], provenance["wall_seconds"] / 60
    return f"Up to its scores the run took {minutes:.0f} minutes on {machine['cores']} cores ({machine['cpu']})."


def study_block(folder: Path) -> str:
    """What came out of a committed run.

    Args:
        folder: results folder with tables/, figures/summary.png and provenance.json, below the README's folder.
    """
    tables, provenance = Tables.read(folder), read_json(folder / "provenance.json")
    pairs, seeds = len(tables.finetuned), ", ".join(map(str, tables.counts["seeds"]))
    findings = "\n".join(f"- {line.replace(style.NO_BREAK_SPACE, ' ')}" for line in sentences(tables))
    picture = _picture(folder, "summary")
    return f"""**{answer(tables).replace(style.NO_BREAK_SPACE, " ")}**

![Weighted F1 minus that of the full model, against the kept share of the body]({picture})

What came out of the default study ({pairs} pairs of model and task, seeds {seeds}). A *cell* is a model, a task and a
seed; the *body* is what the pre-trained checkpoint holds, the *head* is new and always kept; *full* is the fine-tuned
model with nothing reset; a *point* is a hundredth of weighted F1:

{findings}

Points of weighted F1 to the full model, mean over all cells, by the share kept of each row:

{losses(tables)}

The claims of the paper, and ours, judged by the rules of `config/claims.yaml` on these cells
([how to read them](docs/claims.md)):

{verdicts(folder)}

{how_long(provenance)}"""


def verdicts(folder: Path, sources: Sequence[str] = ("paper", "ours")) -> str:
    """Markdown table of the claims of some sources: a row each, those judged for several subjects with counts."""
    claims = read_table(
        folder / "claims.csv", ("claim", "source", "text", "verdict", "unit"), ("estimate", "low", "high")
    )
    claims = claims[claims["source"].isin(sources)]
    lines = ["| of | claim | verdict | estimate (95 % interval) |", "|---|---|---|---|"]
    for _, rows in claims.groupby("claim", sort=False):
        first, counts = rows.iloc[0], rows["verdict"].value_counts()
        several = ", ".join(f"{number} × {verdict}" for verdict, number in counts.items())
        verdict = first["verdict"] if len(rows) == 1 else several
        lines.append(
            f"| {first['source']} | {first['text']} | {verdict} | {_interval(first) if len(rows) == 1 else ''} |"
        )
    return "\n".join(lines)


def _interval(claim: pd.Series) -> str:
    if pd.isna(claim["estimate"]):
        return ""
    if claim["unit"] == "points":
        return (
            f"{style.points(claim['estimate'])} points ({style.points(claim['low'])} to {style.points(claim['high'])})"
        )
    return f"{claim['unit']} {claim['estimate']:.2f} ({claim['low']:.2f} to {claim['high']:.2f})"


def benchmark_block(folder: Path) -> str:
    """Speed, memory and size of the library, as the committed benchmarks measured them."""
    found = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    numbers = {name: record["numbers"] for name, record in found.items()}
    described = {
        "ranking": _speed, "streaming": _streaming, "swapping": _swapping, "file_size": _files,
        "curvature": _curvature,
    }  # fmt: skip
    rows = [row for name, describe in described.items() if name in numbers for row in describe(numbers[name])]
    lines = "\n".join(f"| {what} | {measured} |" for what, measured in rows)
    commands = ", ".join(f"`python -m benchmarks.{name}`" for name in found)
    machine = next(iter(found.values()))["machine"]
    return f"Measured by {commands} with two threads ({machine['cpu']}):\n\n| what | measured |\n|---|---|\n{lines}"


def _speed(ranking: dict) -> list[tuple[str, str]]:
    loops = ranking["ranking for every k, times faster than scikit-learn for one"]
    return [
        (
            f"rank the {ranking['rows']:,} rows of a BERT-base for every k",
            f"{ranking['ranking, s']:.1f} s: {ranking['ranking, times the sort']:.1f} times a row-wise `torch.sort`, "
            f"{loops:,.0f} times faster than scikit-learn row by row for one k",
        ),
        (
            "the rule of the authors' released code (`ken-grid`), the same rows",
            f"{ranking['ken-grid, times faster than the loop']:.0f} times faster than a loop over rows and points, "
            "with the same kept sets",
        ),
    ]


def _streaming(streaming: dict) -> list[tuple[str, str]]:
    checkpoint, stored = (style.size(streaming[f"{name}, bytes"]) for name in ("checkpoint", "sub-network"))
    peak = max(streaming[f"{name}, peak MiB"] for name in ("prune", "info", "inject"))
    return [
        (
            f"`ken prune` of a pair of the size of {streaming['size']}, {checkpoint} each",
            f"{streaming['prune, s'] / 60:.1f} minutes, {streaming['prune, times reading']:.0f} times reading both "
            f"files once; {style.percent(streaming['k'])} kept make {stored}",
        ),
        (
            "`ken inject` of the result",
            f"{streaming['inject, s']:.0f} s, {streaming['inject, times reading']:.1f} times reading both files",
        ),
        (
            "memory of these commands",
            f"at most {peak:,.0f} MiB, where the largest tensor has {streaming['largest tensor, MiB']:,.0f} MiB",
        ),
    ]


def _files(sizes: dict) -> list[tuple[str, str]]:
    overhead = max(value for name, value in sizes.items() if name.endswith("times values + entropy")) - 1
    return [("size of a file", f"at most {overhead:.1%} above the kept values + log2 C(n, k) bits a row")]


def _curvature(curvature: dict) -> list[tuple[str, str]]:
    width = max(int(name.split(":")[0].removeprefix("width ")) for name in curvature if name.startswith("width "))

    def at(name: str) -> float:
        return curvature[f"width {width}: {name}"]

    growth = curvature["inverses: seconds grow with the width to the power of"]
    return [
        (
            f"LLM Surgeon on one layer of {width:,} × {width:,}, one thread",
            f"inverses {at('inverses, CPU s'):.1f} s (growing with the width to the power of {growth:.1f}), update for "
            f"5 % of rows and columns {at('rows and columns, CPU s'):.0f} s, for "
            f"{style.percent(curvature['elements removed'])} of its elements {at('elements, CPU s'):.0f} s",
        ),
        (
            "its memory",
            f"{at('memory, times both factors'):.1f} times its two factors, where a Fisher matrix would take "
            f"{at('explicit Fisher matrix, times both factors'):,.0f} times as much as they",
        ),
    ]


def _swapping(swapping: dict) -> list[tuple[str, str]]:
    loading = swapping["load_state_dict of a checkpoint in the page cache, s"]
    return [
        (
            f"swap two sub-networks with {style.percent(swapping['kept share'])} kept in a live BERT-base",
            f"{swapping['swap, s']:.2f} s (loading a whole checkpoint that is in memory already: {loading:.2f} s)",
        ),
        (
            "go to the next k of a grid in it",
            f"{swapping['next k, share of that evaluation']:.1%} of the time of evaluating 1,000 texts",
        ),
    ]


def random_answer(folder: Path) -> str:
    """What KEN gains over a random choice, choosing by the update over KEN, and the reset over zero."""
    claims = read_claims(folder).set_index("claim")["why"]
    found = [*claims[["ahead-of-random", "update-over-value"]], zero_sentence(Tables.read(folder).checks)]
    return " ".join(found).replace(style.NO_BREAK_SPACE, " ")


def cost_answer(folder: Path) -> str:
    """Time and disk of a committed run."""
    scores = read_scores(folder)
    stored, full = scores["stored_bytes"].sum(), scores.loc[scores["method"] == "full", "stored_bytes"].sum()
    took = how_long(read_json(folder / "provenance.json"))
    return (
        f"{took} Its {len(scores):,} stored files take {style.size(stored)}, the initial states and the fine-tuned "
        f"models {style.size(2 * full)}."
    ).replace(style.NO_BREAK_SPACE, " ")


def surgeon_block(folder: Path) -> str:
    """What curvature comes to: on language models in sentences, on classifiers beside KEN in a table, and verdicts."""
    tables = Tables.read(folder)
    found = "\n".join(
        f"- {line}".replace(style.NO_BREAK_SPACE, " ") for line in language.sentences(language.read_summary(folder))
    )
    return f"""{found}

![Perplexity of pruned language models]({_picture(folder, "perplexity")})

On {tables.counts["cells"]} fine-tuned classifiers, points of weighted F1 to the full model:

{losses(tables)}

{verdicts(folder, ("surgeon",))}

{surgeon_cost(folder)}
{how_long(read_json(folder / "provenance.json"))}"""


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


def _picture(folder: Path, name: str) -> str:
    return f"{folder.resolve().relative_to(README.parent).as_posix()}/figures/{name}.png"


BLOCKS = {"results": study_block, "benchmarks": lambda folder: benchmark_block(BENCHMARKS)}
ANSWERS = {
    "speed": lambda folder: speed(Tables.read(folder).inference),
    "random": random_answer,
    "cost": cost_answer,
}
REFERENCES = {
    "mini": {README: BLOCKS, FAQ: ANSWERS},
    "surgeon": {README: {"surgeon": surgeon_block}},
}  # name of a committed study -> document -> its blocks


def updated(text: str, folder: Path, blocks: dict[str, Callable[[Path], str]], name: str = "README.md") -> str:
    """A document with its blocks made new.

    Args:
        text: of the document. folder: of the committed run.
        blocks: name in the marks -> what to write between them. name: of the document, for the message.

    Raises:
        ReportError: marks are missing.
    """
    place = folder.resolve().relative_to(README.parent).as_posix()
    for title, block in blocks.items():
        start = f"<!-- {title}: written by `python -m report.readme {place}` -->"
        end = f"<!-- end of {title} -->"
        before, found_start, rest = text.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise ReportError(f"{name} lacks the marks {start!r} and {end!r}: put them where the {title} goes.")
        text = f"{before}{start}\n{block(folder)}\n{end}{after}"
    return text


def update(folder: Path) -> None:
    """Write the numbers of a committed run into the documents that show it."""
    for path, blocks in REFERENCES.get(folder.name, {}).items():
        write_text(path, updated(path.read_text(encoding="utf-8"), folder, blocks, path.name))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a committed run's numbers into the documents.")
    parser.add_argument("results", type=Path, help="e.g. results/reference/mini")
    update(parser.parse_args().results)


if __name__ == "__main__":
    run(main)

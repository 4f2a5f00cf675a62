"""Put a committed run's main numbers and its summary figure into the README, between two marks; nothing there is typed.

`python -m report.readme results/reference/mini` after that run has changed.
"""

import argparse
from pathlib import Path

import pandas as pd

from report import style
from report.errors import ReportError, run
from report.results import read_json, write_text
from report.summary import sentences
from report.tables import Tables

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- results: written by `python -m report.readme", "<!-- end of results -->"


def losses(overview: pd.DataFrame) -> str:
    """Markdown table: points of weighted F1 against the full model, a row per method, a column per kept share."""
    compressed = overview[~overview["method"].isin(style.CONTROLS)]
    budgets = sorted(set(compressed["budget"]))
    points = compressed.set_index(["method", "budget"])["difference_points"]
    lines = [" | ".join(["kept", *map(style.budget_label, budgets)]), "|".join(["---", *["--:"] * len(budgets)])]
    for method in dict.fromkeys(compressed["method"]):
        lines.append(" | ".join([style.label(method), *(style.points(points[method, b]) for b in budgets)]))
    return "\n".join(f"| {line} |" for line in lines)


def how_long(provenance: dict) -> str:
    """What the run cost: its jobs' seconds, spread over the cores it had."""
    cores = provenance["machine"]["cores"]
    minutes = sum(provenance["seconds"].values()) / cores / 60
    return f"The run took about {minutes:.0f} minutes on {cores} cores ({provenance['machine']['cpu']})."


def block(folder: Path) -> str:
    """The part of the README that shows what came out of a committed run.

    Args:
        folder: results folder with tables/, figures/summary.png and provenance.json, below the README's folder.
    """
    tables, provenance = Tables.read(folder), read_json(folder / "provenance.json")
    place = folder.resolve().relative_to(README.parent).as_posix()
    pairs, seeds = len(tables.finetuned), ", ".join(map(str, tables.counts["seeds"]))
    findings = "\n".join(f"- {line.replace(style.NO_BREAK_SPACE, ' ')}" for line in sentences(tables))
    return f"""{START} {place}` -->
![Weighted F1 minus that of the full model, against the kept share of each row]({place}/figures/summary.png)

What came out of the default study ({pairs} pairs of model and task, seeds {seeds}):

{findings}

Points of weighted F1 to the full model, mean over all cells, by the share kept of each row:

{losses(tables.overview)}

{how_long(provenance)}
{END}"""


def updated(readme: str, folder: Path) -> str:
    """The README with its block of results made new.

    Raises:
        ReportError: the marks are missing.
    """
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ReportError(f"README.md lacks the marks {START!r} and {END!r}: put them where the results go.")
    return before + block(folder) + after


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a committed run's numbers into the README.")
    parser.add_argument("results", type=Path, help="e.g. results/reference/mini")
    write_text(README, updated(README.read_text(encoding="utf-8"), parser.parse_args().results))


if __name__ == "__main__":
    run(main)

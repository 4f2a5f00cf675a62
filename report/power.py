"""Which differences in weighted F1 a number of test texts can show.

`python -m report.power --results results/mini --out results/reference/power.json` reads the predictions of finished
studies. Every compressed model is compared with the full one on the same texts; how often their predictions agree
decides how precise the difference is. `python -m report.documents` writes the table into docs/power.md.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from ken.errors import UserError, run
from report.predictions import Predictions
from report.results import CELL, read_json, read_scores, write_text
from report.statistics import weighted_f1

ALPHA = 0.05  # of the two-sided test
POWER = 0.8
TEXTS = (500, 1000, 2000, 4000, 8000, 38_000)
AGREEMENTS = (0.99, 0.97, 0.95, 0.90, 0.80)  # lower ends of the groups of the table; what agrees less is not shown
POINTS = 1.0  # the margin of the claims, in points of weighted F1


def spread(labels: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int) -> float:
    """Standard deviation s of the difference between two models: on n texts, its standard error is s / sqrt(n)."""
    one, two = (weighted_f1(labels, predictions, classes)[1] for predictions in (first, second))
    return float(np.sqrt(len(labels)) * np.linalg.norm(one - two))


def power(difference: float, deviation: float, texts: float) -> float:
    """Probability that a true difference is found by a two-sided test at level `ALPHA`."""
    z, shift = norm.ppf(1 - ALPHA / 2), abs(difference) * np.sqrt(texts) / deviation
    return float(norm.cdf(shift - z) + norm.cdf(-shift - z))


def detectable(deviation: float, texts: float, wanted: float = POWER) -> float:
    """The smallest difference that is found with the wanted probability, by the usual formula.

    It leaves out the probability of finding the difference with the wrong sign, which is negligible.
    """
    return float((norm.ppf(1 - ALPHA / 2) + norm.ppf(wanted)) * deviation / np.sqrt(texts))


def comparisons(results: Path) -> pd.DataFrame:
    """One row for every compressed model of a study: model, task, seed, method, budget, agreement with the full model
    (share of equal predictions), and `deviation`, see `spread`."""
    scores = read_scores(results)
    scores = scores[scores["status"] == "ok"].astype({"seed": int})
    stored, rows = Predictions.of(results), []
    for cell, of_cell in scores.groupby(CELL, sort=False):
        labels, classes = stored.labels(of_cell.iloc[0])
        predictions = dict(zip(of_cell.index, stored.of_cell(of_cell, len(labels), classes), strict=True))
        of_full = of_cell.index[of_cell["method"] == "full"]
        if of_full.empty:
            where = ", ".join(map(str, cell))
            raise UserError(f"{results / 'scores.csv'} has no full model of {where}: run the study to its end again.")
        full = predictions[of_full[0]]
        for row in of_cell[of_cell["method"] != "full"].itertuples():
            predicted = predictions[row.Index]
            agreement = float((full == predicted).mean())
            rows.append([*cell, row.method, row.budget, agreement, spread(labels, full, predicted, classes)])
    return pd.DataFrame(rows, columns=[*CELL, "method", "budget", "agreement", "deviation"])


def groups(compared: pd.DataFrame) -> list[dict]:
    """For every group of `AGREEMENTS`, the number of models and their root mean square deviation.

    Models with the same F1 influence of every text, such as those with equal predictions, are left out.
    """
    result = []
    for low, high in zip(AGREEMENTS, [1 + 1e-9, *AGREEMENTS[:-1]], strict=True):
        part = compared[compared["agreement"].between(low, high, inclusive="left") & (compared["deviation"] > 0)]
        if len(part):
            deviation = float(np.sqrt((part["deviation"] ** 2).mean()))
            result.append({"agreement": low, "below": min(high, 1.0), "models": len(part), "deviation": deviation})
    return result


def table(found: Iterable[dict], texts: Sequence[int] = TEXTS) -> str:
    """Markdown: rows are numbers of texts, columns groups of agreement; each cell is the difference that is found with
    probability `POWER`, in points, and the probability of finding one point."""
    found = list(found)
    names = [f"{100 * group['agreement']:.0f} to {100 * group['below']:.0f} %" for group in found]
    lines = ["| texts | " + " | ".join(names) + " |", "| ---: |" + " ---: |" * len(found)]
    for number in texts:
        cells = [_cell(group["deviation"], number) for group in found]
        lines.append(f"| {number:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(deviation: float, texts: int) -> str:
    return f"{100 * detectable(deviation, texts):.2f} ({power(POINTS / 100, deviation, texts):.0%})"


def power_block(references: Path) -> str:
    """The table of docs/power.md, from results/reference/power.json."""
    record = read_json(references / "power.json")
    models = sum(group["models"] for group in record["groups"])
    studies = " and ".join(record["studies"])
    caption = f"From the predictions of {models:,} compressed models ({studies}):"
    return f"{caption}\n\n{table(record['groups'])}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Which differences in weighted F1 a number of test texts can show.")
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="results folders of finished studies")
    parser.add_argument("--out", type=Path, help="JSON file to write the numbers to")
    a = parser.parse_args()
    compared = pd.concat([comparisons(results) for results in a.results])
    found = groups(compared)
    if not found:
        raise UserError("no compressed model agrees with the full one on enough texts: name studies with better ones.")
    print(table(found))
    if a.out:
        record = {"studies": [results.name for results in a.results], "groups": found}
        write_text(a.out, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run(main)

"""Perplexity of language models from their stored files: rows, records of what is done, the tables of a study."""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ken.errors import UserError
from study.models.language_models import Chunks, document_losses, perplexity
from study.running import files, provenance
from study.running.workflow import run

TABLES = ("perplexity.csv", "losses.parquet")


@dataclass
class Row:
    """One row of perplexity.csv.

    `experiment` is pruning or adaptation, `budget` the share of the linear layers' entries that is removed (pruning) or
    kept of each row (adaptation), `shots` those to the largest sparsity (0 in adaptation), `kept_share` of the entries
    of linear layers (pruning) or of the body (adaptation), `smaller_layers` linear layers that the file holds in a
    smaller shape, `seconds` the time to choose and update since the last file of the same run.
    """

    experiment: str
    model: str
    seed: int
    draw: int
    method: str
    structure: str
    shots: int
    budget: float
    kept_share: float | None = None
    parameters: int | None = None
    stored_bytes: int | None = None
    linear_layers: int | None = None
    smaller_layers: int | None = None
    tokens: int | None = None
    loss: float | None = None
    perplexity: float | None = None
    seconds: float | None = None
    status: str = "ok"
    reason: str = ""
    file: str = ""
    sha256: str = ""


def evaluated(row: Row, model, chunks: Chunks, batch_size: int) -> list[float]:
    """Fill in what a restored model makes of the held-out text; its summed loss of each document."""
    losses, tokens = document_losses(model, chunks, batch_size)
    row.parameters = sum(parameter.numel() for parameter in model.parameters())
    row.tokens, row.loss = int(tokens.sum()), float(losses.sum() / tokens.sum())
    found = perplexity(losses, tokens)
    row.perplexity = found if np.isfinite(found) else None
    return losses.tolist()


def stored_facts(path: Path, start: float) -> tuple[float, int, str]:
    """Seconds since `start`, bytes and SHA-256 of a file that has just been stored."""
    return round(time.monotonic() - start, 3), path.stat().st_size, files.sha256(path)


def remembered(path: Path, key: str, work: Callable[[], list]) -> list:
    """(row, losses) of a run that lies at `path` under the same key with all its stored files, or made and put there.

    Rows that failed are tried again.
    """
    try:
        record = files.read_json(path)
        rows = [(Row(**row), losses) for row, losses in record["rows"]]
        whole = all(files.sha256(path.parent / row.file) == row.sha256 for row, _ in rows)
        if record["key"] == key and whole:
            return rows
    except (UserError, OSError, TypeError, KeyError, ValueError):
        pass
    rows = work()
    if all(row.status == "ok" for row, _ in rows):
        files.write_json(path, {"key": key, "rows": [[asdict(row), losses] for row, losses in rows]})
    return rows


def write_results(
    folder: Path, rows: list[tuple[Row, list[float]]], chunks: Chunks, tokens: np.ndarray, inputs: dict
) -> None:
    """Write perplexity.csv, losses.parquet (a row a held-out document: its tokens, its summed loss in each file) and
    manifest.json with the hashes of both and of the inputs."""
    losses = {row.file: found for row, found in rows if found}
    files.write_parquet(folder / "losses.parquet", pd.DataFrame({"document": chunks.names, "tokens": tokens} | losses))
    files.write_csv(folder / "perplexity.csv", pd.DataFrame([asdict(row) for row, _ in rows]))
    sha256 = {name: files.sha256(folder / name) for name in TABLES}
    files.write_json(folder / "manifest.json", {"inputs": inputs, "sha256": sha256, "made": provenance.made()})


def step_parser(description: str) -> argparse.ArgumentParser:
    """What every step on one language model is told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pretrained", required=True, type=Path, help="checkpoint folder of study.import_model")
    parser.add_argument("--text-folder", required=True, type=Path, help="folder of study.text")
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument(
        "--settings", required=True, type=json.loads, help="JSON: what the config says of the experiment"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    return parser


def folder_of(results: Path, experiment: str, model: str, seed: int) -> Path:
    """Where the results of one experiment on one model lie."""
    return results / "language" / model / f"seed{seed}" / experiment


def collected(results: Path, experiments: list[str], models: list[str], seeds: list[int]) -> pd.DataFrame:
    """The tables of all models, every loss checked against those of the documents.

    Raises:
        UserError: a table is not the one that was written, or does not follow from the losses beside it.
    """
    tables = []
    for axes in itertools.product(experiments, models, seeds):
        folder = folder_of(results, *axes)
        files.check(folder, files.read_json(folder / "manifest.json")["sha256"], remove=folder / "perplexity.csv")
        table = pd.read_csv(folder / "perplexity.csv", keep_default_na=False)
        losses = pd.read_parquet(folder / "losses.parquet")
        for row in table[table["status"] == "ok"].itertuples():
            computed = losses[row.file].sum() / losses["tokens"].sum()
            if not np.isclose(computed, float(row.loss), rtol=1e-9):
                raise UserError(
                    f"{folder}/perplexity.csv says loss {row.loss} of {row.file}, its documents give {computed}: "
                    "delete the folder and run again."
                )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bring the perplexities of a study together.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    parser.add_argument("--experiments", required=True, nargs="+", choices=("pruning", "adaptation"))
    parser.add_argument("--models", required=True, nargs="+")
    parser.add_argument("--seeds", required=True, nargs="+", type=int)
    a = parser.parse_args()
    table = collected(a.results, a.experiments, a.models, a.seeds)
    files.write_csv(a.results / "perplexity.csv", table)
    print(f"{len(table)} rows of {len(a.models)} models")


if __name__ == "__main__":
    run(main)

"""Perplexity of language models that were stored: rows, records of finished runs, tables of one experiment."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ken.errors import UserError
from study.running import files, provenance
from study.training.chunks import Chunks
from study.training.language_modelling import document_losses, perplexity

TABLES = ("perplexity.csv", "losses.parquet")


@dataclass
class Row:
    """One row of perplexity.csv.

    Attributes:
        experiment: pruning or adaptation.
        shots: to the largest sparsity; 0 in adaptation.
        budget: share of the linear layers' entries that is removed (pruning), or kept of each row (adaptation).
        kept_share: of the entries of linear layers (pruning), or of the body (adaptation).
        stored_share: entries that the file has of the linear layers' weights, over all entries of these; pruning only.
        smaller_layers: number of linear layers that the file holds in a smaller shape.
        seconds: to choose entries and update the others, since the last file of the same run.
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
    stored_share: float | None = None
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


Results = list[tuple[Row, list[float]]]  # each row with the losses of the held-out documents, which may be missing


def evaluate(row: Row, model: nn.Module, chunks: Chunks, batch_size: int) -> list[float]:
    """Complete a row with the perplexity of a restored model on held-out text; returns the loss of each document."""
    losses, tokens = document_losses(model, chunks, batch_size)
    row.parameters = sum(parameter.numel() for parameter in model.parameters())
    row.tokens, row.loss = int(tokens.sum()), float(losses.sum() / tokens.sum())
    value = perplexity(losses, tokens)
    row.perplexity = value if np.isfinite(value) else None
    return losses.tolist()


def describe_stored(row: Row, path: Path, start: float) -> None:
    """Complete a row with the seconds since `start`, the bytes and the SHA-256 of a file that has just been stored."""
    row.seconds, row.stored_bytes = round(time.monotonic() - start, 3), path.stat().st_size
    row.sha256 = files.sha256(path)


def run_all(folder: Path, runs: Sequence[tuple[str, list, Callable[[], Results]]]) -> Results:
    """Rows and losses of all runs, from their records in `folder` or by running them; prints progress.

    Args:
        runs: name of the record, everything that the run depends on (for JSON), and the function that runs it.
    """
    results: Results = []
    start = time.monotonic()
    for done, (name, facts, work) in enumerate(runs, 1):
        key = provenance.text_hash(json.dumps(facts, sort_keys=True))
        results += load_or_run(folder / f"{name}.json", key, work)
        seconds = time.monotonic() - start
        print(f"{name}: {seconds:.0f} s, about {seconds / done * (len(runs) - done):.0f} s left", flush=True)
    return results


def load_or_run(path: Path, key: str, work: Callable[[], Results]) -> Results:
    """Rows and losses of a run: from its record at `path` if key and stored files match, otherwise by running `work`.

    A run with failed rows gets no record, so it is tried again.
    """
    try:
        record = files.read_json(path)
        rows = [(Row(**row), losses) for row, losses in record["rows"]]
        intact = all(files.sha256(path.parent / row.file) == row.sha256 for row, _ in rows)
        if record["key"] == key and intact:
            return rows
    except (UserError, OSError, TypeError, KeyError, ValueError):
        pass
    rows = work()
    if all(row.status == "ok" for row, _ in rows):
        files.write_json(path, {"key": key, "rows": [[asdict(row), losses] for row, losses in rows]})
    return rows


def write_results(folder: Path, rows: Results, chunks: Chunks, inputs: dict) -> None:
    """Write perplexity.csv, losses.parquet and manifest.json with the hashes of both and of the inputs.

    losses.parquet has one row per held-out document: its number of tokens and its summed loss under each stored file.
    """
    losses = {row.file: values for row, values in rows if values}
    documents = {"document": chunks.names, "tokens": chunks.predicted_tokens()}
    files.write_parquet(folder / "losses.parquet", pd.DataFrame(documents | losses))
    files.write_csv(folder / "perplexity.csv", pd.DataFrame([asdict(row) for row, _ in rows]))
    sha256 = {name: files.sha256(folder / name) for name in TABLES}
    files.write_json(
        folder / "manifest.json", {"inputs": inputs, "sha256": sha256, "made": provenance.describe_process()}
    )

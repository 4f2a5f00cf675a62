"""Perplexity of language models that were stored: rows, records of finished runs, tables of one experiment."""

import time
from collections.abc import Callable
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


def evaluate(row: Row, model: nn.Module, chunks: Chunks, batch_size: int) -> list[float]:
    """Complete a row with the perplexity of a restored model on held-out text; returns the loss of each document."""
    losses, tokens = document_losses(model, chunks, batch_size)
    row.parameters = sum(parameter.numel() for parameter in model.parameters())
    row.tokens, row.loss = int(tokens.sum()), float(losses.sum() / tokens.sum())
    value = perplexity(losses, tokens)
    row.perplexity = value if np.isfinite(value) else None
    return losses.tolist()


def describe_stored(path: Path, start: float) -> tuple[float, int, str]:
    """Seconds since `start`, bytes and SHA-256 of a file that has just been stored."""
    return round(time.monotonic() - start, 3), path.stat().st_size, files.sha256(path)


def load_or_run(path: Path, key: str, work: Callable[[], list]) -> list:
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


def write_results(
    folder: Path, rows: list[tuple[Row, list[float]]], chunks: Chunks, tokens: np.ndarray, inputs: dict
) -> None:
    """Write perplexity.csv, losses.parquet and manifest.json with the hashes of both and of the inputs.

    losses.parquet has one row per held-out document: its number of tokens and its summed loss under each stored file.
    """
    losses = {row.file: values for row, values in rows if values}
    files.write_parquet(folder / "losses.parquet", pd.DataFrame({"document": chunks.names, "tokens": tokens} | losses))
    files.write_csv(folder / "perplexity.csv", pd.DataFrame([asdict(row) for row, _ in rows]))
    sha256 = {name: files.sha256(folder / name) for name in TABLES}
    files.write_json(folder / "manifest.json", {"inputs": inputs, "sha256": sha256, "made": provenance.made()})

"""Losses of pruned language models with bootstrap resamples over held-out documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from report.results import CELL, read_parquet, read_perplexity
from report.statistics import RESAMPLES, Differences, resample_counts

RUN = ("model", "seed")


@dataclass(frozen=True)
class LossSample:
    """Losses of pruned language models with their bootstrap resamples over held-out documents.

    Attributes:
        rows: rows of perplexity.csv with status ok; the index is 0, 1, 2, ...
        resampled: loss in nats a token, (rows, resamples).
    """

    rows: pd.DataFrame
    resampled: np.ndarray

    @classmethod
    def read(cls, results: Path, resamples: int = RESAMPLES) -> "LossSample":
        """Read perplexity.csv and the losses per document. Whole documents are resampled, the same for all models.

        Raises:
            UserError: a file is missing or malformed.
        """
        table = read_perplexity(results)
        rows = table[(table["experiment"] == "pruning") & (table["status"] == "ok")].astype({"seed": int})
        rows = rows.reset_index(drop=True)
        resampled = np.empty((len(rows), resamples))
        for (model, seed), run_rows in rows.groupby(list(RUN), sort=False):
            path = results / "language" / model / f"seed{seed}" / "pruning" / "losses.parquet"
            losses = read_parquet(path, ["document", "tokens", *run_rows["file"]])
            tokens, summed = losses["tokens"].to_numpy(float), losses[list(run_rows["file"])].to_numpy()
            blocks = resample_counts("language", len(losses), resamples)
            resampled[run_rows.index] = np.hstack([(block @ summed).T / (block @ tokens) for block in blocks])
        return cls(rows, resampled)

    def of(self, method: str, **values: object) -> pd.DataFrame:
        """Rows of a method with the given values in other columns."""
        rows = self.rows[self.rows["method"] == method]
        for name, value in values.items():
            rows = rows[rows[name] == value]
        return rows

    def differences(self, first: pd.DataFrame, second: pd.DataFrame, keys: Sequence[str]) -> Differences:
        """Loss of the rows `first` minus that of the rows `second` with the same model, seed and other keys."""
        columns = [*RUN, *keys]
        left, right = (rows.assign(row=rows.index)[[*columns, "row"]] for rows in (first, second))
        pairs = left.merge(right, on=columns, suffixes=("", "_second"))
        one, two = pairs["row"].to_numpy(), pairs["row_second"].to_numpy()
        loss = self.rows["loss"].to_numpy()
        cells = pairs[list(RUN)].assign(task="language")[CELL]
        return Differences(cells, loss[one] - loss[two], self.resampled[one] - self.resampled[two])

"""Losses of pruned language models with the influence of each held-out document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from report.intervals import Differences
from report.results import CELL, read_parquet, read_perplexity

RUN = ("model", "seed")


@dataclass(frozen=True)
class LossSample:
    """Losses of pruned language models with the influence of each held-out document.

    Attributes:
        rows: rows of perplexity.csv with status ok; the index is 0, 1, 2, ...
        influence: of each document on the loss in nats a token, (rows, documents); see `Differences`.
    """

    rows: pd.DataFrame
    influence: np.ndarray

    @classmethod
    def read(cls, results: Path) -> "LossSample":
        """Read perplexity.csv and the losses per document. Whole documents are the sample, the same for all models.

        Raises:
            UserError: a file is missing or malformed.
        """
        table = read_perplexity(results)
        rows = table[(table["experiment"] == "pruning") & (table["status"] == "ok")].astype({"seed": int})
        rows = rows.reset_index(drop=True)
        influence = [np.empty(0)] * len(rows)
        for (model, seed), run_rows in rows.groupby(list(RUN), sort=False):
            path = results / "language" / model / f"seed{seed}" / "pruning" / "losses.parquet"
            losses = read_parquet(path, ["document", "tokens", *run_rows["file"]])
            tokens, n = losses["tokens"].to_numpy(float), len(losses)
            for row, file in zip(run_rows.index, run_rows["file"], strict=True):
                summed = losses[file].to_numpy()
                # The loss is a ratio of two sums, whose derivative in the weight of a document this is.
                derivative = (summed - tokens * summed.sum() / tokens.sum()) * n / tokens.sum()
                influence[row] = derivative / np.sqrt(n * max(n - 1, 1))
        return cls(rows, np.array(influence))

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
        return Differences(cells, loss[one] - loss[two], self.influence[one] - self.influence[two])

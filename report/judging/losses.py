"""Losses of pruned language models with the influence of each held-out document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from report.intervals import Differences
from report.results import CELL, read_parquet, read_perplexity

RUN = ("model", "seed")
EQUAL_SHARES = 0.001  # stored shares that differ less are equal: methods round their counts differently
NO_PLACES = pd.DataFrame({"row": [], "low": [], "high": [], "weight": []}, dtype=float)
"""Places between rows: a row, the rows below and above it by stored share, and the weight of the upper one."""


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

    def differences_at_stored_shares(self, first: pd.DataFrame, second: pd.DataFrame) -> Differences:
        """Loss of the rows `first` minus that of `second` at the same stored share, model, seed and structure.

        Between two rows of `second`, to which the dense model belongs, the loss is interpolated linearly. Where the
        loss is convex in the share, this is too high. Rows of `first` outside the range of `second` are left out.
        """
        parts = [_between(group, self._curve(second, *key)) for key, group in first.groupby([*RUN, "structure"])]
        places = pd.concat([part for part in parts if len(part)] or [NO_PLACES], ignore_index=True)
        one, low, high = (places[name].to_numpy(int) for name in ("row", "low", "high"))
        weight, loss = places["weight"].to_numpy(float), self.rows["loss"].to_numpy()
        estimates = loss[one] - ((1 - weight) * loss[low] + weight * loss[high])
        weight = weight[:, None]
        second_influence = (1 - weight) * self.influence[low] + weight * self.influence[high]
        cells = self.rows.loc[one, list(RUN)].assign(task="language")[CELL].reset_index(drop=True)
        return Differences(cells, estimates, self.influence[one] - second_influence)

    def _curve(self, rows: pd.DataFrame, model: str, seed: int, structure: str) -> pd.DataFrame:
        """Rows of one model, seed and structure and of the dense model, by rising stored share."""
        own = rows[(rows["model"] == model) & (rows["seed"] == seed) & (rows["structure"] == structure)]
        ends = self.of("dense", model=model, seed=seed) if len(own) else own
        return pd.concat([own, ends]).sort_values("stored_share")


def _between(rows: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
    """Where the stored shares of rows lie between two rows of a curve; see `NO_PLACES`."""
    if curve.empty:
        return NO_PLACES
    shares, index = curve["stored_share"].to_numpy(), curve.index.to_numpy()
    inside = rows[rows["stored_share"].between(shares[0] - EQUAL_SHARES, shares[-1] + EQUAL_SHARES)]
    places = np.interp(inside["stored_share"], shares, np.arange(len(shares)))
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, len(shares) - 1)
    return pd.DataFrame({"row": inside.index, "low": index[low], "high": index[high], "weight": places - low})

"""Inputs of measurements: the result files of a study, and the tables computed from them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from report import style
from report.results import FINETUNING, MODELS, read_json, read_scores, read_table, read_tasks
from report.scores import average_draws, with_kept_shares
from report.table import Table


@dataclass(frozen=True)
class PageSection:
    """A section of the page: what was measured, a figure with its caption, and a table with a note.

    If the `page` of a measurement returns one as "section", the page shows it without a change of the template.

    Attributes:
        anchor: id of the section. absent: the text shown instead of everything else if the table has no rows.
        figure: name of the picture, "" for none. filters: whether readers can filter the rows of the table.
    """

    anchor: str
    title: str
    text: str
    table: Table
    note: str = ""
    absent: str = ""
    figure: str = ""
    caption: str = ""
    filters: bool = True


class ResultFiles:
    """The result files that several measurements need; each is read once."""

    def __init__(self, results: Path):
        self.results = results

    @cached_property
    def scores(self) -> pd.DataFrame:
        """scores.csv."""
        return read_scores(self.results)

    @cached_property
    def seeds(self) -> pd.DataFrame:
        """The scores averaged over draws (`average_draws`)."""
        return average_draws(self.scores)

    @cached_property
    def finetuning(self) -> pd.DataFrame:
        """finetuning.csv, one row per model, task, seed and arm (pretrained or random-init)."""
        return read_table(self.results / "finetuning.csv", *FINETUNING)

    @cached_property
    def searched(self) -> dict[str, dict[str, list[float]]]:
        """Method -> constants that it chooses on validation -> values tried; empty for a run of an older version."""
        path = self.results / "collected.json"
        return read_json(path).get("searched", {}) if path.exists() else {}

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """tasks.csv, one row per task."""
        return read_tasks(self.results)

    @cached_property
    def models(self) -> pd.DataFrame:
        """models.csv, one row per model."""
        return read_table(self.results / "models.csv", *MODELS)


class ResultTables:
    """The computed tables of a study, as attributes such as `tables.overview`, and its `counts`."""

    def __init__(self, frames: dict[str, pd.DataFrame], counts: dict):
        self.frames = frames
        self.counts = counts

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("__") or name == "frames" or name not in self.frames:  # unset while unpickling
            raise AttributeError(name)
        return self.frames[name]

    @property
    def cells(self) -> int:
        """Number of cells (model × task × seed) with a fine-tuned model."""
        return self.counts["cells"]

    @property
    def extent(self) -> str:
        """The cells and seeds of the study, for captions: "28 cells (2 seeds)"."""
        return f"{style.count(self.cells, 'cell')} ({style.count(len(self.counts['seeds']), 'seed')})"

    def over_all_cells(self) -> pd.DataFrame:
        """Overview of the methods that take kept shares and were run on every cell, with or without a score."""
        shares = with_kept_shares(self.overview)
        return shares[shares["cells"] + shares["without_score"] == self.cells]

"""What measurements are given: the result files of a study, and the tables computed from them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from report.results import read_finetuning, read_models, read_scores, read_tasks
from report.scores import average_draws, with_kept_shares
from report.table import Table


@dataclass(frozen=True)
class PageSection:
    """A section of the page: what was measured, a figure with its caption, and a table with a note.

    A measurement whose `page` returns one as "section" is shown without any change of the template.

    Attributes:
        anchor: id of the section. absent: what is said instead of all if the table has no rows.
        figure: name of the picture, "" for none. filters: whether the rows of the table can be filtered.
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
    """Result files that several measurements read, each read once."""

    def __init__(self, results: Path):
        self.results = results

    @cached_property
    def scores(self) -> pd.DataFrame:
        """scores.csv."""
        return read_scores(self.results)

    @cached_property
    def seeds(self) -> pd.DataFrame:
        """Scores with draws averaged, as `average_draws` gives them."""
        return average_draws(self.scores)

    @cached_property
    def finetuning(self) -> pd.DataFrame:
        """finetuning.csv."""
        return read_finetuning(self.results)

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """tasks.csv."""
        return read_tasks(self.results)

    @cached_property
    def models(self) -> pd.DataFrame:
        """models.csv."""
        return read_models(self.results)


class ResultTables:
    """The computed tables of a study as attributes by their names, e.g. `tables.overview`, and its `counts`."""

    def __init__(self, frames: dict[str, pd.DataFrame], counts: dict):
        self.frames = frames
        self.counts = counts

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("__") or name == "frames" or name not in self.frames:  # not yet there while unpickled
            raise AttributeError(name)
        return self.frames[name]

    @property
    def cells(self) -> int:
        """Number of cells (model × task × seed)."""
        return self.counts["cells"]

    def over_all_cells(self) -> pd.DataFrame:
        """Rows of the overview whose method takes kept shares and was run on every cell, with a score or without."""
        shares = with_kept_shares(self.overview)
        return shares[shares["cells"] + shares["without_score"] == self.cells]

"""The list of measurements, from which all tables, figures, sections of the page and findings are made.

To add a measurement, write its module (see `report.measurements`) and add it here to `MEASUREMENTS` and to the import
in `load`. The names of tables and figures are listed here and not in the module, so that the Snakefile can read them
without loading pandas.
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import ModuleType

PARTS = ("random-init", "pruning", "adaptation", "precision")  # parts that only some studies have
STATISTICS = ("comparisons", "pairwise", "to_full", "ranks")
PUBLICATION = ("weighted_f1", "overview", "claims", "ranks", "published")
Needs = tuple[str, ...]  # the study must have at least one of these `PARTS`; () for no condition


@dataclass(frozen=True)
class Measurement:
    """A module of `report.measurements` with the names of its tables and figures, each with the parts it needs."""

    name: str
    tables: Mapping[str, Needs] = field(default_factory=dict)
    figures: Mapping[str, Needs] = field(default_factory=dict)

    @property
    def module(self) -> ModuleType:
        """The module, imported at first use."""
        load()
        return sys.modules[f"report.measurements.{self.name}"]

    def call(self, function: str, *arguments: object) -> dict | list:
        """Call a function of the module and return its result, or an empty dict if the module lacks it."""
        return getattr(self.module, function)(*arguments) if hasattr(self.module, function) else {}


def load() -> None:
    """Import all modules with a statement, because the dependencies of a step are read from import statements."""
    from report.measurements import (  # noqa: F401
        checks,
        choices,
        cost,
        differences,
        draws,
        finetuned,
        frontier,
        headline,
        inference,
        inputs,
        matched,
        overview,
        perplexity,
        precision,
        pretraining,
        ranks,
        scores,
        searched,
        spread,
        suggestions,
        timing,
        update_size,
        verdicts,
        without_score,
    )


def always(*names: str) -> dict[str, Needs]:
    """Tables or figures that every study has."""
    return dict.fromkeys(names, ())


MEASUREMENTS = (
    Measurement("headline", always("headline"), always("headline")),
    Measurement("scores", always("scores_summary")),
    Measurement("overview", always("overview"), always("summary")),
    Measurement(
        "frontier",
        always("pareto", "frontier", "frontier_points", "smallest_files"),
        always("frontier", "frontier_models"),
    ),
    Measurement("choices", always("choices"), always("choices")),
    Measurement("update_size", always("updates", "update_losses"), always("update_size")),
    Measurement("draws", always("draws")),
    Measurement("matched", always("matched")),
    Measurement("finetuned", always("finetuned")),
    Measurement("searched", always("searched")),
    Measurement("suggestions", always("suggestions")),
    Measurement("pretraining", always("pretraining_gain"), {"pretraining_gain": ("random-init",)}),
    Measurement("inference", always("inference")),
    Measurement("verdicts", always("claims")),
    Measurement("differences", always("comparisons", "pairwise")),
    Measurement("ranks", always("ranks"), always("ranks")),
    Measurement("checks", always("checks"), always("bandwidth", "matrices")),
    Measurement("spread", always("spread", "spread_matrices"), always("spread")),
    Measurement("timing", always("timing"), always("timing")),
    Measurement("cost", always("cost"), always("cost")),
    Measurement(
        "perplexity",
        {"perplexity": ("pruning", "adaptation")},
        {"perplexity": ("pruning",), "adaptation": ("adaptation",)},
    ),
    Measurement("precision", {"precision": ("precision",)}),
    Measurement("inputs", always("tasks", "models")),
    Measurement("without_score", always("not_ok")),
)


def table_names(parts: Collection[str]) -> list[str]:
    """Stems of the tables that `report.tables` writes for a study with these `PARTS`."""
    return [name for measurement in MEASUREMENTS for name in _present(measurement.tables, parts)]


def figure_names(parts: Collection[str]) -> list[str]:
    """Stems of the figures that `report.figures` draws for such a study, except those of single models."""
    return [name for measurement in MEASUREMENTS for name in _present(measurement.figures, parts)]


def _present(outputs: Mapping[str, Needs], parts: Collection[str]) -> list[str]:
    return [name for name, needs in outputs.items() if not needs or set(needs) & set(parts)]

"""The list of measurements: all tables, figures, parts of the page and findings come from walking over it.

To add a measurement, write its module (`report.measurements` says what it has) and name it here, in `MEASUREMENTS` and
in the import of `load`. The names of its tables and figures stand here rather than in the module, so that the Snakefile
learns them without loading pandas.
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import ModuleType

PARTS = ("random-init", "pruning", "adaptation")  # what some studies have and others have not
STATISTICS = ("comparisons", "pairwise", "ranks")
PUBLICATION = ("weighted_f1", "overview", "claims", "ranks", "published")
Needs = tuple[str, ...]  # some of `PARTS`, of which a study must have one; () for all studies


@dataclass(frozen=True)
class Measurement:
    """A module of `report.measurements`, and the tables and figures it makes, each with what a study needs for it."""

    name: str
    tables: Mapping[str, Needs] = field(default_factory=dict)
    figures: Mapping[str, Needs] = field(default_factory=dict)

    @property
    def module(self) -> ModuleType:
        """The module, imported when it is first needed."""
        load()
        return sys.modules[f"report.measurements.{self.name}"]

    def call(self, function: str, *arguments: object) -> dict | list:
        """What a function of the module returns; nothing if it has none of that name."""
        return getattr(self.module, function)(*arguments) if hasattr(self.module, function) else {}


def load() -> None:
    """Import all modules, by a statement: what a step depends on is read from import statements."""
    from report.measurements import (  # noqa: F401
        checks,
        cost,
        differences,
        finetuned,
        inference,
        inputs,
        matched,
        overview,
        pareto,
        perplexity,
        pretraining,
        ranks,
        scores,
        spread,
        suggestions,
        timing,
        verdicts,
        without_score,
    )


def always(*names: str) -> dict[str, Needs]:
    """Tables or figures that every study has."""
    return dict.fromkeys(names, ())


MEASUREMENTS = (
    Measurement("scores", always("scores_summary")),
    Measurement("overview", always("overview"), always("summary")),
    Measurement("pareto", always("pareto"), always("pareto")),
    Measurement("matched", always("matched")),
    Measurement("finetuned", always("finetuned")),
    Measurement("suggestions", always("suggestions")),
    Measurement("pretraining", always("pretraining_gain"), {"pretraining_gain": ("random-init",)}),
    Measurement("inference", always("inference")),
    Measurement("verdicts", always("claims")),
    Measurement("differences", always("comparisons", "pairwise")),
    Measurement("ranks", always("ranks"), always("ranks")),
    Measurement("checks", always("checks"), always("bandwidth", "matrices")),
    Measurement("spread", always("spread", "spread_matrices"), always("spread")),
    Measurement("timing", always("timing"), always("timing")),
    Measurement("cost", always("cost")),
    Measurement(
        "perplexity",
        {"perplexity": ("pruning", "adaptation")},
        {"perplexity": ("pruning",), "adaptation": ("adaptation",)},
    ),
    Measurement("inputs", always("tasks", "models")),
    Measurement("without_score", always("not_ok")),
)


def table_names(parts: Collection[str]) -> list[str]:
    """Stems of the tables that `report.tables` writes for a study that has some of `PARTS`."""
    return [name for measurement in MEASUREMENTS for name in _present(measurement.tables, parts)]


def figure_names(parts: Collection[str]) -> list[str]:
    """Stems of the figures that `report.figures` draws for such a study, without those of single models."""
    return [name for measurement in MEASUREMENTS for name in _present(measurement.figures, parts)]


def _present(outputs: Mapping[str, Needs], parts: Collection[str]) -> list[str]:
    return [name for name, needs in outputs.items() if not needs or set(needs) & set(parts)]

"""Names of the files that the steps of the report write, for the Snakefile; imports neither pandas nor matplotlib."""

from collections.abc import Collection, Mapping

from report.measurements import MEASUREMENTS, Needs

PARTS = ("random-init", "pruning", "adaptation")  # of a study, that not every study has
STATISTICS = ("comparisons", "pairwise", "ranks")
PUBLICATION = ("weighted_f1", "overview", "claims", "ranks", "published")


def table_names(parts: Collection[str]) -> list[str]:
    """Stems of the tables that `report.tables` writes for a study that has some of `PARTS`."""
    return [name for measurement in MEASUREMENTS for name in _present(measurement.tables, parts)]


def figure_names(parts: Collection[str]) -> list[str]:
    """Stems of the figures that `report.figures` draws for such a study, without those of single models."""
    return [name for measurement in MEASUREMENTS for name in _present(measurement.figures, parts)]


def _present(outputs: Mapping[str, Needs], parts: Collection[str]) -> list[str]:
    return [name for name, needs in outputs.items() if not needs or set(needs) & set(parts)]

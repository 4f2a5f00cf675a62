"""The measurements of a study, one module each, and the list that tables, figures, page and sentences walk over.

To add one, write its module and add one line to `MEASUREMENTS`. A module has

- `COLUMNS`: table name -> its `Columns`, for every table named in the list,
- `compute(inputs)`: table name -> data frame, from the result files of a study (`contract.Inputs`),

and may have, each given the computed tables (`contract.ResultTables`),

- `drawings(tables)`: figure name -> `drawing.Drawing`,
- `page(tables)`: what its parts of page.html.j2 show, there under the name of the module; a `contract.Section` under
  "section" is shown by the page without further ado,
- `sentences(tables)`: its findings, in the order of the list.

The names of tables and figures are listed here rather than taken from the modules, so that the Snakefile learns them
(`report.outputs`) without loading pandas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

Needs = tuple[str, ...]  # parts of a study, one of which it must have (`report.outputs.PARTS`); () for all studies


@dataclass(frozen=True)
class Measurement:
    """A module of this folder, and the tables and figures it makes, each with what a study needs to have them."""

    file: str
    tables: Mapping[str, Needs] = field(default_factory=dict)
    figures: Mapping[str, Needs] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the module."""
        return self.file.removesuffix(".py")

    @property
    def module(self) -> ModuleType:
        """The module, loaded when it is first needed."""
        return import_module(f"report.measurements.{self.name}")

    def call(self, function: str, *arguments: object) -> dict | list:
        """What a function of the module returns; nothing if it has none of that name."""
        return getattr(self.module, function)(*arguments) if hasattr(self.module, function) else {}


def always(*names: str) -> dict[str, Needs]:
    """Tables or figures that every study has."""
    return dict.fromkeys(names, ())


MEASUREMENTS = (
    Measurement("scores.py", always("scores_summary")),
    Measurement("overview.py", always("overview"), always("summary")),
    Measurement("pareto.py", always("pareto"), always("pareto")),
    Measurement("matched.py", always("matched")),
    Measurement("finetuned.py", always("finetuned")),
    Measurement("suggestions.py", always("suggestions")),
    Measurement("pretraining.py", always("pretraining_gain"), {"pretraining_gain": ("random-init",)}),
    Measurement("inference.py", always("inference")),
    Measurement("verdicts.py", always("claims")),
    Measurement("differences.py", always("comparisons", "pairwise")),
    Measurement("ranks.py", always("ranks"), always("ranks")),
    Measurement("checks.py", always("checks"), always("bandwidth", "matrices")),
    Measurement("spread.py", always("spread", "spread_matrices"), always("spread")),
    Measurement("timing.py", always("timing"), always("timing")),
    Measurement("cost.py", always("cost")),
    Measurement(
        "perplexity.py",
        {"perplexity": ("pruning", "adaptation")},
        {"perplexity": ("pruning",), "adaptation": ("adaptation",)},
    ),
    Measurement("inputs.py", always("tasks", "models")),
    Measurement("without_score.py", always("not_ok")),
)

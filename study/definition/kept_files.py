"""Which stored files of compressed models stay on the disk after they have been scored."""

from collections import defaultdict

from baselines import METHODS
from study.definition import method_settings
from study.definition.study import Cell, Study


def kept_files(study: Study, cell: Cell) -> dict[str, list[float | int]] | None:
    """Method -> budgets whose files stay in a cell because a later step reads them; None if all stay.

    They are read to find clusters of kept entries (spread), to draw KENviz, and to measure inference.
    """
    if not study.removes_files:
        return None
    spread, kenviz, inference = (study.config[name] for name in ("spread", "kenviz", "inference"))
    kept: dict[str, list[float | int]] = defaultdict(list)
    if cell in study.first_cells:
        for name in spread["methods"]:
            kept[name].append(spread["kept_share"])
    if cell == (kenviz["model"], kenviz["task"], study.config["seeds"][0]):
        for name in study.methods:
            kept[name].append(kenviz["kept_share"])
    if inference["methods"] and cell in study.trained_cells:
        for name in ("full", *inference["methods"]):
            budgets = method_settings.budgets_in(study.config, METHODS[name], cell[1])
            kept[name] += budgets[:1] if METHODS[name].unit == "share" else budgets
    return dict(kept)

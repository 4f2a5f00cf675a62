"""Store a method's file of a cell and restore the compressed model from it."""

from pathlib import Path

from torch import Tensor

from baselines import Cell, Method
from baselines.base import Stored


def store_and_restore(method: Method, cell: Cell, budget: float, path: Path) -> tuple[Stored, dict[str, Tensor]]:
    """What the method reports about the file it wrote, and the state restored from that file."""
    report = method.store(cell, method.prepare(cell), budget, path)
    return report, method.restore(cell.pretrained, path)

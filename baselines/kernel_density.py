"""KEN itself as one of the compared methods, the rule of its authors' released code, and its density on the updates."""

from dataclasses import dataclass
from pathlib import Path

from baselines.base import Cell, Selection, Stored, StoredSubnetwork, keep_highest, register, register_selection
from ken import kde, selection
from ken.subnetwork import Subnetwork

register_selection(Selection("ken", criterion="ken"))


@dataclass(frozen=True)
class ReleasedCode(StoredSubnetwork):
    """What the authors' released code keeps; its choice depends on the budget, so nothing is ranked ahead.

    Attributes:
        scope: "all", or "layers": tensors outside the numbered layers are kept whole.
    """

    name: str
    scope: str
    family: str = "reset"

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        subnetwork = Subnetwork.extract(cell.pretrained, cell.finetuned, budget, selection.GRID, self.scope)
        subnetwork.save(path)
        return Stored(subnetwork.kept_body)


register(ReleasedCode("ken-grid", scope="all"))
register(ReleasedCode("ken-grid-layers", scope="layers"))


@keep_highest("ken-delta")
def ken_delta(finetuned, pretrained, generator):
    """Minus the density of an update among those of its row: the updates least typical of their row come first."""
    return -kde.density(finetuned.float() - pretrained.float())

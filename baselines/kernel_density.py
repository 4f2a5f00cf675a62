"""KEN as a compared method, the rule of its authors' released code, and KEN applied to the updates."""

from dataclasses import dataclass
from pathlib import Path

import torch

from baselines.base import (
    SCOPES,
    Cell,
    Selection,
    Stored,
    StoredSubnetwork,
    keep_highest,
    register,
    register_selection,
)
from baselines.estimates import FLOAT32_BYTES, Effort, ModelShapes, count_entries, kept_bytes
from ken import kde, selection
from ken.extraction import in_scope
from ken.subnetwork import Subnetwork

register_selection(Selection("ken", criterion="ken"))
for _scope in SCOPES[1:]:
    register_selection(Selection(f"ken-{_scope}", criterion="ken", scope=_scope))


@dataclass(frozen=True)
class ReleasedCode(StoredSubnetwork):
    """The rule of the authors' released code, which chooses entries anew for every budget instead of ranking them.

    Attributes:
        scope: "all", or "layers" to keep all tensors outside the numbered layers in full.
    """

    name: str
    scope: str
    family: str = "reset"

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        subnetwork = Subnetwork.extract(
            cell.base, cell.finetuned, budget, selection.GRID, self.scope, device=cell.device
        )
        subnetwork.save(path)
        return Stored(subnetwork.kept_body)

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        pruned = {name: shape for name, shape in shapes.body.items() if in_scope(name, self.scope)}
        return shapes.dense_bytes - FLOAT32_BYTES * count_entries(pruned) + kept_bytes(pruned, budget)

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort(gridded=budgets * count_entries(shapes.in_scope(self.scope)))


register(ReleasedCode("ken-grid", scope="all"))
register(ReleasedCode("ken-grid-layers", scope="layers"))


@keep_highest("ken-delta")
def ken_delta(finetuned: torch.Tensor, pretrained: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Negative density of an update among the updates of its row, so that the least typical ones are kept first."""
    return -kde.density(finetuned.float() - pretrained.float())

"""LLM Surgeon towards zero, as its paper has it, and towards the pre-trained values: which updates to keep."""

from itertools import islice
from pathlib import Path

import torch
from torch import nn

from baselines.base import Cell, Stored, StoredSubnetwork, Tensors, register
from baselines.llm_surgeon.curvature import Batch, Factors, estimate
from baselines.llm_surgeon.schedule import Layers, Settings, joined, prune
from baselines.magnitude import Zeroed, zeros
from ken import selection
from ken.selection import as_rows, kept_count


class Surgeon(StoredSubnetwork):
    """Prunes the linear layers of the body by the curvature of the task loss at the fine-tuned weights.

    Attributes:
        settings: see `Settings`.
        sequences: training texts that the curvature is estimated from, the first ones.
    """

    needs_data = True
    settings = Settings()
    sequences = 128

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer to prune."

    def prepare(self, cell: Cell) -> dict[str, Factors]:
        """Curvature of the fine-tuned model, with which every budget begins."""
        return estimate(self.finetuned(cell), cell.linear_layers, self.calibration(cell))

    def finetuned(self, cell: Cell) -> nn.Module:
        """A live fine-tuned model of its own."""
        model = cell.training.initial_model()
        model.load_state_dict(cell.finetuned)
        return model

    def calibration(self, cell: Cell) -> list[Batch]:
        """Texts for the curvature, one a batch."""
        return list(islice(cell.training.examples(batch_size=1), self.sequences))

    def pruned(
        self, cell: Cell, prepared: dict[str, Factors], kept: int, targets: Layers | None = None
    ) -> tuple[Tensors, Tensors]:
        """State of the pruned model, and bool masks, True = kept, of its linear layers' weights and biases."""
        model, layers = self.finetuned(cell), cell.linear_layers
        removed = prune(model, layers, self.calibration(cell), kept, self.settings, targets, prepared)
        masks = {}
        for layer in layers:
            columns = cell.pretrained[f"{layer}.weight"].shape[1]
            masks[f"{layer}.weight"] = ~removed[layer][:, :columns]
            if f"{layer}.bias" in cell.pretrained:
                masks[f"{layer}.bias"] = ~removed[layer][:, columns]
        return model.state_dict(), masks


class SurgeonZero(Surgeon, Zeroed):
    """LLM Surgeon, unstructured (van der Ouderaa et al. 2024), which needs no pre-trained model.

    A budget is the kept share of the weights of the body's linear layers; which ones, is one choice over all layers.
    What remains of these layers, biases included, is updated in every shot. All else of the body is kept in full, and
    counts as kept. Its file is a sub-network whose base is all zeros, as that of `magnitude-zero`.
    """

    name = "llm-surgeon"
    family = "other"
    budgets = (0.25, 0.5, 0.75)

    def store(self, cell: Cell, prepared: dict[str, Factors], budget: float | int, path: Path) -> Stored:
        weights = [f"{layer}.weight" for layer in cell.linear_layers]
        state, masks = self.pruned(cell, prepared, _kept(cell, weights, budget))
        masks = {name: torch.ones(base.shape, dtype=torch.bool) for name, base in cell.pretrained.items()} | masks
        return self.save_kept(path, zeros(cell.pretrained), state, masks, budget)


class SurgeonDelta(Surgeon):
    """Which updates of the linear layers to keep, by what resetting each would cost (ours, from LLM Surgeon's costs).

    One choice over the weights and biases of all linear layers, of as many entries as k in every row would be. Other
    tensors of the body have no such curvature: of their rows the k largest updates are kept, as `delta-magnitude` does.
    So the budget means what it means for every method that resets. Kept entries hold their fine-tuned values.
    """

    family = "reset"
    name = "surgeon-delta"
    settings = Settings(update=False, biases=True, shots=1)

    def store(self, cell: Cell, prepared: dict[str, Factors], budget: float | int, path: Path) -> Stored:
        _, masks = self.reset(cell, prepared, budget)
        return self.save_kept(path, cell.pretrained, cell.finetuned, masks, budget)

    def reset(self, cell: Cell, prepared: dict[str, Factors], budget: float | int) -> tuple[Tensors, Tensors]:
        """State with the linear layers pruned towards the pre-trained values, and masks of the whole body."""
        targets = {
            layer: joined(cell.pretrained[f"{layer}.weight"], cell.pretrained.get(f"{layer}.bias"))
            for layer in cell.linear_layers
        }
        names = [f"{layer}.{part}" for layer in targets for part in ("weight", "bias")]
        names = [name for name in names if name in cell.pretrained]
        state, masks = self.pruned(cell, prepared, _kept(cell, names, budget), targets)
        others = {name: base for name, base in cell.pretrained.items() if name not in masks}
        ranks = selection.rank_tensors(cell.finetuned, others, "delta-magnitude")
        return state, masks | {name: selection.mask_from_ranks(found, budget) for name, found in ranks.items()}


class SurgeonDeltaUpdated(SurgeonDelta):
    """The same choice, and what is kept of the linear layers is updated to make up for what is reset."""

    name = "surgeon-delta-updated"
    family = "reset"
    settings = Settings(update=True, biases=True, shots=1)

    def store(self, cell: Cell, prepared: dict[str, Factors], budget: float | int, path: Path) -> Stored:
        state, masks = self.reset(cell, prepared, budget)
        return self.save_kept(path, cell.pretrained, state, masks, budget)


def _kept(cell: Cell, names: list[str], budget: float | int) -> int:
    """Entries that k in every row of these tensors would be."""
    rows = [as_rows(cell.pretrained[name]).shape for name in names]
    return sum(height * kept_count(width, budget) for height, width in rows)


register(SurgeonZero())
register(SurgeonDelta())
register(SurgeonDeltaUpdated())

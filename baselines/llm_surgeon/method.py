"""LLM Surgeon towards zero, as its paper has it, and towards the pre-trained values: which updates to keep."""

import copy
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from baselines.base import Cell, Method, Stored, StoredSubnetwork, Tensors, register
from baselines.llm_surgeon.compilation import compiled, with_shapes
from baselines.llm_surgeon.curvature import Batch, Factors, estimate
from baselines.llm_surgeon.schedule import Layers, Settings, joined, prune
from baselines.magnitude import Zeroed, zeros
from ken import selection
from ken.selection import as_rows, kept_count
from ken.subnetwork import Subnetwork


class Surgeon(StoredSubnetwork):
    """Prunes the linear layers of the body by the curvature of the task loss at the fine-tuned weights.

    Attributes:
        settings: see `Settings`.
        sequences: training texts that the curvature is estimated from, the first ones.
    """

    needs_data = True
    settings = Settings()
    sequences = 128

    def configured(self, options: dict) -> Method:
        """With other settings.

        Args:
            options: `sequences`, and what `Settings.with_options` takes.
        """
        if not options:
            return self
        found, options = copy.copy(self), dict(options)
        found.sequences = options.pop("sequences", self.sequences)
        found.settings = self.settings.with_options(options)
        return found

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer to prune."

    def prepare(self, cell: Cell) -> dict[str, Factors] | None:
        """Curvature of the fine-tuned model, with which every budget begins."""
        if not self.settings.curved:
            return None
        return estimate(self.finetuned(cell), cell.linear_layers, self.calibration(cell))

    def finetuned(self, cell: Cell) -> nn.Module:
        """A live fine-tuned model of its own."""
        model = cell.training.initial_model()
        model.load_state_dict(cell.finetuned, strict=False)  # of tied tensors, one name is there
        return model

    def calibration(self, cell: Cell) -> list[Batch]:
        """Texts for the curvature, one a batch."""
        return list(islice(cell.training.examples(batch_size=1), self.sequences))

    def pruned(
        self, cell: Cell, prepared: dict[str, Factors] | None, kept: int, targets: Layers | None = None
    ) -> tuple[nn.Module, Layers]:
        """The pruned model, and bool (rows, inputs), True = removed, of its linear layers."""
        model = self.finetuned(cell)
        calibration = self.calibration(cell)
        return model, prune(model, cell.linear_layers, calibration, kept, self.settings, targets, prepared)


class SurgeonZero(Surgeon, Zeroed):
    """LLM Surgeon (van der Ouderaa et al. 2024), by default unstructured, which needs no pre-trained model.

    A budget is the kept share of the weights of the body's linear layers; which ones, is one choice over all layers.
    What remains of these layers, biases included, is updated in every shot. All else of the body is kept in full, and
    counts as kept. Its file is a sub-network whose base is all zeros, as that of `magnitude-zero`, of the shapes that
    the model has left: rows and columns that are removed make feed-forward layers smaller (see `compilation`).
    """

    name = "llm-surgeon"
    family = "other"
    budgets = (0.25, 0.5, 0.75)

    @property
    def form(self) -> str:
        return "compiled" if self.settings.structure == "row-column" else "restored"

    def store(self, cell: Cell, prepared: dict[str, Factors] | None, budget: float | int, path: Path) -> Stored:
        weights = [f"{layer}.weight" for layer in cell.linear_layers]
        model, removed = self.pruned(cell, prepared, _kept(cell, weights, budget))
        masks = masks_of(cell.pretrained, removed)
        if self.settings.structure != "row-column":
            return self.save_kept(path, zeros(cell.pretrained), model.state_dict(), masks, budget)
        state = compiled(model, removed, self.calibration(cell)[0]).state_dict()
        body = {name: state[name] for name in cell.pretrained}
        stored = self.save_kept(path, zeros(body), state, masks_of_zeros(body, removed), budget)
        return Stored(stored.kept, sum(tensor.numel() for tensor in state.values()))

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return from_zeros(path)

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        state = from_zeros(path)
        model = with_shapes(model, state)
        model.load_state_dict(state)
        return model


class SurgeonDelta(Surgeon):
    """Which updates of the linear layers to keep, by what resetting each would cost (ours, from LLM Surgeon's costs).

    One choice over the weights and biases of all linear layers, of as many entries as k in every row would be. Other
    tensors of the body have no such curvature: of their rows the k largest updates are kept, as `delta-magnitude` does.
    So the budget means what it means for every method that resets. Kept entries hold their fine-tuned values.

    Attributes:
        rule: "reset", or "rescale" to multiply the kept updates of a row of n entries by n / kept.
    """

    family = "reset"
    name = "surgeon-delta"
    settings = Settings(update=False, biases=True, shots=1)
    rule = "reset"

    def store(self, cell: Cell, prepared: dict[str, Factors], budget: float | int, path: Path) -> Stored:
        _, masks = self.reset(cell, prepared, budget)
        return self.save_kept(path, cell.pretrained, cell.finetuned, masks, budget, self.rule)

    def reset(self, cell: Cell, prepared: dict[str, Factors], budget: float | int) -> tuple[Tensors, Tensors]:
        """State with the linear layers pruned towards the pre-trained values, and masks of the whole body."""
        targets = {
            layer: joined(cell.pretrained[f"{layer}.weight"], cell.pretrained.get(f"{layer}.bias"))
            for layer in cell.linear_layers
        }
        names = [f"{layer}.{part}" for layer in targets for part in ("weight", "bias")]
        names = [name for name in names if name in cell.pretrained]
        model, removed = self.pruned(cell, prepared, _kept(cell, names, budget), targets)
        masks = masks_of(cell.pretrained, removed)
        others = {name: base for name, base in cell.pretrained.items() if name not in names}
        ranks = selection.rank_tensors(cell.finetuned, others, "delta-magnitude")
        return model.state_dict(), masks | {
            name: selection.mask_from_ranks(found, budget) for name, found in ranks.items()
        }


class SurgeonDeltaUpdated(SurgeonDelta):
    """The same choice, and what is kept of the linear layers is updated to make up for what is reset."""

    name = "surgeon-delta-updated"
    family = "reset"
    settings = Settings(update=True, biases=True, shots=1)

    def store(self, cell: Cell, prepared: dict[str, Factors], budget: float | int, path: Path) -> Stored:
        state, masks = self.reset(cell, prepared, budget)
        return self.save_kept(path, cell.pretrained, state, masks, budget, self.rule)


class SurgeonDeltaRescaled(SurgeonDelta):
    """`surgeon-delta` with its kept updates rescaled."""

    name = "surgeon-delta-rescaled"
    family = "rescaled"
    rule = "rescale"


class SurgeonDeltaUpdatedRescaled(SurgeonDeltaUpdated):
    """`surgeon-delta-updated` with its kept updates rescaled."""

    name = "surgeon-delta-updated-rescaled"
    family = "rescaled"
    rule = "rescale"


def masks_of(tensors: Tensors, removed: Layers) -> Tensors:
    """Bool masks, True = kept, of tensors, of which those of linear layers are kept in part.

    Args:
        removed: layer -> bool (rows, inputs), True = removed; a bias is one more column.
    """
    masks = {name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in tensors.items()}
    for layer, mask in removed.items():
        columns = tensors[f"{layer}.weight"].shape[1]
        masks[f"{layer}.weight"] = ~mask[:, :columns]
        if f"{layer}.bias" in tensors:
            masks[f"{layer}.bias"] = ~mask[:, columns]
    return masks


def masks_of_zeros(tensors: Tensors, layers: Layers) -> Tensors:
    """Bool masks, True = kept, of a compiled model, where what is removed and still there is zero."""
    parts = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    return {
        name: tensor != 0 if name in parts else torch.ones(tensor.shape, dtype=torch.bool)
        for name, tensor in tensors.items()
    }


def from_zeros(path: Path) -> Tensors:
    """State from a sub-network whose base is all zeros, of the shapes in the file."""
    stored = Subnetwork.load(path)
    return stored.apply({name: torch.zeros(meta.shape, dtype=meta.dtype) for name, meta in stored.metas.items()})


def _kept(cell: Cell, names: list[str], budget: float | int) -> int:
    """Entries that k in every row of these tensors would be."""
    rows = [as_rows(cell.pretrained[name]).shape for name in names]
    return sum(height * kept_count(width, budget) for height, width in rows)


for _method in (SurgeonZero, SurgeonDelta, SurgeonDeltaUpdated, SurgeonDeltaRescaled, SurgeonDeltaUpdatedRescaled):
    register(_method())

"""LLM Surgeon towards zero, as in its paper, and towards the pre-trained values, as a choice of updates to keep."""

import copy
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from baselines.base import Cell, Method, Stored, StoredSubnetwork, Tensors, register
from baselines.estimates import FLOAT32_BYTES, Effort, ModelShapes, kept_bytes
from baselines.llm_surgeon import needs
from baselines.llm_surgeon.compaction import compact, with_shapes
from baselines.llm_surgeon.curvature import Batch, estimate
from baselines.llm_surgeon.factors import FactorStore
from baselines.llm_surgeon.options import CurvatureOptions, SurgeonOptions
from baselines.llm_surgeon.schedule import Layers, Settings, joined, prune
from baselines.magnitude import Zeroed, zeros
from ken import selection
from ken.selection import as_rows, kept_count
from ken.subnetwork import Subnetwork


class Surgeon(StoredSubnetwork):
    """Prunes the linear layers of the body by the curvature of the task loss at the fine-tuned weights.

    Attributes:
        settings: see `Settings`.
        sequences: number of training texts, the first ones, from which the curvature is estimated.
    """

    needs_data = True
    settings = Settings()
    sequences = 128
    options_model = CurvatureOptions

    def configured(self, options: dict) -> Method:
        """With other settings.

        Args:
            options: of the fields of `options_model`: `sequences`, and what `Settings.with_options` takes.
        """
        if not options:
            return self
        values = self.options_model.model_validate(options).model_dump()
        configured = copy.copy(self)
        configured.sequences = values.pop("sequences", self.sequences)
        configured.settings = self.settings.with_options(values)
        return configured

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer to prune."

    def prepare(self, cell: Cell) -> FactorStore | None:
        """Curvature of the fine-tuned model, which is the same at the start of every budget."""
        if not self.settings.curved:
            return None
        return estimate(self.finetuned_model(cell), cell.linear_layers, self.calibration_texts(cell))

    def finetuned_model(self, cell: Cell) -> nn.Module:
        """A new live model with the fine-tuned values."""
        model = cell.training.initial_model()
        model.load_state_dict(cell.finetuned, strict=False)  # the state has one name for tied tensors
        return model

    def calibration_texts(self, cell: Cell) -> list[Batch]:
        """Texts for the curvature, one text a batch."""
        return list(islice(cell.training.examples(batch_size=1), self.sequences))

    def pruned(
        self, cell: Cell, prepared: FactorStore | None, kept: int, targets: Layers | None = None
    ) -> tuple[nn.Module, Layers]:
        """The pruned model, and bool (rows, inputs), True = removed, for each of its linear layers."""
        model, texts = self.finetuned_model(cell), self.calibration_texts(cell)
        return model, prune(model, cell.linear_layers, texts, kept, self.settings, targets, prepared)

    def memory_bytes(self, shapes: ModelShapes) -> float:
        """Also the factors of the fine-tuned model, those of a later shot, and the values of reset entries."""
        held = needs.memory_bytes(shapes.linear) * (2 if self.settings.shots > 1 else 1)
        return super().memory_bytes(shapes) + held + FLOAT32_BYTES * shapes.linear_entries

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        shots = budgets * self.settings.shots
        estimates = 1 + shots - budgets if self.settings.curved else 0
        return Effort(
            ranked=shapes.body_entries,
            gradient_texts=self.sequences * estimates,
            flops=shots * needs.shot_flops(shapes.linear, self.settings),
        )


class SurgeonZero(Surgeon, Zeroed):
    """LLM Surgeon (van der Ouderaa et al. 2024), by default unstructured; it needs no pre-trained model.

    A budget is the kept share of the weights of the body's linear layers, chosen over all layers together. The
    remaining entries of these layers, biases included, are updated in every shot. All other tensors of the body are
    kept in full and count as kept. The file is a sub-network relative to a base of zeros, like that of
    `magnitude-zero`. It has the shapes of the pruned model: removed rows and columns make feed-forward layers smaller
    (see `compaction`).
    """

    name = "llm-surgeon"
    family = "other"
    budgets = (0.25, 0.5, 0.75)
    options_model = SurgeonOptions

    @property
    def form(self) -> str:
        return "compiled" if self.settings.structure == "row-column" else "restored"

    def store(self, cell: Cell, prepared: FactorStore | None, budget: float | int, path: Path) -> Stored:
        weights = [f"{layer}.weight" for layer in cell.linear_layers]
        model, removed = self.pruned(cell, prepared, _kept(cell, weights, budget))
        masks = kept_masks(cell.pretrained, removed)
        if self.settings.structure != "row-column":
            return self.save_kept(path, zeros(cell.pretrained), model.state_dict(), masks, budget)
        state = compact(model, removed, self.calibration_texts(cell)[0]).state_dict()
        body = {name: state[name] for name in cell.pretrained}
        stored = self.save_kept(path, zeros(body), state, nonzero_masks(body, removed), budget)
        return Stored(stored.kept, sum(tensor.numel() for tensor in state.values()))

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return from_zeros(path)

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        state = from_zeros(path)
        model = with_shapes(model, state)
        model.load_state_dict(state)
        return model

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return shapes.dense_bytes - FLOAT32_BYTES * shapes.linear_entries + kept_bytes(shapes.linear, budget)


class SurgeonDelta(Surgeon):
    """Keeps the updates whose reset would cost most, by LLM Surgeon's costs (our method).

    Entries are chosen over the weights and biases of all linear layers together, as many as k entries of every row
    would be. Other tensors of the body have no such curvature: of each of their rows the k largest updates are kept, as
    in `delta-magnitude`. So a budget means the same as for every method that resets. Kept entries have their fine-tuned
    values.

    Attributes:
        rule: "reset", or "rescale" to multiply the kept updates of a row of n entries by n / kept.
    """

    family = "reset"
    name = "surgeon-delta"
    settings = Settings(update=False, biases=True, shots=1)
    rule = "reset"

    def store(self, cell: Cell, prepared: FactorStore, budget: float | int, path: Path) -> Stored:
        _, masks = self.reset(cell, prepared, budget)
        return self.save_kept(path, cell.base, cell.finetuned, masks, budget, self.rule)

    def reset(self, cell: Cell, prepared: FactorStore, budget: float | int) -> tuple[Tensors, Tensors]:
        """The state with linear layers pruned towards the pre-trained values, and bool masks of the whole body."""
        targets = {
            layer: joined(cell.pretrained[f"{layer}.weight"], cell.pretrained.get(f"{layer}.bias")).float()
            for layer in cell.linear_layers
        }
        names = [f"{layer}.{part}" for layer in targets for part in ("weight", "bias")]
        names = [name for name in names if name in cell.pretrained]
        model, removed = self.pruned(cell, prepared, _kept(cell, names, budget), targets)
        masks = kept_masks(cell.pretrained, removed)
        others = {name: base for name, base in cell.pretrained.items() if name not in names}
        ranks = selection.rank_tensors(cell.finetuned, others, "delta-magnitude")
        return model.state_dict(), masks | {
            name: selection.mask_from_ranks(tensor, budget) for name, tensor in ranks.items()
        }


class SurgeonDeltaUpdated(SurgeonDelta):
    """The same choice, but kept entries of the linear layers are updated to compensate for the reset ones."""

    name = "surgeon-delta-updated"
    family = "reset"
    settings = Settings(update=True, biases=True, shots=1)

    def store(self, cell: Cell, prepared: FactorStore, budget: float | int, path: Path) -> Stored:
        state, masks = self.reset(cell, prepared, budget)
        return self.save_kept(path, cell.base, state, masks, budget, self.rule)


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


def kept_masks(tensors: Tensors, removed: Layers) -> Tensors:
    """Bool masks, True = kept, of a body: linear layers are kept in part, other tensors in full.

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


def nonzero_masks(tensors: Tensors, layers: Layers) -> Tensors:
    """Bool masks, True = kept, of a compacted model, in whose linear layers removed entries are zero."""
    parts = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    return {
        name: tensor != 0 if name in parts else torch.ones(tensor.shape, dtype=torch.bool)
        for name, tensor in tensors.items()
    }


def from_zeros(path: Path) -> Tensors:
    """The state of a sub-network relative to a base of zeros, with the shapes in its file."""
    stored = Subnetwork.load(path)
    return stored.apply({name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in stored.specs.items()})


def _kept(cell: Cell, names: list[str], budget: float | int) -> int:
    """Number of entries that k entries of every row of these tensors are."""
    rows = [as_rows(cell.pretrained[name]).shape for name in names]
    return sum(height * kept_count(width, budget) for height, width in rows)


for _method in (SurgeonZero, SurgeonDelta, SurgeonDeltaUpdated, SurgeonDeltaRescaled, SurgeonDeltaUpdatedRescaled):
    register(_method())

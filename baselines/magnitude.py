"""Choice by magnitude: of the fine-tuned weight or of the update, in each row or over the whole model."""

from pathlib import Path

import torch
from torch import nn

from baselines.base import Cell, Stored, StoredSubnetwork, Tensors, keep_highest, register
from ken.selection import as_rows, highest, kept_count
from ken.subnetwork import Subnetwork


@keep_highest("magnitude")
def magnitude(finetuned: torch.Tensor, pretrained: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """|W|."""
    return finetuned.abs()


@keep_highest("delta-magnitude")
def delta_magnitude(
    finetuned: torch.Tensor, pretrained: torch.Tensor, generator: torch.Generator | None
) -> torch.Tensor:
    """|W - W0|, computed in float32."""
    return (finetuned.float() - pretrained.float()).abs()


def global_masks(scores: Tensors, budget: float | int, device: torch.device | None = None) -> Tensors:
    """Bool masks, True = kept, of the highest scores of the whole model.

    They keep as many entries as k entries of every row would be. Ties are broken by the order of the tensors, then by
    position. They are computed on `device`, by default that of the scores, and returned on the CPU.
    """
    rows = {name: as_rows(tensor).shape for name, tensor in scores.items()}
    count = sum(height * kept_count(width, budget) for height, width in rows.values() if width)
    flat = torch.cat([tensor.reshape(1, -1) for tensor in scores.values()], dim=1).to(device)
    parts = highest(flat, count)[0].cpu().split([tensor.numel() for tensor in scores.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(scores.items(), parts, strict=True)}


def update_magnitudes(cell: Cell) -> Tensors:
    """|W - W0| of every body tensor, computed in float32."""
    return {name: delta_magnitude(cell.finetuned[name], base, None) for name, base in cell.pretrained.items()}


class GlobalUpdates(StoredSubnetwork):
    """Keeps the largest updates of the whole model (the trimming step of TIES, Yadav et al. 2023, section 3)."""

    name = "delta-global"
    family = "reset"

    def prepare(self, cell: Cell) -> Tensors:
        return update_magnitudes(cell)

    def store(self, cell: Cell, prepared: Tensors, budget: float | int, path: Path) -> Stored:
        masks = global_masks(prepared, budget, cell.device)
        return self.save_kept(path, cell.base, cell.finetuned, masks, budget)


class Zeroed(StoredSubnetwork):
    """Keeps the largest weights of the whole body and sets all others to zero (classic pruning).

    The file is a sub-network relative to a base of zeros, so it needs no pre-trained model.
    """

    name = "magnitude-zero"

    def prepare(self, cell: Cell) -> Tensors:
        return {name: cell.finetuned[name].float().abs() for name in cell.pretrained}

    def store(self, cell: Cell, prepared: Tensors, budget: float | int, path: Path) -> Stored:
        masks = global_masks(prepared, budget, cell.device)
        return self.save_kept(path, zeros(cell.pretrained), cell.finetuned, masks, budget)

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return Subnetwork.load(path).apply(zeros(pretrained))

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        model.load_state_dict(self.restore(pretrained, path))
        return model


def zeros(tensors: Tensors) -> Tensors:
    """Zeros of the same shapes."""
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


register(GlobalUpdates())
register(Zeroed())

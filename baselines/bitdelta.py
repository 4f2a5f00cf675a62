"""BitDelta: the sign of every update of a linear layer and one magnitude per layer (Liu et al. 2024)."""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from baselines.base import Cell, Method, Stored, Tensors, register
from baselines.estimates import FLOAT32_BYTES, ModelShapes
from baselines.scale_factor import FactorOnValidation
from ken.files import replacing

_SIGNS, _SCALE = "signs.", "scale."


class BitDelta(FactorOnValidation, Method):
    """W0 + f mean|Δ| sign(Δ) for the weights of the body's linear layers; all other tensors are kept in full.

    The factor f is the same for all layers and is chosen on validation. It stands for the paper's distillation, which
    trains the magnitude of every layer on calibration texts (section 3.1).

    The safetensors file holds `signs.<name>` (one bit an entry, 1 = positive), `scale.<name>`, and the other tensors.
    """

    name = "bitdelta"
    budgets = (1,)
    unit = "bits"

    def decline(self, cell: Cell) -> str | None:
        return None if cell.linear_layers else "the body has no linear layer whose update could be encoded."

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        encoded = [f"{layer}.weight" for layer in cell.linear_layers]
        parts = {name: tensor.contiguous() for name, tensor in cell.finetuned.items() if name not in encoded}
        for name in encoded:
            update = cell.finetuned[name].float() - cell.pretrained[name].float()
            parts[_SIGNS + name] = torch.from_numpy(np.packbits((update > 0).numpy()))
            parts[_SCALE + name] = update.abs().mean()

        def scaled(factor: float) -> Tensors:
            return {name: part * factor if name.startswith(_SCALE) else part for name, part in parts.items()}

        factor = self.best_factor(cell, lambda factor: decoded(cell.pretrained, scaled(factor)))
        with replacing(path) as temporary:
            save_file(scaled(factor.value), temporary)
        in_full = sum(tensor.numel() for name, tensor in cell.pretrained.items() if name not in encoded)
        return Stored(in_full + len(encoded), factor=factor)

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return decoded(pretrained, load_file(path))

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return shapes.linear_entries / 8 + shapes.dense_bytes - FLOAT32_BYTES * shapes.linear_entries


def decoded(pretrained: Tensors, parts: Tensors) -> Tensors:
    """The state of the compressed model, from the tensors of a file."""
    state = {name: tensor for name, tensor in parts.items() if not name.startswith((_SIGNS, _SCALE))}
    for name in (part.removeprefix(_SCALE) for part in parts if part.startswith(_SCALE)):
        base = pretrained[name]
        bits = np.unpackbits(parts[_SIGNS + name].numpy(), count=math.prod(base.shape))
        signs = torch.from_numpy(bits).float().mul_(2).sub_(1).view(base.shape)
        state[name] = (base.float() + parts[_SCALE + name] * signs).to(base.dtype)
    return state


register(BitDelta())

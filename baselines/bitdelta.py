"""BitDelta: the sign of every update of a linear layer and one magnitude per layer (Liu et al. 2024, data-free)."""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from baselines.base import Cell, Method, Stored, Tensors, register
from baselines.estimates import FLOAT32_BYTES, ModelShapes
from ken.files import replacing

_SIGNS, _SCALE = "signs.", "scale."


class BitDelta(Method):
    """W0 + mean|Δ| sign(Δ) for the weights of the body's linear layers; all other tensors are kept in full.

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
        with replacing(path) as temporary:
            save_file(parts, temporary)
        in_full = sum(tensor.numel() for name, tensor in cell.pretrained.items() if name not in encoded)
        return Stored(in_full + len(encoded))

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        parts = load_file(path)
        state = {name: tensor for name, tensor in parts.items() if not name.startswith((_SIGNS, _SCALE))}
        for name in (part.removeprefix(_SCALE) for part in parts if part.startswith(_SCALE)):
            base = pretrained[name]
            bits = np.unpackbits(parts[_SIGNS + name].numpy(), count=math.prod(base.shape))
            signs = torch.from_numpy(bits).float().mul_(2).sub_(1).view(base.shape)
            state[name] = (base.float() + parts[_SCALE + name] * signs).to(base.dtype)
        return state

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        return shapes.linear_entries / 8 + shapes.dense_bytes - FLOAT32_BYTES * shapes.linear_entries


register(BitDelta())

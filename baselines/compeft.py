"""ComPEFT: the signs of the largest updates of a matrix and one size for them (Yadav et al. 2023, section 2)."""

import copy

import numpy as np
import torch
from pydantic import MISSING

from baselines.base import register
from baselines.estimates import FILE_OVERHEAD, Effort, ModelShapes, choice_bits
from baselines.matrix_updates import EncodedTensor, MatrixUpdates
from baselines.options import Above0, Section, optional
from baselines.packed_files import Parts, pack_bits, unpack_bits
from ken import positions
from ken.selection import highest, kept_count

CODINGS = ("all", "none", "bits", "gaps")
HEADER_BYTES = 16  # coding, low bits and number of kept entries, and the size


class ComPeftOptions(Section):
    """Options of ComPEFT."""

    alpha: Above0 | MISSING = optional("size of the kept updates, in standard deviations of the tensor's update")


class ComPeft(MatrixUpdates):
    """W0 + alpha std(Δ) sign(Δ) for the largest |Δ| of each matrix; all other entries are reset.

    As many entries of a matrix are kept as k entries of every row would be, and none whose update is zero. Stored are
    their positions in a Rice code, their signs (1 = positive) and alpha std(Δ). The paper takes the standard deviation
    and the largest updates of the whole update vector, and chooses alpha on validation; the default here is the value
    that it finds good enough, without a search, for large models.
    """

    name = "compeft"
    drops_rows = False
    options_model = ComPeftOptions
    alpha = 1.0

    def configured(self, options: dict) -> "ComPeft":
        configured = copy.copy(self)
        configured.alpha = self.options_model.model_validate(options).model_dump().get("alpha", self.alpha)
        return configured if options else self

    def encode(self, update: torch.Tensor, budget: float | int, prepared: object) -> EncodedTensor:
        flat = update.reshape(-1)
        count = len(update) * kept_count(update.shape[1], budget)
        mask = highest(flat.abs()[None], count)[0] & (flat != 0)
        size = self.alpha * flat.double().std(correction=0).float()
        coded = positions.encode(mask.numpy())
        kept = int(mask.sum())
        parts = {
            "positions": torch.from_numpy(np.frombuffer(coded.data, np.uint8).copy()),
            "coding": torch.tensor([CODINGS.index(coded.coding), coded.low_bits, kept], dtype=torch.int32),
            "signs": pack_bits((flat[mask] > 0).numpy(), 1),
            "size": size,
        }
        return EncodedTensor(parts, kept)

    def decode(self, parts: Parts, rows: int, n: int) -> torch.Tensor:
        coding, low_bits, kept = parts["coding"].tolist()
        coded = positions.Coded(CODINGS[coding], low_bits, parts["positions"].numpy().tobytes())
        mask = torch.from_numpy(positions.decode(coded, rows * n, kept))
        signs = torch.from_numpy(unpack_bits(parts["signs"], 1, kept)).float().mul_(2).sub_(1)
        update = torch.zeros(rows * n)
        update[mask] = parts["size"] * signs
        return update.view(rows, n)

    def matrix_bytes(self, rows: int, n: int, budget: float | int) -> float:
        kept = rows * kept_count(n, budget)
        return FILE_OVERHEAD * choice_bits(rows * n, kept) / 8 + kept / 8 + HEADER_BYTES

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort(chosen=budgets * shapes.body_entries)


register(ComPeft())

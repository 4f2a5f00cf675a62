"""BitDelta with one size a row instead of one a layer, for all matrices of the body (after Liu et al. 2024)."""

import torch

from baselines.base import register
from baselines.estimates import Effort, ModelShapes
from baselines.matrix_updates import HALF_BYTES, EncodedTensor, MatrixUpdates
from baselines.packed_files import Parts, pack_bits, unpack_bits


class BitDeltaRows(MatrixUpdates):
    """W0 + mean|Δ| sign(Δ) with the mean of each row; zero counts as negative.

    Stored of a matrix are one bit an entry (1 = positive), and the sizes of its rows in float16, in units of the
    largest.
    """

    name = "bitdelta-rows"
    budgets = (1,)
    unit = "bits"

    def encode(self, update: torch.Tensor, budget: float | int, prepared: object) -> EncodedTensor:
        sizes = update.abs().mean(dim=1, dtype=torch.float64)
        signs = pack_bits((update > 0).numpy(), 1)
        return EncodedTensor(
            {"signs": signs, "sizes": (sizes / sizes.max()).half(), "unit": sizes.max().float()}, len(sizes)
        )

    def decode(self, parts: Parts, rows: int, n: int) -> torch.Tensor:
        signs = torch.from_numpy(unpack_bits(parts["signs"], 1, rows * n)).float().mul_(2).sub_(1)
        return signs.view(rows, n) * (parts["sizes"].float() * parts["unit"])[:, None]

    def matrix_bytes(self, rows: int, n: int, budget: float | int) -> float:
        return rows * n / 8 + HALF_BYTES * rows

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        return Effort()


register(BitDeltaRows())

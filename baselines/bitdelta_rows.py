"""BitDelta with one size a row instead of one a layer, for all matrices of the body (after Liu et al. 2024)."""

from pathlib import Path

import torch

from baselines.base import Cell, Stored, register
from baselines.matrix_updates import HALF_BYTES, EncodedTensor, MatrixUpdates
from baselines.packed_files import Parts, pack_bits, save_parts, unpack_bits
from baselines.scale_factor import FactorOnValidation


class BitDeltaRows(FactorOnValidation, MatrixUpdates):
    """W0 + f mean|Δ| sign(Δ) with the mean of each row; zero counts as negative. The factor f is chosen on validation.

    Stored of a matrix are one bit an entry (1 = positive), and the sizes of its rows in float16, in units of the
    largest.
    """

    name = "bitdelta-rows"
    budgets = (1,)
    unit = "bits"

    def store(self, cell: Cell, prepared: dict[str, object], budget: float | int, path: Path) -> Stored:
        stored = self.encoded(cell, prepared, budget)

        def scaled(factor: float) -> dict[str, Parts]:
            return {
                name: coded.parts | ({"unit": factor * coded.parts["unit"]} if "signs" in coded.parts else {})
                for name, coded in stored.items()
            }

        factor = self.best_factor(cell, lambda factor: self.decoded(cell.pretrained, scaled(factor)))
        save_parts(path, scaled(factor.value))
        kept = sum(coded.kept for name, coded in stored.items() if name in cell.pretrained)
        return Stored(kept, factor=factor)

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


register(BitDeltaRows())

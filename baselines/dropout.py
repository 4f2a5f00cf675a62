"""Updates dropped at random; kept ones are divided by their probability, so that the mean update is unchanged."""

from abc import abstractmethod
from pathlib import Path

import torch

from baselines.base import Cell, Stored, StoredSubnetwork, register
from ken.selection import as_rows, generator_of, kept_count, rank_scores

_WINDOW = 0.2  # largest difference between two probabilities of a row


class DroppedUpdates(StoredSubnetwork):
    """W0 + m Δ / q, where every entry of m is drawn independently: 1 with probability q, else 0."""

    family = "rescaled"
    stochastic = True

    @abstractmethod
    def keep_probabilities(self, update: torch.Tensor, share: float) -> torch.Tensor:
        """(r, n) updates -> (r, n) probabilities of being kept, with mean `share` in every row."""

    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        masks, values = {}, dict(cell.finetuned)
        for name, base in cell.pretrained.items():
            if not base.numel():
                masks[name] = torch.zeros(base.shape, dtype=torch.bool)
                continue
            rows, base_rows = as_rows(cell.finetuned[name]).to(cell.device), as_rows(base).to(cell.device).float()
            n = rows.shape[1]
            update = rows.float() - base_rows
            keep = self.keep_probabilities(update, kept_count(n, budget) / n)
            drawn = torch.rand(keep.shape, generator=generator_of(name, cell.seed)).to(cell.device)
            masks[name] = (drawn < keep).view(base.shape).cpu()
            kept = torch.where(keep < 1, base_rows + update / keep, rows)
            values[name] = kept.to(base.dtype).view(base.shape).cpu()
        return self.save_kept(path, cell.base, values, masks, budget)


class Dare(DroppedUpdates):
    """The same probability for all entries (DARE, Yu et al. 2024, section 3.2)."""

    name = "dare"

    def keep_probabilities(self, update: torch.Tensor, share: float) -> torch.Tensor:
        return torch.full(update.shape, share, device=update.device)


class Della(DroppedUpdates):
    """Probabilities that rise linearly with the rank of |Δ| in its row (DELLA's MAGPRUNE, Deep et al. 2024, section 3).

    The difference between the largest and the smallest is that of the paper, or less if one would leave 0 to 1.
    """

    name = "della"

    def keep_probabilities(self, update: torch.Tensor, share: float) -> torch.Tensor:
        n = update.shape[1]
        ranks = rank_scores(-update.abs()).float() / max(1, n - 1)  # 0 for the smallest
        return share + min(_WINDOW, share, 1 - share) * (ranks - 0.5)


register(Dare())
register(Della())

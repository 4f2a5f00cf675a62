"""k random entries of every row: the baseline for every informed choice."""

import torch

from baselines.base import keep_highest


@keep_highest("random", stochastic=True)
def random_choice(finetuned: torch.Tensor, pretrained: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Independent uniform scores: the kept entries are a uniform draw, and a smaller k keeps a subset of a larger k."""
    return torch.rand(finetuned.shape, generator=generator).to(finetuned.device)  # the same draw on every device

"""k entries of every row, drawn without replacement: what any choice has to beat."""

import torch

from baselines.base import keep_highest


@keep_highest("random", stochastic=True)
def random_choice(finetuned, pretrained, generator):
    """Independent uniform scores, so that the kept entries are a uniform draw and nested over k."""
    return torch.rand(finetuned.shape, generator=generator)

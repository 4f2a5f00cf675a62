"""What every training loop shares."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def linear_schedule(optimizer: Optimizer, steps: int, warmup_share: float) -> LambdaLR:
    """Learning rate that rises linearly over the first share of the steps, then falls linearly to zero."""
    warmup = max(1, round(steps * warmup_share))
    return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup))))

"""A low-rank correction of the kept entries, trained on the task loss between two shots (LLM Surgeon, section 3.6)."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

from baselines.llm_surgeon.curvature import Batch


class MaskedLowRank(nn.Module):
    """W + kept ∘ (B A) in place of a weight W (rows, columns), so that removed entries do not change.

    A (rank, columns) starts at random and B (rows, rank) at zero, as in LoRA (Hu et al. 2022).
    """

    def __init__(self, kept: torch.Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        rows, columns = kept.shape
        start = torch.randn(rank, columns, generator=generator) * columns**-0.5
        self.a = nn.Parameter(start.to(kept.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=kept.device))
        self.register_buffer("kept", kept)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.kept * (self.b @ self.a)).to(weight.dtype)


def correct(
    model: nn.Module, removed: dict[str, torch.Tensor], batches: Iterable[Batch], rank: int, rate: float
) -> None:
    """Train a low-rank correction of the linear layers for one pass over the batches and add it to their weights.

    Only the correction is trained, with Adam and with the model in evaluation mode. The result is repeatable: initial
    values are drawn from a fixed seed.

    Args:
        removed: layer -> bool (rows, inputs), True = not changed.
        rank: of the correction of each layer. rate: learning rate.
    """
    model.eval()
    generator, corrections = torch.Generator().manual_seed(0), {}
    for name, mask in removed.items():
        layer = model.get_submodule(name)
        kept = ~mask[:, : layer.weight.shape[1]].to(layer.weight.device)
        corrections[layer] = MaskedLowRank(kept, rank, generator)
        parametrize.register_parametrization(layer, "weight", corrections[layer])
    trained = [parameter for part in corrections.values() for parameter in part.parameters()]
    optimizer = torch.optim.Adam(trained, rate)
    device = next(model.parameters()).device
    for batch in batches:
        with torch.enable_grad():
            loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    for layer in corrections:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

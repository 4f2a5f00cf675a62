"""Kronecker-factored curvature of linear layers from gradients of the task loss (LLM Surgeon, section 3.1)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Factors:
    """A linear layer's empirical Fisher matrix as a Kronecker product, F ≈ G ⊗ A, or the inverses of both.

    Attributes:
        g: (rows, rows), of the gradients of the loss with respect to the layer's outputs.
        a: (inputs, inputs), of its inputs: the columns of the weight, and a constant one if there is a bias.
    """

    g: torch.Tensor
    a: torch.Tensor

    def damped(self, g: float, a: float) -> "Factors":
        """Both factors with a multiple of the mean of their diagonal added to the diagonal.

        A factor of zeros, of a layer without influence on the loss, becomes that multiple of the identity.
        """
        return Factors(_damped(self.g, g), _damped(self.a, a))

    def inverses(self) -> "Factors":
        """G⁻¹ and A⁻¹.

        Raises:
            ValueError: a factor is not positive definite.
        """
        return Factors(_inverse(self.g), _inverse(self.a))

    def identity(self) -> "Factors":
        """Identities in place of both factors: no curvature, so that costs are those of magnitude pruning."""
        return Factors(torch.eye(len(self.g)).to(self.g), torch.eye(len(self.a)).to(self.a))

    def inputs_only(self) -> "Factors":
        """The identity in place of G: the squared error of the layer's own outputs, as in L-OBD."""
        return Factors(torch.eye(len(self.g)).to(self.g), self.a)


def _damped(factor: torch.Tensor, damping: float) -> torch.Tensor:
    mean = factor.diagonal().mean()
    return factor + damping * (mean if mean > 0 else 1.0) * torch.eye(len(factor)).to(factor)


def _inverse(factor: torch.Tensor) -> torch.Tensor:
    triangle, failed = torch.linalg.cholesky_ex(factor)
    if failed or not factor.isfinite().all():
        raise ValueError("a factor of the curvature is not positive definite: choose a larger damping.")
    return torch.cholesky_inverse(triangle)


def estimate(
    model: nn.Module, layers: Iterable[str], batches: Iterable[Batch], dtype: torch.dtype = torch.float64
) -> dict[str, Factors]:
    """Estimate factors of linear layers, A = Σ a aᵀ / √N and G = Σ g gᵀ / √N, from the loss of each sequence.

    N counts the positions of a layer's inputs, so that factors of a layer with pooled inputs have the scale of those of
    a layer with an input for every token. Nothing is trained; the model is put into evaluation mode.

    Args:
        model: `model(**batch).loss` is the loss of the task, as in transformers' classifiers and language models. The
            weight of a sequence is that of its own loss, which in language modelling is a mean over its tokens.
        layers: names of `nn.Linear` modules.
        batches: input_ids, labels and, if there is padding, an attention_mask; sequences are along the first axis.
        dtype: of the sums.

    Raises:
        ValueError: there are no sequences.
    """
    model.eval()
    modules = {name: model.get_submodule(name) for name in layers}
    sums = {name: _Sums(module, dtype) for name, module in modules.items()}
    empty = True
    for sequence, number in (part for batch in batches for part in _parts(batch)):
        empty = False
        device = next(model.parameters()).device
        with _recorded_uses(modules) as uses:
            loss = model(**{name: tensor.to(device) for name, tensor in sequence.items()}).loss * number
        outputs = [output for _, _, output in uses]
        gradients = torch.autograd.grad(loss, outputs, allow_unused=True)
        for (name, inputs, output), gradient in zip(uses, gradients, strict=True):
            sums[name].add(inputs, torch.zeros_like(output) if gradient is None else gradient)
    if empty:
        raise ValueError("curvature needs at least one sequence: give batches of the training set.")
    return {name: layer_sums.factors() for name, layer_sums in sums.items()}


def sequences(batch: Batch) -> Iterator[Batch]:
    """The sequences of a batch as batches of one, without their masked positions."""
    mask = batch.get("attention_mask")
    for row in range(len(batch["input_ids"])):
        sequence = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        if mask is not None:
            visible = mask[row].bool()
            sequence = {
                name: tensor[:, visible] if tensor.shape[1:2] == visible.shape else tensor
                for name, tensor in sequence.items()
            }
        yield sequence


def _parts(batch: Batch) -> Iterator[tuple[Batch, int]]:
    """Parts of a batch, each with its number of sequences; the loss of a part is the mean of their losses.

    Sequences without padding and ignored labels have equal weights, so their gradients are taken at once. Other
    sequences come one by one.
    """
    mask, labels = batch.get("attention_mask"), batch.get("labels")
    if (mask is None or bool(mask.all())) and (labels is None or bool((labels >= 0).all())):
        yield batch, len(batch["input_ids"])
    else:
        yield from ((sequence, 1) for sequence in sequences(batch))


@contextmanager
def _recorded_uses(modules: dict[str, nn.Module]) -> Iterator[list[tuple[str, torch.Tensor, torch.Tensor]]]:
    """(layer, inputs, outputs) of every call of a layer within the context."""
    uses: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def hook(name: str):
        return lambda module, inputs, output: uses.append((name, inputs[0].detach(), output))

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


class _Sums:
    """Running sums of one layer's outer products, over all positions of all its calls."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype):
        rows, columns = layer.weight.shape
        inputs, self.has_bias = columns + (layer.bias is not None), layer.bias is not None
        self.g = torch.zeros(rows, rows, dtype=dtype, device=layer.weight.device)
        self.a = torch.zeros(inputs, inputs, dtype=dtype, device=layer.weight.device)
        self.positions = 0

    def add(self, inputs: torch.Tensor, gradients: torch.Tensor) -> None:
        a = inputs.reshape(-1, inputs.shape[-1]).to(self.a.dtype)
        g = gradients.reshape(-1, gradients.shape[-1]).to(self.g.dtype)
        if self.has_bias:
            a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
        self.a.addmm_(a.T, a)
        self.g.addmm_(g.T, g)
        self.positions += len(a)

    def factors(self) -> Factors:
        scale = max(1, self.positions) ** -0.5
        return Factors(self.g * scale, self.a * scale)

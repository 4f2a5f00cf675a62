"""Kronecker-factored curvature of linear layers from gradients of the task loss (LLM Surgeon, section 3.1)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from baselines.llm_surgeon.factors import FactorStore

Batch = dict[str, torch.Tensor]

HELD_BYTES = 4 * 2**30  # of factors that are summed in one pass over the texts


def estimate(
    model: nn.Module, layers: Iterable[str], batches: Iterable[Batch], held_bytes: int = HELD_BYTES
) -> FactorStore:
    """Estimate factors of linear layers, A = Σ a aᵀ / √N and G = Σ g gᵀ / √N, from the loss of each sequence.

    N counts the positions of a layer's inputs, so that factors of a layer with pooled inputs have the scale of those of
    a layer with an input for every token. Nothing is trained; the model is put into evaluation mode. Sums have the
    precision of the weights, but at least float32. If all of them are larger than `held_bytes`, several passes over the
    batches estimate some layers each, and the results are held in a file.

    Args:
        model: `model(**batch).loss` is the loss of the task, as in transformers' classifiers and language models. The
            weight of a sequence is that of its own loss, which in language modelling is a mean over its tokens.
        layers: names of `nn.Linear` modules.
        batches: input_ids, labels and, if there is padding, an attention_mask; sequences are along the first axis.
        held_bytes: of sums in one pass.

    Raises:
        ValueError: there are no sequences.
    """
    batches = list(batches)
    if not any(len(batch["input_ids"]) for batch in batches):
        raise ValueError("curvature needs at least one sequence: give batches of the training set.")
    model.eval()
    modules = {name: model.get_submodule(name) for name in layers}
    source_of = _shared_inputs(model, modules, batches[0])
    groups = _groups(modules, source_of, held_bytes)
    store = FactorStore(source_of, in_file=len(groups) > 1)
    for group in groups:
        sums = {name: _Sums(modules[name], owns_a=source_of[name] == name) for name in group}
        _add_all(model, {name: modules[name] for name in group}, batches, sums)
        for name in group:
            for side, factor in sums.pop(name).factors().items():
                store.put(name, side, factor)
    return store


def _add_all(model: nn.Module, modules: dict[str, nn.Linear], batches: list[Batch], sums: "dict[str, _Sums]"):
    """Add the outer products of one pass over the batches to the sums of some layers."""
    device = next(model.parameters()).device
    for part, number in (part for batch in batches for part in _parts(batch)):
        with _recorded_uses(modules) as uses:
            loss = model(**{name: tensor.to(device) for name, tensor in part.items()}).loss * number
        outputs = [output for _, _, output in uses]
        gradients = torch.autograd.grad(loss, outputs, allow_unused=True) if outputs else ()
        for (name, inputs, output), gradient in zip(uses, gradients, strict=True):
            sums[name].add(inputs.detach(), torch.zeros_like(output) if gradient is None else gradient)


@torch.no_grad()
def _shared_inputs(model: nn.Module, modules: dict[str, nn.Linear], batch: Batch) -> dict[str, str]:
    """Layer -> the first layer that is called with the very same tensors, so that both have the same A.

    Queries, keys and values of attention share their inputs, and so do the two layers that write gated units.
    """
    device = next(model.parameters()).device
    with _recorded_uses(modules) as uses:
        model(**{name: tensor[:1].to(device) for name, tensor in batch.items()})
    calls: dict[str, list] = {name: [module.bias is not None] for name, module in modules.items()}
    for name, inputs, _ in uses:
        calls[name].append((id(inputs), inputs._version))  # the version counts changes in place
    first: dict[tuple, str] = {}
    return {name: first.setdefault(tuple(own), name) if len(own) > 1 else name for name, own in calls.items()}


def factor_sizes(shapes: Mapping[str, tuple[int, int]], source_of: Mapping[str, str]) -> dict[str, int]:
    """Number of entries of the factors of each layer: of G, and of A unless it is that of another layer.

    Args:
        shapes: layer -> (rows, inputs).
    """
    return {name: rows**2 + (inputs**2 if source_of[name] == name else 0) for name, (rows, inputs) in shapes.items()}


def _groups(modules: dict[str, nn.Linear], source_of: dict[str, str], held_bytes: int) -> list[list[str]]:
    """The layers in groups, in their order, whose sums have at most `held_bytes` where a group has several layers."""
    sizes = factor_sizes({name: (m.out_features, inputs_of(m)) for name, m in modules.items()}, source_of)
    groups: list[list[str]] = []
    free = 0
    for name, module in modules.items():
        needed = sizes[name] * precision_of(module).itemsize
        if needed > free or not groups:
            groups.append([])
            free = held_bytes
        groups[-1].append(name)
        free -= needed
    return groups


def inputs_of(layer: nn.Linear) -> int:
    """Number of inputs of a layer: the columns of its weight, and one if it has a bias."""
    return layer.in_features + (layer.bias is not None)


def precision_of(layer: nn.Linear) -> torch.dtype:
    """Precision of sums and of matrix products: that of the weights, but at least float32."""
    return torch.promote_types(layer.weight.dtype, torch.float32)


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
        return lambda module, inputs, output: uses.append((name, inputs[0], output))

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


class _Sums:
    """Running sums of one layer's outer products, over all positions of all its calls.

    Args:
        owns_a: False if A is that of another layer.
    """

    def __init__(self, layer: nn.Linear, owns_a: bool):
        like = {"dtype": precision_of(layer), "device": layer.weight.device}
        self.has_bias, self.positions = layer.bias is not None, 0
        self.g = torch.zeros(layer.out_features, layer.out_features, **like)
        self.a = torch.zeros(inputs_of(layer), inputs_of(layer), **like) if owns_a else None

    def add(self, inputs: torch.Tensor, gradients: torch.Tensor) -> None:
        g = gradients.reshape(-1, gradients.shape[-1]).to(self.g.dtype)
        self.g.addmm_(g.T, g)
        self.positions += len(g)
        if self.a is not None:
            a = inputs.reshape(-1, inputs.shape[-1]).to(self.a.dtype)
            a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1) if self.has_bias else a
            self.a.addmm_(a.T, a)

    def factors(self) -> dict[str, torch.Tensor]:
        """The factor g and, if it is the layer's own, a."""
        scale = max(1, self.positions) ** -0.5
        return {side: sums.mul_(scale) for side, sums in (("g", self.g), ("a", self.a)) if sums is not None}

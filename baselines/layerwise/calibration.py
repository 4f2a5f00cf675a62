"""Layers pruned in the order of the model, with inputs from the model whose earlier blocks are already pruned.

As in the papers on SparseGPT and Wanda: the inputs of all linear layers of a transformer block are recorded, the layers
are pruned, and the outputs of the pruned block are the inputs of the next. Only the outputs of one block are held.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

Batch = dict[str, torch.Tensor]
Layers = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LayerMethod:
    """How a method prunes one layer.

    Attributes:
        prune: (weight, moments, structure, sparsity) -> new weight and bool mask, True = removed; the weights are
            (rows, columns) in float64.
        joint: whether `moments` is (columns, columns), the mean of x xᵀ over the layer's inputs x, or only its
            diagonal (columns,).
    """

    prune: Callable[[torch.Tensor, torch.Tensor, str, float], tuple[torch.Tensor, torch.Tensor]]
    joint: bool


class _BlockDone(Exception):
    """Ends a forward pass after the block of interest."""


@torch.no_grad()
def prune_layers(
    model: nn.Module, layers: list[str], batches: Iterable[Batch], method: LayerMethod, structure: str, sparsity: float
) -> Layers:
    """Prune linear layers of a live causal language model in place; biases are kept as they are.

    Args:
        model: a causal language model of transformers, in evaluation mode; each of its blocks is called once a pass.
        layers: names of `nn.Linear` modules.
        batches: sequences without padding; each block is run on them twice.
        structure: "element" or "2:4". sparsity: share of each layer's entries that is removed.

    Returns:
        Layer -> bool (rows, inputs), True = removed; a bias, if there is one, is one more column (never removed). Every
        layer loses round(sparsity · entries) of its weights.

    Raises:
        ValueError: a layer gets no input; a block is called more than once; or see the method.
    """
    batches, removed = list(batches), {}
    replay = _Replay(model, batches)
    for block in replay.order({block_of(model, name) for name in layers}):
        own = [name for name in layers if block_of(model, name) == block]
        with _recorded_moments(model, own, method.joint) as moments:
            replay.run(block)
        for name in own:
            layer = model.get_submodule(name)
            values, mask = method.prune(layer.weight.double(), moments[name].mean(), structure, sparsity)
            layer.weight.copy_(values)
            removed[name] = functional.pad(mask, (0, int(layer.bias is not None)))
        if block not in own:  # a single layer costs little, so it is run again
            replay.finish(block)
    return {name: removed[name] for name in layers}


def block_of(model: nn.Module, layer: str) -> str:
    """Name of the element of a `nn.ModuleList` that holds a layer, the outermost one; without a list, of the layer."""
    parts = layer.split(".")
    names = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    inside = (end for end, name in enumerate(names) if isinstance(model.get_submodule(name), nn.ModuleList))
    return names[next(inside, len(names) - 2) + 1]


class _Replay:
    """Passes of a model over batches, in which blocks that are done return the outputs of the last of them."""

    def __init__(self, model: nn.Module, batches: list[Batch]):
        self.model, self.batches = model, batches
        self.done: list[str] = []
        self.outputs: list[object] = []  # of the last block that is done, one for each batch

    def order(self, blocks: set[str]) -> list[str]:
        """The blocks in the order of their calls.

        Raises:
            ValueError: a block is called more than once, or never.
        """
        calls: list[str] = []
        with ExitStack() as stack:
            for name in blocks:
                module = self.model.get_submodule(name)
                handle = module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
                stack.callback(handle.remove)
            self.model(**self.batches[0], use_cache=False)
        for name in sorted(blocks):
            if calls.count(name) != 1:
                raise ValueError(
                    f"{name} is called {calls.count(name)} times in a pass: SparseGPT and Wanda need models that call "
                    "every block once."
                )
        return calls

    def run(self, block: str) -> list[object]:
        """Run all batches up to the end of a block; returns its outputs."""
        outputs: list[object] = []

        def keep(module: nn.Module, inputs: tuple, output: object) -> None:
            outputs.append(output)
            raise _BlockDone

        handle = self.model.get_submodule(block).register_forward_hook(keep)
        try:
            for index, batch in enumerate(self.batches):
                with self._replayed(index), suppress(_BlockDone):
                    self.model(**batch, use_cache=False)
        finally:
            handle.remove()
        return outputs

    def finish(self, block: str) -> None:
        """Hold the outputs of a pruned block instead of those of the block before."""
        self.outputs = self.run(block)
        self.done.append(block)

    @contextmanager
    def _replayed(self, index: int) -> Iterator[None]:
        """Within the context, blocks that are done return the held outputs of a batch."""
        modules = [self.model.get_submodule(name) for name in self.done]
        for module in modules:
            module.forward = lambda *args, **kwargs: self.outputs[index]
        try:
            yield
        finally:
            for module in modules:
                del module.forward


class _Moments:
    """Sum of x xᵀ, or of its diagonal, over the inputs x of a layer, in float64."""

    def __init__(self, name: str, layer: nn.Linear, joint: bool):
        columns = layer.in_features
        shape = (columns, columns) if joint else (columns,)
        self.name, self.joint, self.positions = name, joint, 0
        self.sums = torch.zeros(shape, dtype=torch.float64, device=layer.weight.device)

    def add(self, module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
        if self.joint:
            self.sums.addmm_(x.T, x)
        else:
            self.sums += x.square().sum(dim=0)
        self.positions += len(x)

    def mean(self) -> torch.Tensor:
        """The mean over all inputs.

        Raises:
            ValueError: there were none.
        """
        if not self.positions:
            raise ValueError(f"no calibration text reaches the layer {self.name}: give more of it.")
        return self.sums / self.positions


@contextmanager
def _recorded_moments(model: nn.Module, layers: list[str], joint: bool) -> Iterator[dict[str, _Moments]]:
    """Moments of the inputs of layers over all calls within the context."""
    with ExitStack() as stack:
        moments = {}
        for name in layers:
            layer = model.get_submodule(name)
            moments[name] = _Moments(name, layer, joint)
            stack.callback(layer.register_forward_pre_hook(moments[name].add).remove)
        yield moments

"""Smaller dense layers from removed rows and columns, if only an activation is between two linear layers.

A hidden unit between two layers, as in the feed-forward part of a transformer, can be deleted if its column in the
second layer or its row in the first is removed, because the activation maps 0 to 0. Rows and columns next to a residual
stream, attention heads or a norm cannot be deleted; they remain as zeros.
"""

import copy
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn

from baselines.llm_surgeon.curvature import Batch

Units = tuple[tuple[str, ...], str]
"""The layers that write hidden units (two if one gates the other), and the layer that reads them."""


def compact(model: nn.Module, removed: dict[str, torch.Tensor], batch: Batch) -> nn.Module:
    """A copy of a pruned model without its removed hidden units: the same function in smaller layers.

    Args:
        model: its removed entries are zero.
        removed: linear layer -> bool (rows, inputs), True = removed; a bias is one more column.
        batch: any input of the model, with labels and at least two tokens, for `hidden_units`.
    """
    smaller = copy.deepcopy(model)
    for writers, reader in hidden_units(model, list(removed), batch):
        columns = model.get_submodule(reader).weight.shape[1]
        dead = removed[reader][:, :columns].all(dim=0)
        for name in writers:
            dead = dead | removed[name].all(dim=1)
        if dead.all():
            dead[0] = False  # every layer keeps at least one unit
        for name in writers:
            layer = model.get_submodule(name)
            smaller.set_submodule(name, linear(layer.weight[~dead], None if layer.bias is None else layer.bias[~dead]))
        layer = model.get_submodule(reader)
        smaller.set_submodule(reader, linear(layer.weight[:, ~dead], layer.bias))
    return smaller


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear layer with copies of a weight (rows, columns) and a bias (rows,)."""
    rows, columns = weight.shape
    like = {"device": weight.device, "dtype": weight.dtype}
    layer = nn.utils.skip_init(nn.Linear, columns, rows, bias=bias is not None, **like)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def with_shapes(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """A model that can load a state: `model` itself, or a copy with linear layers of the state's shapes."""
    changed = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and state.get(f"{name}.weight", module.weight).shape != module.weight.shape
    ]
    if not changed:
        return model
    other = copy.deepcopy(model)
    for name in changed:
        like = model.get_submodule(name).weight
        other.set_submodule(name, linear(state[f"{name}.weight"].to(like), state.get(f"{name}.bias")))
    return other


@torch.no_grad()
def hidden_units(model: nn.Module, layers: list[str], batch: Batch) -> list[Units]:
    """Find the linear layers whose hidden units are interchangeable and independent of each other.

    The test runs the model instead of relying on the names of its modules. For a layer (the reader) and the one or two
    layers called just before it (the writers), noise replaces the writers' outputs. Then
    1. shifting the noise by one unit must shift the reader's inputs by one unit;
    2. noise of zero at the first position must give inputs of zero there, and the same inputs elsewhere;
    3. with noise in place of the reader's outputs too, the writers' noise must not affect the loss.
    The weights are replaced by noise as well, because nothing passes through pruned ones. Layers that are called more
    than once are left out.

    Returns:
        Disjoint groups in the order of the calls.
    """
    model = copy.deepcopy(model)
    modules = {name: model.get_submodule(name) for name in layers}
    generator = torch.Generator().manual_seed(0)
    for module in modules.values():
        weight = torch.randn(module.weight.shape, generator=generator)
        module.weight.copy_(weight * module.in_features**-0.5)
    order = _calls(model, modules, batch)
    once = [name if order.count(name) == 1 else None for name in order]
    groups: list[Units] = []
    for index, reader in enumerate(once):
        for number in (1, 2):
            writers = tuple(once[max(0, index - number) : index])
            used = {name for group, other in groups for name in (*group, other)}
            if reader is None or len(writers) < number or None in writers or used.intersection((*writers, reader)):
                continue
            width = modules[reader].in_features
            fits = all(modules[name].out_features == width for name in writers)
            if fits and _only_activation_between(model, modules, writers, reader, batch):
                groups.append((writers, reader))
                break
    return groups


def _only_activation_between(
    model: nn.Module, modules: dict, writers: tuple[str, ...], reader: str, batch: Batch
) -> bool:
    """Whether only a function of each unit, 0 at 0, lies between writers and reader (see `hidden_units`)."""

    def inputs(change: Callable, changed: tuple[str, ...]) -> torch.Tensor:
        changes = {name: change if name in changed else _unchanged for name in writers}
        return _run_with_noise(model, modules, reader, changes, batch)[0]

    def loss(change: Callable) -> torch.Tensor:
        changes = dict.fromkeys(writers, change) | {reader: _unchanged}
        return _run_with_noise(model, modules, reader, changes, batch)[1]

    plain = inputs(_unchanged, ())
    expected = _without_first(plain)
    silenced = [inputs(_without_first, (name,)) for name in writers]
    separate = all(_close(states, expected) and not states.flatten(0, -2)[0].any() for states in silenced)
    if not separate or not _close(inputs(_shifted, writers), _shifted(plain)):
        return False
    return torch.allclose(loss(_unchanged), loss(_shifted), rtol=1e-6)


def _unchanged(states: torch.Tensor) -> torch.Tensor:
    return states


def _shifted(states: torch.Tensor) -> torch.Tensor:
    return states.roll(1, -1)


def _without_first(states: torch.Tensor) -> torch.Tensor:
    """States (..., width) with zeros at the first position."""
    changed = states.clone()
    changed.view(-1, states.shape[-1])[0] = 0
    return changed


def _close(states: torch.Tensor, expected: torch.Tensor) -> bool:
    return states.shape == expected.shape and torch.allclose(states, expected, rtol=1e-4, atol=1e-6)


def _calls(model: nn.Module, modules: dict[str, nn.Module], batch: Batch) -> list[str]:
    """Names of the layers in the order of their calls."""
    order: list[str] = []
    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(lambda module, given, name=name: order.append(name))
            stack.callback(hook.remove)
        _run(model, batch)
    return order


def _run_with_noise(
    model: nn.Module, modules: dict, reader: str, changes: dict[str, Callable], batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reader's input and the loss when (changed) noise replaces the outputs of layers.

    Args:
        changes: layer -> function applied to the noise that replaces its outputs.
    """
    recorded: list[torch.Tensor] = []
    with ExitStack() as stack:
        for seed, (name, change) in enumerate(changes.items()):

            def replace(module, given, output, seed=seed, change=change):
                noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
                return change(noise).to(output)

            stack.callback(modules[name].register_forward_hook(replace).remove)
        hook = modules[reader].register_forward_pre_hook(lambda module, given: recorded.append(given[0]))
        stack.callback(hook.remove)
        loss = _run(model, batch)
    return recorded[0], loss


def _run(model: nn.Module, batch: Batch) -> torch.Tensor:
    device = next(model.parameters()).device
    return model.eval()(**{name: tensor.to(device) for name, tensor in batch.items()}).loss

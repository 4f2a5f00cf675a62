"""Really smaller layers from removed rows and columns, where nothing but an activation lies between two linear layers.

A unit between them, as in the feed-forward part of a transformer, can go if its column in the second layer is removed,
or its row in the first one, since the activation of 0 is 0. Rows and columns that face a residual stream, attention
heads or a norm cannot: they stay as zeros.
"""

import copy
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn

from baselines.llm_surgeon.curvature import Batch

Units = tuple[tuple[str, ...], str]
"""The layers that write hidden units (two where one gates the other), and the layer that reads them."""


def compiled(model: nn.Module, removed: dict[str, torch.Tensor], batch: Batch) -> nn.Module:
    """A copy of a pruned model without the hidden units that are removed; the same function, in smaller layers.

    Args:
        model: its removed entries are zero.
        removed: linear layer -> bool (rows, inputs), True = removed; a bias is one more column.
        batch: any input of the model with labels and two tokens or more, to find the layers with.
    """
    smaller = copy.deepcopy(model)
    for writers, reader in hidden_units(model, list(removed), batch):
        columns = model.get_submodule(reader).weight.shape[1]
        dead = removed[reader][:, :columns].all(dim=0)
        for name in writers:
            dead = dead | removed[name].all(dim=1)
        if dead.all():
            dead[0] = False  # a layer keeps a unit
        for name in writers:
            layer = model.get_submodule(name)
            smaller.set_submodule(name, linear(layer.weight[~dead], None if layer.bias is None else layer.bias[~dead]))
        layer = model.get_submodule(reader)
        smaller.set_submodule(reader, linear(layer.weight[:, ~dead], layer.bias))
    return smaller


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear layer of copies of a weight (rows, columns) and a bias (rows,)."""
    rows, columns = weight.shape
    like = {"device": weight.device, "dtype": weight.dtype}
    layer = nn.utils.skip_init(nn.Linear, columns, rows, bias=bias is not None, **like)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def with_shapes(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """A model that can load a state: `model` itself, or a copy whose linear layers have the shapes of the state."""
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
    """Where the units between two linear layers are each other's equals and depend on nothing else.

    Found by what the model does, not by what its modules are called: noise takes the place of the outputs of the one or
    two layers that are called just before another. If the noise is turned by one unit, the inputs of that other must
    turn along; if it is silent at the first position, they must be zero there and the same elsewhere; and with noise in
    place of the outputs of that other, nothing of the first noise may reach the loss. The weights are noise too, for
    through pruned ones nothing may pass. Layers that are called more than once have no such units.

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
    found: list[Units] = []
    for place, reader in enumerate(once):
        for number in (1, 2):
            writers = tuple(once[max(0, place - number) : place])
            used = {name for group, other in found for name in (*group, other)}
            if reader is None or len(writers) < number or None in writers or used.intersection((*writers, reader)):
                continue
            width = modules[reader].in_features
            fits = all(modules[name].out_features == width for name in writers)
            if fits and _between(model, modules, writers, reader, batch):
                found.append((writers, reader))
                break
    return found


def _between(model: nn.Module, modules: dict, writers: tuple[str, ...], reader: str, batch: Batch) -> bool:
    """Whether nothing but a function of each unit, 0 at 0, lies between layers (see `hidden_units`)."""

    def read(change: Callable, changed: tuple[str, ...]) -> torch.Tensor:
        changes = {name: change if name in changed else _same for name in writers}
        return _from_noise(model, modules, reader, changes, batch)[0]

    def cut_off(change: Callable) -> torch.Tensor:
        return _from_noise(model, modules, reader, dict.fromkeys(writers, change) | {reader: _same}, batch)[1]

    plain = read(_same, ())
    wanted = _without_first(plain)
    silent = [read(_without_first, (name,)) for name in writers]
    alone = all(_close(found, wanted) and not found.flatten(0, -2)[0].any() for found in silent)
    if not alone or not _close(read(_turned, writers), _turned(plain)):
        return False
    return torch.allclose(cut_off(_same), cut_off(_turned), rtol=1e-6)


def _same(states: torch.Tensor) -> torch.Tensor:
    return states


def _turned(states: torch.Tensor) -> torch.Tensor:
    return states.roll(1, -1)


def _without_first(states: torch.Tensor) -> torch.Tensor:
    """States (..., width) with zeros at the first position."""
    changed = states.clone()
    changed.view(-1, states.shape[-1])[0] = 0
    return changed


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def _calls(model: nn.Module, modules: dict[str, nn.Module], batch: Batch) -> list[str]:
    """Names in the order in which the layers are called."""
    order: list[str] = []
    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(lambda module, given, name=name: order.append(name))
            stack.callback(hook.remove)
        _run(model, batch)
    return order


def _from_noise(
    model: nn.Module, modules: dict, reader: str, changes: dict[str, Callable], batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's input and the loss when noise, changed in one way or another, takes the place of outputs of layers."""
    seen: list[torch.Tensor] = []
    with ExitStack() as stack:
        for seed, (name, change) in enumerate(changes.items()):

            def replace(module, given, output, seed=seed, change=change):
                noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
                return change(noise).to(output)

            stack.callback(modules[name].register_forward_hook(replace).remove)
        hook = modules[reader].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        stack.callback(hook.remove)
        loss = _run(model, batch)
    return seen[0], loss


def _run(model: nn.Module, batch: Batch) -> torch.Tensor:
    device = next(model.parameters()).device
    return model.eval()(**{name: tensor.to(device) for name, tensor in batch.items()}).loss

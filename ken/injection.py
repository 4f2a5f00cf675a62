"""In-place injection of sub-networks into a live model, exchange for another of the same base, and ejection."""

import itertools
import math
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ken.masks import Masks
from ken.sources import Tensors
from ken.wrappers import live_tensors, unwrapped

_BLOCK = 2**19  # entries written together: their tensor's part fits the cache of a core


class Injectable(Protocol):
    """The part of a `Subnetwork` that injection needs."""

    masks: Masks
    values: Tensors
    whole: Tensors
    aliases: Mapping[str, str]
    base: str

    def check_base(self, state: Tensors) -> None: ...


@dataclass(frozen=True)
class Injected:
    """The sub-network in a model, and the values it has replaced.

    Attributes:
        subnetwork: the injected one; None if there is none.
        body: body tensor -> the pre-trained values at the kept indices, which the sub-network has overwritten.
        whole: name -> the replaced head, buffers and tied tensors of the model.
    """

    subnetwork: Injectable | None
    body: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]


_INJECTED: weakref.WeakKeyDictionary[nn.Module, Injected] = weakref.WeakKeyDictionary()


@torch.no_grad()
def inject(subnetwork: Injectable, model: nn.Module) -> None:
    """See `Subnetwork.inject`."""
    model = unwrapped(model)
    injected = _INJECTED.get(model)
    if injected is not None and injected.subnetwork is subnetwork:
        raise ValueError("this sub-network is already in the model: eject it first.")
    state = live_tensors(model)
    _check_shapes(subnetwork, state)
    _check_ties(subnetwork, state)
    _check_base(subnetwork, state, injected)
    old = injected or Injected(None, {}, {})
    body = _exchange(subnetwork, state, old)
    whole = _exchange_whole(subnetwork, state, old.whole)
    _INJECTED[model] = Injected(subnetwork, body, whole)


def eject(subnetwork: Injectable, model: nn.Module) -> None:
    """See `Subnetwork.eject`."""
    model = unwrapped(model)
    if model not in _INJECTED or _INJECTED[model].subnetwork is not subnetwork:
        raise ValueError("this sub-network is not in the model: there is nothing to eject.")
    state = live_tensors(model)
    injected = _INJECTED.pop(model)
    for name in injected.body:
        _exchange_entries(None, name, state[name], injected)
    for name, tensor in injected.whole.items():
        state[name].copy_(tensor)


def eject_any(model: nn.Module) -> None:
    """Eject the sub-network that is in a model, if there is one."""
    injected = _INJECTED.get(unwrapped(model))
    if injected is not None:
        eject(injected.subnetwork, model)


def forget(model: nn.Module) -> None:
    """See `Subnetwork.forget`."""
    _INJECTED.pop(unwrapped(model), None)


def _check_shapes(subnetwork: Injectable, state: Tensors) -> None:
    for name, tensor in subnetwork.whole.items():
        if name not in state or state[name].shape != tensor.shape:
            shape = tuple(state[name].shape) if name in state else "none"
            raise ValueError(
                f"the model needs a tensor {name!r} of {tuple(tensor.shape)}, found {shape}: "
                "build it with the head the sub-network was trained with."
            )


def _check_ties(subnetwork: Injectable, state: Tensors) -> None:
    owners: dict[int, str] = {}
    for name in (*subnetwork.masks, *subnetwork.whole):
        if name in state and state[name].numel():
            owner = owners.setdefault(state[name].data_ptr(), name)
            if owner != name:
                raise ValueError(f"{owner!r} and {name!r} are tied in the model only, not in the sub-network: untie.")


def _check_base(subnetwork: Injectable, state: Tensors, injected: Injected | None) -> None:
    if injected is not None:
        if injected.subnetwork.base != subnetwork.base:
            raise ValueError("the model holds a sub-network of another base: eject that one first.")
        return
    if missing := [name for name in subnetwork.masks if name not in state]:
        raise ValueError(f"the base lacks tensor {missing[0]!r}: give the model the sub-network was made from.")
    subnetwork.check_base(state)


def _exchange(new: Injectable, state: Tensors, old: Injected) -> dict[str, torch.Tensor]:
    """Write the kept entries into live tensors; returns the pre-trained values at their indices.

    Args:
        state: live tensors: the base, or the base with the entries of `old`.
    """
    names = sorted(new.masks, key=lambda name: -state[name].numel())  # the largest first, so that no thread waits long
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        base = pool.map(lambda name: _exchange_entries(new, name, state[name], old), names)
        return dict(zip(names, base, strict=True))


@torch.no_grad()
def _exchange_entries(new: Injectable | None, name: str, tensor: torch.Tensor, old: Injected) -> torch.Tensor:
    """`_exchange` of one tensor, in blocks: each comes from memory once, although it is written twice."""
    flat = tensor.reshape(-1)
    base = [flat[:0]]
    replaced = _blocks(old.subnetwork, name, old.body.get(name), flat)
    written = _blocks(new, name, new and new.values[name], flat)
    for restore, write in itertools.zip_longest(replaced, written):
        if restore is not None:
            flat.scatter_(0, *restore)  # ten times as fast as index_copy_ or put_ on a CPU
        if write is not None:
            base.append(flat.index_select(0, write[0]))
            flat.scatter_(0, *write)
    if flat.data_ptr() != tensor.data_ptr():  # no view: the tensor is not contiguous
        tensor.copy_(flat.view(tensor.shape))
    return torch.cat(base)


def _blocks(
    subnetwork: Injectable | None, name: str, values: torch.Tensor | None, flat: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Indices of the kept entries of a tensor and values for them, by blocks of the tensor; none if no sub-network."""
    if subnetwork is None:
        return
    size, start = _BLOCK if flat.device.type == "cpu" else 8 * math.ceil(flat.numel() / 8), 0
    for indices in subnetwork.masks.blocks(name, size):
        stop = start + len(indices)
        yield indices.to(flat.device), values[start:stop].to(flat.device)
        start = stop


def _exchange_whole(subnetwork: Injectable, state: Tensors, old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Write head, buffers and names that are tied here but not in the model; returns what they replace."""
    untied = {
        alias: state[name]
        for alias, name in subnetwork.aliases.items()
        if alias in state and state[alias].data_ptr() != state[name].data_ptr()
    }
    for name in old.keys() - subnetwork.whole.keys() - untied.keys():
        state[name].copy_(old[name])
    replaced = {}
    for name, tensor in (subnetwork.whole | untied).items():
        replaced[name] = old[name] if name in old else state[name].clone()
        state[name].copy_(tensor)
    return replaced

"""Wrappers that training libraries put around modules: the model inside, and names of tensors without them."""

import re
from collections.abc import Iterable

import torch
from torch import nn

# Whole components of a name: FSDP, activation checkpointing, torch.compile, Lightning and DeepSpeed.
_ANYWHERE = (
    "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_orig_mod", "_forward_module",
    "_ddp_module",
)  # fmt: skip
_INSIDE = re.compile(rf"(?<![^.])(?:{'|'.join(_ANYWHERE)}|base_model\.model)\.")
# "module" may be a model's own name: it is taken for DataParallel's only where a name begins with it.
_FIRST = re.compile(r"^(?:module\.)+")


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Name -> the same without known wrappers, wherever they stand.

    Raises:
        ValueError: two names would become one.

    Example:
        >>> without_wrappers(["_orig_mod.module.layer.0._fsdp_wrapped_module.query.weight"]).popitem()[1]
        'layer.0.query.weight'
    """
    result = {name: _FIRST.sub("", _INSIDE.sub("", name)) for name in names}
    seen: dict[str, str] = {}
    for name, inner in result.items():
        if seen.setdefault(inner, name) != name:
            raise ValueError(
                f"tensors {seen[inner]!r} and {name!r} are both {inner!r} without their wrappers: "
                "save the unwrapped model again."
            )
    return result


def without_inner_modules(names: Iterable[str]) -> dict[str, str]:
    """Name -> the same without "module" as a component, where that tells all names apart; otherwise unchanged."""
    names = list(names)
    result = {name: re.sub(r"(?<![^.])module\.", "", name) for name in names}
    return result if len(set(result.values())) == len(names) else {name: name for name in names}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and data-parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def live_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """State of a model, sharing its memory, by names without wrappers."""
    state = {name: tensor.detach() for name, tensor in unwrapped(model).state_dict().items()
             if isinstance(tensor, torch.Tensor)}  # fmt: skip
    names = without_wrappers(state)
    return {names[name]: tensor for name, tensor in state.items()}

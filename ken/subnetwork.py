"""The sub-network: what has to be stored of a fine-tuned model when everybody has the pre-trained one.

In memory: the kept entries of every body tensor and the whole head. On disk: one safetensors file
(see `ken.storage`).
"""

import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ken import selection, storage
from ken.storage import fingerprint

__all__ = ["Subnetwork", "fingerprint"]

Tensors = Mapping[str, torch.Tensor]

RULES = ("reset", "rescale")
SCOPES = ("all", "layers")


@dataclass(eq=False)
class Subnetwork:
    """Kept entries of a fine-tuned model, relative to its pre-trained base.

    Attributes:
        masks: body tensor -> bool, True = kept; every tensor with a pre-trained value is here.
        values: body tensor -> 1-D, the kept entries in row-major order, in the tensor's dtype.
        whole: tensors without a pre-trained value (the head) and integer buffers, stored in full.
        aliases: name -> name of the tensor it is tied to.
        base: fingerprint of the pre-trained values that the others are reset to.
        method, k, rule, scope: how the entries were chosen, for the record.
    """

    masks: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]
    aliases: dict[str, str]
    base: str
    method: str = "ken"
    k: int | float | None = None
    rule: str = "reset"
    scope: str = "all"
    _overwritten: weakref.WeakKeyDictionary = field(default_factory=weakref.WeakKeyDictionary, repr=False)

    @classmethod
    def extract(
        cls,
        pretrained: Tensors | nn.Module,
        finetuned: Tensors | nn.Module,
        k: int | float,
        method: str | selection.Criterion = "ken",
        scope: str = "all",
        rule: str = "reset",
        seed: int | None = None,
    ) -> "Subnetwork":
        """Choose and keep k entries of every row of the body, and all of the head.

        Args:
            pretrained: body tensors, or a module with them.
            finetuned: body and head; a name without a pre-trained value is head.
            k: entries kept of each row: an int, or a share in (0, 1] (`ken.selection.kept_count`).
            method: criterion, or "ken-grid" (`ken.selection.select`).
            scope: "all", or "layers": only tensors whose name contains a digit, the others are kept whole.
            rule: "reset": kept entries hold W; "rescale": W0 + (n / kept) (W - W0), n and kept by row.
            seed: of methods that draw at random.

        Raises:
            ValueError: a wrong argument or tensor (missing, mismatching, not finite); the sentence names it.
        """
        selection.kept_count(1, k)
        _check_choice("scope", scope, SCOPES)
        parts = _Parts.of(pretrained, finetuned)
        pruned = {name: tensor for name, tensor in parts.body.items() if _in_scope(name, scope)}
        if method == selection.GRID:
            chosen = {name: selection.select(parts.body[name], parts.base[name], k, method) for name in pruned}
        else:
            ranks = selection.rank_tensors(pruned, parts.base, method, seed)
            chosen = {name: selection.mask_from_ranks(found, k) for name, found in ranks.items()}
        return cls._of_parts(parts, chosen, k, method, scope, rule)

    @classmethod
    def from_ranks(
        cls,
        pretrained: Tensors | nn.Module,
        finetuned: Tensors | nn.Module,
        ranks: Tensors,
        k: int | float,
        method: str | selection.Criterion = "ken",
        rule: str = "reset",
        scope: str = "all",
    ) -> "Subnetwork":
        """The same from the ranks of `ken.selection.rank_tensors`, so that one ranking serves every k.

        Raises:
            ValueError: as `extract`, or a body tensor without ranks.
        """
        chosen = {name: selection.mask_from_ranks(found, k) for name, found in ranks.items()}
        return cls._of_parts(_Parts.of(pretrained, finetuned), chosen, k, method, scope, rule)

    @classmethod
    def from_masks(
        cls,
        pretrained: Tensors | nn.Module,
        finetuned: Tensors | nn.Module,
        masks: Tensors,
        k: int | float | None = None,
        method: str | selection.Criterion = "ken",
        rule: str = "reset",
        scope: str = "all",
    ) -> "Subnetwork":
        """The same from bool masks, True = kept; rows may keep any number of entries, also none.

        Raises:
            ValueError: as `extract`, or a body tensor without a bool mask of its shape.
        """
        return cls._of_parts(_Parts.of(pretrained, finetuned), masks, k, method, scope, rule)

    @classmethod
    def _of_parts(cls, parts: "_Parts", chosen: Tensors, k, method, scope: str, rule: str) -> "Subnetwork":
        _check_choice("rule", rule, RULES)
        _check_choice("scope", scope, SCOPES)
        masks, values = {}, {}
        for name, tensor in parts.body.items():
            mask = chosen.get(name) if _in_scope(name, scope) else torch.ones(tensor.shape, dtype=torch.bool)
            if mask is None or mask.shape != tensor.shape or mask.dtype != torch.bool:
                found = "none" if mask is None else f"{mask.dtype} of {tuple(mask.shape)}"
                raise ValueError(
                    f"tensor {name!r} needs ranks or a bool mask of {tuple(tensor.shape)}, found {found}: "
                    "rank every tensor of the body."
                )
            masks[name] = mask.cpu()
            kept = _rescaled(tensor, parts.base[name], masks[name]) if rule == "rescale" else tensor
            values[name] = kept[masks[name]].cpu()
        name_of_method = method if isinstance(method, str) else getattr(method, "__name__", "custom")
        whole = {name: tensor.clone() for name, tensor in parts.whole.items()}
        base = fingerprint(parts.base)
        return cls(masks, values, whole, parts.aliases, base, name_of_method, k, rule, scope)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Body tensor -> (kept entries, all entries)."""
        return {name: (self.values[name].numel(), mask.numel()) for name, mask in self.masks.items()}

    @property
    def kept_body(self) -> int:
        """Kept entries of the body."""
        return sum(kept for kept, _ in self.counts.values())

    @property
    def total_body(self) -> int:
        """Entries of the body: all parameters that have a pre-trained value, tied ones once."""
        return sum(total for _, total in self.counts.values())

    @property
    def kept_share(self) -> float:
        """Kept share of the body, 0 to 1."""
        return self.kept_body / max(1, self.total_body)

    @property
    def head_size(self) -> int:
        """Entries without a pre-trained value."""
        return sum(tensor.numel() for tensor in self.whole.values() if tensor.is_floating_point())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            OSError: the folder does not exist or cannot be written.
        """
        settings = {
            "method": self.method,
            "k": self.k,
            "rule": self.rule,
            "scope": self.scope,
            "base": self.base,
        }
        content = storage.Content(self.masks, self.values, self.whole, self.aliases)
        storage.write(Path(path), content, settings)

    @classmethod
    def load(cls, path: str | Path) -> "Subnetwork":
        """Read a file written by `save`.

        Raises:
            ValueError: the file is truncated, altered, or not a sub-network.
            FileNotFoundError: there is no such file.
        """
        content, settings = storage.read(Path(path))
        return cls(content.masks, content.values, content.whole, content.aliases, **settings)

    def apply(self, pretrained: Tensors | nn.Module) -> dict[str, torch.Tensor]:
        """The compressed model: kept entries over the pre-trained values, and the head.

        Args:
            pretrained: the base; what it has besides the body is not looked at.

        Returns:
            Full state dict of new tensors; tied names share one tensor.

        Raises:
            ValueError: the base lacks a tensor, or is not the one the sub-network was made from.
        """
        base = self._checked_base(_tensors(pretrained))
        state = {name: tensor.clone() for name, tensor in base.items()}
        for name, tensor in state.items():
            tensor[self.masks[name].to(tensor.device)] = self.values[name].to(tensor.device)
        state |= {name: tensor.clone() for name, tensor in self.whole.items()}
        return state | {alias: state[name] for alias, name in self.aliases.items()}

    @torch.no_grad()
    def inject(self, model: nn.Module) -> None:
        """Turn a live model with the base's values into the compressed model, in place.

        The overwritten values are kept, so that `eject` can restore them.

        Raises:
            ValueError: the model is not the base, lacks a tensor, or holds this sub-network already.
        """
        if model in self._overwritten:
            raise ValueError("this sub-network is already in the model: eject it first.")
        state = _tensors(model)
        self._checked_base(state)
        for name, tensor in self.whole.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "none"
                raise ValueError(
                    f"the model needs a tensor {name!r} of {tuple(tensor.shape)}, found {found}: "
                    "build it with the head the sub-network was trained with."
                )
        self._overwritten[model] = self._exchange(state, self.values | self.whole)

    @torch.no_grad()
    def eject(self, model: nn.Module) -> None:
        """Restore what `inject` overwrote, bit for bit.

        Raises:
            ValueError: the sub-network is not in the model.
        """
        if model not in self._overwritten:
            raise ValueError("this sub-network is not in the model: there is nothing to eject.")
        self._exchange(_tensors(model), self._overwritten.pop(model))

    def _exchange(self, state: Tensors, new: Tensors) -> dict[str, torch.Tensor]:
        """Write new kept and whole values into live tensors; returns the old ones."""
        old = {}
        for name, values in new.items():
            tensor = state[name]
            if name in self.masks:
                mask = self.masks[name].to(tensor.device)
                old[name] = tensor[mask]
                tensor[mask] = values.to(tensor.device)
            else:
                old[name] = tensor.clone()
                tensor.copy_(values)
        for alias, name in self.aliases.items():
            if alias in state and state[alias].data_ptr() != state[name].data_ptr():
                state[alias].copy_(state[name])
        return old

    def _checked_base(self, pretrained: Tensors) -> dict[str, torch.Tensor]:
        for name in self.masks:
            if name not in pretrained:
                raise ValueError(f"the base lacks tensor {name!r}: give the model the sub-network was made from.")
        base = {name: pretrained[name].detach() for name in self.masks}
        found = fingerprint(base)
        if found != self.base:
            raise ValueError(
                f"the base has fingerprint {found[:12]}, expected {self.base[:12]}: give the pre-trained values "
                "the sub-network was made from."
            )
        return base


@dataclass(frozen=True)
class _Parts:
    """A fine-tuned model, divided: body with its base, whole (head and integer buffers), tied names."""

    body: dict[str, torch.Tensor]
    base: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]
    aliases: dict[str, str]

    @classmethod
    def of(cls, pretrained: Tensors | nn.Module, finetuned: Tensors | nn.Module) -> "_Parts":
        base, tensors = _tensors(pretrained), _tensors(finetuned)
        missing = [name for name in base if name not in tensors]
        if missing:
            raise ValueError(
                f"the fine-tuned model lacks {len(missing)} pre-trained tensors, such as {missing[0]!r}: "
                "give both in the naming of one architecture."
            )
        aliases = _tied(tensors, base)
        untied = {name: tensor for name, tensor in tensors.items() if name not in aliases}
        body = {name: tensor for name, tensor in untied.items() if name in base and tensor.is_floating_point()}
        for name, tensor in body.items():
            other = base[name]
            if other.shape != tensor.shape or other.dtype != tensor.dtype:
                raise ValueError(
                    f"tensor {name!r} is {tensor.dtype} of {tuple(tensor.shape)} fine-tuned but {other.dtype} "
                    f"of {tuple(other.shape)} pre-trained: both must be of one architecture and dtype."
                )
        whole = {name: tensor for name, tensor in untied.items() if name not in body}
        return cls(body, {name: base[name] for name in body}, whole, aliases)


def _tensors(source: Tensors | nn.Module) -> dict[str, torch.Tensor]:
    state = source.state_dict() if isinstance(source, nn.Module) else source
    return {name: tensor.detach() for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _tied(tensors: Tensors, base: Tensors) -> dict[str, str]:
    """Name -> the name it shares memory with; names with a pre-trained value come first."""
    first: dict[tuple, str] = {}
    aliases = {}
    for name in sorted(tensors, key=lambda name: name not in base):
        tensor = tensors[name]
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and first.setdefault(place, name) != name:
            aliases[name] = first[place]
    return aliases


def _in_scope(name: str, scope: str) -> bool:
    return scope == "all" or re.search(r"\d", name) is not None


def _check_choice(what: str, found: str, choices: tuple[str, ...]) -> None:
    if found not in choices:
        raise ValueError(f"unknown {what} {found!r}: expected {' or '.join(map(repr, choices))}.")


def _rescaled(finetuned: torch.Tensor, pretrained: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """W0 + (n / kept) (W - W0) by row, computed in at least float32; rows kept whole stay as they are."""
    rows, base, kept = (selection.as_rows(tensor) for tensor in (finetuned, pretrained, mask))
    precision = torch.promote_types(finetuned.dtype, torch.float32)
    counts = kept.sum(1, keepdim=True)
    # Not `number / tensor`: torch computes that as a product with the reciprocal, which rounds twice.
    factor = torch.full_like(counts, rows.shape[1], dtype=precision) / counts.clamp(min=1).to(precision)
    scaled = base.to(precision) + factor * (rows.to(precision) - base.to(precision))
    return torch.where(counts == rows.shape[1], rows, scaled.to(finetuned.dtype)).reshape(finetuned.shape)

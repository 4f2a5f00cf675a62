"""Kept entries of a fine-tuned model, block by block: `Subnetwork.extract` collects them, `prune` writes them."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from ken import selection
from ken.pairing import Pair
from ken.sources import Fingerprint
from ken.tensors import TensorSpec, as_rows, entries_at

RULES = ("reset", "rescale")
SCOPES = ("all", "layers")

Chooser = Callable[[str, slice, torch.Tensor, torch.Tensor], torch.Tensor]
"""(tensor name, rows, their fine-tuned values, their pre-trained values) -> bool mask of the rows."""


@dataclass(frozen=True)
class KeptBlock:
    """Consecutive rows of a body tensor: bool mask (rows, n) and the kept entries in row-major order, on the CPU.

    `changed`: whether any fine-tuned value of the rows differs from the pre-trained one.
    """

    name: str
    spec: TensorSpec
    mask: torch.Tensor
    values: torch.Tensor
    changed: bool = True


def chooser(
    k: int | float, method: str | selection.Criterion, seed: int | None, device: torch.device | str | None
) -> Chooser:
    """A function that chooses k entries of every row by a method of `ken.selection`.

    It computes on `device`, by default the device of the tensors.
    """
    selection.kept_count(1, k)
    selection.check_method(method)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"device {device!r} cannot be used here ({reason}): name another.") from None
    generators: dict[str, torch.Generator | None] = {}

    def choose(name: str, block: slice, finetuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        if name not in generators:
            generators.clear()  # consecutive blocks of one tensor share its generator
            generators[name] = selection.generator_of(name, seed)
        if selection.is_fixed(finetuned, base):
            return torch.zeros(finetuned.shape, dtype=torch.bool)
        try:
            return selection.select(finetuned.to(device), base.to(device), k, method, generators[name])
        except ValueError as error:
            where = f", rows from {block.start} on" if block.start else ""
            raise ValueError(f"tensor {name!r}{where}: {error}") from error

    return choose


def chooser_of_masks(pair: Pair, masks: Mapping[str, torch.Tensor]) -> Chooser:
    """A function that looks up which entries are kept.

    It raises a ValueError for a body tensor without a bool mask of its shape.
    """

    def choose(name: str, block: slice, finetuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        mask, shape = masks.get(name), pair.spec(name).shape
        if mask is None or mask.shape != shape or mask.dtype != torch.bool:
            given = "none" if mask is None else f"{mask.dtype} of {tuple(mask.shape)}"
            raise ValueError(
                f"tensor {name!r} needs ranks or a bool mask of {shape}, found {given}: rank every tensor of the body."
            )
        return as_rows(mask)[block]

    return choose


def kept_blocks(pair: Pair, choose: Chooser, rule: str, scope: str, fingerprint: Fingerprint) -> Iterator[KeptBlock]:
    """Kept entries of the whole body; `fingerprint` is updated with the pre-trained values.

    Raises:
        ValueError: an unknown rule or scope, or an error of `choose`.
    """
    check_choice("rule", rule, RULES)
    check_choice("scope", scope, SCOPES)
    for name in pair.body:
        spec = pair.spec(name)
        for block in spec.blocks():
            finetuned = pair.finetuned_rows(name, block)
            base = pair.base_rows(name, block).to(finetuned.device)
            fingerprint.update(name, spec, base)
            if in_scope(name, scope):
                mask = choose(name, block, finetuned, base)
            else:
                mask = torch.ones(finetuned.shape, dtype=torch.bool)
            mask = mask.to(finetuned.device)
            if (added := pair.added(name, block)) is not None:
                mask = mask | added.to(mask.device)
            kept = rescaled(finetuned, base, mask) if rule == "rescale" else finetuned
            changed = not torch.equal(finetuned, base)
            yield KeptBlock(name, spec, mask.cpu(), entries_at(kept, mask).cpu(), changed)


def in_scope(name: str, scope: str) -> bool:
    """Whether a tensor is pruned. With "layers" only numbered layers are, as in the authors' released code."""
    return scope == "all" or re.search(r"\d", name) is not None


def check_choice(what: str, choice: str, choices: tuple[str, ...]) -> None:
    """Check that a choice is valid.

    Raises:
        ValueError: it is not; the message lists the choices.
    """
    if choice not in choices:
        raise ValueError(f"unknown {what} {choice!r}: expected {' or '.join(map(repr, choices))}.")


def rescaled(finetuned: torch.Tensor, base: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """W0 + (n / kept) (W - W0) by row, computed in at least float32; rows kept in full are unchanged."""
    n, precision = finetuned.shape[1], torch.promote_types(finetuned.dtype, torch.float32)
    counts = mask.sum(1, keepdim=True)
    # Not `number / tensor`: torch computes that as a product with the reciprocal, which rounds twice.
    factor = torch.full_like(counts, n, dtype=precision) / counts.clamp(min=1).to(precision)
    scaled = base.to(precision) + factor * (finetuned.to(precision) - base.to(precision))
    return torch.where(counts == n, finetuned, scaled.to(finetuned.dtype))

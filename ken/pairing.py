"""A fine-tuned model beside its pre-trained base: which tensors are body, which are head, and what each is reset to."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ken.sources import Meta, Source


@dataclass(frozen=True)
class Pair:
    """Two sources whose tensors have been matched by name.

    Attributes:
        base, finetuned: the sources.
        body: name in the fine-tuned model -> name in the base, for floating tensors that both have.
        whole: names without a pre-trained value (the head) and of integer tensors.
        aliases: name in the fine-tuned model -> name of the tensor it is tied to.
    """

    base: Source
    finetuned: Source
    body: dict[str, str]
    whole: list[str]
    aliases: dict[str, str]

    @classmethod
    def of(cls, base: Source, finetuned: Source) -> "Pair":
        """Match the tensors of two sources.

        The base may carry a prefix the fine-tuned model lacks, or the other way round ("bert."), and heads of its
        own, such as one for language modelling, which are left out.

        Raises:
            ValueError: no name fits, a part of the body is missing, or shapes differ; the sentence names the tensor.
        """
        names = aligned(base.metas.keys() | base.aliases, finetuned.metas.keys() | finetuned.aliases)
        if not names:
            raise ValueError(
                f"{finetuned.label} and {base.label} have no tensor name in common, such as "
                f"{next(iter(finetuned.metas), None)!r} and {next(iter(base.metas), None)!r}: "
                "give both in the naming of one architecture."
            )
        aliases = _with_base_first(finetuned.aliases, names)
        metas = {name: meta for name, meta in finetuned.metas.items() if name not in aliases}
        metas |= {name: finetuned.metas[finetuned.aliases[name]] for name in aliases.values() if name not in metas}
        floating = [name for name, meta in metas.items() if meta.dtype.is_floating_point]
        floating = [name for name in floating if name not in finetuned.buffers]
        body = {name: base.aliases.get(names[name], names[name]) for name in floating if name in names}
        for name, other in body.items():
            found = base.metas[other]
            if found.shape != metas[name].shape or not found.dtype.is_floating_point:
                raise ValueError(
                    f"tensor {name!r} is {metas[name].dtype} of {metas[name].shape} fine-tuned but {found.dtype} of "
                    f"{found.shape} pre-trained: both must be of one architecture, and a head must not be named like "
                    "a tensor of the base."
                )
        if not body:
            raise ValueError(f"{finetuned.label} and {base.label} have no parameters in common: nothing can be reset.")
        _check_whole_body(base, finetuned, set(names.values()))
        return cls(base, finetuned, body, [name for name in metas if name not in body], aliases)

    def stored_name(self, name: str) -> str:
        """Name under which the fine-tuned source holds a tensor."""
        return self.finetuned.aliases.get(name, name)

    def finetuned_rows(self, name: str, place: slice) -> torch.Tensor:
        """Rows of a fine-tuned tensor."""
        return self.finetuned.rows(self.stored_name(name), place)

    def base_rows(self, name: str, place: slice) -> torch.Tensor:
        """Rows of the pre-trained values of a body tensor, in the fine-tuned dtype (the base may have another)."""
        return self.base.rows(self.body[name], place).to(self.meta(name).dtype)

    def meta(self, name: str) -> Meta:
        """Dtype and shape of a tensor of the fine-tuned model."""
        return self.finetuned.metas[self.stored_name(name)]

    def finetuned_tensor(self, name: str) -> torch.Tensor:
        """A whole tensor of the fine-tuned model, copied."""
        return self.finetuned.tensor(self.stored_name(name)).clone()


def aligned(base: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Wanted name -> base name, with or without a prefix such as "bert.", whichever way more names fit.

    BERT checkpoints of old call a norm's weight "gamma" and its bias "beta".
    """
    known = {_modern(name): name for name in base}
    wanted = list(wanted)
    prefixes = [f"{name.partition('.')[0]}." for name in (*wanted, *known) if "." in name]
    best: dict[str, str] = {}
    for prefix in ("", *dict.fromkeys(prefixes)):
        for translate in (lambda name, p=prefix: name.removeprefix(p), lambda name, p=prefix: p + name):
            found: dict[str, str] = {}
            for name in wanted:
                other = known.get(_modern(translate(name)))
                if other is not None:
                    found[name] = other
            if len(found) > len(best):
                best = found
    return best


def names_in(base: Source, metas: Mapping[str, Meta]) -> dict[str, str]:
    """Body tensor of a sub-network -> its name in a base, which may be named with or without a prefix.

    Raises:
        ValueError: the base lacks a tensor, or has it in another shape.
    """
    names = aligned(base.metas.keys() | base.aliases, metas)
    for name, meta in metas.items():
        if name not in names:
            raise ValueError(f"the base lacks tensor {name!r}: give the model the sub-network was made from.")
        names[name] = base.aliases.get(names[name], names[name])
        found = base.metas[names[name]]
        if found.shape != meta.shape:
            raise ValueError(
                f"tensor {name!r} is {found.shape} in the base, expected {meta.shape}: "
                "give the model the sub-network was made from."
            )
    return names


def _modern(name: str) -> str:
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _with_base_first(aliases: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """The same ties with, in each group, a name that has a pre-trained value as the one that is kept."""
    groups: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        groups.setdefault(name, [name]).append(alias)
    result = {}
    for group in groups.values():
        kept = next((name for name in group if name in names), group[0])
        result |= {name: kept for name in group if name != kept}
    return result


def _check_whole_body(base: Source, finetuned: Source, used: set[str]) -> None:
    """Refuse a fine-tuned model that lacks a module of what it otherwise shares with its base.

    A part that it lacks as a whole, such as a pooler or a head for language modelling, is not missed; neither is a
    single tensor of a module that it has, such as a mask that older versions saved.
    """
    depth = 2 if len({name.partition(".")[0] for name in used}) == 1 else 1

    def part(name: str) -> tuple[str, ...]:
        return tuple(name.split(".")[:depth])

    shared = {part(name) for name in used}
    used = used | {base.aliases[name] for name in used if name in base.aliases}
    modules = {name[:end] for name in used for end in range(len(name)) if name[end] == "."}
    floating = (name for name, meta in base.metas.items() if meta.dtype.is_floating_point)
    absent = (name for name in floating if name not in used and part(name) in shared)
    missing = [name for name in absent if name.rpartition(".")[0] not in {"", *modules}]
    if missing:
        raise ValueError(
            f"{finetuned.label} lacks {len(missing)} pre-trained tensors of {base.label}, such as {missing[0]!r}: "
            "give both in the naming of one architecture."
        )

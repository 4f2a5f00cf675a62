"""A fine-tuned model and its pre-trained base: the tensors of body and head, and the values for the reset."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ken.sources import Source
from ken.tensors import TensorSpec


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

        The base may have a prefix that the fine-tuned model lacks ("bert."), or the other way round. It may also have
        further heads, such as one for language modelling, which are left out.

        Raises:
            ValueError: no name fits, a part of the body is missing, or shapes differ; the message names the tensor.
        """
        names = aligned(base.specs.keys() | base.aliases, finetuned.specs.keys() | finetuned.aliases)
        if not names:
            raise ValueError(
                f"{finetuned.label} and {base.label} have no tensor name in common, such as "
                f"{next(iter(finetuned.specs), None)!r} and {next(iter(base.specs), None)!r}: "
                "give both in the naming of one architecture."
            )
        aliases = _with_base_first(finetuned.aliases, names)
        specs = {name: spec for name, spec in finetuned.specs.items() if name not in aliases}
        specs |= {name: finetuned.specs[finetuned.aliases[name]] for name in aliases.values() if name not in specs}
        floating = [name for name, spec in specs.items() if spec.dtype.is_floating_point]
        floating = [name for name in floating if name not in finetuned.buffers]
        body = {name: base.aliases.get(names[name], names[name]) for name in floating if name in names}
        for name, base_name in body.items():
            spec, base_spec = specs[name], base.specs[base_name]
            if base_spec.shape != spec.shape or not base_spec.dtype.is_floating_point:
                raise ValueError(
                    f"tensor {name!r} is {spec.dtype} of {spec.shape} fine-tuned but {base_spec.dtype} of "
                    f"{base_spec.shape} pre-trained: both must be of one architecture, and a head must not be named "
                    "like a tensor of the base."
                )
        if not body:
            raise ValueError(f"{finetuned.label} and {base.label} have no parameters in common: nothing can be reset.")
        _check_whole_body(base, finetuned, set(names.values()))
        return cls(base, finetuned, body, [name for name in specs if name not in body], aliases)

    def stored_name(self, name: str) -> str:
        """Name under which the fine-tuned source holds a tensor."""
        return self.finetuned.aliases.get(name, name)

    def finetuned_rows(self, name: str, block: slice) -> torch.Tensor:
        """Rows of a fine-tuned tensor."""
        return self.finetuned.rows(self.stored_name(name), block)

    def base_rows(self, name: str, block: slice) -> torch.Tensor:
        """Rows of the pre-trained values of a body tensor, in the fine-tuned dtype (the base may have another)."""
        return self.base.rows(self.body[name], block).to(self.spec(name).dtype)

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor of the fine-tuned model."""
        return self.finetuned.specs[self.stored_name(name)]

    def finetuned_tensor(self, name: str) -> torch.Tensor:
        """A whole tensor of the fine-tuned model, copied."""
        return self.finetuned.tensor(self.stored_name(name)).clone()


def aligned(base: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Wanted name -> base name, with or without a prefix such as "bert.", whichever fits more names.

    Old BERT checkpoints call a norm's weight "gamma" and its bias "beta".
    """
    known = {_modern(name): name for name in base}
    wanted = list(wanted)
    prefixes = [f"{name.partition('.')[0]}." for name in (*wanted, *known) if "." in name]
    best: dict[str, str] = {}
    for prefix in ("", *dict.fromkeys(prefixes)):
        for translate in (lambda name, p=prefix: name.removeprefix(p), lambda name, p=prefix: p + name):
            candidates = {name: known.get(_modern(translate(name))) for name in wanted}
            matches = {name: base_name for name, base_name in candidates.items() if base_name is not None}
            if len(matches) > len(best):
                best = matches
    return best


def names_in(base: Source, specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Body tensor of a sub-network -> its name in a base, which may be named with or without a prefix.

    Raises:
        ValueError: the base lacks a tensor, or has it in another shape.
    """
    names = aligned(base.specs.keys() | base.aliases, specs)
    for name, spec in specs.items():
        if name not in names:
            raise ValueError(f"the base lacks tensor {name!r}: give the model the sub-network was made from.")
        names[name] = base.aliases.get(names[name], names[name])
        shape = base.specs[names[name]].shape
        if shape != spec.shape:
            raise ValueError(
                f"tensor {name!r} is {shape} in the base, expected {spec.shape}: "
                "give the model the sub-network was made from."
            )
    return names


def _modern(name: str) -> str:
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _with_base_first(aliases: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """The same ties, but in each group a name with a pre-trained value is kept."""
    groups: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        groups.setdefault(name, [name]).append(alias)
    result = {}
    for group in groups.values():
        kept = next((name for name in group if name in names), group[0])
        result |= {name: kept for name in group if name != kept}
    return result


def _check_whole_body(base: Source, finetuned: Source, used: set[str]) -> None:
    """Refuse a fine-tuned model that lacks a module within a part that it shares with its base.

    It may lack a whole part, such as a pooler or a head for language modelling. It may also lack a single tensor of a
    module, such as a mask that older versions saved.
    """
    depth = 2 if len({name.partition(".")[0] for name in used}) == 1 else 1

    def part(name: str) -> tuple[str, ...]:
        return tuple(name.split(".")[:depth])

    shared = {part(name) for name in used}
    used = used | {base.aliases[name] for name in used if name in base.aliases}
    modules = {name[:end] for name in used for end in range(len(name)) if name[end] == "."}
    floating = (name for name, spec in base.specs.items() if spec.dtype.is_floating_point)
    absent = (name for name in floating if name not in used and part(name) in shared)
    missing = [name for name in absent if name.rpartition(".")[0] not in {"", *modules}]
    if missing:
        raise ValueError(
            f"{finetuned.label} lacks {len(missing)} pre-trained tensors of {base.label}, such as {missing[0]!r}: "
            "give both in the naming of one architecture."
        )

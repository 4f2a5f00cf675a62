"""A fine-tuned model and its pre-trained base: the tensors of body and head, and the values for the reset."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from ken.errors import did_you_mean
from ken.sources import AnySource, Memory, Source, check_merged, open_source
from ken.tensors import TensorSpec
from ken.vocabulary import Extended, extended
from ken.wrappers import without_inner_modules

HEAD_SHARE = 0.05
"""Share of a fine-tuned model without pre-trained values above which it has to be allowed."""
_TASK_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|qa_outputs|pre_classifier|logits_proj)\.")

_LAYER = re.compile(r"\.\d+(?=\.)")


@dataclass(frozen=True)
class Pair:
    """Two sources whose tensors have been matched by name.

    Attributes:
        base, finetuned: the sources.
        body: name in the fine-tuned model -> name in the base, for floating tensors that both have.
        whole: names without a pre-trained value (the head) and of integer tensors.
        aliases: name in the fine-tuned model -> name of the tensor it is tied to.
        notes: what a user should know, one sentence each.
    """

    base: Source
    finetuned: Source
    body: dict[str, str]
    whole: list[str]
    aliases: dict[str, str]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def opened(cls, pretrained: AnySource, finetuned: AnySource, allow_head: bool = False) -> "Pair":
        """Open two sources, match their tensors (`of`), and check that one was fine-tuned from the other.

        A state dict, or a module without a configuration, is taken as it is: its caller knows what its head is.

        Args:
            allow_head: accept more than `HEAD_SHARE` of the fine-tuned model as head.

        Raises:
            ValueError: as `of` and `check_related`.
        """
        pair = cls.of(open_source(pretrained), open_source(finetuned))
        if not isinstance(pair.finetuned, Memory) or pair.finetuned.model_type:
            pair.check_related(allow_head)
        return pair

    @classmethod
    def of(cls, base: Source, finetuned: Source) -> "Pair":
        """Match the tensors of two sources.

        The base may have a prefix that the fine-tuned model lacks ("bert."), or the other way round. It may also have
        further heads, such as one for language modelling, which are left out. Rows that the fine-tuned vocabulary has
        beyond that of the base are kept.

        Raises:
            ValueError: the architectures differ, no name fits, a part of the body is missing, or shapes differ; the
                message names the tensor.
        """
        types = base.model_type, finetuned.model_type
        if None not in types and types[0] != types[1]:
            raise ValueError(
                f"{finetuned.label} is a {types[1]} model and {base.label} a {types[0]} model (config.json): "
                "give the base that the model was fine-tuned from."
            )
        check_merged(finetuned.specs, finetuned.label)
        _drop_inner_modules(finetuned, base.specs)
        _drop_inner_modules(base, finetuned.specs)
        names = aligned(base.specs.keys() | base.aliases, finetuned.specs.keys() | finetuned.aliases)
        if not names:
            raise ValueError(_nothing_in_common(base, finetuned))
        aliases = _with_base_first(finetuned.aliases, names)
        specs = {name: spec for name, spec in finetuned.specs.items() if name not in aliases}
        specs |= {name: finetuned.specs[finetuned.aliases[name]] for name in aliases.values() if name not in specs}
        floating = [name for name, spec in specs.items() if spec.dtype.is_floating_point]
        floating = [name for name in floating if name not in finetuned.buffers]
        body = {name: base.aliases.get(names[name], names[name]) for name in floating if name in names}
        base = extended(base, {base_name: specs[name] for name, base_name in body.items()})
        for name, base_name in body.items():
            spec, base_spec = specs[name], base.specs[base_name]
            if base_spec.shape != spec.shape or not base_spec.dtype.is_floating_point:
                raise ValueError(
                    f"tensor {name!r} is {spec.dtype} of {spec.shape} fine-tuned but {base_spec.dtype} of "
                    f"{base_spec.shape} pre-trained: both must be of one architecture, and a head must not be named "
                    f"like a tensor of the base{_of_another_vocabulary(spec, base_spec)}."
                )
        if not body:
            raise ValueError(f"{finetuned.label} and {base.label} have no parameters in common: nothing can be reset.")
        _check_whole_body(base, finetuned, set(names.values()))
        notes = base.notes if isinstance(base, Extended) else []
        whole = [name for name in specs if name not in body]
        if not isinstance(finetuned, Memory):  # a file cannot say which tensors are tied
            tied = _copies(finetuned, (name for name in whole if name in floating), body)
            aliases, whole = aliases | tied, [name for name in whole if name not in tied]
        return cls(base, finetuned, body, whole, aliases, notes)

    def check_related(self, allow_head: bool) -> None:
        """Refuse another base, swapped models, and more than `HEAD_SHARE` of head unless it is allowed.

        Raises:
            ValueError: naming the head and its share.
        """
        base, finetuned, share = self.base.label, self.finetuned.label, self.head_share
        head = listing(sorted(self.head, key=lambda name: -self.spec(name).size))
        if not self.head and (own := self._head_of_base()):
            raise ValueError(
                f"{base} has a head ({listing(own)}) and {finetuned} has none: the two are probably swapped; give the "
                "model without the head as the pre-trained one."
            )
        used = set(self.body.values())
        sizes = {name: spec.size for name, spec in self.base.specs.items() if spec.dtype.is_floating_point}
        shared = sum(sizes[name] for name in used) / max(1, sum(sizes.values()))
        if share > 0.5 or (share > HEAD_SHARE and shared < 0.5):
            raise ValueError(
                f"{1 - share:.0%} of {finetuned} has pre-trained values in {base}, which shares {shared:.0%} of its "
                f"own; {head} have none: give the base that the model was fine-tuned from."
            )
        if share > HEAD_SHARE and not allow_head:
            raise ValueError(
                f"{share:.1%} of {finetuned} has no pre-trained value in {base} and would be stored whole as its head: "
                f"{head}; give the base that it was fine-tuned from, or allow such a head (--allow-head, "
                "allow_head=True)."
            )

    @cached_property
    def head(self) -> list[str]:
        """Floating tensors without a pre-trained value, apart from buffers."""
        floating = [name for name in self.whole if self.spec(name).dtype.is_floating_point]
        return [name for name in floating if name not in self.finetuned.buffers]

    @property
    def head_share(self) -> float:
        """Share of the fine-tuned entries, tied ones once, that have no pre-trained value."""
        body, head = sum(self.spec(name).size for name in self.body), sum(self.spec(name).size for name in self.head)
        extra = self.base.extra_entries if isinstance(self.base, Extended) else 0
        return (head + extra) / max(1, body + head)

    def _head_of_base(self) -> list[str]:
        """Names of the head of a task in the base that the fine-tuned model lacks."""
        unused = self.base.specs.keys() - set(self.body.values())
        return sorted(name for name in unused if _TASK_HEAD.search(name))

    def added(self, name: str, block: slice) -> torch.Tensor | None:
        """Which entries of rows of a body tensor are beyond the base's vocabulary, bool; None: none of the tensor."""
        return self.base.added(self.body[name], block) if isinstance(self.base, Extended) else None

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

    A prefix may have several parts. Old BERT checkpoints call a norm's weight "gamma" and its bias "beta".
    """
    known = {_modern(name): name for name in base}
    wanted = {name: _modern(name) for name in wanted}
    best: dict[str, str] = {}
    for strip, add in _prefixes(known, wanted.values()):
        translated = {name: add + modern.removeprefix(strip) for name, modern in wanted.items()}
        matches = {name: known[modern] for name, modern in translated.items() if modern in known}
        if len(matches) > len(best):
            best = matches
    return best


def _prefixes(known: Iterable[str], wanted: Iterable[str]) -> list[tuple[str, str]]:
    """(prefix to take from the wanted names, prefix to add): none first, then the ones that fit most names."""
    known, wanted = dict.fromkeys(known), dict.fromkeys(wanted)
    strips = Counter(name[:end] for name in wanted for end in _ends(name) if name[end:] in known)
    adds = Counter(name[:end] for name in known for end in _ends(name) if name[end:] in wanted)
    pairs = [(prefix, "") for prefix, _ in strips.most_common(8)] + [("", add) for add, _ in adds.most_common(8)]
    return [("", ""), *pairs]


def _ends(name: str) -> list[int]:
    """Where the prefixes of a name end, each after a dot."""
    return [match.end() for match in re.finditer(r"\.", name)]


def names_in(base: Source, specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Body tensor of a sub-network -> its name in a base, which may be named with or without a prefix.

    Raises:
        ValueError: the base lacks a tensor.
    """
    names = aligned(base.specs.keys() | base.aliases, specs)
    for name in specs:
        if name not in names:
            hint = did_you_mean(name, base.specs)
            hint = hint if hint.startswith(" Did") else ""
            raise ValueError(f"the base lacks tensor {name!r}: give the model the sub-network was made from.{hint}")
        names[name] = base.aliases.get(names[name], names[name])
    return names


def opened_base(pretrained: AnySource, specs: Mapping[str, TensorSpec]) -> tuple[Source, dict[str, str]]:
    """The base of a sub-network, with zeros where its vocabulary was extended, and `names_in` it.

    Raises:
        ValueError: as `names_in`, or a tensor has another shape in the base.
    """
    base = open_source(pretrained)
    _drop_inner_modules(base, specs)
    names = names_in(base, specs)
    base = extended(base, {names[name]: spec for name, spec in specs.items()})
    for name, spec in specs.items():
        shape = base.specs[names[name]].shape
        if shape != spec.shape:
            raise ValueError(
                f"tensor {name!r} is {shape} in the base, expected {spec.shape}: "
                "give the model the sub-network was made from."
            )
    return base, names


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
    """Refuse a fine-tuned model that lacks a parameter within a part that it shares with its base.

    It may lack a whole part, such as a pooler or a head for language modelling. It may also lack a single tensor that
    no layer has, such as a mask that older versions saved; the weight of a module and its bias are no masks.
    """
    depth = 2 if len({name.partition(".")[0] for name in used}) == 1 else 1

    def part(name: str) -> tuple[str, ...]:
        return tuple(name.split(".")[:depth])

    shared = {part(name) for name in used}
    used = used | {base.aliases[name] for name in used if name in base.aliases}
    modules = {name[:end] for name in used for end in range(len(name)) if name[end] == "."}
    floating = (name for name, spec in base.specs.items() if spec.dtype.is_floating_point)
    absent = (name for name in floating if name not in used and part(name) in shared)
    kinds, modern = {_LAYER.sub(".*", name) for name in used}, set(map(_modern, base.specs))

    def may_be_absent(name: str) -> bool:
        module, _, last = _modern(name).rpartition(".")
        is_parameter = last == "weight" or (last == "bias" and f"{module}.weight" in modern)
        return module in {"", *modules} and not is_parameter and _LAYER.sub(".*", name) not in kinds

    missing = [name for name in absent if not may_be_absent(name)]
    tied = _copies(base, missing, used & base.specs.keys())
    missing = [name for name in missing if name not in tied]
    if missing:
        raise ValueError(
            f"{finetuned.label} lacks {len(missing)} pre-trained tensors of {base.label}, such as {missing[0]!r}: "
            "give both in the naming of one architecture."
        )


def _copies(source: Source, names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Name -> the one of the others whose values it has, as tied tensors that were saved twice have.

    Biases may be equal by chance: those of a module are copies only if its weight is one.
    """
    names, others, copies = list(names), list(others), {}
    for name in sorted(names, key=lambda name: -len(source.specs[name].shape)):
        spec = source.specs[name]
        if len(spec.shape) < 2 and f"{name.rpartition('.')[0]}.weight" not in copies:
            continue
        for other in others:
            equal = other != name and source.specs[other] == spec and _equal(source, name, other)
            if equal:
                copies[name] = other
                break
    return copies


def _equal(source: Source, name: str, other: str) -> bool:
    blocks = source.specs[name].blocks()
    return all(torch.equal(source.rows(name, block), source.rows(other, block)) for block in blocks)


def _drop_inner_modules(source: Source, others: Iterable[str]) -> None:
    """Rename the tensors of a source in which "module" stands for data-parallel parts: the other names have none."""
    if any(".module." in name for name in source.specs) and not any(".module." in name for name in others):
        source.rename(without_inner_modules([*source.specs, *source.aliases]))


def _nothing_in_common(base: Source, finetuned: Source) -> str:
    """Why no name of two models fits, with the prefixes that differ where only they do."""
    ends = {name[end:]: name for name in base.specs for end in _ends(name)}
    for name in finetuned.specs:
        for end in _ends(name):
            if name[end:] in ends:
                other = ends[name[end:]]
                return (
                    f"tensor {name!r} of {finetuned.label} is {other!r} in {base.label}, with another prefix "
                    f"({name[:end]!r} and {other.removesuffix(name[end:])!r}): rename the tensors of one of them."
                )
    return (
        f"{finetuned.label} and {base.label} have no tensor name in common, such as "
        f"{next(iter(finetuned.specs), None)!r} and {next(iter(base.specs), None)!r}: "
        "give both in the naming of one architecture."
    )


def _of_another_vocabulary(spec: TensorSpec, base_spec: TensorSpec) -> str:
    smaller = len(spec.shape) == len(base_spec.shape) and spec.shape[1:] == base_spec.shape[1:]
    if smaller and spec.shape and spec.shape[0] < base_spec.shape[0]:
        return "; if tokens were removed from the vocabulary, restore their rows"
    return ""


def listing(names: Iterable[str]) -> str:
    """Up to three names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

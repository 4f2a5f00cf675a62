"""Kinds of matrices, which every numbered layer of a model has."""

import difflib
import re
from collections.abc import Iterable, Mapping

from ken.subnetwork import Subnetwork

QUERIES = ("query", "q_lin", "q_proj", "in_proj")  # names of the query matrix in different architectures, fused or not


def kinds(subnetwork: Subnetwork) -> dict[str, dict[int, str]]:
    """`kinds_of` the body of a sub-network."""
    return kinds_of({name: spec.shape for name, spec in subnetwork.specs.items()})


def kinds_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[int, str]]:
    """Matrix kinds that repeat over layers: name with `*` for the number -> layer number -> tensor name."""
    kinds: dict[str, dict[int, str]] = {}
    for name, shape in shapes.items():
        match = re.search(r"(?<=\.)\d+(?=\.)", name)
        if match and len(shape) >= 2:
            kind = f"{name[: match.start()]}*{name[match.end() :]}"
            kinds.setdefault(kind, {})[int(match.group())] = name
    return {kind: dict(sorted(layers.items())) for kind, layers in kinds.items()}


def choose_kind(subnetwork: Subnetwork, part: str | None = None) -> str:
    """`matching_kind` for a sub-network; if no kind fits, the error names the nearest kind or tensor."""
    return matching_kind(kinds(subnetwork), part, subnetwork.masks)


def matching_kind(known: Iterable[str], part: str | None = None, tensors: Iterable[str] = ()) -> str:
    """The kind with `part` in its name; without a part the queries, or else the first kind.

    Args:
        known: kinds of `kinds_of`.
        part: a kind, or a part of the name of exactly one, such as "query.weight".
        tensors: further names to suggest in the message.

    Raises:
        ValueError: there are no kinds, or `part` does not fit exactly one.
    """
    known = sorted(known)
    if not known:
        raise ValueError("the sub-network has no matrices that repeat over layers: give one of a model with layers.")
    if part is None:
        return next((kind for kind in known if any(name in kind for name in QUERIES)), known[0])
    matching = [kind for kind in known if kind == part] or [kind for kind in known if part in kind]
    if len(matching) == 1:
        return matching[0]
    endings = {".".join(name.split(".")[start:]) for name in known for start in range(name.count(".") + 1)}
    near = [] if matching else difflib.get_close_matches(part, sorted(endings | set(tensors)), n=1)
    advice = f"did you mean {near[0]!r}?" if near else "give a longer or another name."
    raise ValueError(f"{part!r} fits {len(matching)} kinds of matrices, expected one of {', '.join(known)}: {advice}")

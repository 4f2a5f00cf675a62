"""One sentence for a mistake in a config: the path of the key, what was found, what may stand there."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from baselines.options import shown
from ken.errors import did_you_mean

SECTION = "a section with keys"
TYPES = {
    "string_type": "text",
    "literal_error": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": SECTION,
    "model_type": SECTION,
    "model_attributes_type": SECTION,
}
LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
# What is said first: a misspelled key explains most of the other problems around it.
ORDER = {"extra_forbidden": 0, "union_tag_not_found": 0, "missing": 3} | dict.fromkeys(TYPES, 1)


def sentence(errors: Sequence[Mapping], schema: Mapping) -> str:
    """The most telling of pydantic's errors in plain words.

    Args:
        errors: of `ValidationError.errors()`.
        schema: JSON schema of the model; it has the descriptions and the valid names.
    """
    error = min(errors, key=lambda error: ORDER.get(error["type"], 2))
    path, parent, node = _located(error, schema)
    value, context = error["input"], error.get("ctx", {})
    where, found, meaning = dotted(path), shown(value), node.get("description", "")
    match error["type"]:
        case "extra_forbidden":
            return f"{where} is not known here.{did_you_mean(path[-1], parent['properties'])}"
        case "missing":
            return f"{where} is missing{f': {meaning}' if meaning else ''}."
        case "union_tag_not_found" | "union_tag_invalid":
            return _unknown_source(where, value, node, schema)
        case "literal_error" if isinstance(value, str):
            return f"{where} is {found}, which is not known here.{did_you_mean(value, node['enum'])}"
        case "value_error":
            return f"{where} {context['error']}"
        case "too_short":
            return f"{where} has {len(value)} entries, but needs at least {context['min_length']} ({meaning})."
        case "no_such_path":
            return f"{where} is {found}, which does not exist, seen from {Path.cwd()}: {meaning}."
        case "string_pattern_mismatch" if error["loc"][-1] == "[key]":
            return f"{where} has the name {found}, but a name must be {meaning}."
        case kind if kind in TYPES:
            expected = TYPES[kind]
            if expected == "text" and not isinstance(value, dict | list):
                expected = "text in quotes"  # YAML reads `no` as false and `5` as a number
            return f"{where} is {found}, but must be {expected}{f' ({meaning})' if meaning else ''}."
        case kind if kind in LIMITS:
            words, limit = LIMITS[kind]
            return f"{where} is {found}, but must be {words} {context[limit]:g}."
        case _:
            return f"{where} is {found}, but must be {meaning}."


def dotted(path: Iterable[str | int]) -> str:
    """A key path as people write it, e.g. ``models.bert.epochs`` or ``seeds[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _located(error: Mapping, schema: Mapping) -> tuple[list[str | int], Mapping, Mapping]:
    """Path of the key, and the schemas of what it is in and of its value."""
    path, parent, node = [], {}, schema
    *inner, last = error["loc"]
    if last == "[key]" and error["type"] == "string_pattern_mismatch":
        _, parent, node = _located(error | {"loc": inner[:-1], "type": ""}, schema)
        return inner[:-1], parent, node["propertyNames"]
    for part in error["loc"]:
        if kind := node.get("discriminator", {}).get("mapping", {}).get(part):
            node = _resolved({"$ref": kind}, schema)
            continue
        path.append(part)
        named = node.get("properties") or node.get("patternProperties") or {}
        others = next(iter(node.get("patternProperties", {}).values()), {})
        parent, node = node, node.get("items", {}) if isinstance(part, int) else named.get(part, others)
        node = _resolved(node, schema)
    return path, parent, node


def _resolved(node: Mapping, schema: Mapping) -> Mapping:
    """A schema node with its ``$ref`` followed; what stands beside the reference wins."""
    while "$ref" in node:
        target = schema["$defs"][node["$ref"].rpartition("/")[2]]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    return node


def _unknown_source(where: str, entry: Mapping, node: Mapping, schema: Mapping) -> str:
    """The problem of an entry whose kind cannot be told."""
    kinds, known = node["discriminator"]["mapping"], {}
    for kind in kinds.values():
        known |= _resolved({"$ref": kind}, schema)["properties"]
    if unknown := [key for key in entry if key not in known]:
        return f"{where}.{unknown[0]} is not known here.{did_you_mean(unknown[0], known)}"
    if "source" not in entry:
        *first, last = kinds
        return f"{where}.source is missing: {known['source']['description']} ({', '.join(first)} or {last})."
    source = entry["source"]
    return f"{where}.source is {shown(source)}, which is not known here.{did_you_mean(str(source), kinds)}"

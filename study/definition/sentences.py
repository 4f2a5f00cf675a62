"""Messages for mistakes in a config, in one sentence: the path of the key, its value, and what is allowed."""

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
# Which error is reported first: a wrong key explains most of the other errors around it.
ORDER = {"extra_forbidden": 0, "union_tag_not_found": 0, "missing": 3} | dict.fromkeys(TYPES, 1)


def sentence(errors: Sequence[Mapping], schema: Mapping) -> str:
    """The most informative of pydantic's errors in plain words.

    Args:
        errors: from `ValidationError.errors()`.
        schema: JSON schema of the model, with the descriptions and the valid names.
    """
    if names := [error for error in errors if _is_of_a_name(error)]:
        return _wrong_name(names[0], schema)
    error = min(errors, key=lambda error: ORDER.get(error["type"], 2))
    value, context = error["input"], error.get("ctx", {})
    path, parent, node = _located(error["loc"], schema)
    where, text, meaning = dotted(path), shown(value), _meaning(node)
    if isinstance(path[-1], int):
        meaning = meaning or _meaning(parent)  # an entry is described by its list
    match error["type"]:
        case "extra_forbidden":
            return f"{where} is not known here.{did_you_mean(path[-1], parent['properties'])}"
        case "missing":
            return f"{where} is missing{f': {meaning}' if meaning else ''}."
        case "union_tag_not_found" | "union_tag_invalid":
            return _unknown_source(where, value, node, schema)
        case "literal_error" if isinstance(value, str):
            return f"{where} is {text}, which is not known here.{did_you_mean(value, node['enum'])}"
        case "value_error":
            return f"{where} {context['error']}"
        case "too_short":
            return f"{where} has {len(value)} entries, but needs at least {context['min_length']} ({meaning})."
        case "no_such_path":
            return f"{where} is {text}, which does not exist (relative paths start at {Path.cwd()}): {meaning}."
        case kind if kind in TYPES:
            expected = TYPES[kind]
            if expected == "text" and not isinstance(value, dict | list):
                expected = "text in quotes"  # YAML reads `no` as false and `5` as a number
            hint = did_you_mean(str(value), node.get("enum", []))
            return f"{where} is {text}, but must be {expected}{f' ({meaning})' if meaning else ''}.{hint}"
        case kind if kind in LIMITS:
            words, limit = LIMITS[kind]
            return f"{where} is {text}, but must be {words} {context[limit]:g}."
        case _:
            return f"{where} is {text}, but must be {meaning}."


def dotted(path: Iterable[str | int]) -> str:
    """A key path in the usual notation, e.g. ``models.bert.epochs`` or ``seeds[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _located(path: Iterable[str | int], schema: Mapping) -> tuple[list[str | int], Mapping, Mapping]:
    """Path of a key without pydantic's tags of union members, and the schemas of its section and of its value."""
    keys, section, node = [], {}, schema
    for part in path:
        if kind := node.get("discriminator", {}).get("mapping", {}).get(part):
            node = _resolved({"$ref": kind}, schema)
            continue
        keys.append(part)
        entries = next(iter(node.get("patternProperties", {}).values()), {})
        below = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, entries)
        section, node = node, _resolved(below, schema)
    return keys, section, node


def _resolved(node: Mapping, schema: Mapping) -> Mapping:
    """A schema node with its ``$ref`` followed; keys beside the reference win."""
    while "$ref" in node:
        target = schema["$defs"][node["$ref"].rpartition("/")[2]]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    return node


def _meaning(node: Mapping) -> str:
    """The description of a key, or the docstring of a section, as part of a sentence."""
    text = " ".join(node.get("description", "").split()).removesuffix(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _is_of_a_name(error: Mapping) -> bool:
    kind = error["type"]
    return kind == "invalid_key" or (error["loc"][-1] == "[key]" and kind in ("string_type", "string_pattern_mismatch"))


def _wrong_name(error: Mapping, schema: Mapping) -> str:
    """Message for a key that YAML does not read as text, such as ``1:`` or ``no:``, or that is not a valid name."""
    name, end = error["input"], -2 if error["loc"][-1] == "[key]" else -1
    path, _, node = _located(error["loc"][:end], schema)
    if not isinstance(name, str):
        return f"{dotted([*path, str(name)])} is read as {shown(name)}, not as text: put quotes around it."
    return f"{dotted(path)} has the name {shown(name)}, but a name must be {node['propertyNames']['description']}."


def _unknown_source(where: str, entry: Mapping, node: Mapping, schema: Mapping) -> str:
    """Message for an entry whose source is missing or unknown."""
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

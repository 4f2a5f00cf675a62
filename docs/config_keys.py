"""The page of all config keys, written from the JSON schema of the config when the site is built."""

import json
import re
from collections.abc import Iterator

HEADER = """# Config keys

All keys of a config, with their defaults. `python -m study.config config/mini.yaml` checks a config and prints it with
all defaults; `python -m study.config --schema` prints the schema that this page is made from.
"""


def page(schema: dict) -> str:
    """Markdown page with a table for the top level and one for each section.

    Args:
        schema: JSON schema with the sections in `$defs`; descriptions explain the keys.
    """
    sections = {"Top level": schema} | {_title(name): section for name, section in schema["$defs"].items()}
    parts = [_section(title, part) for title, part in sections.items() if "properties" in part]
    return "\n".join([HEADER, *parts, *(_names(title, part) for title, part in sections.items() if "anyOf" in part)])


def _title(name: str) -> str:
    """PretrainingModel -> Pretraining model."""
    return re.sub(r"(?<=[a-z])[A-Z]", lambda match: f" {match[0].lower()}", name)


def _section(title: str, section: dict) -> str:
    rows = [
        f"| `{key}` | {_meaning(node)} | {'required' if key in section.get('required', ()) else _default(node)} |"
        for key, node in section["properties"].items()
    ]
    return "\n".join([f"## {title}", "", "| key | meaning | default |", "|---|---|---|", *rows, ""])


def _names(title: str, names: dict) -> str:
    """Section on names that are listed or follow a pattern."""
    lines = [f"## {title}", "", f"The {names['description']}: any of", ""]
    for kind in names["anyOf"]:
        values = ", ".join(f"`{value}`" for value in kind.get("enum", [kind.get("pattern")]))
        lines.append(f"- {kind['description']}: {values}")
    return "\n".join([*lines, ""])


def _meaning(node: dict) -> str:
    """Description of a key, the values it may have, and links to the sections in it."""
    parts = [node["description"]] if "description" in node else []
    if values := node.get("enum", [node["const"]] if "const" in node else []):
        parts.append(f"{'one of ' if len(values) > 1 else ''}{', '.join(f'`{value}`' for value in values)}")
    titles = [_title(name) for name in dict.fromkeys(_references(node))]
    if titles:
        links = (f"[{title}](#{title.lower().replace(' ', '-')})" for title in titles)
        parts.append(f"see {', '.join(links)}")
    return "; ".join(parts).replace("|", "\\|").replace("<", "&lt;")


def _references(node: object) -> Iterator[str]:
    """Names of the sections that a part of the schema refers to."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rpartition("/")[2]
        node = [value for key, value in node.items() if key != "discriminator"]
    if isinstance(node, list):
        for part in node:
            yield from _references(part)


def _default(node: dict) -> str:
    """Default of a key; those of a section are in its own table."""
    default = node.get("default")
    return "" if default is None or isinstance(default, dict) else f"`{json.dumps(default)}`"

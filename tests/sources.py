"""Access to the Python sources of the repository without importing them."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("ken", "baselines", "study", "report", "benchmarks")
Definition = ast.FunctionDef | ast.ClassDef


def path_of(module: str) -> Path:
    """Source file of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def modules(package: str) -> list[str]:
    """All modules of a package, including the package."""
    files = sorted(path_of(package).parent.rglob("*.py"))
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


def text_of(module: str) -> str:
    """Source text of a module."""
    return path_of(module).read_text(encoding="utf-8")


@functools.cache
def parsed(module: str) -> ast.Module:
    """Syntax tree of a module."""
    return ast.parse(text_of(module))


def public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Public functions and classes that a module or a class defines."""
    return (child for child in node.body if isinstance(child, Definition) and not child.name.startswith("_"))


def programs(package: str) -> list[str]:
    """Modules of a package that can be run with `python -m`."""
    return [module for module in modules(package) if 'if __name__ == "__main__":' in text_of(module)]


def code_blocks(document: Path, language: str) -> list[str]:
    """Fenced code blocks of a Markdown document in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.S | re.M)

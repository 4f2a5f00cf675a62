"""Write docs/api.md from the docstrings of the code: `python -m docs.api`.

The sources are parsed and never imported. A page of names that nobody maintains by hand cannot fall behind: a test
compares the file with what is written here, and another wants a docstring on every public name.
"""

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
PACKAGES = ("ken", "baselines", "study", "report", "benchmarks")
# What others build on: the library, and what a method of one's own is made of.
MODULES = (
    *("ken", "ken.kde", "ken.selection", "ken.suggestion", "ken.hub", "ken.text"),
    *("ken.viz.pictures", "ken.viz.matrix_kinds", "ken.viz.neighbours", "ken.viz.explorer"),
    *("baselines.base", "baselines.training"),
)
WIDTH = 100  # characters of a signature on one line
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):\n((?:(?: +.*)?(?:\n|\Z))+)", re.M)

HEADER = """# API

Written by `python -m docs.api` from the docstrings; change those. `ken` is a library of its own, the rest is the suite
around it. How to add to it is in [adding.md](adding.md). A name that begins with `_` is nobody else's business.
"""


@dataclass(frozen=True)
class Name:
    """A public function, class or constant.

    Attributes:
        module: where others import it from.
        node: its definition; of a constant, the assignment.
        docstring: its docstring; of a constant, the string below it.
    """

    module: str
    node: ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    docstring: str

    @property
    def name(self) -> str:
        """What it is called."""
        if isinstance(self.node, ast.Assign):
            return self.node.targets[0].id
        return self.node.target.id if isinstance(self.node, ast.AnnAssign) else self.node.name


def path_of(module: str) -> Path:
    """Source file of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def parsed(module: str) -> ast.Module:
    """Syntax tree of a module."""
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def modules(package: str) -> list[str]:
    """All modules of a package, itself among them."""
    files = sorted(path_of(package).parent.rglob("*.py"))
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


def public(module: str) -> Iterator[Name]:
    """Functions and classes that a module defines, constants with a docstring, and what a package offers as its own.

    A package offers the names in its `__all__`; those that are modules are left to themselves.
    """
    body = parsed(module).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield Name(module, node, ast.get_docstring(node) or "")
        elif isinstance(node, ast.Assign | ast.AnnAssign) and _is_string(after):
            yield Name(module, node, inspect.cleandoc(after.value.value))
    offered = next((ast.literal_eval(node.value) for node in body if _assigns(node, "__all__")), [])
    imports = [node for node in ast.walk(parsed(module)) if isinstance(node, ast.ImportFrom) and node.module != module]
    for node in imports:
        wanted = {alias.name for alias in node.names if alias.name in offered}
        found = public(node.module) if wanted else ()
        yield from (Name(module, name.node, name.docstring) for name in found if name.name in wanted)


def _is_string(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _assigns(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """Public methods and properties of a class."""
    return [found for found in node.body if isinstance(found, ast.FunctionDef) and not found.name.startswith("_")]


def parameters(arguments: ast.arguments) -> list[str]:
    """Parameters with their annotations and defaults, `self` and `cls` left out."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    found = [_parameter(argument, default) for argument, default in zip(positional, defaults, strict=True)]
    if arguments.vararg:
        found.append(f"*{source(arguments.vararg)}")
    elif arguments.kwonlyargs:
        found.append("*")
    found += [_parameter(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    found += [f"**{source(arguments.kwarg)}"] if arguments.kwarg else []
    return [text for text in found if text not in ("self", "cls")]


def source(node: ast.AST) -> str:
    """Source of a node, with strings in double quotes as the formatter wants them."""
    return ast.unparse(node).replace("'", '"')


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    equals = " = " if argument.annotation else "="
    return source(argument) + (f"{equals}{source(default)}" if default is not None else "")


def signature(name: str, node: ast.FunctionDef) -> str:
    """A function's head as Python writes it, one parameter a line where it is long."""
    if any(ast.unparse(decorator) in ("property", "functools.cached_property") for decorator in node.decorator_list):
        return name + (f": {source(node.returns)}" if node.returns else "")
    returns = f" -> {source(node.returns)}" if node.returns else ""
    inside = parameters(node.args)
    line = f"{name}({', '.join(inside)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n    ".join([f"{name}(", *(f"{text}," for text in inside)]) + f"\n){returns}"


def as_markdown(docstring: str) -> str:
    """A docstring with its sections as lists; examples become code."""
    parts, place = [], 0
    for match in _SECTION.finditer(docstring):
        parts.append(_prose(docstring[place : match.start()]))
        title, content = match[1], inspect.cleandoc(f"\n{match[2]}")
        parts.append(_code(content) if title == "Example" else f"{title}:\n\n{_prose(_listed(title, content))}")
        place = match.end()
    parts.append(_prose(docstring[place:]))
    return "\n\n".join(part for part in parts if part)


def _prose(text: str) -> str:
    """Text in which no name in angle brackets is taken for HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text.strip())


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _listed(title: str, content: str) -> str:
    """Entries of a section, a line each; what it returns is one entry."""
    if title in ("Returns", "Yields"):
        return f"- {' '.join(content.split())}"
    entries = [" ".join(entry.split()) for entry in re.split(r"\n(?! )", content)]
    return "\n".join("- " + re.sub(r"^([\w*]+(?:, [\w*]+)*): ", r"`\1`: ", entry) for entry in entries)


def described(name: Name) -> str:
    """Section of one name; a class with its public methods that have a docstring of their own."""
    parts = [f"### {name.module}.{name.name}"]
    if isinstance(name.node, ast.FunctionDef):
        parts.append(_code(signature(name.name, name.node)))
    elif not isinstance(name.node, ast.ClassDef):
        parts.append(_code(ast.get_source_segment(path_of(name.module).read_text(encoding="utf-8"), name.node)))
    parts.append(as_markdown(name.docstring))
    for method in methods(name.node) if isinstance(name.node, ast.ClassDef) else ():
        if docstring := ast.get_docstring(method):
            parts += [_code(signature(f"{name.name}.{method.name}", method)), as_markdown(docstring)]
    return "\n\n".join(parts) + "\n"


def summary(docstring: str) -> str:
    """The first paragraph on one line, without its full stop."""
    return " ".join(docstring.partition("\n\n")[0].split()).removesuffix(".")


def steps(package: str) -> list[str]:
    """Modules of a package that are programs."""
    return [
        name for name in modules(package) if 'if __name__ == "__main__":' in path_of(name).read_text(encoding="utf-8")
    ]


def table(heading: str, names: list[str], shown: str) -> str:
    """Modules with what their docstrings say first; `shown` is how a name is put."""
    rows = [f"| `{shown.format(name)}` | {summary(ast.get_docstring(parsed(name)) or '')} |" for name in names]
    return "\n".join([f"| {heading} | |", "|---|---|", *rows])


def page() -> str:
    """The whole of docs/api.md."""
    parts, seen = [HEADER], set()
    for module in MODULES:
        parts.append(f"## {module}\n\n{as_markdown(ast.get_docstring(parsed(module)) or '')}\n")
        new = [name for name in public(module) if (name.name, name.docstring) not in seen]
        parts += [described(name) for name in new]
        seen |= {(name.name, name.docstring) for name in new}
    programs = [name for package in PACKAGES[2:] for name in steps(package)]
    parts.append(
        f"## Steps\n\nEach is a program; `--help` explains it.\n\n{table('command', programs, 'python -m {}')}\n"
    )
    rest = [name for package in PACKAGES for name in modules(package) if name not in (*MODULES, *programs)]
    parts.append(f"## The other modules\n\n{table('module', rest, '{}')}\n")
    return "\n".join(parts)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

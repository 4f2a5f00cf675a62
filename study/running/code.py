"""Hashes of code: a step or a recorded score is computed again when the code it depends on has changed.

Snakemake does not see which modules a step imports. So the `code_hash` of a step is a parameter of its rule, and part
of the key of every recorded score.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("ken", "baselines", "study", "report")


def code_hash(*modules: str, root: Path = ROOT) -> str:
    """Hash over modules and everything they import from this repository, directly or indirectly.

    Comments, docstrings and layout do not count. Imports inside functions count, imports for type checkers do not. If a
    module names a file of its folder in a string literal, such as a template, the bytes of that file count too.

    Args:
        modules: names such as "study.finetune".
        root: folder of the repository.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: there is no such module.
    """
    digest = hashlib.sha256()
    for path in dependencies(*modules, root=root):
        content = _source(path).code if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def dependencies(*modules: str, root: Path = ROOT) -> list[Path]:
    """Files of the modules, of the modules and packages they import, and the files that any of these name."""
    files: set[Path] = set()
    waiting = list(modules)
    for name in modules:
        if _path(name, root) is None:
            raise ValueError(f"there is no module {name} in {root}: name one of {', '.join(PACKAGES)}.")
    while waiting:
        name = waiting.pop()
        path = _path(name, root)
        if path is None or path in files:
            continue
        files.add(path)
        source = _source(path)
        files.update(source.files)
        waiting += source.imports
        waiting += [name.rpartition(".")[0]] if "." in name else []  # importing a module runs its package first
    return sorted(files)


def _path(module: str, root: Path) -> Path | None:
    """File of a module of this repository, None for any other name."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


class _Source:
    """A parsed source file.

    Attributes:
        code: as `ast` writes it, without comments and docstrings.
        imports: names that may be modules.
        files: files of its folder that it names.
    """

    def __init__(self, path: Path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.imports = sorted(set(_imports(tree)))
        self.files = sorted(set(_named_files(tree, path.parent)))
        self.code = ast.unparse(_WithoutDocstrings().visit(tree))


@functools.cache
def _parsed(path: Path, modified: int, size: int) -> _Source:
    return _Source(path)


def _source(path: Path) -> _Source:
    status = path.stat()
    return _parsed(path, status.st_mtime_ns, status.st_size)


def _imports(tree: ast.AST) -> Iterator[str]:
    """Names that are imported at run time; "package.module.name" may be a module or a name defined in one."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _named_files(tree: ast.AST, folder: Path) -> Iterator[Path]:
    """Files in a folder that string literals name, except Python modules, which are found by imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
            if 2 < len(name) < 100 and "." in name and not name.endswith(".py") and "\n" not in name:
                path = folder / name
                if path.is_file() and path.is_relative_to(folder) and ".." not in path.parts:
                    yield path


class _WithoutDocstrings(ast.NodeTransformer):
    def _strip(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _strip

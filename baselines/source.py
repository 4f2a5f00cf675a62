"""Which source files a method's results depend on, so that a changed file reruns what it touches and nothing else."""

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

from baselines.base import MODULES, Method

PACKAGES = ("ken", "baselines")


@functools.cache  # methods share most of their files
def imported_modules(path: Path) -> set[str]:
    """Modules of this project's packages that a source file imports, as written."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.partition(".")[0] in PACKAGES}


def _find(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # "package.module.name": a name in a module, not a module
        return None
    return Path(spec.origin) if spec and spec.origin else None


def source_files(module: str) -> list[Path]:
    """The module's file and those of all project modules it imports, directly or not, sorted."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _find(name)
        if path is not None and name not in found:
            found[name] = path
            # `import baselines` brings every method in; a method depends on the modules it names, not on its siblings.
            if path != Path(__file__).with_name("__init__.py"):
                waiting += imported_modules(path)
    return sorted(set(found.values()))


def source_hash(method: Method) -> str:
    """Hash over the source files that a method's results depend on."""
    paths = source_files(MODULES.get(method.name, type(method).__module__))
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return hashlib.sha256("".join(contents).encode()).hexdigest()[:16]

"""Import rules: study -> baselines -> ken, report -> ken, and nothing of the suite in the library."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

import ken
import ken.viz
from tests import sources

MAY_IMPORT = {
    "ken": {"ken"},
    "baselines": {"baselines", "ken"},
    "study": {"study", "baselines", "ken"},
    "report": {"report", "ken"},
    "benchmarks": {"benchmarks", "baselines", "ken", "study"},
}
EXTRAS = {"huggingface_hub", "transformers", "peft", "matplotlib"}
LIBRARY_DEPENDENCIES = {"torch", "numpy", "safetensors", "tqdm", *EXTRAS}


def imported(module: str) -> set[str]:
    """Top-level packages that a module imports anywhere."""
    names = set()
    for node in ast.walk(sources.parsed(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_lower_layers(package):
    for module in sources.modules(package):
        assert imported(module) & MAY_IMPORT.keys() <= MAY_IMPORT[package], module


def test_the_library_imports_only_its_dependencies():
    for module in sources.modules("ken"):
        assert imported(module) - sys.stdlib_module_names <= LIBRARY_DEPENDENCIES | {"ken"}, module


LAZY = {"ken": ken, "ken.viz": ken.viz}  # packages that import their public names on first use


def lazy_imports(module: str) -> list[str]:
    """Imports of lazily loaded names, which would hide a dependency: dependencies are read from import statements."""
    used = []
    for node in without_type_checking(sources.parsed(module)):
        if isinstance(node, ast.Import):
            used += [alias.name for alias in node.names if alias.name in LAZY]
        elif isinstance(node, ast.ImportFrom) and node.module in LAZY:
            used += [f"{node.module}.{alias.name}" for alias in node.names if alias.name in LAZY[node.module]._MODULES]
            used += [f"{node.module}.viz" for alias in node.names if (node.module, alias.name) == ("ken", "viz")]
    return used


def without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes outside `if TYPE_CHECKING:` blocks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from without_type_checking(node)


@pytest.mark.parametrize("package", ["ken", "baselines", "study", "report", "benchmarks"])
def test_names_are_imported_from_the_module_that_defines_them(package):
    used = {module: lazy_imports(module) for module in sources.modules(package)}
    assert {module: names for module, names in used.items() if names} == {}


def imported_modules(module: str, modules: set[str]) -> set[str]:
    """The given modules that a module imports, also inside functions."""
    names = set()
    for node in without_type_checking(sources.parsed(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= submodules & modules if submodules <= modules else submodules | {node.module}
    return names & modules - {module}


@pytest.mark.parametrize("package", ["ken", "baselines", "study", "report"])
def test_there_are_no_import_cycles(package):
    modules = set(sources.modules(package))
    graph = {module: imported_modules(module, modules) for module in modules}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_public_names_are_imported_lazily():
    program = """
import sys, ken, ken.files, ken.errors
assert "torch" not in sys.modules and set(ken.__all__) <= set(dir(ken))
from ken import select, kde
assert ken.kde.density is kde.density and ken.select is select and ken.Subnetwork.__module__ == "ken.subnetwork"
assert all(getattr(ken, name) for name in ken.__all__)
try:
    ken.nothing
except AttributeError as error:
    assert str(error) == "module 'ken' has no attribute 'nothing'"
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=sources.ROOT)


@pytest.mark.parametrize("package", LAZY)
def test_type_checking_imports_match_the_lazy_ones(package):
    (block,) = (node for node in sources.parsed(package).body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in block.body for alias in node.names}
    assert {name: module for name, module in imports.items() if module != package} == LAZY[package]._MODULES
    assert sorted(imports) == sorted(LAZY[package].__all__)
    assert all(getattr(LAZY[package], name) for name in imports)

"""Imports run one way: study -> baselines -> ken, report -> ken, and the library needs nothing of the suite."""

import ast
import subprocess
import sys

import pytest

import ken
from tests import sources

MAY_IMPORT = {
    "ken": {"ken"},
    "baselines": {"baselines", "ken"},
    "study": {"study", "baselines", "ken"},
    "report": {"report", "ken"},
    "benchmarks": {"benchmarks", "baselines", "ken", "study"},
}
OF_THE_LIBRARY = {"torch", "numpy", "safetensors", "tqdm", "huggingface_hub", "transformers", "matplotlib"}


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
def test_imports_run_one_way(package):
    for module in sources.modules(package):
        assert imported(module) & MAY_IMPORT.keys() <= MAY_IMPORT[package], module


def test_the_library_needs_what_it_asks_for():
    for module in sources.modules("ken"):
        assert imported(module) - sys.stdlib_module_names <= OF_THE_LIBRARY | {"ken"}, module


def lazy_imports(module: str) -> list[str]:
    """Imports of the names that `ken` loads at first use: what a step depends on is read from import statements."""
    used = []
    for node in ast.walk(sources.parsed(module)):
        if isinstance(node, ast.Import):
            used += [alias.name for alias in node.names if alias.name == "ken"]
        elif isinstance(node, ast.ImportFrom) and node.module == "ken":
            used += [f"ken.{alias.name}" for alias in node.names if alias.name in ken._MODULES]
    return used


@pytest.mark.parametrize("package", ["ken", "baselines", "study", "report", "benchmarks"])
def test_code_imports_from_the_module_that_defines_a_name(package):
    assert {module: lazy_imports(module) for module in sources.modules(package) if module != "ken"} == {
        module: [] for module in sources.modules(package) if module != "ken"
    }


def test_the_public_names_are_imported_at_first_use():
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


def test_the_imports_for_type_checkers_are_those_of_first_use():
    (block,) = (node for node in sources.parsed("ken").body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in block.body for alias in node.names}
    assert {name: module for name, module in imports.items() if module != "ken"} == ken._MODULES
    assert sorted(imports) == sorted(ken.__all__)

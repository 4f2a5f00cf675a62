"""Imports run one way: study -> baselines -> ken, report -> ken, and the library needs nothing of the suite."""

import ast
import sys

import pytest

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

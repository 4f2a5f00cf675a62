"""The list of measurements matches its modules and is cheap to import."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from report import outputs
from report.outputs import MEASUREMENTS
from report.tables import Tables

REPORT = Path(outputs.__file__).parent


def test_every_measurement_module_is_listed_once():
    modules = {path.stem for path in (REPORT / "measurements").glob("*.py")} - {"__init__", "contract"}
    assert sorted(modules) == sorted(measurement.name for measurement in MEASUREMENTS)
    assert all(measurement.module.__doc__ for measurement in MEASUREMENTS)


@pytest.mark.parametrize("measurement", MEASUREMENTS, ids=lambda measurement: measurement.name)
def test_measurements_make_their_listed_tables_and_figures(measurement, wide_study):
    assert set(measurement.module.COLUMNS) == set(measurement.tables)
    made = measurement.call("drawings", Tables.read(wide_study))
    names = {name for name in made if not name.startswith("model_")}
    assert names == {name for name, needs in measurement.figures.items() if not needs or name in made}


def test_a_report_has_exactly_the_listed_files(wide_study, built_study):
    for study, parts in ((wide_study, []), (built_study, ["random-init"])):
        tables = {path.stem for path in (study / "tables").glob("*.csv")}
        assert tables == set(outputs.table_names(parts))
        drawn = {path.stem for path in (study / "figures").glob("*.pdf")} - {"kenviz"}
        assert drawn == set(outputs.figure_names(parts))


def test_listed_names_depend_on_the_parts_of_a_study():
    every = {part: {*outputs.table_names([part]), *outputs.figure_names([part])} for part in outputs.PARTS}
    none = {*outputs.table_names([]), *outputs.figure_names([])}
    assert every["random-init"] - none == set()  # the table exists even without a seed
    assert "pretraining_gain" in outputs.figure_names(["random-init"])
    assert "pretraining_gain" not in outputs.figure_names([])
    assert every["pruning"] - none == {"perplexity"} and every["adaptation"] - none == {"perplexity", "adaptation"}


def test_listing_names_does_not_import_pandas():
    code = "import sys, report.outputs as o; o.table_names([]); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_report_has_no_import_cycles():
    paths = {".".join(path.relative_to(REPORT.parent).with_suffix("").parts): path for path in REPORT.rglob("*.py")}
    imports = {}
    for name, path in paths.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        imports[name] = imported & paths.keys()
    assert len(list(TopologicalSorter(imports).static_order())) == len(paths)  # raises CycleError


def test_functions_are_short():
    for path in REPORT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path.name, node.name)

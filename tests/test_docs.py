"""The documents are up to date: their examples run, and the commands, files and columns they name exist."""

import ast
import doctest
import importlib
import re
import shutil
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from baselines import METHODS
from baselines import base as contract
from ken.selection import CRITERIA
from study.cells.finetuned_cell import FinetunedCell
from study.compress import compress
from study.definition import config as study_config
from study.finetune import finetune
from tests import sources
from tests.conftest import SETTINGS, make_checkpoint
from tests.test_workflow import copy_checkout, snakemake

ROOT = Path(__file__).parents[1]
PROGRAM = r"python -m ((?:study|report|benchmarks)\.\w+[^`\n]*)"
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS}
MODULES = [name for package in sources.PACKAGES for name in sources.modules(package)]
EXAMPLES = [name for name in MODULES if ">>> " in sources.text_of(name)]
COMMANDS = sorted(
    {" ".join(command.split("#")[0].split()) for text in PAGES.values() for command in re.findall(PROGRAM, text)}
)


def blocks(language: str) -> list[str]:
    """Code blocks of docs/adding.md."""
    return sources.code_blocks(ROOT / "docs" / "adding.md", language)


def test_every_public_name_has_a_docstring():
    classes = [node for module in MODULES for node in sources.public(sources.parsed(module))]
    classes = [node for node in classes if isinstance(node, ast.ClassDef)]
    contract = {method.name for node in classes for method in sources.public(node) if ast.get_docstring(method)}
    contract |= {part.target.id for node in classes for part in node.body if isinstance(part, ast.AnnAssign)}
    contract |= {"forward", "emit"}  # torch's and logging's
    lacking = [name for name in MODULES if not ast.get_docstring(sources.parsed(name))]
    for module in MODULES:
        names = [node for node in sources.public(sources.parsed(module)) if node.name != "main"]
        lacking += [f"{module}.{node.name}" for node in names if not ast.get_docstring(node)]
    for node in classes:  # an overriding method may rely on the docstring of another method of its name
        lacking += [f"{node.name}.{method.name}" for method in sources.public(node) if method.name not in contract]
    assert lacking == []


def test_every_program_is_a_documented_step():
    programs = {name for package in ("study", "report", "benchmarks") for name in sources.programs(package)}
    assert set(re.findall(r"^\| `python -m ([\w.]+)", PAGES["steps.md"], re.M)) == programs


def test_every_config_key_is_documented(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = importlib.import_module("config_keys").page(study_config.schema(METHODS))
    explained = {tuple(row) for row in re.findall(r"^\| `([\w-]+)` \| (\S.*?) \| (.*) \|$", page, re.M)}
    assert {"study", "seeds", "kept_shares", "learning_rate", *METHODS} <= {key for key, _, _ in explained}
    assert len(explained) == len(
        {line for line in page.splitlines() if line.startswith("| `")}
    )  # each has a description
    assert "## Method name" in page and "-(16|8|4|3|2|1)bit$`" in page
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", page, re.M)}
    assert set(re.findall(r"\(#([\w-]+)\)", page)) <= anchors


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_use_valid_options(command, monkeypatch, capsys):
    module, *words = command.split()
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(module).main()
    explained = capsys.readouterr().out
    options = {word for word in words if word.startswith("--")}
    assert options <= set(re.findall(r"--[\w-]+", explained))
    required = re.sub(r"\[.*?\]", "", explained.partition("\n\n")[0], flags=re.S)
    assert not words or set(re.findall(r"--[\w-]+", required)) <= options


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_run(module):
    flags = doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(module), optionflags=flags).failed == 0


def test_the_library_has_docstring_examples():
    assert {"ken.kde", "ken.selection", "ken.subnetwork", "ken.viz.neighbours"} <= set(EXAMPLES)


def test_links_point_to_existing_files():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", PAGES[document.name]):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_modules_targets_and_paths_named_in_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name, text in PAGES.items():
        for module in re.findall(r"python -m ((?:study|report|benchmarks)\.\w+)", text):
            assert sources.path_of(module).exists(), f"{name}: {module}"
        assert set(re.findall(r"^`?make ([a-z-]+)", text, re.M)) | set(re.findall(r"`make ([a-z-]+)", text)) <= targets
        for path in re.findall(r"`((?:config|ken|baselines|study|report|docs|tests|envs|profiles)/[\w./+-]+)`", text):
            assert (ROOT / path).exists() or path == "config/mine.yaml", f"{name}: {path}"


def test_every_page_is_linked_from_the_readme():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\(([^)#]+)", PAGES["README.md"]))


def test_every_claim_is_documented_with_its_numbers():
    text, rules = PAGES["claims.md"], yaml.safe_load((ROOT / "config" / "claims.yaml").read_text())
    sections = re.findall(r"^### (\S+)\n\n\*(.*?)\*.*?^Numbers: (.*?)\.$", text, re.S | re.M)
    explained = {name: (" ".join(claim.split()), numbers) for name, claim, numbers in sections}
    assert list(explained) == [rule["id"] for rule in rules["claims"]]
    for rule in rules["claims"]:
        claim, numbers = explained[rule["id"]]
        assert claim == rule["text"].strip()
        values = {key: value for key, value in rule.items() if key not in ("id", "source", "short", "text", "rule")}
        shown = {key: " ".join(f"{x:g}" for x in (v if isinstance(v, list) else [v])) for key, v in values.items()}
        assert dict(re.findall(r"`(\w+)` ([\d. ]+)", numbers)) == shown, rule["id"]
    assert f"(`confidence` {rules['confidence']:g})" in text


@contextmanager
def temporary_registrations():
    """Unregister all methods and criteria that are registered inside the block."""
    before = [(registry, set(registry)) for registry in (METHODS, contract.MODULES, CRITERIA)]
    try:
        yield
    finally:
        for registry, names in before:
            for name in set(registry) - names:
                del registry[name]


@pytest.fixture
def example_methods(tmp_path, monkeypatch):
    """Names of the methods of docs/adding.md, registered during a test."""
    before = set(METHODS)
    monkeypatch.syspath_prepend(tmp_path)
    with temporary_registrations():
        for number, code in enumerate(block for block in blocks("python") if "import ken\n" not in block):
            (tmp_path / f"method_of_the_docs_{number}.py").write_text(code, encoding="utf-8")
            importlib.invalidate_caches()
            importlib.import_module(f"method_of_the_docs_{number}")
            del sys.modules[f"method_of_the_docs_{number}"]  # the next test imports it again
        names = [name for name in METHODS if name not in before]
        # Code is hashed in modules of this repository only.
        contract.MODULES.update(dict.fromkeys(names, "baselines.training"))
        yield names


def test_documented_methods_are_stored_restored_and_scored(example_methods, tmp_path, task_folder):
    assert set(example_methods) == {"growth", "growth-rescaled", "half-precision", "bitfit"}
    make_checkpoint(tmp_path / "bert", "bert")
    axes = {"model": "bert", "task": "words", "seed": 0}
    finetune(tmp_path / "bert", task_folder, axes, SETTINGS, tmp_path / "cell")
    settings = {"kept_shares": [0.25], "draws": 1, "batch_size": 16, "max_length": 24, "methods": {}}
    cell = FinetunedCell(tmp_path / "cell", task_folder, settings)
    compress(cell, ["full", *example_methods], tmp_path / "out")
    scores = pd.concat([pd.read_csv(tmp_path / "out" / name / "scores.csv") for name in ("full", *example_methods)])
    assert (scores["status"] == "ok").all(), scores["reason"].tolist()
    scores = scores.set_index("method")
    half, full = scores.loc["half-precision"], scores.loc["full"]
    assert half["weighted_f1"] == pytest.approx(full["weighted_f1"], abs=0.05)
    assert 0.4 < half["stored_bytes"] / full["stored_bytes"] < 0.7
    state = METHODS["bitfit"].restore(cell.pretrained, tmp_path / "out" / scores.loc["bitfit", "file"])
    moved = {name for name, base in cell.pretrained.items() if not torch.equal(state[name], base)}
    assert moved and all(cell.pretrained[name].ndim == 1 for name in moved)


def test_the_documented_criterion_runs_without_the_suite():
    code = next(block for block in blocks("python") if "import ken\n" in block)
    before = set(CRITERIA)
    with temporary_registrations():
        exec(compile(code, "docs/adding.md", "exec"), {"__name__": "example"})
        assert set(CRITERIA) - before == {"smallest"}
    assert set(CRITERIA) == before


def test_documented_configs_are_valid(example_methods, tmp_path, monkeypatch):
    for name in ("config", "checkpoints"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "checkpoints" / "bert", tmp_path / "my-bert")
    (tmp_path / "data").mkdir()
    for name in ("train.csv", "test.tsv"):
        (tmp_path / "data" / name).touch()
    monkeypatch.chdir(tmp_path)
    configs = [yaml.safe_load(block) for block in blocks("yaml")]
    assert len({raw["study"] for raw in configs}) == len(configs) == 8
    for raw in configs:
        config = study_config.load(raw, METHODS)
        for section in ("models", "tasks"):
            assert raw.get(section, {}).keys() <= config[section].keys()


def test_version_and_licence_are_consistent():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"] and citation["cff-version"] == "1.2.0"
    assert re.search(rf"^## {re.escape(project['version'])} \({citation['date-released']}\)$",
                     (ROOT / "CHANGELOG.md").read_text(), re.M)  # fmt: skip
    assert citation["license"] == project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License") and project["license-files"] == ["LICENSE"]
    for work in citation["references"]:
        assert {"type", "title", "authors", "year"} <= work.keys()


def test_every_column_of_a_result_file_is_documented():
    sections = re.split(r"^## (\S+)$", PAGES["results.md"], flags=re.M)
    explained = {
        name: set(re.findall(r"`(\w+)`", text)) for name, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    reference = ROOT / "results" / "reference" / "mini"
    written = [*reference.glob("*.csv"), *reference.glob("statistics/*.csv")]
    assert len(written) >= 11
    for path in written:
        columns = set(pd.read_csv(path, nrows=0).columns)
        assert columns <= explained[path.relative_to(reference).as_posix()], path.name


@pytest.mark.slow
def test_documented_methods_run_in_a_study(tmp_path):
    checkout = copy_checkout(tmp_path)
    for number, code in enumerate(block for block in blocks("python") if "import ken\n" not in block):
        (checkout / "baselines" / f"example_{number}.py").write_text(code, encoding="utf-8")
    config = next(block for block in blocks("yaml") if "study: own-methods" in block)
    (checkout / "config" / "own.yaml").write_text(config, encoding="utf-8")
    cell = "results/own-methods/cells/bert/library3/seed0/compressed"
    methods = yaml.safe_load(config)["methods"]
    tables = [f"{cell}/{method}/scores.csv" for method in methods]
    snakemake(checkout, "--configfile", "config/own.yaml", "--", *tables)
    scores = pd.concat([pd.read_csv(checkout / table) for table in tables])
    assert (scores["status"] == "ok").all() and set(scores["method"]) == set(methods)

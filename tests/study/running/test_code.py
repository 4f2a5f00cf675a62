"""Code hashes follow imports and change only with the program's behaviour."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from study.running.code import PACKAGES, ROOT, code_hash, dependencies

STEPS = ["study.corpus", "study.finetune", "study.compress", "study.collect", "report.tables", "report.page"]


@pytest.fixture
def repository(tmp_path):
    """A repository whose step imports, inside a function, a module that imports a package and names a template."""
    files = {
        "study/__init__.py": "",
        "study/step.py": '"""A step."""\n\ndef main():\n    """Run it."""\n    from study import used\n    used.f()\n',
        "study/used.py": "from ken.kde import density\n\nTEMPLATE = 'page.html'\n\n\ndef f():\n    return 1\n",
        "study/page.html": "<p>",
        "study/other.py": "X = 1\n",
        "study/typed.py": "Y = 1\n",
        "ken/__init__.py": "VERSION = 1\n",
        "ken/kde.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import study.typed\n\ndensity = 2\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def rewrite(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after) + " " * len(text))  # another size, which invalidates caches


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("study/step.py", "used.f()", "used.f() + 1"),
        ("study/used.py", "return 1", "return 2"),
        ("study/page.html", "<p>", "<div>"),
        ("ken/kde.py", "density = 2", "density = 3"),
        ("ken/__init__.py", "1", "2"),
    ],
)
def test_a_changed_import_changes_the_hash(repository, name, before, after):
    hashed = code_hash("study.step", root=repository)
    rewrite(repository / name, before, after)
    assert code_hash("study.step", root=repository) != hashed


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("study/step.py", '"""Run it."""', '"""Runs the step."""'),
        ("study/step.py", "used.f()", "used.f()  # a comment"),
        ("study/used.py", "def f():\n    return 1", "def f():\n\n    return (1)"),
        ("study/other.py", "1", "2"),
        ("study/typed.py", "1", "2"),
    ],
)
def test_comments_docstrings_layout_and_other_modules_do_not_change_the_hash(repository, name, before, after):
    hashed = code_hash("study.step", root=repository)
    rewrite(repository / name, before, after)
    assert code_hash("study.step", root=repository) == hashed


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match=r"no module study\.finetun"):
        code_hash("study.finetun")


@pytest.mark.parametrize("step", STEPS)
def test_every_module_loaded_by_a_step_is_a_dependency(step):
    program = f"import sys, json, {step}; print(json.dumps([getattr(m, '__file__', '') for m in sys.modules.values()]))"
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    own = [ROOT / package for package in PACKAGES]
    loaded = {Path(file) for file in json.loads(printed.stdout.splitlines()[-1]) if file}
    loaded = {file for file in loaded if any(file.is_relative_to(folder) for folder in own)}
    methods = ROOT / "baselines"  # registered by name: the rules add the modules of the methods that a step runs
    missed = {file for file in loaded - set(dependencies(step)) if not file.is_relative_to(methods)}
    assert loaded and not {file for file in missed if not _only_for_methods(file, step)}


def _only_for_methods(file: Path, step: str) -> bool:
    """Whether a module was loaded by the registered methods alone."""
    import baselines

    return file in dependencies(step, *{baselines.module_of(method) for method in baselines.METHODS})

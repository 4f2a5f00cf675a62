"""Installation: consistent requirements, and a wheel that contains the library and its command only."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(path: str) -> dict[str, str]:
    """Normalised name -> version specifier of a requirements file."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", Requirement(line).name).lower(): str(Requirement(line).specifier) for line in lines}


def test_the_lock_pins_all_requirements_at_the_installed_versions():
    requirements, lock = names("envs/requirements.txt"), names("envs/requirements.lock")
    assert requirements.keys() <= lock.keys() and lock["torch"] == "==2.13.0"
    assert all(re.fullmatch(r"==[\w.]+", pinned) for pinned in lock.values())
    assert not [name for name in lock if name.startswith(("nvidia", "triton"))]
    for name in requirements:
        assert version(name).partition("+")[0] == lock[name].removeprefix("==")


def test_package_dependencies_match_the_requirements_file():
    requirements = (ROOT / "envs/requirements.txt").read_text().partition("# installation")[0]
    declared = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["suite"]}
    assert declared == {
        line.partition("==")[0] for line in requirements.splitlines() if line and not line.startswith("#")
    }


def test_the_conda_environment_uses_the_lock():
    environment = yaml.safe_load((ROOT / "envs/environment.yaml").read_text())
    assert {"pip": ["-r requirements.lock"]} in environment["dependencies"]


def test_the_wheel_contains_the_library_and_its_command(tmp_path):
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = [*tracked, "ken", "pyproject.toml", "README.md", "LICENSE"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "."]
    subprocess.run([*build, "-w", str(tmp_path / "dist")], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        packages = {name.partition("/")[0] for name in archive.namelist()}
        modules = {name for name in archive.namelist() if name.endswith(".py")}
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "ken = ken.cli:main" in archive.read(entry_points).decode()
    assert packages == {"ken", "ken_benchmark-0.1.0.dist-info"}
    assert modules == {path.relative_to(ROOT).as_posix() for path in (ROOT / "ken").rglob("*.py")}

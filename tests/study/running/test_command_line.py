"""Targets that an option of Snakemake would take for its value."""

import subprocess
import sys
from pathlib import Path

import pytest

from study.running.command_line import check_arguments

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "target", "option", "command"),
    [
        ("--configfile c.yaml figures", "figures", "--configfile", "figures --configfile c.yaml"),
        ("-n --configfiles c.yaml tune -c 2", "tune", "--configfiles", "tune -n --configfiles c.yaml -c 2"),
        ("--configfile c.yaml results/a.csv", "results/a.csv", "--configfile", "results/a.csv --configfile c.yaml"),
        ("--configfile c.yaml results/a.json", "results/a.json", "--configfile", "results/a.json --configfile c.yaml"),
        ("--configfile c.yaml --config a=1 figures", "figures", "--config", "figures --configfile c.yaml --config a=1"),
        ("-C a=1 b=2 figures tune", "figures", "-C", "figures tune -C a=1 b=2"),
    ],
)
def test_a_target_behind_an_option_that_takes_it_is_named_with_the_command_that_works(
    tmp_path, monkeypatch, arguments, target, option, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("")
    with pytest.raises(SystemExit) as ended:
        check_arguments(arguments.split())
    sentence = f"error: Snakemake takes {target} for a value of {option}. Put targets first: snakemake {command}"
    assert ended.value.code == sentence
    check_arguments(command.split())


@pytest.mark.parametrize(
    "arguments",
    ["", "figures", "figures --configfile c.yaml", "--configfile c.yaml d.json -n", "--configfile=c.yaml figures",
     "--configfile plain -- figures", "--config a=1 b=[2] --dry-run", "--until figures --cores 2"],
)  # fmt: skip
def test_other_command_lines_are_accepted(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for name in ("c.yaml", "d.json", "plain"):
        (tmp_path / name).write_text("")
    check_arguments(arguments.split())


def test_a_missing_config_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"error: the config c.yaml does not exist \(relative paths start at"):
        check_arguments(["--configfile", "c.yaml"])


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_snakemake_says_so_instead_of_a_traceback(profile):
    options = ["--workflow-profile", f"profiles/{profile}", "--configfile", "config/test.yaml", "figures"]
    command = [sys.executable, "-m", "snakemake", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    first = f"snakemake figures --workflow-profile profiles/{profile} --configfile config/test.yaml"
    assert done.stderr.splitlines()[-1].endswith(f"Put targets first: {first}")

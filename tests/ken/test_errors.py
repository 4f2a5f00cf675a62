"""Errors that a user can fix are one line; other errors keep their traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from ken.errors import did_you_mean

ROOT = Path(__file__).parents[2]


def test_did_you_mean_suggests_the_nearest_name():
    assert did_you_mean("brt", ["bloom", "bert"]) == ' Did you mean "bert"?'
    assert did_you_mean("BERT", ["bloom", "bert"]) == ' Did you mean "bert"?'
    assert did_you_mean("xyz", ["bloom", "bert"]) == " Valid: bert, bloom."
    assert did_you_mean("!", map(str, range(100))).endswith(" and 88 more.")
    assert did_you_mean("x", []) == ""


@pytest.mark.parametrize(
    ("statement", "status", "last", "has_traceback"),
    [
        ("raise UserError('found this.')", 1, "error: found this.", False),
        ("kept_count(1, 0)", 1, "error: k must be an int of at least 1 or a float share in (0, 1], found 0.", True),
        ("int('x')", 1, "ValueError: invalid literal for int() with base 10: 'x'", True),
        ("{}['key']", 1, "KeyError: 'key'", True),
        ("pass", 0, "", False),
    ],
)
@pytest.mark.parametrize("runner", ["ken.errors", "study.running.workflow"])
def test_exit_status_and_last_line_of_a_program(runner, statement, status, last, has_traceback):
    program = f"""
from ken.errors import UserError
from ken.selection import kept_count
from {runner} import run
def main():
    {statement}
run(main)
"""
    completed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert completed.returncode == status
    assert (completed.stderr.strip().splitlines() or [""])[-1] == last
    assert ("Traceback" in completed.stderr) == has_traceback

"""Make the tables, figures and pages of a finished study again: `python -m study.rebuild results/mini`.

Runs the rules of the report with the study's recorded config. Rules that compute results are excluded, so their files
may be missing, as in an unpacked archive.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ken.errors import UserError
from study.running import files
from study.running.workflow import run

RULES = ("compute_statistics", "judge_claims", "make_tables", "draw_figures", "write_report", "write_publication")
KENVIZ = "draw_kenviz"
TARGETS = ("write_report", "write_publication")


def command(results: Path, config: Path) -> list[str]:
    """The Snakemake command."""
    has_weights = any(results.glob("cells/*/*/*/finetuned/model.safetensors"))  # which KENviz shows
    rules = [*RULES, KENVIZ] if has_weights else [*RULES]
    options = ["--configfile", str(config), "--forceall", "--allowed-rules", *rules]
    return [sys.executable, "-m", "snakemake", *options, "--", *TARGETS]


def rebuild(results: Path) -> None:
    """Run the rules of the report.

    Raises:
        UserError: the folder is not a finished study, is not where Snakemake expects it, or a rule fails.
    """
    provenance = files.read_json(results / "provenance.json")
    expected = Path("results", provenance["study"])
    if results.resolve() != expected.resolve():
        raise UserError(
            f"{results} is the study {provenance['study']}: move it to {expected} in the folder of the Snakefile."
        )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.json")
        config.write_text(json.dumps(provenance["config"] | {"report_only": True}), encoding="utf-8")
        done = subprocess.run(command(expected, config))
    if done.returncode:
        raise UserError("snakemake failed: its error is above.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the report of a finished study again from its results.")
    parser.add_argument("results", type=Path, help="results folder, such as results/mini")
    rebuild(parser.parse_args().results)


if __name__ == "__main__":
    run(main)

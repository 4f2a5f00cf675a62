"""Make tables, figures and pages of a finished study again, and nothing else: `python -m study.rebuild results/mini`.

The rules are those of the Snakefile, with the config that the study was run with; rules that compute results are not
looked at, so that what is not there any more, or was never unpacked, is not missed.
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
    """The call of Snakemake."""
    weights = any(results.glob("cells/*/*/*/finetuned/model.safetensors"))  # what KENviz shows is there, or none
    rules = [*RULES, KENVIZ] if weights else [*RULES]
    options = ["--configfile", str(config), "--forceall", "--allowed-rules", *rules]
    return [sys.executable, "-m", "snakemake", *options, "--", *TARGETS]


def rebuild(results: Path) -> None:
    """Run the rules of the report.

    Raises:
        UserError: the folder is no finished study, or does not lie where Snakemake looks for it.
    """
    provenance = files.read_json(results / "provenance.json")
    place = Path("results", provenance["study"])
    if results.resolve() != place.resolve():
        raise UserError(
            f"{results} is the study {provenance['study']}: move it to {place} in the folder of the Snakefile."
        )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.json")
        config.write_text(json.dumps(provenance["config"] | {"report_only": True}), encoding="utf-8")
        done = subprocess.run(command(place, config))
    if done.returncode:
        raise UserError("snakemake has ended with an error, which stands above.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the report of a finished study again from its results.")
    parser.add_argument("results", type=Path, help="results folder, such as results/mini")
    rebuild(parser.parse_args().results)


if __name__ == "__main__":
    run(main)

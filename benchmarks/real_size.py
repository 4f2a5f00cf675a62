"""One cell of BERT's real size on this machine: what the plan predicts for its jobs, and what they take.

`python -m benchmarks.real_size` makes a BERT-base with random weights and a task whose words come from the
documentation, and plans the study. Then it runs it through the workflow: import, fine-tuning, and compression with
files of up to 440 MB. It measures speed only; the scores mean nothing.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import AutoTokenizer, BertForSequenceClassification

from benchmarks import common
from study import plan
from study.planning import comparison, jobs, tables

ROWS = {"train": 128, "validation": 40, "test": 200}
WORDS = 25  # of a text
STUDY = {
    "study": "real-size", "seeds": [0], "draws": 1, "kept_shares": [0.05, 0.5],
    "methods": ["ken", "ken-grid", "random", "bitdelta"], "method_settings": {"ken-grid": {"budgets": [0.25]}},
    "models": {"bert-base": {"source": "directory", "path": "model"}},
    "finetuning": {"epochs": 1, "batch_size": 32, "learning_rate": 0.00002, "max_length": 128, "random_init_seeds": []},
    "tasks": {"words": {"source": "files", "text": "text", "label": "label"} | {name: f"{name}.csv" for name in ROWS}},
    "suggestion": {"methods": []}, "spread": {"methods": []}, "checks": None, "inference": {"methods": []},
}  # fmt: skip


def write_inputs(folder: Path) -> Path:
    """Write the model, the texts and the config of the study; returns the config."""
    config = common.configuration("bert-base")
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(jobs.ROOT / "checkpoints" / "bert").save_pretrained(folder / "model")
    pages = sorted((jobs.ROOT / "docs").glob("*.md"))
    words = re.findall(r"[a-z]{2,}", " ".join(page.read_text(encoding="utf-8") for page in pages).lower())
    rng = np.random.default_rng(0)
    for name, rows in ROWS.items():
        texts = [" ".join(rng.choice(words, WORDS)) for _ in range(rows)]
        pd.DataFrame({"text": texts, "label": [f"class{row % 2}" for row in range(rows)]}).to_csv(
            folder / f"{name}.csv", index=False
        )
    (folder / "config").symlink_to(jobs.ROOT / "config")  # the rules of the claims
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def run_study(config: Path) -> None:
    """Run the cell of the study in this folder, one job at a time."""
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(jobs.ROOT / "Snakefile"), "--cores", "1"]
    options = ["--directory", str(Path.cwd()), "--workflow-profile", "none", "--nolock", "--until", "compress_model"]
    environment = os.environ | {"STUDY_DEVICE": "cpu", "PYTHONPATH": str(jobs.ROOT)}
    subprocess.run([*snakemake, *options, "--configfile", str(config)], check=True, env=environment)


def compare(folder: Path, measured: Path) -> list[comparison.Compared]:
    """Plan the study, run it, and compare the two job by job."""
    known = plan.known_machines(measured)
    config = write_inputs(folder)
    with contextlib.chdir(folder):
        study = jobs.read_study(config, known)
        machine = known["machines"].get(jobs.HERE, known["machines"]["cpu"])
        planned = jobs.with_costs(study, jobs.list_jobs(config, everything=True), machine, known)
        run_study(config)
        return comparison.compare_jobs(planned, Path("results", STUDY["study"]))


def main() -> None:
    parser = common.parser("Compare the plan of one cell of BERT's real size with what it takes.")
    parser.add_argument("--measured", type=Path, default=plan.MEASURED, help="speeds of this machine")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compared = compare(Path(folder), a.measured.resolve())
    print(tables.comparison_table(compared))
    numbers = {"texts": ROWS["test"], "unit": "processor seconds"}
    for one in compared:
        numbers |= {f"{one.rule}: planned, s": one.planned, f"{one.rule}: taken, s": one.taken}
    numbers["error of the total"] = comparison.total_error(compared)
    common.finish("real_size", numbers, a.out)


if __name__ == "__main__":
    main()

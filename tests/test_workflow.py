"""The workflow in copies of this checkout: a whole one-minute study, then every kind of partial rerun."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from baselines import module_of
from study import verify
from study.running.code import dependencies
from study.trace import trace

ROOT = Path(__file__).parents[1]
STUDY = ["--configfile", "config/test.yaml"]
CELL = "results/test/cells/bert/library3/seed0"
MADE_AGAIN = ("statistics/*", "claims.csv", "tables/*", "figures/*", "report/*", "publication/*")


def copy_checkout(folder: Path) -> Path:
    """Copy the files that git tracks or would add, so that a test never edits the checkout."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("results/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def snakemake(checkout: Path, *arguments: str, expect: int = 0) -> str:
    """Run Snakemake in a checkout; returns what it printed."""
    own = str(Path(sys.executable).parent)  # must also work without activating the environment
    path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder != own)
    environment = os.environ | {"PATH": path}
    environment.pop("PYTEST_CURRENT_TEST", None)
    command = [sys.executable, "-m", "snakemake", *arguments]
    completed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=environment)
    output = completed.stdout + completed.stderr
    assert completed.returncode == expect, output[-5000:]
    return output


def planned(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the first job table that Snakemake printed."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", output, re.S | re.M)
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table[1], re.M)} if table else {}


def numbers(path: Path) -> pd.DataFrame:
    """A score table without time and memory, which differ between runs."""
    return pd.read_csv(path, keep_default_na=False).drop(columns=["seconds", "peak_mib"])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def finished(checkout):
    """A checkout in which the test study has been run, and the output of that run."""
    return checkout, snakemake(checkout, *STUDY)


def test_the_whole_study_runs_to_its_report(finished):
    checkout, output = finished
    assert "report: " in output and "about" in output, "progress and the path of the report are shown"
    results = checkout / "results" / "test"
    page = (results / "report" / "index.html").read_text()
    assert len(page) > 50_000 and "KEN" in page
    scores = pd.read_csv(results / "scores.csv", keep_default_na=False)
    # Controls, four methods at two shares, two draws of two random ones at two shares, BitDelta; two trained on a cell.
    rows_per_cell = 2 + 4 * 2 + 2 * 2 * 2 + 1
    assert len(scores) == 2 * rows_per_cell + 2 and (scores["status"] == "ok").all()
    assert set(scores.loc[scores["family"] == "trained", "method"]) == {"lora", "flop"}
    for row in scores.itertuples():
        folder = results / "cells" / row.model / row.task / f"seed{row.seed}" / "compressed"
        assert (folder / row.file).stat().st_size == row.stored_bytes
    jobs = sum(planned(output).values()) - 1  # the target "all" runs no job
    logs = [path for path in (results / "logs").rglob("*.log")]
    assert len(logs) == jobs, "one log per job"
    for name in ("frontier.svg", "summary.svg", "kenviz.svg"):
        assert (results / "figures" / name).stat().st_size > 1000
    assert len(pd.read_csv(results / "claims.csv")["claim"].unique()) == 16
    assert set(pd.read_csv(results / "inference.csv")["form"]) == {"dense", "restored", "merged", "beside", "compiled"}
    assert set(pd.read_csv(results / "checks.csv")["check"]) == {"bandwidth", "zero", "matrices"}


@pytest.mark.slow
def test_two_runs_give_identical_score_tables(finished, tmp_path):
    """Runs the study again from scratch; before the tests of partial reruns, which add rows to the first run."""
    first, _ = finished
    second = copy_checkout(tmp_path)
    table, weights = (
        "results/test/scores.csv",
        "results/test/cells/bloom-small/library3/seed0/finetuned/model.safetensors",
    )
    snakemake(second, *STUDY, "--", table)
    pd.testing.assert_frame_equal(numbers(first / table), numbers(second / table), check_exact=True)
    assert (first / weights).read_bytes() == (second / weights).read_bytes()


def step(checkout: Path, *arguments: object, expect: int = 0) -> str:
    """Run a step in a checkout; returns what it printed."""
    command = [sys.executable, "-m", *map(str, arguments)]
    completed = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert completed.returncode == expect, completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


def test_every_file_is_hashed_and_every_row_can_be_traced(finished):
    checkout, _ = finished
    results = checkout / "results" / "test"
    printed = step(checkout, "study.verify", "results/test")
    assert "files are unchanged" in printed and "made later" not in printed and "not finished" not in printed
    rows = pd.read_csv(results / "scores.csv", dtype=str, keep_default_na=False)
    for row in rows.itertuples():
        budget = Path(row.file).stem
        origin = trace(results, row.model, row.task, int(row.seed), row.method, budget, int(row.draw))
        assert origin["row"]["row"]["sha256"] == row.sha256 and origin["row"]["made"]["machine"]["cpu"]
    provenance = json.loads((results / "provenance.json").read_text())
    assert provenance["config"]["study"] == "test" and provenance["wall_seconds"] <= sum(provenance["seconds"].values())
    assert {split for task in provenance["inputs"]["tasks"].values() for split in task["sha256"]} == {
        "train", "validation", "test",
    }  # fmt: skip


@pytest.mark.slow
def test_the_report_can_be_rebuilt_from_an_archive(finished, tmp_path):
    checkout, _ = finished
    results = checkout / "results" / "test"
    step(checkout, "study.archive", "results/test", "--out", tmp_path / "test.zip")
    elsewhere = copy_checkout(tmp_path / "elsewhere")
    step(elsewhere, "study.archive", "--restore", tmp_path / "test.zip")
    assert "Nothing to be done" in snakemake(elsewhere, *STUDY, "--dry-run"), "what was left out is not made again"
    shutil.rmtree(elsewhere / "checkpoints")
    restored = elsewhere / "results" / "test"
    made = [path for name in MADE_AGAIN for path in sorted(restored.glob(name))]
    assert len(made) > 50
    for path in made:
        path.unlink()
    output = step(elsewhere, "study.rebuild", "results/test")
    assert not {"finetune_model", "compress_model", "collect_scores", "build_task"} & set(planned(output))
    for path in made:
        assert path.read_bytes() == (results / path.relative_to(restored)).read_bytes(), path
    assert "files are unchanged" in step(elsewhere, "study.verify", "results/test")


def test_a_second_run_does_nothing(finished):
    checkout, _ = finished
    assert "Nothing to be done" in snakemake(checkout, *STUDY)


@pytest.mark.slow
def test_a_changed_plot_reruns_only_the_figures_and_the_report(finished):
    checkout, _ = finished
    with open(checkout / "report" / "figures.py", "a") as file:
        file.write("\nCHANGED = 1\n")
    output = snakemake(checkout, *STUDY)
    assert set(planned(output)) - {"all"} == {"draw_figures", "write_report", "write_manifest"}
    assert "Nothing to be done" in snakemake(checkout, *STUDY)


def logged_steps(results: Path) -> dict[str, str]:
    """Rule -> module of its step, from the command at the beginning of a job's log."""
    steps = {}
    for log in sorted((results / "logs").rglob("*.log")):
        rule = log.relative_to(results / "logs").parts[0].removesuffix(".log")
        python, option, module, *_ = log.read_text().splitlines()[0].split()
        assert (python, option) == ("python", "-m")
        steps[rule] = module
    return steps


def with_dependents(rules: set[str], dag: str) -> set[str]:
    """Rules of the jobs of these rules and of all jobs that depend on them, from the output of `snakemake --dag`."""
    names = dict(re.findall(r'(\d+)\[label = "(\w+)', dag))
    edges = re.findall(r"(\d+) -> (\d+)", dag)
    jobs = {job for job, name in names.items() if name in rules}
    while more := {after for before, after in edges if before in jobs} - jobs:
        jobs |= more
    return {names[job] for job in jobs}


@pytest.mark.slow
def test_a_code_change_reruns_exactly_the_rules_that_import_it_and_their_dependents(finished):
    checkout, _ = finished
    config = yaml.safe_load((checkout / "config" / "test.yaml").read_text())
    steps, dag = logged_steps(checkout / "results" / "test"), snakemake(checkout, *STUDY, "--dag")
    methods = {
        "compress_model": ["full", "none", *(name for name in config["methods"] if name not in ("lora", "flop"))],
        "train_method": ["lora", "flop"], "measure_inference": config["inference"]["methods"],
        "check_cell": ["ken", "magnitude"],
    }  # fmt: skip
    imported = {rule: set(dependencies(step, *map(module_of, methods.get(rule, ())))) for rule, step in steps.items()}
    modules = set().union(*imported.values())
    for rule in imported:  # change the module of its step that the fewest other rules import
        own_files = sorted(path for path in imported[rule] if path.suffix == ".py")
        own = min(own_files, key=lambda path: sum(path in files for files in imported.values()))
        path = checkout / own.relative_to(ROOT)
        before = path.read_text()
        path.write_text(before + "\nCHANGED = 1\n")
        jobs = set(planned(snakemake(checkout, *STUDY, "--dry-run"))) - {"all"}
        path.write_text(before.replace("\n\n\n", "\n\n\n# A comment.\n\n"))
        changed = {name for name, files in imported.items() if own in files}
        assert rule in changed and jobs == with_dependents(changed, dag) - {"all"}, own
        assert "Nothing to be done" in snakemake(checkout, *STUDY, "--dry-run"), "a comment reruns nothing"
        path.write_text(before)
    assert len(modules) > 80


@pytest.mark.slow
def test_a_changed_method_recomputes_only_its_own_scores(finished):
    checkout, _ = finished
    cell, path = checkout / CELL / "compressed", checkout / "baselines" / "magnitude.py"
    before, times = path.read_text(), {record: record.stat().st_mtime_ns for record in cell.rglob("draw*/*.json")}
    path.write_text(before + "\nCHANGED = 1\n")
    snakemake(checkout, *STUDY, "--", f"{CELL}/compressed/ken/scores.csv")
    again = {record.parts[-3] for record, time in times.items() if record.stat().st_mtime_ns != time}
    assert again == {"delta-magnitude"}
    path.write_text(before)
    snakemake(checkout, *STUDY)
    assert "Nothing to be done" in snakemake(checkout, *STUDY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "rules"),
    [
        ("pretraining.tokens=60001", {"pretrain_model"}),
        ("finetuning.learning_rate=0.002", {"finetune_model", "finetune_random_init"}),
        ("inference.passes=2", {"measure_inference"}),
        ("timing.length=65", {"measure_pruning_time"}),
        ("spread.draws=21", {"describe_spread"}),
        ("suggestion.margin=0.25", {"compress_model"}),
        ("tuning.seed=101", set()),
        ("device=cpu", set()),
    ],
)
def test_a_changed_setting_reruns_the_rules_that_read_it_and_their_dependents(finished, tmp_path, key, rules):
    checkout, _ = finished
    dag = snakemake(checkout, *STUDY, "--dag")
    config = yaml.safe_load((checkout / "config" / "test.yaml").read_text())
    *sections, name = key.partition("=")[0].split(".")
    section = config
    for part in sections:
        section = section[part]
    section[name] = yaml.safe_load(key.partition("=")[2])
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(config))
    output = snakemake(checkout, "--configfile", str(tmp_path / "changed.yaml"), "--dry-run")
    always = {"record_provenance"}  # it records the whole config
    assert set(planned(output)) - {"all"} == with_dependents(rules | always, dag) - {"all"}


@pytest.mark.slow
def test_every_missing_file_is_recreated_as_the_message_says(finished):
    checkout, _ = finished
    results = checkout / "results" / "test"
    listed = json.loads((results / "manifest.json").read_text())["files"]
    one_of_each = {
        (verify.kind_of(name), Path(name).suffix, Path(name).name == "manifest.json"): name for name in listed
    }
    for name in [*one_of_each.values(), "provenance.json", "spread.csv", "claims.csv", "collected.json"]:
        kept = shutil.copytree(results, checkout.parent / "kept")
        (results / name).unlink()
        printed = step(checkout, "study.verify", "results/test", expect=1)
        for path in re.findall(r"made again after `rm -r (\S+)`", printed):
            subprocess.run(["rm", "-r", path], cwd=checkout, check=True)
        assert planned(snakemake(checkout, *STUDY, "--dry-run")), name
        shutil.rmtree(results)
        kept.rename(results)
    (results / "provenance.json").unlink()
    (results / CELL.removeprefix("results/test/") / "compressed" / "ken" / "scores.csv").unlink()
    (results / "config.json").unlink()
    snakemake(checkout, *STUDY)
    assert "files are unchanged" in step(checkout, "study.verify", "results/test")
    assert "Nothing to be done" in snakemake(checkout, *STUDY)


def test_a_new_kept_share_computes_only_new_scores(finished):
    checkout, _ = finished
    cell = checkout / CELL / "compressed"
    before = {path: path.stat().st_mtime_ns for path in cell.rglob("*.safetensors")}
    target = f"{CELL}/compressed/ken/scores.csv"
    output = snakemake(checkout, *STUDY, "--config", "kept_shares=[0.05,0.25,0.5]", "--", target)
    assert planned(output) == {"compress_model": 1}
    after = {path: path.stat().st_mtime_ns for path in cell.rglob("*.safetensors")}
    assert before.items() <= after.items()
    assert {path.name for path in after.keys() - before.keys()} == {"0.5.safetensors"}
    assert pd.read_csv(checkout / target)["budget"].tolist() == [0.05, 0.25, 0.5]


@pytest.mark.slow
def test_single_files_can_be_requested_by_path(finished):
    checkout, _ = finished
    for made in ("finetuned/manifest.json", "compressed/ken/scores.csv"):
        (checkout / CELL / made).unlink()
    one_cell = planned(snakemake(checkout, *STUDY, "--dry-run", f"{CELL}/finetuned/manifest.json"))
    assert one_cell == {"finetune_model": 1}
    targets = [
        f"results/test/cells/{model}/library3/seed0/compressed/ken/scores.csv" for model in ("bert", "bloom-small")
    ]
    two_cells = planned(snakemake(checkout, *STUDY, "--dry-run", *targets))
    assert two_cells == {"finetune_model": 1, "compress_model": 1}, "the other cell is finished"
    table = planned(snakemake(checkout, *STUDY, "--dry-run", "--force", "results/test/tables/overview.csv"))
    assert "make_tables" in table


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sedes=[0]", 'config key sedes is not known here. Did you mean "seeds"?'),
        ("methods=[kenn]", 'Did you mean "ken"?'),
        ("seeds=[]", "seeds"),
    ],
)
def test_an_invalid_config_fails_with_a_one_line_message_before_any_job(tmp_path, setting, sentence):
    checkout = copy_checkout(tmp_path)
    output = snakemake(checkout, *STUDY, "--config", setting, expect=1)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and sentence in errors[0] and "Traceback" not in output
    assert not (checkout / "results").exists()

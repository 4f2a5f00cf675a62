"""The paper's study against a hub on 127.0.0.1 that serves tiny checkpoints and data sets under the real names."""

import io
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml

from tests import hub_server
from tests.test_workflow import ROOT, copy_checkout, planned

PAPER = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
TOKEN = "hf_ThisTokenMustNotBeWrittenDown"
WORDS = ["apple", "pear", "plum", "cherry", "grape", "hammer", "saw", "drill", "wrench", "chisel", "red", "old"]
CLASSES = {"ag-news": 4, "emo": 4, "imdb": 2, "yelp-polarity": 2, "sst2": 2, "trec": 6}
LAYOUTS = {
    "ag-news": "data/{split}-00000-of-00001.parquet",
    "emo": "emo2019/{split}/0000.parquet",
    "imdb": "plain_text/{split}-00000-of-00001.parquet",
    "yelp-polarity": "plain_text/{split}-00000-of-00001.parquet",
    "sst2": "sst2/{split}-00000-of-00001.parquet",
    "trec": "default/{split}/0000.parquet",
}
CONVERTED = "deberta"  # has safetensors weights only as the hub's own conversion, as some of the seven models do
FETCH = ["--configfile", "config/paper.yaml", "--until", "import_model", "build_task"]
REDUCED = {"models": ["bert", "bloom-560m"], "tasks": ["trec"], "seeds": [0]}
# Rows of a cell of a small task: controls, KEN's grid, three compared methods (random three times), three at all
# shares, magnitude, six at few shares, one bit.
ROWS = 2 + 14 + (1 + 3 + 1) * 6 + 3 * 5 + 4 + 6 * 3 + 1


def data_file(spec: dict, classes: int, start: int, count: int) -> bytes:
    """A Parquet file whose labels depend on one word of each text."""
    names = datasets.ClassLabel(names=[f"class {chr(97 + index)}" for index in range(classes)])
    features = datasets.Features({spec["text"]: datasets.Value("string"), spec["label"]: names})
    rows = range(start, start + count)
    texts = [f"Item {row} is a {WORDS[row % classes]} on a table." for row in rows]
    columns = {spec["text"]: texts, spec["label"]: [row % classes for row in rows]}
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(buffer)
    return buffer.getvalue()


def at_revision(name: str, source: dict) -> str:
    """Name of a repository at a revision, as tests.hub_server expects it."""
    return name if source["revision"] == "main" else f"{name}@{source['revision']}"


def repositories(checkpoints: dict[str, Path]) -> dict[str, dict[str, bytes]]:
    """Every repository of config/paper.yaml, with extra files that must not be fetched."""
    served_repositories = {}
    for name, model in PAPER["models"].items():
        served = {path.name: path.read_bytes() for path in checkpoints[name].iterdir()}
        served |= {"pytorch_model.bin": b"\x80\x04.", "modeling.py": b"import os"}
        served_repositories[at_revision(model["repository"], model)] = served
        if name == CONVERTED:
            served_repositories[f"{model['repository']}@refs/pr/4"] = served
            pickled = {file: data for file, data in served.items() if not file.endswith(".safetensors")}
            served_repositories[at_revision(model["repository"], model)] = pickled
    for name, task in PAPER["tasks"].items():
        parts = {task["splits"]["train"]: (0, 60), task["splits"]["test"]: (60, 24)}
        repository = at_revision(f"datasets/{task['repository']}", task)
        served_repositories[repository] = {"script.py": b"raise SystemExit('a loading script was run')"}
        for split, (start, count) in parts.items():
            file = LAYOUTS[name].format(split=split)
            served_repositories[repository][file] = data_file(task, CLASSES[name], start, count)
    return served_repositories


def reduced_config() -> dict:
    """A config that removes models, tasks and seeds from config/paper.yaml."""
    removed = {axis: {name: None for name in PAPER[axis] if name not in REDUCED[axis]} for axis in ("models", "tasks")}
    removed |= {"seeds": REDUCED["seeds"], "trained_on": {"models": ["bert"], "tasks": REDUCED["tasks"], "seeds": [0]}}
    return {"extends": "config/paper.yaml", "study": "paper", **removed}


def snakemake_with_hub(checkout: Path, home: Path, address: str, *arguments: str, expect: int = 0, **more: str) -> str:
    """Run Snakemake with a hub at an address; returns what it printed."""
    removed = ("HF_HUB_OFFLINE", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER")
    environment = {key: value for key, value in os.environ.items() if key not in removed}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"} | more
    command = [sys.executable, "-m", "snakemake", *arguments]
    completed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=environment)
    output = completed.stdout + completed.stderr
    assert completed.returncode == expect, output[-5000:]
    assert TOKEN not in output
    return output


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, checkpoints):
    """A checkout in which the unmodified study has fetched everything, in two attempts."""
    checkout, home = copy_checkout(tmp_path_factory.mktemp("paper")), tmp_path_factory.mktemp("home")
    with hub_server.running(repositories(checkpoints)) as server:
        converted = PAPER["models"][CONVERTED]["repository"]
        server.discussions[converted] = [hub_server.pull_request(converted, 4, "SFconvertbot")]
        ernie, yelp = (
            PAPER["models"]["ernie"]["repository"],
            f"datasets/{PAPER['tasks']['yelp-polarity']['repository']}",
        )
        server.refused[ernie] = (403, {"X_Error_Code": "GatedRepo", "X_Error_Message": "No right for {shown}"})
        hidden = server.repositories.pop(yelp)
        first = snakemake_with_hub(checkout, home, server.address, *FETCH, expect=1)
        server.refused.clear()
        server.repositories[yelp] = hidden
        second = snakemake_with_hub(checkout, home, server.address, *FETCH)
        requests = server.requests
    return checkout, home, first, second, requests


@pytest.mark.slow
def test_everything_is_fetched_and_a_second_run_retries_what_was_refused(fetched):
    checkout, _, first, second, requests = fetched
    jobs = {"import_model": 7, "build_task": 6}
    assert {rule: count for rule, count in planned(first).items() if rule in jobs} == jobs
    assert "model nghuyong/ernie-2.0-base-en is gated: request access on " in first
    assert "data set fancyzhx/yelp_polarity is not on the hub, or private: correct the name" in first
    again = {rule: count for rule, count in planned(second).items() if rule in jobs}
    assert again == {"import_model": 1, "build_task": 1}, "files are not fetched twice"
    assert not any(path.endswith((".bin", ".py")) for path in requests)
    results = checkout / "results" / "paper"
    assert len(list(results.glob("models/*/pretrained/model.safetensors"))) == 7
    assert len(list(results.glob("tasks/*/test.parquet"))) == 6


@pytest.mark.slow
def test_the_paper_study_runs_offline_to_its_report(fetched):
    checkout, home, *_ = fetched
    offline = {"HF_HUB_OFFLINE": "1"}
    scores = "results/paper/cells/electra/sst2/seed2/compressed/ken/scores.csv"
    unchanged = ["--configfile", "config/paper.yaml", "--", scores]
    plan = planned(snakemake_with_hub(checkout, home, "http://127.0.0.1:9", *unchanged, **offline))
    assert plan == {"finetune_model": 1, "compress_model": 1}
    (checkout / "config" / "reduced.yaml").write_text(yaml.safe_dump(reduced_config()))
    output = snakemake_with_hub(checkout, home, "http://127.0.0.1:9", "--configfile", "config/reduced.yaml", **offline)
    assert "report: " in output and not {"import_model", "build_task"} & set(planned(output))
    results = checkout / "results" / "paper"
    assert len((results / "report" / "index.html").read_text()) > 50_000
    table = pd.read_csv(results / "scores.csv", keep_default_na=False)
    trained = 3 + 3 + 1 + 1  # budgets of lora, flop, lt-sft and fish
    assert table.groupby("model").size().to_dict() == {"bert": ROWS + trained, "bloom-560m": ROWS}
    assert (table["status"] == "ok").all()
    kept = {path.parts[-3] for path in results.glob("cells/*/*/*/compressed/*/draw*/*.safetensors")}
    assert kept == {"full", "ken", "magnitude", "delta-magnitude", *PAPER["inference"]["methods"]}, "what is read later"
    ken = [path.stem for path in results.glob("cells/bert/trec/seed0/compressed/ken/draw0/*.safetensors")]
    assert sorted(ken) == ["128", "16"] and table.loc[table["method"] == "ken", "stored_bytes"].ne("").all()
    compared = table[table["changed_share"] != ""]
    assert set(compared["method"]) == {"full", "none", "ken"} and set(table["precision"]) == {"bfloat16"}
    assert "Does the precision of the evaluation matter?" in (results / "report" / "appendix.html").read_text()
    one = pd.read_csv(checkout / scores)
    assert one["budget"].tolist() == PAPER["kept_shares"] and (one["status"] == "ok").all()
    for written in (results, checkout / ".snakemake", home):
        for path in written.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path

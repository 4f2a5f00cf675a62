"""A study of a user's own texts, model and method, with the examples of the README."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import make_checkpoint
from tests.sources import code_blocks
from tests.test_workflow import ROOT, copy_checkout, snakemake


def readme_config() -> dict:
    """The README's example config of a user's own study."""
    blocks = code_blocks(ROOT / "README.md", "yaml")
    return yaml.safe_load(next(block for block in blocks if "study: mine" in block))


def readme_method() -> str:
    """The README's example of a user's own method."""
    blocks = code_blocks(ROOT / "README.md", "python")
    return next(block for block in blocks if "keep_highest" in block)


def write_own_data(checkout: Path) -> None:
    """Write what the README's example config refers to: two files of questions and a model folder."""
    words = {"animal": ["cat", "dog 🐶", "cow", "hen", "fox"], "place": ["park", "sea", "hill", "köln", "lake"]}
    rows = [
        {"question": f"What about the {word}, number {i}?", "topic": topic}
        for topic, topic_words in words.items()
        for i, word in enumerate(topic_words * 8)
    ]
    frame = pd.DataFrame(rows).sample(frac=1, random_state=1)
    (checkout / "data").mkdir()
    frame[:60].to_csv(checkout / "data" / "train.csv", index=False)
    frame[60:].to_csv(checkout / "data" / "test.tsv", index=False, sep="\t")
    make_checkpoint(checkout / "my-bert", "bert")


@pytest.mark.slow
def test_the_readme_examples_of_own_data_model_and_method_run_through_a_study(tmp_path):
    checkout = copy_checkout(tmp_path)
    write_own_data(checkout)
    assert len(readme_method().splitlines()) < 25
    (checkout / "baselines" / "relative_change.py").write_text(readme_method())
    config = readme_config()
    assert config["tasks"]["questions"]["source"] == "files"
    config["methods"] += ["relative-change", "relative-change-rescaled"]
    (checkout / "config" / "mine.yaml").write_text(yaml.safe_dump(config))
    snakemake(checkout, "results/mine/scores.csv", "--configfile", "config/mine.yaml")
    scores = pd.read_csv(checkout / "results" / "mine" / "scores.csv", keep_default_na=False)
    assert (scores["status"] == "ok").all() and set(scores["method"]) == {"full", "none", *config["methods"]}
    own = scores[scores["method"] == "relative-change"]
    assert own.groupby("seed")["kept_share"].is_monotonic_increasing.all() and (own["family"] == "reset").all()


@pytest.mark.slow
def test_a_missing_column_fails_the_run_with_a_one_line_message_in_the_log(tmp_path):
    checkout = copy_checkout(tmp_path)
    write_own_data(checkout)
    config = readme_config()
    config["tasks"]["questions"]["label"] = "topics"
    (checkout / "config" / "mine.yaml").write_text(yaml.safe_dump(config))
    output = snakemake(checkout, "results/mine/scores.csv", "--configfile", "config/mine.yaml", expect=1)
    log = (checkout / "results" / "mine" / "logs" / "build_task" / "questions.log").read_text()
    assert "topics" in log and "topic" in log and "Traceback" not in log
    assert "topics" in output, "the log of a failed job is shown"
    assert not (checkout / "results" / "mine" / "tasks" / "questions").exists()

"""A study with language models: text, pruning, adaptation, compression, claims and the page's section."""

import pandas as pd
import pytest
import yaml

from tests.test_workflow import copy_checkout, planned, snakemake

CONFIG = """
study: language
seeds: [0]
draws: 1
kept_shares: [0.25]
methods: [ken, llm-surgeon]
method_settings: {llm-surgeon: {budgets: [0.5], structure: row-column, shots: 2, sequences: 8}}
corpus: {packages: [mpmath, networkx]}
tasks:
  library2: {source: docstrings, label: library, classes: [mpmath, networkx], train: 60, validation: 20, test: 40}
models: {bert: {source: directory, path: checkpoints/bert}}
finetuning: {epochs: 1, learning_rate: 0.001, random_init_seeds: []}
inference: {methods: [llm-surgeon], texts: 16, passes: 1}
kenviz: {matrix: query.weight}
language_modelling:
  models: {bloom-560m: {source: directory, path: checkpoints/bloom-560m}}
  pruning:
    text: {source: docstrings, packages: [networkx], train_words: 2000, test_words: 1000}
    methods: [magnitude, llm-surgeon, sparsegpt, wanda]
    structures: [row-column, "2:4"]
    sparsities: [0.2, 0.4]
    shots: [2]
    structured_shots: [1, 3]
    calibration: 8
    low_rank: 2
  adaptation:
    text: {source: docstrings, packages: [mpmath], train_words: 1000, test_words: 500}
    methods: [ken, delta-magnitude]
    kept_shares: [0.25]
    epochs: 1
"""
LANGUAGE_RULES = {
    *("build_text", "prune_language_model", "adapt_language_model", "compress_language_model", "collect_perplexity"),
}


@pytest.mark.slow
def test_a_study_with_language_models_runs_to_its_report(tmp_path):
    checkout = copy_checkout(tmp_path)
    (checkout / "config" / "language.yaml").write_text(CONFIG)
    study = ["--configfile", "config/language.yaml"]
    output = snakemake(checkout, *study, "--cores", "2")
    assert set(planned(output)) >= LANGUAGE_RULES
    results = checkout / "results" / "language"
    table = pd.read_csv(results / "perplexity.csv", keep_default_na=False)
    assert (table["status"] == "ok").all() and len(table) == 1 + 2 * (2 * 2 + 1) + 2 + 2 + 2
    assert set(table.loc[table["structure"] == "row-column", "shots"]) == {1, 3}
    assert (table.loc[table["structure"] == "2:4", "stored_share"].astype(float) == 0.5).all()
    for row in table.itertuples():
        folder = results / "language" / row.model / f"seed{row.seed}" / row.experiment
        assert (folder / row.file).stat().st_size == row.stored_bytes
    page, appendix = ((results / "report" / f"{name}.html").read_text() for name in ("index", "appendix"))
    assert 'id="language"' in page and "Claims of the paper on LLM Surgeon" in page
    assert "SparseGPT" in appendix and "of the weights of these layers" in page
    claims = pd.read_csv(results / "claims.csv")
    assert set(claims.loc[claims["source"] == "surgeon", "claim"]) == {
        *("surgeon-structured", "surgeon-shots", "surgeon-correlated", "surgeon-correlated-elements"),
        *("surgeon-ahead", "surgeon-ahead-stored"),
    }
    inference = pd.read_csv(results / "inference.csv").set_index("form")
    assert inference.loc["compiled", "parameters"] < inference.loc["dense", "parameters"]
    assert "Nothing to be done" in snakemake(checkout, *study)
    changed = yaml.safe_load(CONFIG)
    changed["language_modelling"]["pruning"]["structures"] = ["row-column", "2:4", "element"]
    (checkout / "config" / "language.yaml").write_text(yaml.safe_dump(changed))
    jobs = planned(snakemake(checkout, *study, "--dry-run"))
    assert jobs["prune_language_model"] == 1 and "adapt_language_model" not in jobs and "compress_model" not in jobs

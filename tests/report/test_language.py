"""Language models in the report: summaries, claims, figures and the page's section, on invented losses."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ken.errors import UserError
from report import drawing
from report.claims import judge_all, read_rules
from report.judging.evidence import Evidence
from report.judging.losses import LossSample
from report.measurements import perplexity
from report.measurements.perplexity import summary
from report.results import FAILS, HOLDS, NOT_TESTED, OPEN, read_perplexity
from report.tables import Tables
from tests.report.conftest import build, pages_of, write_study
from tests.report.test_claims import RULES, study_of

DOCUMENTS = 60
OTHERS = ("Magnitude", "L-OBD", "K-OBD", "Wanda", "SparseGPT")
SIX = tuple("abcdef")  # as many models as a verdict needs
DENSE = 4.0
SHOTS = (1, 5)
SPARSITIES = (0.1, 0.2, 0.3, 0.5)
RISES = {
    "llm-surgeon": 0.2, "sparsegpt": 0.3, "wanda": 0.4, "llm-surgeon-independent": 0.5, "k-obd": 0.6, "l-obd": 0.7,
    "magnitude": 0.8,
}  # fmt: skip
LAYERWISE = ("sparsegpt", "wanda")  # in one shot, and no rows and columns
STRUCTURES = ("element", "2:4", "row-column")
STORED = {"llm-surgeon": 0.9, "magnitude": 0.8}  # stored share of rows and columns, in units of what is not removed


def settings() -> list[tuple]:
    return [
        (method, structure, shots, budget)
        for method in RISES
        for structure in (STRUCTURES[:2] if method in LAYERWISE else STRUCTURES)
        for shots in ([1] if method in LAYERWISE else SHOTS)
        for budget in ([0.5] if structure == "2:4" else SPARSITIES)
    ]


def write_losses(folder: Path, rise, models=("a", "b"), seeds=(0, 1)) -> Path:
    """Result files of pruned and adapted models; `rise(method, structure, shots, budget, model)` in nats a token."""
    generator, tables_of = np.random.default_rng(0), []
    for model in models:
        for seed in seeds:
            tokens = generator.integers(20, 60, DOCUMENTS)
            noise = generator.normal(0, 0.5, DOCUMENTS)
            rows, losses = [], {"document": [f"d{i}" for i in range(DOCUMENTS)], "tokens": tokens}
            for method, structure, shots, budget in [("dense", "", 0, 0.0), *settings()]:
                more = 0.0 if method == "dense" else rise(method, structure, shots, budget, model)
                file = f"{method}/{structure}-{shots}/{budget}"
                own = tokens * (DENSE + noise + more + generator.normal(0, 0.02, DOCUMENTS))
                losses[file] = own
                loss = own.sum() / tokens.sum()
                rows.append(row(model, seed, method, structure, shots, budget, loss, file, tokens.sum()))
            path = folder / "language" / model / f"seed{seed}" / "pruning"
            path.mkdir(parents=True)
            pd.DataFrame(losses).to_parquet(path / "losses.parquet")
            for method, budget, loss in (("full", 1.0, 3.5), ("none", 0.0, 4.5), ("ken", 0.25, 4.2), ("ken", 0.5, 4.0)):
                rows.append(row(model, seed, method, "", 0, budget, loss, "", 0) | {"experiment": "adaptation"})
            tables_of += rows
    pd.DataFrame(tables_of).to_csv(folder / "perplexity.csv", index=False)
    return folder


def row(model, seed, method, structure, shots, budget, loss, file, tokens) -> dict:
    smaller = 4 if structure == "row-column" else 0
    stored = (1 - budget) * (STORED.get(method, 1.0) if structure == "row-column" else 1.0)
    return {
        "experiment": "pruning", "model": model, "seed": seed, "draw": 0, "method": method, "structure": structure,
        "shots": shots, "budget": budget, "kept_share": stored, "stored_share": stored, "parameters": 1000,
        "stored_bytes": 4000, "linear_layers": 8, "smaller_layers": smaller, "tokens": tokens, "loss": loss,
        "perplexity": math.exp(loss), "seconds": 1.0, "status": "ok", "reason": "", "file": file,
    }  # fmt: skip


def default_rise(method, structure, shots, budget, model) -> float:
    return budget * RISES[method] * (2 if shots == 1 and method not in LAYERWISE else 1)


def judge_losses(folder: Path) -> pd.DataFrame:
    rules, _ = read_rules(RULES)
    study = study_of({("ken", 0.5): 0.0})
    sample = LossSample.read(folder)
    study = Evidence(folder, study.scores, study.sample, 0.95, sample)
    return judge_all(study, [rule for rule in rules if rule.source == "surgeon"]).set_index(["claim", "subject"])


def test_claims_on_language_models_can_be_reproduced(tmp_path):
    table = judge_losses(write_losses(tmp_path, default_rise, SIX))
    assert (table["verdict"] == HOLDS).all() and (table["unit"] == "nats").all() and (table["n"] == 12).all()
    assert list(table.index) == [
        ("surgeon-structured", "language models"),
        *(("surgeon-shots", structure) for structure in ("elements", "2:4", "rows and columns")),
        ("surgeon-correlated", "rows and columns"),
        *(("surgeon-correlated-elements", structure) for structure in ("elements", "2:4")),
        *((claim, other) for claim in ("surgeon-ahead", "surgeon-ahead-stored") for other in OTHERS),
    ]
    mean = np.mean(SPARSITIES)
    with_2_4, all_structures = np.mean([*SPARSITIES, 0.5]), np.mean([*SPARSITIES, 0.5, *SPARSITIES])
    expected = {
        ("surgeon-structured", "language models"): 0.3 * RISES["llm-surgeon"],
        ("surgeon-shots", "elements"): mean * RISES["llm-surgeon"],
        ("surgeon-shots", "2:4"): 0.5 * RISES["llm-surgeon"],
        ("surgeon-correlated", "rows and columns"): 1.5 * mean * 0.3,
        ("surgeon-correlated-elements", "2:4"): 1.5 * 0.5 * 0.3,
        ("surgeon-ahead", "Magnitude"): all_structures * 0.6,
        ("surgeon-ahead", "SparseGPT"): with_2_4 * 0.1,
        ("surgeon-ahead", "Wanda"): with_2_4 * 0.2,
        ("surgeon-ahead-stored", "SparseGPT"): with_2_4 * 0.1,
    }
    for key, value in expected.items():
        assert table.loc[key, "estimate"] == pytest.approx(value, abs=0.01)
        assert table.loc[key, "low"] <= table.loc[key, "estimate"] <= table.loc[key, "high"]
    assert "20\u00a0% removed" in table.loc[("surgeon-structured", "language models"), "why"]


def test_claims_on_language_models_can_be_refuted(tmp_path):
    def other_way(method, structure, shots, budget, model):
        return budget * (3.0 if method == "llm-surgeon" else 0.01) * shots

    table = judge_losses(write_losses(tmp_path, other_way, SIX))
    assert (table["verdict"] == FAILS).all()


def test_two_language_models_are_too_few_for_a_verdict(tmp_path):
    table = judge_losses(write_losses(tmp_path, default_rise))
    assert (table["verdict"] == NOT_TESTED).all() and (table["n"] == 4).all() and table["estimate"].notna().all()
    assert (table["needs"] == "It takes 6 models (the study has 2).").all()


def test_disagreeing_models_decide_nothing(tmp_path):
    def by_model(method, structure, shots, budget, model):
        lead = 0.4 if model in "abc" else -0.4
        return 0.5 * budget if method == "llm-surgeon" else 0.5 * budget + lead * budget

    table = judge_losses(write_losses(tmp_path, by_model, SIX))
    assert (table.loc["surgeon-ahead", "verdict"] == OPEN).all()
    assert table.loc[("surgeon-correlated", "rows and columns"), "verdict"] == OPEN


def test_claims_about_missing_methods_are_not_tested(tmp_path):
    folder = write_losses(tmp_path, default_rise, SIX)
    table = pd.read_csv(folder / "perplexity.csv", keep_default_na=False)
    few = table[~table["method"].isin(["k-obd", "llm-surgeon-independent"]) & (table["shots"] != 1)]
    few[(few["structure"] != "row-column")].to_csv(folder / "perplexity.csv", index=False)
    claims = judge_losses(folder)
    for key in (
        ("surgeon-structured", "language models"),
        *((name, "rows and columns") for name in ("surgeon-shots", "surgeon-correlated")),
        *((name, "K-OBD") for name in ("surgeon-ahead", "surgeon-ahead-stored")),
    ):
        assert claims.loc[key, "verdict"] == NOT_TESTED and claims.loc[key, "n"] == 0
    assert claims.loc[("surgeon-ahead", "Magnitude"), "verdict"] == HOLDS


def test_losses_at_equal_stored_shares_against_numpy(tmp_path):
    """Magnitude pruning stores less than LLM Surgeon at a sparsity, so its losses fall between those of LLM Surgeon."""
    sample = LossSample.read(write_losses(tmp_path, default_rise, ("a", "b"), (0,)))
    rows = {name: sample.of(name, structure="row-column", shots=5) for name in ("magnitude", "llm-surgeon")}
    gaps = sample.differences_at_stored_shares(rows["magnitude"], rows["llm-surgeon"])
    expected, influence = [], []
    for model in ("a", "b"):
        own = rows["llm-surgeon"]
        curve = pd.concat([own[own["model"] == model], sample.of("dense", model=model)]).sort_values("stored_share")
        for index, row in rows["magnitude"][rows["magnitude"]["model"] == model].iterrows():
            if row["stored_share"] < curve["stored_share"].min():
                continue
            at = [np.interp(row["stored_share"], curve["stored_share"], losses[curve.index])
                  for losses in (sample.rows["loss"].to_numpy(), *sample.influence.T)]  # fmt: skip
            expected.append(row["loss"] - at[0])
            influence.append(sample.influence[index] - at[1:])
    assert len(expected) == 6, "the share 0.8 · 0.5 is outside the range"
    np.testing.assert_allclose(gaps.points, expected)
    np.testing.assert_allclose(gaps.influence, influence, atol=1e-12)
    assert list(gaps.cells["model"]) == ["a"] * 3 + ["b"] * 3
    none = sample.differences_at_stored_shares(rows["magnitude"], rows["llm-surgeon"].iloc[:0])
    assert none.cells.empty and none.influence.shape == (0, sample.influence.shape[1])


def test_a_study_without_language_models_has_no_claims_on_them():
    rules, _ = read_rules(RULES)
    table = judge_all(study_of({("ken", 0.5): 0.0}), rules)
    assert not set(table["claim"]) & {rule.claim for rule in rules if rule.source == "surgeon"}


def test_the_influence_of_documents_gives_the_error_of_a_bootstrap(tmp_path):
    folder = write_losses(tmp_path, default_rise, models=("a",), seeds=(0,))
    sample = LossSample.read(folder)
    losses = pd.read_parquet(folder / "language" / "a" / "seed0" / "pruning" / "losses.parquet")
    drawn = np.random.default_rng(0).integers(DOCUMENTS, size=(20_000, DOCUMENTS))
    tokens = losses["tokens"].to_numpy()[drawn].sum(1)
    resampled = {row: losses[sample.rows["file"][row]].to_numpy()[drawn].sum(1) / tokens for row in (0, 7, 30)}
    for row, values in resampled.items():
        assert np.linalg.norm(sample.influence[row]) == pytest.approx(values.std(), rel=0.03)
    gap = sample.influence[7] - sample.influence[0]
    assert np.linalg.norm(gap) == pytest.approx((resampled[7] - resampled[0]).std(), rel=0.03)


def test_summary_averages_losses_over_seeds(tmp_path):
    folder = write_losses(tmp_path, default_rise)
    table = read_perplexity(folder)
    table.loc[(table["method"] == "ken") & (table["budget"] == 0.5), ["status", "reason"]] = ["failed", "why"]
    averaged = summary(table).set_index(["experiment", "model", "method", "structure", "shots", "budget"])
    one = table[(table["model"] == "a") & (table["method"] == "k-obd") & (table["structure"] == "element")]
    one = one[(one["shots"] == 5) & (one["budget"] == 0.2)]
    row = averaged.loc[("pruning", "a", "k-obd", "element", 5, 0.2)]
    assert row["perplexity"] == pytest.approx(np.exp(one["loss"].mean())) and row["seeds"] == 2
    assert row["rise"] == pytest.approx(0.2 * 0.6, abs=0.01)
    assert averaged.loc[("adaptation", "a", "ken", "", 0, 0.25), "rise"] == pytest.approx(0.7)
    failed = averaged.loc[("adaptation", "a", "ken", "", 0, 0.5)]
    assert failed["failed"] == 2 and failed["seeds"] == 0 and math.isnan(failed["perplexity"])


def test_the_most_shots_are_those_at_the_highest_sparsity(tmp_path):
    table = summary(read_perplexity(write_losses(tmp_path, default_rise)))
    surgeon = table["method"] == "llm-surgeon"
    highest = table.loc[surgeon & (table["structure"] == "element"), "budget"].max()
    one_shot = table[~(surgeon & (table["shots"] > 1) & (table["budget"] == highest))]
    rows = next(rows for name, _, rows in perplexity.compared_rows(one_shot) if name.startswith("elements"))
    assert set(rows["method"]) >= {"llm-surgeon"} and set(rows.loc[rows["method"] == "llm-surgeon", "shots"]) == {1}


def test_a_study_without_dense_models_has_no_rise_to_judge(tmp_path):
    folder = write_losses(tmp_path, default_rise)
    table = pd.read_csv(folder / "perplexity.csv", keep_default_na=False)
    table[table["method"] != "dense"].to_csv(folder / "perplexity.csv", index=False)
    (row,) = judge_losses(folder).loc[["surgeon-structured"]].itertuples()
    assert row.verdict == NOT_TESTED and "dense model" in row.why


def test_invalid_tables_are_refused(tmp_path):
    folder = write_losses(tmp_path, default_rise, models=("a",), seeds=(0,))
    table = pd.read_csv(folder / "perplexity.csv", keep_default_na=False)
    table.assign(status="fine").to_csv(folder / "perplexity.csv", index=False)
    with pytest.raises(UserError, match="status 'fine'"):
        read_perplexity(folder)
    table.assign(loss="").to_csv(folder / "perplexity.csv", index=False)
    with pytest.raises(UserError, match="no loss"):
        read_perplexity(folder)
    table.to_csv(folder / "perplexity.csv", index=False)
    (folder / "language" / "a" / "seed0" / "pruning" / "losses.parquet").unlink()
    with pytest.raises(UserError, match="does not exist"):
        LossSample.read(folder)


def test_the_page_has_a_section_on_language_models(tmp_path):
    folder = write_losses(write_study(tmp_path / "study"), default_rise)
    text = build(folder)
    assert "SparseGPT" in text and "Wanda" in text and "hold 40\u00a0% to 50\u00a0% of the weights of these" in text
    assert '<section id="language">' in text and 'href="#language"' in text
    assert "up to 4 of 8 linear layers really smaller" in text and "independent updates" in text
    table = Tables.read(folder).perplexity
    assert len(table) == len(summary(read_perplexity(folder)))
    for name in ("perplexity", "adaptation"):
        for kind in drawing.FORMATS:
            assert (folder / "figures" / f"{name}.{kind}").stat().st_size > 1000
    value = table[(table["method"] == "magnitude") & (table["budget"] == 0.5)]["perplexity"].iloc[0]
    assert f"{value:.1f}" in text


def test_a_study_without_language_models_has_no_section(built_study):
    assert 'id="language"' not in pages_of(built_study)
    assert not (built_study / "tables" / "perplexity.csv").exists()
    assert not (built_study / "figures" / "perplexity.svg").exists() and perplexity.page(Tables.read(built_study)) == {}

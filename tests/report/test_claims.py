"""Every verdict of every claim on invented numbers, and errors in the rules file."""

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ken.errors import UserError
from report import claims
from report.claims import judge_all, read_rules
from report.judging import evidence
from report.judging.evidence import ALL, NOT_DECIDED, NOT_REPRODUCED, NOT_TESTED, REPRODUCED, Evidence, least_pairs
from report.judging.scores import from_curve
from report.results import CELL
from report.statistics import Interval, Sample
from tests.report.test_statistics import FAMILIES, UNITS, labels_of, predict, small_study, write_predictions
from tests.steps import run_step

RULES = Path(__file__).parents[2] / "config" / "claims.yaml"
SEVEN = tuple("abcdefg")
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_DECIDED, NOT_TESTED)
CELL_CLAIMS = {name for name in claims.CLAIMS if not name.startswith("surgeon-")}  # the others concern language models


def study_of(
    points: dict,
    spread: float = 0.1,
    folder: Path = Path("nowhere"),
    models=SEVEN,
    seeds=(0, 1),
    parameters=None,
    **columns,
) -> Evidence:
    """A study in which methods differ from a full model at 80 points by given points, equally on two tasks.

    Both seeds of a model and task have the same scores, also on resampled texts.

    Args:
        points: (method, budget) -> points, or a function from a model to points.
        spread: standard deviation, in points, of the resampled mean over the two tasks.
        parameters: model -> number of parameters.
        columns: kept or stored_bytes by (method, budget), instead of the budget itself.
    """
    generator = np.random.default_rng(0)
    rows, resampled = [], []
    for model, task in itertools.product(models, ("t", "u")):
        for (method, budget), value in ({("full", 1.0): 0.0} | points).items():
            f1 = 0.8 + (value(model) if callable(value) else value) / 100
            sizes = {name: columns.get(name, {}).get((method, budget), budget) for name in ("kept", "stored_bytes")}
            kind = {"family": FAMILIES.get(method, "reset"), "unit": UNITS.get(method, "share")}
            row = {"model": model, "task": task, "method": method, "budget": budget, "weighted_f1": f1}
            width = 0 if method == "full" else spread * math.sqrt(2)
            noise = width * generator.standard_normal(400) / 100
            rows += [row | kind | sizes | {"seed": seed} for seed in seeds]
            resampled += [f1 + noise] * len(seeds)
    frame = pd.DataFrame(rows)
    scores = frame.assign(status="ok", reason="", draw=0, parameters=frame["model"].map(parameters or {}).astype(float))
    return Evidence(folder, scores, Sample(frame, np.array(resampled), []), 0.95)


def judge(name: str, study: Evidence, **changes) -> pd.DataFrame:
    """Rows of one claim under the rules of the repository."""
    rules, _ = read_rules(RULES)
    rule = next(rule for rule in rules if rule.claim == name)
    rule.numbers.update(changes)
    return judge_all(study, [rule])


def verdict(name: str, study: Evidence, **changes) -> str:
    table = judge(name, study, **changes)
    assert len(table) == 1
    return table["verdict"][0]


def in_one_model(lost: float, others: float = 0.0):
    """Points of a method that differ between model c and all other models."""
    return lambda model: lost if model == "c" else others


def test_the_rules_cover_all_claims_and_state_their_numbers():
    rules, confidence = read_rules(RULES)
    assert sorted(rule.claim for rule in rules) == sorted(claims.CLAIMS)
    assert confidence == 0.95
    for rule in rules:
        assert "{" not in rule.rule and rule.text.endswith(".")
        for number in rule.numbers.values():
            assert str(number) in rule.rule


@pytest.mark.parametrize(
    ("low", "high", "inferior", "ahead", "differs"),
    [
        (0.1, 0.4, REPRODUCED, REPRODUCED, REPRODUCED),
        (-0.5, 0.4, REPRODUCED, NOT_REPRODUCED, NOT_REPRODUCED),
        (-0.5, 1.5, REPRODUCED, NOT_DECIDED, NOT_DECIDED),
        (-1.5, 0.4, NOT_DECIDED, NOT_REPRODUCED, NOT_DECIDED),
        (-3.0, 2.0, NOT_DECIDED, NOT_DECIDED, NOT_DECIDED),
        (-3.0, -2.0, NOT_REPRODUCED, NOT_REPRODUCED, REPRODUCED),
        (-1.0, -1.0, NOT_DECIDED, NOT_REPRODUCED, REPRODUCED),
        (0.0, 0.0, REPRODUCED, NOT_REPRODUCED, NOT_REPRODUCED),
    ],
)
def test_verdicts_of_intervals_at_a_margin_of_one_point(low, high, inferior, ahead, differs):
    interval = Interval((low + high) / 2, low, high)
    assert evidence.not_inferior(interval, 1) == inferior
    assert evidence.superior(interval, 1) == ahead
    assert evidence.different(interval, 1) == differs


def test_a_quarter_reset_is_judged_for_each_model():
    lost = {"a": 0.2, "b": -0.3, "c": -3.0, "d": -1.0}
    study = study_of({("ken", 0.75): lambda model: lost[model], ("ken", 0.5): -9.0}, 0.2, models=tuple(lost))
    table = judge("reset-a-quarter", study).set_index("subject")
    assert table["verdict"].to_dict() == {
        "a": REPRODUCED,
        "b": REPRODUCED,
        "c": NOT_REPRODUCED,
        "d": NOT_DECIDED,
    }
    assert table["estimate"].to_dict() == pytest.approx(lost)
    assert (table["n"] == 4).all() and (table["unit"] == "points").all()
    assert "the estimate is 0 or above" in table.loc["a", "why"]
    assert "the estimate is below 0" in table.loc["b", "why"]
    half = 1.96 * 0.2
    assert table.loc["c", "low"] == pytest.approx(-3 - half, abs=0.08)
    assert table.loc["c", "high"] == pytest.approx(-3 + half, abs=0.08)


def test_a_quarter_reset_uses_the_largest_share_up_to_three_quarters():
    study = study_of({("ken", 0.9): 0.0, ("ken", 0.72): -5.0, ("ken", 0.5): 0.0, ("ken", 128): 0.0}, models=("a",))
    table = judge("reset-a-quarter", study)
    assert table["verdict"][0] == NOT_REPRODUCED and "At 72" in table["why"][0]


def test_a_failure_with_too_little_kept_is_not_decided():
    study = study_of({("ken", 0.5): -5.0}, models=("a",))
    assert verdict("reset-a-quarter", study) == NOT_DECIDED
    assert verdict("reset-range", study) == NOT_DECIDED
    study = study_of({("ken", 0.5): 0.0}, models=("a",))
    assert verdict("reset-a-quarter", study) == REPRODUCED


def test_the_range_claim_needs_a_passing_share_in_every_model():
    good = {("ken", 0.3): -9.0, ("ken", 0.75): in_one_model(-0.2)}
    table = judge("reset-range", study_of(good))
    assert (table["verdict"][0], table["subject"][0], table["n"][0]) == (REPRODUCED, ALL, 28)
    assert table["estimate"][0] == pytest.approx(-0.2) and "7 pass" in table["why"][0]
    elsewhere = {("ken", 0.3): 0.0, ("ken", 0.75): in_one_model(-5.0)}
    assert verdict("reset-range", study_of(elsewhere)) == REPRODUCED
    failing = {("ken", 0.2): 0.0, ("ken", 0.3): in_one_model(-9.0), ("ken", 0.75): in_one_model(-3.0)}
    table = judge("reset-range", study_of(failing))
    assert table["verdict"][0] == NOT_REPRODUCED and "1 fail; failing: c at 75" in table["why"][0]
    assert table["estimate"][0] == pytest.approx(-3)
    unsure = {("ken", 0.3): -9.0, ("ken", 0.75): in_one_model(-1.0)}
    table = judge("reset-range", study_of(unsure))
    assert table["verdict"][0] == NOT_DECIDED and "6 pass and 0 fail; weakest: c" in table["why"][0]


def test_the_range_claim_needs_seven_models():
    good = {("ken", 0.75): 0.0}
    assert verdict("reset-range", study_of(good, models=SEVEN[:6])) == NOT_DECIDED
    assert verdict("reset-range", study_of(good, models=SEVEN[:6]), models=6) == REPRODUCED
    bad = {("ken", 0.75): in_one_model(-5.0)}
    assert verdict("reset-range", study_of(bad, models=SEVEN[:6])) == NOT_REPRODUCED
    outside = {("ken", 0.1): 0.0, ("ken", 0.9): 0.0, ("ken", 128): 0.0}
    table = judge("reset-range", study_of(outside))
    assert table["verdict"][0] == NOT_DECIDED and "no share from 30" in table["why"][0]


def test_intervals_at_several_shares_are_joint():
    both = {("ken", 0.5): -0.62, ("ken", 0.75): -5.0}
    alone = {("ken", 0.75): -0.62}
    # A single 95 % interval ends at -0.62 - 1.96 x 0.18 = -0.97, two joint ones at -0.62 - 2.24 x 0.18 = -1.02.
    assert verdict("reset-range", study_of(alone, 0.18, models=("a",)), models=1) == REPRODUCED
    assert verdict("reset-range", study_of(both, 0.18, models=("a",)), models=1) == NOT_DECIDED


LEADS = [
    ("ahead-of-random", "ken", "random"),
    ("update-over-value", "delta-magnitude", "ken"),
    ("rescaled-ahead-of-random-rescaled", "ken-rescaled", "random-rescaled"),
]


@pytest.mark.parametrize(("name", "method", "reference"), LEADS)
def test_a_lead_is_a_mean_over_common_budgets(name, method, reference):
    def study(first: float, second: float, spread: float = 0.1) -> Evidence:
        points = {(method, 0.1): first, (method, 0.5): second, (reference, 0.1): 0.0, (reference, 0.5): 0.0}
        return study_of(points | {(method, 0.9): -50.0, (reference, 16): 50.0}, spread)

    ahead = judge(name, study(3.0, 0.0))
    assert ahead["verdict"][0] == REPRODUCED and ahead["estimate"][0] == pytest.approx(1.5)
    assert ahead["n"][0] == 28 and "2 budgets in 28 cells" in ahead["why"][0]
    assert verdict(name, study(0.5, -0.5)) == NOT_REPRODUCED
    assert verdict(name, study(-3.0, 0.0)) == NOT_REPRODUCED
    assert verdict(name, study(1.0, 1.0, spread=5)) == NOT_DECIDED
    assert verdict(name, study_of({(method, 0.1): 5.0, (reference, 0.2): 0.0})) == NOT_DECIDED


CURVES = [("ahead-of-flop", "flop", "kept", (0.3, 0.6)), ("ahead-of-lora", "lora", "stored_bytes", (1, 4))]


@pytest.mark.parametrize(("name", "other", "column", "budgets"), CURVES)
def test_a_lead_at_equal_size_is_read_from_the_curve(name, other, column, budgets):
    middle = 100.0 if column == "stored_bytes" else 505.0  # halfway from 10 to 1000, in the logarithm for bytes

    def study(points: float, spread: float = 0.1) -> Evidence:
        sizes = {("ken", 0.1): 10.0, ("ken", 0.5): 1000.0, ("full", 1.0): 1e4, (other, budgets[0]): middle}
        # On KEN's line from -40 to -20 the middle is -30.
        measured = {("ken", 0.1): -40.0, ("ken", 0.5): -20.0, (other, budgets[0]): -30.0 - points}
        outside = {(other, budgets[1]): 90.0}
        sizes |= dict.fromkeys(outside, 5.0)
        return study_of(measured | outside, spread, **{column: sizes})

    ahead = judge(name, study(2.0))
    assert ahead["verdict"][0] == REPRODUCED and ahead["estimate"][0] == pytest.approx(2)
    assert "(28 outside KEN's range)" in ahead["why"][0] and ahead["n"][0] == 28
    assert verdict(name, study(0.0)) == NOT_REPRODUCED
    assert verdict(name, study(-3.0)) == NOT_REPRODUCED
    assert verdict(name, study(1.0, spread=5)) == NOT_DECIDED


def test_sizes_outside_the_curve_are_not_decided():
    sizes = {("ken", 0.1): 10.0, ("full", 1.0): 100.0, ("lora", 1): 5.0, ("flop", 0.3): 200.0}
    study = study_of(dict.fromkeys(sizes, 0.0), stored_bytes=sizes, kept=sizes)
    for name in ("ahead-of-lora", "ahead-of-flop"):
        table = judge(name, study)
        assert table["verdict"][0] == NOT_DECIDED and "all 28 rows" in table["why"][0] and table["n"][0] == 0


def test_points_on_a_curve_agree_with_plain_interpolation():
    generator = np.random.default_rng(4)
    rows, resampled = [], []
    for seed in range(3):
        for method, many in (("ken", 5), ("flop", 6)):
            for budget, kept in enumerate(generator.uniform(1, 9, many)):
                rows.append(("m", "t", seed, method, budget, kept, generator.random()))
                resampled.append(generator.random(10))
        rows.append((*rows[-6][:3], "flop", 6, rows[-11][5], 0.5))  # exactly at one of KEN's points
        resampled.append(generator.random(10))
    frame = pd.DataFrame(rows, columns=[*CELL, "method", "budget", "kept", "weighted_f1"])
    sample = Sample(frame, np.array(resampled), [])
    curve, others = (frame[frame["method"] == name] for name in ("ken", "flop"))
    for scale in (np.asarray, np.log):
        differences = from_curve(sample, curve, others, "kept", scale)
        points, drawn = [], []
        for row, other in others.iterrows():
            own = curve[curve["seed"] == other["seed"]].sort_values("kept")
            if own["kept"].min() <= other["kept"] <= own["kept"].max():
                at, x = scale(np.array([other["kept"]])), scale(own["kept"].to_numpy())
                points.append(100 * (np.interp(at, x, own["weighted_f1"])[0] - other["weighted_f1"]))
                line = [np.interp(at, x, sample.resampled[own.index, column])[0] for column in range(10)]
                drawn.append(100 * (np.array(line) - sample.resampled[row]))
        assert 3 < len(points) < len(others)
        assert differences.points == pytest.approx(np.array(points))
        assert differences.resampled == pytest.approx(np.array(drawn))


def test_rescaling_must_preserve_the_score_at_all_shares():
    def study(ten: float, five: float, spread: float = 0.1) -> Evidence:
        return study_of({("ken-rescaled", 0.1): ten, ("ken-rescaled", 0.05): five, ("ken-rescaled", 0.02): -9}, spread)

    table = judge("rescaled-keeps", study(0.0, -0.5))
    assert table["verdict"][0] == REPRODUCED and table["estimate"][0] == pytest.approx(-0.5)
    table = judge("rescaled-keeps", study(0.0, -3.0))
    assert table["verdict"][0] == NOT_REPRODUCED and table["estimate"][0] == pytest.approx(-3)
    assert verdict("rescaled-keeps", study(0.0, -1.0, spread=2)) == NOT_DECIDED
    missing = judge("rescaled-keeps", study_of({("ken-rescaled", 0.1): 0.0}))
    assert missing["verdict"][0] == NOT_DECIDED and "with 5" in missing["why"][0]


SMALL_FILES = [("small-file-half-point", 0.05, 22.7e6, 1e6), ("small-file-half-point-mini", 0.35, 1e6, 22.7e6)]


@pytest.mark.parametrize(("name", "share", "size", "other"), SMALL_FILES)
def test_small_files_are_judged_at_one_share_in_models_of_one_size(name, share, size, other):
    method = "seeded-rescaled-3bit"

    def study(points: float, spread: float = 0.1, sizes=(size, size)) -> Evidence:
        lost = {
            ("full", 1.0): 0.0,
            (method, share): lambda model: -9.0 if model == "c" else points,
            (method, 0.01): -9.0,
        }
        return study_of(lost, spread, models=tuple("abc"), parameters=dict(zip("abc", (*sizes, other), strict=True)))

    table = judge(name, study(-0.25))
    assert table["verdict"][0] == REPRODUCED and table["estimate"][0] == pytest.approx(-0.25) and table["n"][0] == 8
    assert table["why"][0].startswith("Seeded, rescaled, 3 bits, with ") and table["why"][0].endswith("in 8 cells.")
    assert verdict(name, study(-0.75)) == NOT_REPRODUCED
    assert verdict(name, study(-0.5)) == NOT_DECIDED
    assert verdict(name, study(-0.75), margin_points=1) == REPRODUCED
    for missing in (
        study_of({("ken", share): 0.0}, parameters=dict.fromkeys(SEVEN, size)),
        study_of({(method, share): 0.0}, parameters=dict.fromkeys(SEVEN, other)),
        study_of({(method, share): 0.0}),
        study_of({(method, 0.1): 0.0}, parameters=dict.fromkeys(SEVEN, size)),
    ):
        table = judge(name, missing)
        assert table["verdict"][0] == NOT_DECIDED and table["why"][0].startswith("Not decided: not tested here, since ")


def test_the_released_code_may_differ_at_any_budget():
    def study(first: float, second: float, spread: float = 0.1) -> Evidence:
        points = {("ken-grid", 0.1): first, ("ken-grid", 0.5): second, ("ken", 0.1): 0.0, ("ken", 0.5): 0.0}
        return study_of(points, spread)

    table = judge("grid-differs", study(2.0, -2.5))
    assert table["verdict"][0] == REPRODUCED and table["estimate"][0] == pytest.approx(-2.5)
    table = judge("grid-differs", study(0.0, 2.0))
    assert table["verdict"][0] == REPRODUCED and table["estimate"][0] == pytest.approx(2)
    assert verdict("grid-differs", study(0.0, 0.0)) == NOT_REPRODUCED
    table = judge("grid-differs", study(0.0, 0.3, spread=3))
    assert table["verdict"][0] == NOT_DECIDED and "joint 95" in table["why"][0]


def spread_rows(even: int, clustered: int) -> pd.DataFrame:
    observed = [1.0] * even + [1.3] * clustered
    axes = {
        "model": [SEVEN[i % 7] for i in range(len(observed))],
        "task": "t",
        "seed": 0,
        "method": "ken",
        "matrix": [f"layer{i}" for i in range(len(observed))],
    }
    return pd.DataFrame(axes | {"observed_neighbours": observed, "neighbours_low": 0.9, "neighbours_high": 1.1})


@pytest.mark.parametrize(
    ("even", "clustered", "wanted"),
    [(100, 0, REPRODUCED), (50, 50, NOT_REPRODUCED), (92, 8, NOT_DECIDED), (7, 0, NOT_DECIDED), (5, 0, NOT_TESTED)],
)
def test_even_spread_is_a_share_of_matrices(tmp_path, even, clustered, wanted):
    others = spread_rows(0, 90).assign(method="magnitude")
    pd.concat([spread_rows(even, clustered), others]).to_csv(tmp_path / "spread.csv", index=False)
    table = judge("spread-evenly", study_of({}, folder=tmp_path))
    assert table["verdict"][0] == wanted and table["unit"][0] == "share" and table["n"][0] == min(even + clustered, 7)
    assert table["estimate"][0] == pytest.approx(even / (even + clustered))
    if not clustered:  # Clopper-Pearson: the lower end is (alpha / 2)^(1 / n) if all are even
        assert table["low"][0] == pytest.approx(0.025 ** (1 / even))


def timing(size_slope: float, k_slope: float, noise: float = 0.001, sizes=(10, 100, 1000), ks=(8, 32, 128)):
    generator = np.random.default_rng(5)
    rows = [(size, k, 0.01 * size**size_slope * k**k_slope) for size in sizes for k in ks for _ in range(2)]
    table = pd.DataFrame(rows, columns=["size", "k", "seconds"])
    table = table.assign(seconds=table["seconds"] * np.exp(noise * generator.standard_normal(len(table))))
    return pd.concat([table.assign(method="ken"), table.assign(method="ken-grid", seconds=table["size"].astype(float))])


@pytest.mark.parametrize(
    ("table", "wanted", "slopes"),
    [
        (timing(1, 1), (REPRODUCED, REPRODUCED), (1, 1)),
        (timing(1.04, 0), (REPRODUCED, NOT_REPRODUCED), (1.04, 0)),
        (timing(2, 1), (NOT_REPRODUCED, REPRODUCED), (2, 1)),
        (timing(1.1, 0.9, noise=0.2), (NOT_DECIDED, NOT_DECIDED), None),
        (timing(1, 1, noise=1.0), (NOT_DECIDED, NOT_DECIDED), None),
        (timing(1, 1, ks=(8, 32)), (REPRODUCED, NOT_DECIDED), (1, math.nan)),
        (timing(1, 1, ks=(8,)), (REPRODUCED, NOT_DECIDED), (1, math.nan)),
        (timing(1, 1)[::8].iloc[:2], (NOT_DECIDED, NOT_DECIDED), None),
    ],
)
def test_linear_time_is_a_slope_of_one(tmp_path, table, wanted, slopes):
    table.to_csv(tmp_path / "timing.csv", index=False)
    judged = judge("linear-time", study_of({}, folder=tmp_path))
    assert list(judged["subject"]) == ["ken, size", "ken, k", "ken-grid, size", "ken-grid, k"]
    assert tuple(judged["verdict"][:2]) == wanted
    judged = judged[:2]
    if slopes:
        assert list(judged["estimate"]) == pytest.approx(slopes, abs=0.01, nan_ok=True)


def test_timings_with_size_proportional_to_k_are_not_decided(tmp_path):
    table = timing(1, 1)
    table = table[table["method"] == "ken"]
    table[table["size"] == table["k"].map({8: 10, 32: 100, 128: 1000})].assign(size=lambda rows: rows["k"] ** 2).to_csv(
        tmp_path / "timing.csv", index=False
    )
    judged = judge("linear-time", study_of({}, folder=tmp_path))
    assert (judged["verdict"] == NOT_DECIDED).all() and judged["why"][:2].str.contains("independently").all()


def test_invalid_measurements_are_named(tmp_path):
    study = study_of({}, folder=tmp_path)
    timing(1, 1).assign(seconds=0.0).to_csv(tmp_path / "timing.csv", index=False)
    with pytest.raises(UserError, match="not above 0"):
        judge("linear-time", study)
    spread_rows(3, 0).assign(neighbours_high=["", 1, 1]).to_csv(tmp_path / "spread.csv", index=False)
    with pytest.raises(UserError, match="empty cells"):
        judge("spread-evenly", study)
    spread_rows(0, 0).to_csv(tmp_path / "spread.csv", index=False)
    assert "no rows" in judge("spread-evenly", study)["why"][0]


def test_a_study_without_evidence_decides_nothing():
    rules, _ = read_rules(RULES)
    table = judge_all(study_of({("magnitude", 0.5): 0.0}), rules)
    assert list(table.columns) == claims.COLUMNS
    assert (table["verdict"] == NOT_DECIDED).all() and (table["n"] == 0).all()
    assert table[["estimate", "low", "high"]].isna().all(axis=None)
    assert table["why"].str.startswith("Not decided: ").all() and set(table["claim"]) == CELL_CLAIMS


def test_the_reason_of_a_declined_method_is_given():
    study = study_of({("ken", 0.1): 0.0})
    declined = study.scores.iloc[:1].assign(method="flop", status="declined", reason="no linear layer.")
    study = Evidence(study.results, pd.concat([study.scores, declined]), study.sample, 0.95)
    assert judge("ahead-of-flop", study)["why"][0] == "Not decided: flop has no score to compare (no linear layer)."


def test_cells_without_one_of_two_methods_are_counted():
    study = study_of({("ken", 0.1): 5.0, ("random", 0.1): 0.0})
    rows = study.sample.rows
    kept = rows[(rows["method"] != "random") | (rows["model"] != "a")].index
    part = Sample(rows.loc[kept].reset_index(drop=True), study.sample.resampled[kept], [])
    table = judge("ahead-of-random", Evidence(study.results, study.scores, part, 0.95))
    assert table["n"][0] == 24 and "24 of 28 cells" in table["why"][0]


def test_a_verdict_on_all_models_needs_six_pairs_and_two_seeds():
    """From 5 pairs, not even the range from the lowest to the highest covers the median with 95 %."""
    assert [least_pairs(confidence) for confidence in (0.5, 0.9, 0.95, 0.99)] == [2, 5, 6, 8]
    points = {("ken", 0.1): 5.0, ("random", 0.1): 0.0, ("ken-rescaled", 0.1): 0.0, ("ken-rescaled", 0.05): 0.0}
    points |= {("ken-grid", 0.1): 0.0}
    for name in ("ahead-of-random", "rescaled-keeps", "grid-differs"):
        assert verdict(name, study_of(points, models=SEVEN[:3])) == REPRODUCED
        two = judge(name, study_of(points, models=SEVEN[:2]))
        assert two["verdict"][0] == NOT_TESTED and two["n"][0] == 8 and two["low"][0] <= two["estimate"][0]
        assert two["why"][0].endswith("Not tested here: the study has 4 pairs of model and task (6 needed).")
        one = judge(name, study_of(points, models=("a",), seeds=(3,)))
        assert one["verdict"][0] == NOT_TESTED
        assert one["why"][0].endswith("has 2 pairs of model and task (6 needed) and 1 seed (2 needed).")
        assert "has 1 seed (2 needed)." in judge(name, study_of(points, seeds=(0,)))["why"][0]


def test_a_verdict_on_one_model_needs_two_seeds():
    study = study_of({("ken", 0.75): 0.0}, models=("a",), seeds=(0,))
    for name in ("reset-a-quarter", "reset-range"):
        table = judge(name, study, **({"models": 1} if name == "reset-range" else {}))
        assert table["verdict"][0] == NOT_TESTED and "the study has 1 seed (2 needed)" in table["why"][0]
        assert table["estimate"][0] == pytest.approx(0)


def without_learning(study: Evidence, **values: str) -> Evidence:
    """The study, with cells whose fully fine-tuned model has not learned: those with these values."""
    rows = study.scores
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return replace(study, unlearned=rows[CELL].drop_duplicates())


def test_cells_whose_model_has_not_learned_count_for_no_verdict(tmp_path):
    spread_rows(70, 0).to_csv(tmp_path / "spread.csv", index=False)
    points = {("ken", 0.75): in_one_model(9.0), ("random", 0.75): 0.0, ("lora", 0.75): 0.0}
    study = study_of(points, folder=tmp_path)
    part = without_learning(study, model="c")
    for name in ("ahead-of-random", "ahead-of-lora"):
        assert judge(name, study)["estimate"][0] == pytest.approx(9 / 7)
        table = judge(name, part)
        assert table["estimate"][0] == pytest.approx(0) and table["n"][0] == 24 and "24 of 28 cells" in table["why"][0]
    assert (judge("spread-evenly", study)["n"][0], judge("spread-evenly", part)["n"][0]) == (7, 6)
    table = judge("reset-a-quarter", part).set_index("subject")
    assert (table.loc["c", "verdict"], table.loc["c", "n"], table.loc["a", "verdict"]) == (NOT_TESTED, 0, REPRODUCED)
    assert verdict("reset-range", part) == NOT_DECIDED
    nothing = without_learning(study)
    for name in ("ahead-of-random", "ahead-of-lora", "reset-a-quarter", "reset-range", "spread-evenly"):
        table = judge(name, nothing)
        assert (table["verdict"] == NOT_TESTED).all() and (table["n"] == 0).all() and table["estimate"].isna().all()
        assert table["why"].str.startswith("Not tested here: no fully fine-tuned model has learned").all()


def entry(name: str) -> dict:
    loaded = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return copy.deepcopy(next(claim for claim in loaded["claims"] if claim["id"] == name))


def write_rules(path: Path, *entries: object, **changes) -> Path:
    path.write_text(yaml.safe_dump({"confidence": 0.95, "claims": list(entries)} | changes), encoding="utf-8")
    return path


RANDOM = entry("ahead-of-random")


def without(key: str) -> dict:
    return {name: value for name, value in RANDOM.items() if name != key}


@pytest.mark.parametrize(
    ("entries", "changes", "message"),
    [
        ([RANDOM | {"id": "ahead-of-everything"}], {}, "has the claim 'ahead-of-everything', expected an id"),
        (["ahead-of-random"], {}, "has the claim None"),
        ([without("margin_points")], {}, "claim 'ahead-of-random', lacks 'margin_points': add it"),
        ([without("rule")], {}, "lacks 'rule'"),
        ([RANDOM | {"margin": 2}], {}, "has the unknown key 'margin'"),
        ([RANDOM | {"margin_points": "1"}], {}, "has margin_points '1', expected a number from 0"),
        ([RANDOM | {"margin_points": -1}], {}, "expected a number from 0"),
        ([RANDOM | {"margin_points": True}], {}, "expected a number from 0"),
        ([RANDOM | {"margin_points": [1]}], {}, "expected a number from 0"),
        ([entry("rescaled-keeps") | {"kept_shares": []}], {}, "expected a list of numbers from 0"),
        ([entry("rescaled-keeps") | {"kept_shares": [0.1, "x"]}], {}, "expected a list of numbers from 0"),
        ([RANDOM | {"source": "theirs"}], {}, "has the source 'theirs', expected paper or ours"),
        ([RANDOM | {"rule": "above {margin}"}], {}, "cannot be filled in"),
        ([RANDOM | {"rule": 3}], {}, "cannot be filled in"),
        ([RANDOM, RANDOM], {}, "has the claim 'ahead-of-random' twice"),
        ([RANDOM], {"confidence": 95}, "has confidence 95, expected a number between 0 and 1"),
        ([RANDOM], {"claims": {}}, "claims a list"),
        ([RANDOM], {"extra": 1}, "must have the keys confidence and claims"),
    ],
)  # fmt: skip
def test_an_invalid_rules_file_is_refused_with_a_one_line_message(tmp_path, entries, changes, message):
    with pytest.raises(UserError, match=message):
        read_rules(write_rules(tmp_path / "claims.yaml", *entries, **changes))


def test_a_missing_or_malformed_rules_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_rules(tmp_path / "claims.yaml")
    (tmp_path / "claims.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match="is not YAML"):
        read_rules(tmp_path / "claims.yaml")


def test_margins_are_read_from_the_rules_file(tmp_path):
    study = study_of({("ken", 0.1): 0.0, ("random", 0.1): 0.0})
    for margin, wanted in ((1, NOT_REPRODUCED), (0.01, NOT_DECIDED)):
        rules, _ = read_rules(write_rules(tmp_path / "claims.yaml", RANDOM | {"margin_points": margin}))
        table = judge_all(study, rules)
        assert table["verdict"][0] == wanted and f"below {margin:g} points" in table["rule"][0]


def test_the_step_judges_stored_predictions(tmp_path, capsys):
    """Random predicts worse than KEN in all cells; the estimate is the difference of the scores."""
    labels, cells = labels_of("t1"), {}
    for model in SEVEN:
        for seed in (0, 1):
            errors = 10 + seed
            cells[model, "t1", seed] = {
                ("full", 1.0, 0): predict(labels, errors),
                ("ken", 0.5, 0): predict(labels, errors),
                ("random", 0.5, 0): predict(labels, 40),
                ("random", 0.5, 1): predict(labels, 42),
            }
    folder = write_predictions(tmp_path / "study", cells)
    run_step(claims, "--results", folder, "--rules", RULES)
    table = pd.read_csv(folder / "claims.csv", dtype={"verdict": str})
    assert list(table.columns) == claims.COLUMNS and set(table["verdict"]) <= set(VERDICTS)
    rows = table.set_index(["claim", "subject"])
    scores = pd.read_csv(folder / "scores.csv").groupby(["method", "model", "seed", "draw"])["weighted_f1"].mean()
    lead = 100 * (scores["ken"].mean() - scores["random"].mean())
    assert rows.loc[("ahead-of-random", ALL), "estimate"] == pytest.approx(lead, abs=1e-3)
    assert rows.loc[("ahead-of-random", ALL), "verdict"] == REPRODUCED
    assert rows.loc[("reset-a-quarter", "a"), ["estimate", "low", "high"]].tolist() == [0, 0, 0]
    assert rows.loc[("reset-a-quarter", "a"), "verdict"] == REPRODUCED
    assert "ahead-of-random, all models: reproduced. KEN minus Random: +" in capsys.readouterr().out
    first = (folder / "claims.csv").read_bytes()
    run_step(claims, "--results", folder, "--rules", RULES, "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == first


def test_the_step_gives_no_verdict_on_models_that_answer_with_one_class(tmp_path):
    """A study of one cell on which KEN looks ahead of a random choice, but the full model has learned nothing."""
    labels = labels_of("t1")
    constant = np.full_like(labels, 2)
    better, worse = constant.copy(), constant.copy()
    better[labels == 0], worse[labels == 2] = 0, 0
    cell = {("full", 1.0, 0): constant, ("ken", 0.75, 0): better, ("random", 0.75, 0): worse}
    folder = write_predictions(tmp_path / "study", {("a", "t1", 0): cell})
    run_step(claims, "--results", folder, "--rules", RULES)
    table = pd.read_csv(folder / "claims.csv").set_index("claim")
    assert set(table["verdict"]) == {NOT_TESTED, NOT_DECIDED}
    assert table.loc["ahead-of-random", "verdict"] == NOT_TESTED
    assert "no fully fine-tuned model has learned its task (1 cell)" in table.loc["ahead-of-random", "why"]


def test_a_whole_study_is_judged_under_all_rules(tmp_path):
    folder = small_study(tmp_path / "study", models=("a",), tasks=("t1",))
    run_step(claims, "--results", folder, "--rules", RULES)
    table = pd.read_csv(folder / "claims.csv")
    assert set(table["claim"]) == CELL_CLAIMS and table["why"].str.endswith(".").all()
    decided = table[table["verdict"] != NOT_DECIDED]
    assert (decided["low"] <= decided["estimate"]).all() and (decided["estimate"] <= decided["high"]).all()

"""Every verdict of every claim on invented numbers, and errors in the rules file."""

import copy
import itertools
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from ken.errors import UserError
from report import claims
from report.claims import judge_all, read_rules
from report.intervals import Interval
from report.judging import evidence
from report.judging.evidence import Evidence, Finding, Untested, least_pairs, seeds_of
from report.judging.scores import all_of, any_of, from_curve
from report.results import ALL_MODELS as ALL
from report.results import CELL, CONTROL, FAILS, HOLDS, NOT_TESTED, OPEN, OPEN_LOSS
from report.statistics import Sample
from tests.report.test_statistics import FAMILIES, UNITS, labels_of, predict, small_study, write_predictions
from tests.steps import run_step

RULES = Path(__file__).parents[2] / "config" / "claims.yaml"
SEVEN = tuple("abcdefg")
VERDICTS = (HOLDS, FAILS, OPEN, OPEN_LOSS, NOT_TESTED)
CELL_CLAIMS = {name for name in claims.CLAIMS if not name.startswith("surgeon-")}  # the others concern language models


def study_of(
    points: dict,
    spread: float = 0.1,
    folder: Path = Path("nowhere"),
    models=SEVEN,
    seeds=(0, 1),
    tasks=("t", "u"),
    parameters=None,
    **columns,
) -> Evidence:
    """A study in which methods differ from a full model at 80 points by given points, equally on all tasks.

    Both seeds of a model and task have the same scores and the same influence of texts.

    Args:
        points: (method, budget) -> points, or a function from a model to points.
        spread: standard error over texts, in points, of the mean over two tasks of a model.
        parameters: model -> number of parameters.
        columns: kept or stored_bytes by (method, budget), instead of the budget itself.
    """
    generator = np.random.default_rng(0)
    rows, influence = [], []
    for model, task in itertools.product(models, tasks):
        for (method, budget), value in ({("full", 1.0): 0.0} | points).items():
            f1 = 0.8 + (value(model) if callable(value) else value) / 100
            sizes = {name: columns.get(name, {}).get((method, budget), budget) for name in ("kept", "stored_bytes")}
            kind = {"family": FAMILIES.get(method, "reset"), "unit": UNITS.get(method, "share")}
            row = {"model": model, "task": task, "method": method, "budget": budget, "weighted_f1": f1}
            width = 0 if method == "full" else spread * math.sqrt(2)
            texts = generator.standard_normal(40)
            rows += [row | kind | sizes | {"seed": seed} for seed in seeds]
            influence += [width / 100 * texts / np.linalg.norm(texts)] * len(seeds)
    frame = pd.DataFrame(rows)
    scores = frame.assign(status="ok", reason="", draw=0, parameters=frame["model"].map(parameters or {}).astype(float))
    return Evidence(folder, scores, Sample(frame, np.array(influence), []), 0.95)


def judge(name: str, study: Evidence, **changes) -> pd.DataFrame:
    """Rows of one claim under the rules of the repository."""
    rules, _ = read_rules(RULES)
    rule = next(rule for rule in rules if rule.claim == name)
    rule.numbers.update(changes)
    return judge_all(study, [rule])


def verdict(name: str, study: Evidence, subject: str = ALL, **changes) -> str:
    table = judge(name, study, **changes).set_index("subject")
    return table.loc[subject, "verdict"]


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
            shown = [f"{100 * share:g} %" for share in number] if isinstance(number, list) else [f"{number:g}"]
            assert all(each in rule.rule for each in shown)
        assert not re.search(r"\d%|[\[\]]|\b1 points|-\d", rule.rule.replace("0.1 points", ""))


@pytest.mark.parametrize(
    ("low", "high", "inferior", "ahead", "differs"),
    [
        (0.1, 0.4, HOLDS, HOLDS, HOLDS),
        (-0.5, 0.4, HOLDS, FAILS, FAILS),
        (-0.5, 1.5, HOLDS, OPEN, OPEN),
        (-1.5, 0.4, OPEN, FAILS, OPEN),
        (-3.0, 2.0, OPEN, OPEN, OPEN),
        (-3.0, -2.0, FAILS, FAILS, HOLDS),
        (-1.5, -0.5, OPEN_LOSS, FAILS, HOLDS),
        (-1.0, -1.0, OPEN_LOSS, FAILS, HOLDS),
        (0.0, 0.0, HOLDS, FAILS, FAILS),
    ],
)
def test_verdicts_of_intervals_at_a_margin_of_one_point(low, high, inferior, ahead, differs):
    interval = Interval((low + high) / 2, low, high)
    assert evidence.not_inferior(interval, 1) == inferior
    assert evidence.superior(interval, 1) == ahead
    assert evidence.different(interval, 1) == differs


def test_a_quarter_reset_is_judged_over_all_models_and_for_each():
    lost = {"a": 0.2, "b": -0.3, "c": -3.0, "d": -1.0, "e": -0.8}
    control = {("delta-magnitude", 0.75): 0.0}
    study = study_of({("ken", 0.75): lost.get, ("ken", 0.5): -9.0} | control, 0.2, models=tuple(lost))
    table = judge("reset-a-quarter", study).set_index("subject")
    name = f"{CONTROL}Δ-magnitude"
    wanted = {ALL: OPEN, "a": HOLDS, "b": HOLDS, "c": FAILS, "d": OPEN_LOSS, "e": OPEN_LOSS, name: HOLDS}
    assert table["verdict"].to_dict() == wanted
    assert table["estimate"].to_dict() == pytest.approx(lost | {ALL: -0.98, name: 0})
    assert (table["n"] == [20, 4, 4, 4, 4, 4, 20]).all() and (table["unit"] == "points").all()
    assert (table["scope"][list(lost)] == "on these two tasks").all() and table.loc[
        ALL, "scope"
    ] == "on these two tasks"
    half = 2.576 * 0.2  # five intervals that are joint at 95 % have 99 % each
    assert table.loc["c", ["low", "high"]].tolist() == pytest.approx([-3 - half, -3 + half], abs=1e-3)
    why, needs = table.loc["e", ["why", "needs"]]
    assert "A loss is shown, 0.28 to 1.32 points; whether it is above 1 is open." in why and "joint 95" in why
    assert (
        needs == "It takes an interval 2.6 times narrower: about 6.6 times as many test texts, if the estimate stays."
    )
    assert "so close to the limit" in table.loc["d", "needs"]
    assert set(table["limits"]) == {"-1"}


def test_the_models_of_a_pooled_verdict_are_a_sample():
    points = dict(zip(SEVEN, (0.4, -0.3, 0.1, -0.2, 0.3, 0.2, -0.4), strict=True))
    table = judge("reset-a-quarter", study_of({("ken", 0.75): points.get}, 0.0)).set_index("subject")
    expected = stats.t.interval(0.95, 6, np.mean(list(points.values())), stats.sem(list(points.values())))
    assert table.loc[ALL, ["low", "high"]].tolist() == pytest.approx(expected)


def test_one_share_that_fails_alone_but_not_jointly_over_the_models_is_open():
    jointly = evidence.Finding("a", OPEN, 3, "", Interval(-11.9, -24.9, 1.1))
    alone = evidence.Finding("a", FAILS, 3, "", Interval(-11.9, -21.0, -2.7))
    assert any_of([jointly], [alone]) == jointly


def one_checkpoint(tasks: tuple[str, ...]) -> Evidence:
    """Three models that start from one checkpoint."""
    points = {"a": -0.4, "b": -0.2, "c": 0.0}
    methods = {("ken", 0.75): points.get, ("ken", 0.25): -9.0, ("random", 0.75): -2.0, ("random", 0.25): -8.0}
    study = study_of(methods, 0.2, models=tuple(points), tasks=tasks)
    return replace(study, sample=replace(study.sample, checkpoints={"b": "a", "c": "a"}))


def test_models_that_start_from_one_checkpoint_count_once():
    table = judge("reset-a-quarter", one_checkpoint(("t", "u"))).set_index("subject")
    assert table.loc[ALL, "verdict"] == NOT_TESTED and table.loc[ALL, "n"] == 12
    assert (
        table.loc[ALL, "needs"]
        == "It takes 6 pairs of model and task (the study has 2; 3 tasks would do for these models)."
    )
    assert table.loc["b", "scope"] == "on these two tasks" and table.loc["b", "estimate"] == pytest.approx(-0.2)


def test_a_verdict_on_one_checkpoint_takes_its_tasks_as_a_sample():
    study = one_checkpoint(("t", "u", "v"))
    table = judge("reset-a-quarter", study).set_index("subject")
    assert table.loc[ALL, "verdict"] == HOLDS and table.loc[ALL, "scope"] == "on this checkpoint"
    table = judge("ahead-of-random", study).set_index("subject")
    assert list(table.index) == [ALL, "25 % kept", "75 % kept", "a", "b", "c"]
    assert table["estimate"].tolist() == pytest.approx([0.4, -1, 1.8, 0.3, 0.4, 0.5])
    assert (table["scope"][["a", "b", "c"]] == "on these three tasks").all()


def test_a_study_whose_control_does_not_pass_says_so():
    study = study_of({("ken", 0.75): -1.2, ("delta-magnitude", 0.75): -1.1}, 1.0)
    table = judge("reset-a-quarter", study).set_index("subject")
    assert table.loc[ALL, "verdict"] == OPEN_LOSS and table.iloc[-1]["verdict"] == OPEN_LOSS
    assert table.loc[ALL, "why"].endswith(
        "The control does not pass either: this study may be too small to show that nothing is lost."
    )
    passing = judge("reset-a-quarter", study_of({("ken", 0.75): -1.2, ("delta-magnitude", 0.75): 0.0}, 0.3))
    assert not passing["why"].str.contains("control").any()
    without = judge("reset-a-quarter", study_of({("ken", 0.75): -1.2}, 1.0))
    assert without["verdict"].iloc[0] == OPEN_LOSS and without["verdict"].iloc[-1] == NOT_TESTED
    assert without["why"].iloc[0].endswith(" The control was not tested.")


def test_the_control_of_the_range_needs_no_seven_models():
    points = {("ken", 0.75): -9.0, ("delta-magnitude", 0.75): 0.0}
    table = judge("reset-range", study_of(points, models=SEVEN[:3])).set_index("subject")
    assert table.loc[ALL, "verdict"] == FAILS and table.loc[f"{CONTROL}Δ-magnitude", "verdict"] == HOLDS


def test_a_claim_on_all_shares_that_joint_intervals_leave_open_has_such_an_interval():
    def finding(verdict, low, high, needs=""):
        return Finding("s", verdict, 9, f"{low} to {high}.", Interval((low + high) / 2, low, high), needs=needs)

    single = [finding(HOLDS, -0.5, 0.5), finding(OPEN_LOSS, -2.3, -0.1, "single")]
    joint = [finding(HOLDS, -0.6, 0.6), finding(OPEN, -2.6, 0.2, "joint")]
    assert all_of(single, joint) == joint[1]
    assert all_of([single[0], replace(joint[1], needs="own")], joint).needs == "own"
    assert all_of([joint[0], finding(FAILS, -3.0, -1.1)], joint) == joint[1]


@pytest.mark.parametrize("name", ["reset-a-quarter", "reset-range", "rescaled-keeps", "small-file-half-point-mini"])
def test_every_rule_of_no_loss_has_a_control_that_can_pass(name):
    points = {("ken", 0.75): -9.0, ("ken-rescaled", 0.1): -9.0, ("ken-rescaled", 0.05): -9.0}
    points |= {("seeded-rescaled-3bit", 0.35): -9.0, ("delta-magnitude", 0.75): 0.0}
    table = judge(name, study_of(points, parameters=dict.fromkeys(SEVEN, 1e6))).set_index("subject")
    assert table.loc[ALL, "verdict"] == FAILS and table.loc[f"{CONTROL}Δ-magnitude", "verdict"] == HOLDS


def test_a_quarter_reset_uses_the_largest_share_up_to_three_quarters():
    study = study_of({("ken", 0.9): 0.0, ("ken", 0.72): -5.0, ("ken", 0.5): 0.0, ("ken", 128): 0.0})
    table = judge("reset-a-quarter", study)
    assert table["verdict"][0] == FAILS and "At 72" in table["why"][0]


def test_a_failure_with_too_little_kept_is_not_tested():
    study = study_of({("ken", 0.5): -5.0}, models=("a",))
    assert verdict("reset-a-quarter", study, "a") == NOT_TESTED
    assert verdict("reset-range", study) == NOT_TESTED
    assert "It takes a run with 75" in judge("reset-a-quarter", study)["needs"][1]
    study = study_of({("ken", 0.5): 0.0}, models=("a",))
    assert verdict("reset-a-quarter", study, "a") == HOLDS


def test_the_range_claim_needs_a_passing_share_in_every_model():
    good = {("ken", 0.3): -9.0, ("ken", 0.75): in_one_model(-0.2)}
    table = judge("reset-range", study_of(good))
    assert (table["verdict"][0], table["subject"][0], table["n"][0]) == (HOLDS, ALL, 28)
    assert table["estimate"][0] == pytest.approx(-0.2) and "7 pass" in table["why"][0]
    elsewhere = {("ken", 0.3): 0.0, ("ken", 0.75): in_one_model(-5.0)}
    assert verdict("reset-range", study_of(elsewhere)) == HOLDS
    failing = {("ken", 0.2): 0.0, ("ken", 0.3): in_one_model(-9.0), ("ken", 0.75): in_one_model(-3.0)}
    table = judge("reset-range", study_of(failing))
    assert table["verdict"][0] == FAILS and "1 fail; weakest: c. At 75" in table["why"][0]
    assert table["estimate"][0] == pytest.approx(-3) and table["scope"][0].endswith("(weakest: c)")
    of_a_model = table.set_index("subject").loc[list(SEVEN)]
    assert of_a_model["verdict"].to_dict() == dict.fromkeys(SEVEN, HOLDS) | {"c": FAILS}
    assert of_a_model.loc["c", "estimate"] == pytest.approx(-3)
    assert verdict("reset-range", study_of(failing), "mean of all models") == OPEN  # -3 / 7, with c far from the others
    unsure = {("ken", 0.3): -9.0, ("ken", 0.75): in_one_model(-1.0)}
    table = judge("reset-range", study_of(unsure))
    assert table["verdict"][0] == OPEN_LOSS and "6 pass and 0 fail; weakest: c. At" in table["why"][0]


def test_the_range_claim_needs_seven_models():
    good = {("ken", 0.75): 0.0}
    table = judge("reset-range", study_of(good, models=SEVEN[:6]))
    assert table["verdict"][0] == NOT_TESTED and table["needs"][0] == "It takes 7 models."
    assert verdict("reset-range", study_of(good, models=SEVEN[:6]), models=6) == HOLDS
    bad = {("ken", 0.75): in_one_model(-5.0)}
    assert verdict("reset-range", study_of(bad, models=SEVEN[:6])) == FAILS
    outside = {("ken", 0.1): 0.0, ("ken", 0.9): 0.0, ("ken", 128): 0.0}
    table = judge("reset-range", study_of(outside))
    assert table["verdict"][0] == NOT_TESTED and "no share from 30" in table["why"][0]


def test_what_holds_at_any_share_is_joint_over_the_shares_and_what_fails_in_any_model_over_the_models():
    both = {("ken", 0.5): -0.62, ("ken", 0.75): -5.0}
    alone = {("ken", 0.75): -0.62}
    # A single 95 % interval ends at -0.62 - 1.96 x 0.18 = -0.97, two joint ones at -0.62 - 2.24 x 0.18 = -1.02.
    assert verdict("reset-range", study_of(alone, 0.18, models=("a",)), models=1) == HOLDS
    assert verdict("reset-range", study_of(both, 0.18, models=("a",)), models=1) == OPEN_LOSS
    lost = {("ken", 0.75): in_one_model(-1.4)}
    # A single interval ends at -1.4 + 1.96 x 0.18 = -1.05, seven joint ones at -1.4 + 2.69 x 0.18 = -0.92.
    assert verdict("reset-range", study_of(lost, 0.18, models=("c",)), models=1) == FAILS
    assert verdict("reset-range", study_of(lost, 0.18)) == OPEN_LOSS


def test_a_loss_shown_has_the_interval_that_shows_it():
    """Of several shares that each show a loss, the reported interval is that of one share alone."""
    # Alone, the interval ends at -0.84 + 1.96 x 0.4 = -0.06; joint over two shares, at -0.84 + 2.24 x 0.4 = 0.06.
    study = study_of({("ken", 0.5): -1.2, ("ken", 0.75): -0.84}, 0.4, models=("a",))
    row = judge("reset-range", study, models=1).set_index("subject").loc["a"]
    assert row["verdict"] == OPEN_LOSS and row["estimate"] == pytest.approx(-0.84) and row["high"] < 0


LEADS = [
    ("ahead-of-random", "ken", "random"),
    ("update-over-value", "delta-magnitude", "ken"),
    ("rescaled-ahead-of-random-rescaled", "ken-rescaled", "random-rescaled"),
]


@pytest.mark.parametrize(("name", "method", "reference"), LEADS)
def test_a_lead_is_a_mean_over_common_budgets(name, method, reference):
    def study(first: float, second: float, spread: float = 0.1) -> Evidence:
        points = {
            (method, 0.1): first - 20,
            (method, 0.5): second - 20,
            (reference, 0.1): -20.0,
            (reference, 0.5): -20.0,
        }
        return study_of(points | {(method, 0.9): -50.0, (reference, 16): 50.0}, spread)

    ahead = judge(name, study(3.0, 0.0))
    assert ahead["verdict"][0] == HOLDS and ahead["estimate"][0] == pytest.approx(1.5)
    assert ahead["n"][0] == 28 and "over 2 budgets: +1.50 points" in ahead["why"][0]
    assert verdict(name, study(0.5, -0.5)) == FAILS
    assert verdict(name, study(-3.0, 0.0)) == FAILS
    assert verdict(name, study(1.0, 1.0, spread=5)) == OPEN
    assert verdict(name, study_of({(method, 0.1): 5.0, (reference, 0.2): 0.0})) == NOT_TESTED
    table = judge(name, study(3.0, 0.0)).set_index("subject")
    assert table["verdict"].to_dict() == {ALL: HOLDS, "10 % kept": HOLDS, "50 % kept": FAILS}
    assert "joint 95" in table.loc["10 % kept", "why"]


def test_cells_at_the_floor_and_the_ceiling_say_nothing_about_a_lead():
    """Model a is at chance with both methods, b within a point of full; c to g differ by 2 points."""
    points = {"a": (-50.0, -50.0), "b": (-0.5, -0.9)}
    ken, random = ((lambda model, i=i: points.get(model, (-18.0, -20.0))[i]) for i in (0, 1))
    study = replace(study_of({("ken", 0.1): ken, ("random", 0.1): random}), chance={"t": 0.3, "u": 0.3})
    table = judge("ahead-of-random", study)
    assert table["estimate"][0] == pytest.approx(2) and table["n"][0] == 20 and "20 of 28 cells" in table["why"][0]
    one_above = {"a": (-49.0, -50.0), "b": (-0.9, -1.1)}
    points |= one_above
    study = replace(study_of({("ken", 0.1): ken, ("random", 0.1): random}), chance={"t": 0.3, "u": 0.3})
    assert judge("ahead-of-random", study)["n"][0] == 28
    nothing = study_of({("ken", 0.1): 0.0, ("random", 0.1): 0.0})
    assert "at chance or within a point" in judge("ahead-of-random", nothing)["why"][0]


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
    assert ahead["verdict"][0] == HOLDS and ahead["estimate"][0] == pytest.approx(2)
    assert "(28 outside the range)" in ahead["why"][0] and ahead["n"][0] == 28
    assert verdict(name, study(0.0)) == FAILS
    assert verdict(name, study(-3.0)) == FAILS
    assert verdict(name, study(1.0, spread=5)) == OPEN


def test_sizes_outside_the_curve_are_not_tested():
    sizes = {("ken", 0.1): 10.0, ("full", 1.0): 100.0, ("lora", 1): 5.0, ("flop", 0.3): 200.0}
    study = study_of(dict.fromkeys(sizes, 0.0), stored_bytes=sizes, kept=sizes)
    for name in ("ahead-of-lora", "ahead-of-flop"):
        table = judge(name, study)
        assert table["verdict"][0] == NOT_TESTED and "ll 28 rows" in table["why"][0] and table["n"][0] == 0


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
                line = [np.interp(at, x, sample.influence[own.index, column])[0] for column in range(10)]
                drawn.append(100 * (np.array(line) - sample.influence[row]))
        assert 3 < len(points) < len(others)
        assert differences.points == pytest.approx(np.array(points))
        assert differences.influence == pytest.approx(np.array(drawn))


def test_rescaling_must_preserve_the_score_at_all_shares():
    def study(ten: float, five: float, spread: float = 0.1) -> Evidence:
        return study_of({("ken-rescaled", 0.1): ten, ("ken-rescaled", 0.05): five, ("ken-rescaled", 0.02): -9}, spread)

    table = judge("rescaled-keeps", study(0.0, -0.5))
    assert table["verdict"][0] == HOLDS and table["estimate"][0] == pytest.approx(-0.5)
    table = judge("rescaled-keeps", study(0.0, -3.0))
    assert table["verdict"][0] == FAILS and table["estimate"][0] == pytest.approx(-3)
    table = judge("rescaled-keeps", study(0.0, -1.0, spread=2)).set_index("subject")
    assert table["verdict"].to_dict() == {
        ALL: OPEN,
        "10 % kept": OPEN,
        "5 % kept": OPEN,
        f"{CONTROL}Δ-magnitude": NOT_TESTED,
    }
    missing = judge("rescaled-keeps", study_of({("ken-rescaled", 0.1): 0.0}))
    assert missing["verdict"][0] == NOT_TESTED and "with 5" in missing["why"][0]


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
    assert table["verdict"][0] == HOLDS and table["estimate"][0] == pytest.approx(-0.25) and table["n"][0] == 8
    assert (
        table["why"][0].startswith("Seeded, rescaled, 3 bits minus full at ") and "in 8 of 12 cells." in table["why"][0]
    )
    assert table["scope"][0] == "on these two models and these two tasks"
    assert verdict(name, study(-0.75)) == FAILS
    assert verdict(name, study(-0.5)) == OPEN_LOSS
    assert verdict(name, study(-0.75), margin_points=1) == HOLDS
    for missing in (
        study_of({("ken", share): 0.0}, parameters=dict.fromkeys(SEVEN, size)),
        study_of({(method, share): 0.0}, parameters=dict.fromkeys(SEVEN, other)),
        study_of({(method, share): 0.0}),
        study_of({(method, 0.1): 0.0}, parameters=dict.fromkeys(SEVEN, size)),
    ):
        table = judge(name, missing)
        assert table["verdict"][0] == NOT_TESTED and table["needs"][0].startswith("It takes ")


def test_the_released_code_may_differ_at_any_budget():
    def study(first: float, second: float, spread: float = 0.1) -> Evidence:
        points = {("ken-grid", 0.1): first, ("ken-grid", 0.5): second, ("ken", 0.1): 0.0, ("ken", 0.5): 0.0}
        return study_of(points, spread)

    table = judge("grid-differs", study(2.0, -2.5))
    assert table["verdict"][0] == HOLDS and table["estimate"][0] == pytest.approx(-2.5)
    table = judge("grid-differs", study(0.0, 2.0))
    assert table["verdict"][0] == HOLDS and table["estimate"][0] == pytest.approx(2)
    assert verdict("grid-differs", study(0.0, 0.0)) == FAILS
    table = judge("grid-differs", study(0.0, 0.3, spread=3))
    assert table["verdict"][0] == OPEN and "joint 95" in table["why"][0]


def spread_rows(excess: dict[str, float], matrices: int = 10) -> pd.DataFrame:
    """Rows of spread.csv in which kept entries of a model have some percent more kept neighbours than by chance."""
    rows = [
        {"model": model, "task": "t", "seed": 0, "method": "ken", "matrix": f"layer{index}"}
        | {"observed_neighbours": 2 + percent / 50 + 0.001 * (index % 2 - 0.5), "neighbours_random": 2.0}
        | {"neighbours_high": 2.01}
        for model, percent in excess.items()
        for index in range(matrices)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("excess", "wanted"),
    [
        ((0, 1, 0.5, 0, 1, 2, 1), HOLDS),
        ((12, 22, 13, 14, 15, 16, 17), FAILS),
        ((1, 9, 2, 8, 3, 7, 5), OPEN),
        ((1, 1.1, 0.9, 1, 1), NOT_TESTED),
    ],
)
def test_even_spread_is_a_mean_over_models(tmp_path, excess, wanted):
    by_model = dict(zip(SEVEN, excess, strict=False))
    others = spread_rows(dict.fromkeys(SEVEN, 90)).assign(method="magnitude")
    pd.concat([spread_rows(by_model), others]).to_csv(tmp_path / "spread.csv", index=False)
    table = judge("spread-evenly", study_of({}, folder=tmp_path))
    assert table["verdict"][0] == wanted and table["unit"][0] == "percent" and table["n"][0] == len(excess)
    expected = stats.t.interval(0.95, len(excess) - 1, np.mean(excess), stats.sem(excess))
    assert table.loc[0, ["estimate", "low", "high"]].tolist() == pytest.approx([np.mean(excess), *expected])
    more = spread_rows(by_model, 1000)  # more matrices of the same models say nothing about other models
    more.to_csv(tmp_path / "spread.csv", index=False)
    again = judge("spread-evenly", study_of({}, folder=tmp_path))
    assert again.loc[0, ["low", "high"]].tolist() == pytest.approx(table.loc[0, ["low", "high"]].tolist())


def test_the_spread_in_one_model_has_no_interval(tmp_path):
    spread_rows({"a": 1.0}).to_csv(tmp_path / "spread.csv", index=False)
    table = judge("spread-evenly", study_of({}, folder=tmp_path))
    assert table["verdict"][0] == NOT_TESTED and table["estimate"][0] == pytest.approx(1) and table["low"].isna()[0]


def timing(
    rows_slope: float,
    k_slope: float,
    width_slope: float = 1.0,
    noise: float = 0.001,
    heights=(10, 100, 1000),
    ks=(8, 32, 128),
    widths=(256, 512, 1024),
):
    generator = np.random.default_rng(5)
    points = list(itertools.product(heights, ks, widths, range(2)))
    table = pd.DataFrame(points, columns=["height", "k", "width", "repeat"])
    seconds = 0.01 * table["height"] ** rows_slope * table["k"] ** k_slope * table["width"] ** width_slope
    table = table.assign(size=table["height"] * table["width"])
    table["seconds"] = seconds * np.exp(noise * generator.standard_normal(len(table)))
    return pd.concat([table.assign(method="ken"), table.assign(method="ken-grid", seconds=table["size"].astype(float))])


@pytest.mark.parametrize(
    ("table", "wanted", "slopes"),
    [
        (timing(1, 1), (HOLDS, HOLDS, HOLDS), (1, 1, 1)),
        (timing(1.04, 0, 1.5), (HOLDS, FAILS, HOLDS), (1.04, 1.5, 0)),
        (timing(2, 1, 0.5), (FAILS, HOLDS, HOLDS), (2, 0.5, 1)),
        (timing(1.1, 1.1, 1.1, noise=0.2), (OPEN, OPEN, OPEN), None),
        (timing(1, 1, ks=(8, 32)), (HOLDS, HOLDS, NOT_TESTED), (1, 1, math.nan)),
        (timing(1, 1, ks=(8,)).drop(columns="width"), (HOLDS, NOT_TESTED, NOT_TESTED), None),
        (timing(1, 1)[::27].iloc[:2], (NOT_TESTED, NOT_TESTED, NOT_TESTED), None),
    ],
)
def test_time_grows_at_most_linearly_with_rows_width_and_k(tmp_path, table, wanted, slopes):
    table.to_csv(tmp_path / "timing.csv", index=False)
    judged = judge("linear-time", study_of({}, folder=tmp_path))
    assert list(judged["subject"]) == [f"{m}, {axis}" for m in ("ken", "ken-grid") for axis in ("rows", "width", "k")]
    assert tuple(judged["verdict"][:3]) == wanted
    if slopes:
        assert list(judged["estimate"][:3]) == pytest.approx(slopes, abs=0.01, nan_ok=True)
        better = judged["why"][:3].str.endswith("That is less than linear, better than claimed.")
        assert list(better) == [slope < 0.9 for slope in slopes]


def test_timings_with_size_proportional_to_k_are_not_decided(tmp_path):
    table = timing(1, 1, widths=(512,))
    table = table[(table["method"] == "ken") & (table["height"] == table["k"].map({8: 10, 32: 100, 128: 1000}))]
    table.assign(size=512 * table["k"] ** 2).to_csv(tmp_path / "timing.csv", index=False)
    judged = judge("linear-time", study_of({}, folder=tmp_path))
    assert (judged["verdict"] == NOT_TESTED).all() and judged["why"][[0, 2]].str.contains("independently").all()


def test_invalid_measurements_are_named(tmp_path):
    study = study_of({}, folder=tmp_path)
    timing(1, 1).assign(seconds=0.0).to_csv(tmp_path / "timing.csv", index=False)
    with pytest.raises(UserError, match="not above 0"):
        judge("linear-time", study)
    spread_rows({"a": 1.0}, 3).assign(neighbours_high=["", 1, 1]).to_csv(tmp_path / "spread.csv", index=False)
    with pytest.raises(UserError, match="empty cells"):
        judge("spread-evenly", study)
    spread_rows({"a": 1.0}).assign(method="magnitude").to_csv(tmp_path / "spread.csv", index=False)
    assert "no rows" in judge("spread-evenly", study)["why"][0]


def test_a_study_without_evidence_decides_nothing():
    rules, _ = read_rules(RULES)
    table = judge_all(study_of({("magnitude", 0.5): 0.0}), rules)
    assert list(table.columns) == claims.COLUMNS
    assert (table["verdict"] == NOT_TESTED).all() and (table["n"] == 0).all()
    assert table[["estimate", "low", "high"]].isna().all(axis=None)
    assert table["needs"].str.startswith("It takes ").all() and set(table["claim"]) == CELL_CLAIMS


def test_the_reason_of_a_declined_method_is_given():
    study = study_of({("ken", 0.1): 0.0})
    declined = study.scores.iloc[:1].assign(method="flop", status="declined", reason="no linear layer.")
    study = Evidence(study.results, pd.concat([study.scores, declined]), study.sample, 0.95)
    assert judge("ahead-of-flop", study)["why"][0] == "Flop has no score to compare (no linear layer)."


def test_the_reason_of_another_model_is_not_given():
    study = study_of({("ken", 0.1): 0.0}, models=("a", "b"))
    failed = study.scores[study.scores["model"] == "a"].iloc[:1]
    failed = failed.assign(method="lora", status="failed", reason="out of memory in a.")
    study = Evidence(study.results, pd.concat([study.scores, failed]), study.sample, 0.95)
    with pytest.raises(Untested, match=r"no score to compare \(out of memory in a\)$"):
        study.rows("lora", "a")
    with pytest.raises(Untested, match=r"^lora was not run on b$"):
        study.rows("lora", "b")


def test_seeds_count_within_pairs_of_model_and_task():
    cells = pd.DataFrame([(m, t, s) for m, s in (("a", 0), ("b", 1)) for t in "xyz"], columns=CELL)
    assert seeds_of(cells) == 1
    assert seeds_of(pd.concat([cells, cells.assign(seed=2)])) == 2
    assert seeds_of(pd.concat([cells, cells[:1].assign(seed=2)])) == 2


def test_an_empty_table_of_a_measurement_leaves_its_claim_untested(tmp_path):
    study = replace(study_of({("ken", 0.1): 0.0}), results=tmp_path)
    (tmp_path / "spread.csv").write_text("\n")
    table = judge("spread-evenly", study)
    assert table["verdict"][0] == NOT_TESTED and "spread.csv" in table["why"][0]


def test_cells_without_one_of_two_methods_are_counted():
    study = study_of({("ken", 0.1): -5.0, ("random", 0.1): -10.0})
    rows = study.sample.rows
    kept = rows[(rows["method"] != "random") | (rows["model"] != "a")].index
    part = Sample(rows.loc[kept].reset_index(drop=True), study.sample.influence[kept], [])
    table = judge("ahead-of-random", Evidence(study.results, study.scores, part, 0.95))
    assert table["n"][0] == 24 and "24 of 28 cells" in table["why"][0]


def test_a_verdict_on_all_models_needs_six_pairs_and_two_seeds():
    """From 5 pairs, not even the range from the lowest to the highest covers the median with 95 %."""
    assert [least_pairs(confidence) for confidence in (0.5, 0.9, 0.95, 0.99)] == [2, 5, 6, 8]
    points = {("ken", 0.1): -5.0, ("random", 0.1): -10.0, ("ken-rescaled", 0.1): 0.0, ("ken-rescaled", 0.05): 0.0}
    points |= {("ken-grid", 0.1): 0.0}
    for name in ("ahead-of-random", "rescaled-keeps", "grid-differs"):
        assert verdict(name, study_of(points, models=SEVEN[:3])) == HOLDS
        two = judge(name, study_of(points, models=SEVEN[:2]))
        assert two["verdict"][0] == NOT_TESTED and two["n"][0] == 8 and two["low"][0] <= two["estimate"][0]
        few = "It takes 6 pairs of model and task (the study has 4; 3 tasks would do for these models)."
        assert two["needs"][0] == few
        one = judge(name, study_of(points, models=("a",), seeds=(3,)))
        assert one["verdict"][0] == NOT_TESTED
        pairs = "6 pairs of model and task (the study has 2; 3 tasks would do for these models)"
        assert one["needs"][0] == f"It takes {pairs} and 2 seeds (the study has 1)."
        assert judge(name, study_of(points, seeds=(0,)))["needs"][0] == "It takes 2 seeds (the study has 1)."


def test_a_verdict_on_one_model_needs_two_seeds():
    study = study_of({("ken", 0.75): 0.0}, models=("a",), seeds=(0,))
    for name in ("reset-a-quarter", "reset-range"):
        table = judge(name, study, **({"models": 1} if name == "reset-range" else {}))
        table = table[table["subject"] == ("a" if name == "reset-a-quarter" else ALL)].iloc[0]
        assert table["verdict"] == NOT_TESTED and "takes 2 seeds (the study has 1)" in table["needs"]
        assert table["estimate"] == pytest.approx(0)


def without_learning(study: Evidence, **values: str) -> Evidence:
    """The study, with cells whose fully fine-tuned model has not learned: those with these values."""
    rows = study.scores
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return replace(study, unlearned=rows[CELL].drop_duplicates())


def test_cells_whose_model_has_not_learned_count_for_no_verdict(tmp_path):
    spread_rows(dict.fromkeys(SEVEN, 1.0)).to_csv(tmp_path / "spread.csv", index=False)
    points = {("ken", 0.75): in_one_model(9.0), ("lora", 0.75): 0.0}
    points |= {("ken", 0.1): in_one_model(-11.0, -20.0), ("random", 0.1): -20.0}
    study = study_of(points, folder=tmp_path)
    part = without_learning(study, model="c")
    for name in ("ahead-of-random", "ahead-of-lora"):
        assert judge(name, study)["estimate"][0] == pytest.approx(9 / 7)
        table = judge(name, part)
        assert table["estimate"][0] == pytest.approx(0) and table["n"][0] == 24 and "24 of 28 cells" in table["why"][0]
    assert (judge("spread-evenly", study)["n"][0], judge("spread-evenly", part)["n"][0]) == (7, 6)
    table = judge("reset-a-quarter", part).set_index("subject")
    assert (table.loc["c", "verdict"], table.loc["c", "n"], table.loc["a", "verdict"]) == (NOT_TESTED, 0, HOLDS)
    assert verdict("reset-range", part) == NOT_TESTED
    nothing = without_learning(study)
    for name in ("ahead-of-random", "ahead-of-lora", "reset-a-quarter", "reset-range", "spread-evenly"):
        table = judge(name, nothing)
        assert (table["verdict"] == NOT_TESTED).all() and (table["n"] == 0).all() and table["estimate"].isna().all()
        learned = table[~table["subject"].str.startswith(CONTROL)]["why"]
        assert learned.str.contains("o fully fine-tuned model has learned").all()


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
        ([RANDOM | {"id": "ahead-of-everything"}], {}, "has the unknown claim 'ahead-of-everything'. Did you mean"),
        (["ahead-of-random"], {}, "has the unknown claim None"),
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
        ([RANDOM], {"confidence": 95}, "has confidence 95, expected a number from 0.5 to below 1"),
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
    study = study_of({("ken", 0.1): -20.0, ("random", 0.1): -20.0})
    for margin, wanted in ((1, FAILS), (0.01, OPEN)):
        rules, _ = read_rules(write_rules(tmp_path / "claims.yaml", RANDOM | {"margin_points": margin}))
        table = judge_all(study, rules)
        assert table["verdict"][0] == wanted and f"below {margin:g} point" in table["rule"][0]


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
    assert rows.loc[("ahead-of-random", ALL), "verdict"] == HOLDS
    assert rows.loc[("reset-a-quarter", "a"), ["estimate", "low", "high"]].tolist() == [0, 0, 0]
    assert rows.loc[("reset-a-quarter", "a"), "verdict"] == HOLDS
    assert "ahead-of-random, all models: holds. KEN minus Random, over 1 budget: +" in capsys.readouterr().out
    first = (folder / "claims.csv").read_bytes()
    run_step(claims, "--results", folder, "--rules", RULES, "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == first


def test_the_commit_since_which_the_rules_are_unchanged(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    rules = write_rules(tmp_path / "rules.yaml", RANDOM)
    assert claims.rules_since(rules) == {}
    git("init", "-q")
    assert claims.rules_since(rules) == {}
    git("add", "rules.yaml")
    git("commit", "-qm", "rules")
    first = git("log", "-1", "--format=%h of %cs").strip()
    (tmp_path / "other").write_text("later")
    git("add", "other")
    git("commit", "-qm", "other")
    assert claims.rules_since(rules) == {"ahead-of-random": first}
    text = rules.read_text()
    rules.write_text(f"# a comment\n{text}".replace("The text", "Another text"))
    assert claims.rules_since(rules) == {"ahead-of-random": first}
    rules.write_text(text.replace("confidence: 0.95", "confidence: 0.9"))
    assert claims.rules_since(rules) == {}
    git("commit", "-qam", "another confidence")
    rules.write_text(text)
    assert claims.rules_since(rules) == {}  # the last commit has another rule
    rules.write_text("changed")
    assert claims.rules_since(rules) == {}


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
    assert set(table["verdict"]) == {NOT_TESTED}
    assert table.loc["ahead-of-random", "verdict"] == NOT_TESTED
    assert "No fully fine-tuned model has learned its task (1 cell)" in table.loc["ahead-of-random", "why"]


def test_a_whole_study_is_judged_under_all_rules(tmp_path):
    folder = small_study(tmp_path / "study", models=("a",), tasks=("t1",))
    run_step(claims, "--results", folder, "--rules", RULES)
    table = pd.read_csv(folder / "claims.csv")
    assert set(table["claim"]) == CELL_CLAIMS and table["why"].str.endswith(".").all()
    decided = table[table["estimate"].notna()]
    assert (decided["low"] <= decided["estimate"]).all() and (decided["estimate"] <= decided["high"]).all()


REFERENCES = Path(__file__).parents[2] / "results" / "reference"
COMMITTED = sorted(path.parent.name for path in REFERENCES.glob("*/predictions.parquet"))


@pytest.mark.parametrize("name", COMMITTED)
def test_the_verdicts_of_a_committed_study_follow_from_its_predictions(name, tmp_path):
    run_step(claims, "--results", REFERENCES / name, "--rules", RULES, "--out", tmp_path / "claims.csv")
    tables = [pd.read_csv(path, dtype=str) for path in (REFERENCES / name / "claims.csv", tmp_path / "claims.csv")]
    kept, computed = (table.drop(columns="rules_since") for table in tables)
    numbers = ["estimate", "low", "high"]
    pd.testing.assert_frame_equal(kept.drop(columns=numbers), computed.drop(columns=numbers))
    pd.testing.assert_frame_equal(kept[numbers].astype(float), computed[numbers].astype(float), rtol=1e-4, atol=1e-4)

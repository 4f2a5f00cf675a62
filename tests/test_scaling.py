"""Extrapolation to large models: the fit on synthetic costs, and the committed numbers in the document."""

import math

import numpy as np
import pytest

from benchmarks import common, extrapolation, scaling
from study.planning.sizes import ModelSize


def synthetic(start: float, entry) -> list[dict]:
    """Cases measured on a machine that takes `start` seconds plus `entry(row length)` seconds per entry."""
    seconds = {"prune_core_seconds": lambda c: start + c["entries"] * entry(c["row_length"])}
    seconds["inject_core_seconds"] = lambda c: 1 + 1e-9 * c["entries"]
    return [case | {name: value(case) for name, value in seconds.items()} for case in scaling.cases()]


def test_the_fit_recovers_constant_costs():
    cases = synthetic(2.0, lambda length: 5e-8)
    assert extrapolation.fit(cases, "prune") == pytest.approx((2.0, 5e-8))
    size = ModelSize({"a": (1000, 4096), "b": (7,), "c": (10, 3, 300)}, 0, {}, 1, 1, 1)
    entries = 1000 * 4096 + 7 + 9000
    assert extrapolation.core_seconds(size, cases, "prune") == pytest.approx(2.0 + 5e-8 * entries)


def test_the_fit_averages_out_noise():
    cases, rng = synthetic(2.0, lambda length: 5e-8), np.random.default_rng(0)
    for case in cases:
        case["prune_core_seconds"] *= rng.uniform(0.97, 1.03)
    start, per_entry = extrapolation.fit(cases, "prune")
    assert per_entry == pytest.approx(5e-8, rel=0.1) and start == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(
    ("name", "parameters"), [("BERT-base", 109.5e6), ("Llama 2 7B", 6.6e9), ("Llama 2 70B", 68.7e9)]
)
def test_models_have_their_published_size(name, parameters):
    """Llama's published sizes (6.74, 68.98 and 405 billion) include the output layer, which a classifier replaces."""
    assert extrapolation.size_of(*extrapolation.MODELS[name]).parameters == pytest.approx(parameters, rel=0.01)


def test_each_case_varies_one_quantity():
    first, *others = scaling.cases()
    sizes = {case["entries"] for case in others if case["row_length"] == first["row_length"]}
    assert len(sizes) > 2
    for case in scaling.cases():
        shapes = scaling.shapes(case["entries"], case["row_length"])
        assert sum(map(math.prod, shapes.values())) == case["entries"]
        assert {shape[1] for shape in shapes.values()} == {case["row_length"]}


def test_the_document_matches_the_committed_run():
    text = extrapolation.DOCUMENT.read_text(encoding="utf-8")
    assert extrapolation.updated(text, common.read(extrapolation.RECORD)) == text
    assert 5_000 < extrapolation.FIGURE.stat().st_size < 80_000
    with pytest.raises(ValueError, match="lacks the marks"):
        extrapolation.updated("no marks", common.read(extrapolation.RECORD))


def test_time_is_linear_in_size_and_memory_is_bounded():
    """The statements of the document about the committed numbers."""
    cases = common.read(extrapolation.RECORD)["numbers"]["cases"]
    start, per_entry = extrapolation.fit(cases, "prune")
    measured = [(case["prune_core_seconds"] - start) / case["entries"] for case in cases if case["entries"] >= 2**25]
    assert measured == pytest.approx([per_entry] * len(measured), rel=0.25), "independent of row length and k"
    sizes = [case for case in cases if case["row_length"] == scaling.WIDTH and case["kept_share"] == scaling.SHARE]
    entries, seconds = (np.array([case[key] for case in sizes]) for key in ("entries", "prune_core_seconds"))
    assert np.corrcoef(entries, seconds)[0, 1] ** 2 > 0.99
    peaks = [case["prune_peak_mib"] for case in cases]
    assert max(peaks) < 2 * min(peaks) and max(entries) >= 30 * min(entries)

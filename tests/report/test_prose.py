"""Every sentence of the report is short: at most three numbers, for all committed and invented studies."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from report import documents, findings, headline, style, summary
from report.measurements.contract import PageSection
from report.measurements.frontier import over_all_cells
from report.outputs import MEASUREMENTS
from report.tables import Tables
from tests.report.conftest import HOSTILE
from tests.report.synthetic import claim_row, controls, score_row, suggestion, write_results

STUDIES = sorted(path.parent.name for path in documents.REFERENCES.glob("*/provenance.json"))
INVENTED = ("built_study", "wide_study", "hostile_study")
MOST_NUMBERS, MOST_WORDS, HEADLINE_WORDS = 3, 32, 25
ABBREVIATIONS = ("e.g.", "i.e.", "cf.", "vs.", "al.", "approx.", "Fig.", "no.")
NUMBER = re.compile(r"(?<![\w.,])(?:\d{4}-\d\d-\d\d|\d+(?:[.,\u202f]\d+)*)(?!\w)")  # a date is one number
PARTS = ("sentences", "sentence", "smaller", "warning", "failed_cells")  # texts in what page() returns


def split(text: str) -> list[str]:
    """The sentences of a text. A full stop ends one if a space or the end follows, except after an abbreviation."""
    sentences, start = [], 0
    for end in re.finditer(r"[.!?][*)”\"]*(?=\s|$)", text):
        sentence = text[start : end.end()].strip()
        if not sentence.endswith(ABBREVIATIONS):
            sentences.append(sentence)
            start = end.end()
    return [*sentences, text[start:].strip()] if text[start:].strip() else sentences


def numbers(sentence: str, names: list[str]) -> list[str]:
    """The numbers in a sentence, without those in names, code and links."""
    for name in sorted(names, key=len, reverse=True):
        sentence = sentence.replace(name, "name")
    sentence = re.sub(r"`[^`]*`|\]\([^)]*\)", "", sentence)
    return NUMBER.findall(sentence)


def names_of(tables: Tables) -> list[str]:
    """Names with digits that are not numbers: models, tasks, methods and structures."""
    counts = tables.counts
    methods = {*counts["methods"], *style.LABELS, *tables.perplexity["method"], *tables.ranks["method"]}
    labels = {style.label(method) for method in methods}
    named = {*counts["models"], *counts["tasks"], *methods, *labels, *style.STRUCTURE_LABELS.values(), HOSTILE}
    return [name for name in named if re.search(r"\d", name)]


def texts(tables: Tables) -> Iterator[str]:
    """All prose that the measurements make."""
    yield summary.answer(tables)
    yield from summary.sentences(tables)
    for measurement in MEASUREMENTS:
        parts = measurement.call("page", tables)
        section = parts.get("section")
        if isinstance(section, PageSection):
            yield from (section.text, section.note, section.absent, section.caption)
        for part in PARTS:
            own = parts.get(part, "")
            yield from [own] if isinstance(own, str) else own.values() if isinstance(own, dict) else own


def too_long(found: Iterator[str], names: list[str]) -> list[str]:
    """Sentences with too many numbers or words."""
    sentences = [sentence for text in found for sentence in split(text)]
    return [
        sentence
        for sentence in sentences
        if len(numbers(sentence, names)) > MOST_NUMBERS or len(re.findall(r"[^\W\d]+[\w'-]*", sentence)) > MOST_WORDS
    ]


def test_sentences_end_at_full_stops_but_not_in_numbers_or_abbreviations():
    text = (
        "KEN loses 23.5 points, e.g. here. A random choice loses 23.0. **Is it so (0.1 to 0.6)?** Delta-CoMe 0.5 bits"
    )
    assert split(text) == [
        "KEN loses 23.5 points, e.g. here.",
        "A random choice loses 23.0.",
        "**Is it so (0.1 to 0.6)?**",
        "Delta-CoMe 0.5 bits",
    ]


def test_numbers_are_counted_without_those_in_names():
    names = ["Seeded, 3 bits", "bloom-560m"]
    sentence = (
        "Seeded, 3 bits has 12.5 % of 1,024 in bloom-560m, library6, F1 and `--k 3` (−0.5 to +0.1) on 2026-11-27."
    )
    assert numbers(sentence, names) == ["12.5", "1,024", "0.5", "0.1", "2026-11-27"]


def test_a_sentence_with_four_numbers_is_found():
    assert too_long(iter(["One 1. Two 1, 2, 3, 4. Three 1, 2.5 and 3."]), []) == ["Two 1, 2, 3, 4."]
    assert too_long(iter(["word " * (MOST_WORDS + 1)]), [])


@pytest.mark.parametrize("study", [*STUDIES, *INVENTED])
def test_sentences_have_at_most_three_numbers(study, request):
    folder = documents.REFERENCES / study if study in STUDIES else request.getfixturevalue(study)
    tables = Tables.read(folder)
    found = list(texts(tables))
    assert len(found) > 10 and too_long(iter(found), names_of(tables)) == []


def test_sentences_on_what_went_wrong_have_at_most_three_numbers(tmp_path):
    failed = dict.fromkeys(("weighted_f1", "stored_bytes", "kept"), "") | {"status": "failed", "reason": "No memory."}
    rows = [*controls(full=0.5), *controls(seed=1), *controls(seed=2, model="bloom"), score_row(), score_row(seed=1)]
    rows += [row | failed for row in (*controls(seed=2), score_row(seed=2), score_row(seed=1, method="random"))]
    named = ("model", "task", "seed", "method", "margin", "confidence")
    few = {name: value if name in named else "" for name, value in suggestion().items()}
    tables = Tables.compute(write_results(tmp_path, rows, suggestions=[few]))
    found = list(texts(tables))
    for wanted in ("training of 1 cell failed", "1 cell has not learned", "too few validation rows", "4 failed"):
        assert wanted in " ".join(found)
    assert too_long(iter(found), names_of(tables)) == []


@pytest.mark.parametrize("study", STUDIES)
def test_the_headline_has_few_short_sentences(study):
    tables = Tables.read(documents.REFERENCES / study)
    few = headline.headline(tables)
    assert 3 <= len(few) - headline.tested(tables.claims, "ahead-of-shrink") <= 4
    assert all(len(split(sentence)) == 1 for sentence in few)
    for sentence in few:
        assert len(sentence.split()) <= HEADLINE_WORDS + sentence.count("%"), sentence


def test_blocks_of_the_documents_have_at_most_three_numbers_in_a_sentence():
    blocks = {
        name: block(documents.REFERENCES)
        for document in ("README.md", "docs/findings.md", "docs/surgeon.md", "docs/faq.md")
        for name, block in documents.DOCUMENTS[document].items()
    }
    names = [name for study in STUDIES for name in names_of(Tables.read(documents.REFERENCES / study))]
    prose = [
        line.removeprefix("- ").strip("*")
        for block in blocks.values()
        for line in block.splitlines()
        if not line.startswith(("|", "!["))
    ]
    assert len(prose) > 50 and too_long(iter(prose), names) == []


def claims(**verdicts: str) -> pd.DataFrame:
    """Claims of the paper with these verdicts, claim -> verdict."""
    rows = [claim_row(name.replace("_", "-"), verdict=verdict) for name, verdict in verdicts.items()]
    columns = claim_row().keys()
    return pd.DataFrame(rows, columns=columns).replace({name: {"": np.nan} for name in ("estimate", "low", "high")})


OTHER = "a random choice of as many entries"


@pytest.mark.parametrize(
    ("verdict", "estimate", "expected"),
    [
        ("holds", 1.5, f"KEN's choice beats {OTHER}, by 1.50 points (0.50 to 2.50)."),
        ("does not hold", -1.5, f"KEN's choice is worse than {OTHER}, by 1.50 points (0.50 to 2.50)."),
        (
            "does not hold",
            -0.5,
            f"KEN's choice is not a point better than {OTHER}: −0.50 points (−1.50 to +0.50).",
        ),
        (
            "open",
            0.5,
            f"It is open whether KEN's choice beats {OTHER}: +0.50 points (−0.50 to +1.50).",
        ),
        ("not tested here", 0.5, f"Whether KEN's choice beats {OTHER} was not tested here."),
        ("not tested here", "", f"Whether KEN's choice beats {OTHER} was not tested here."),
    ],
)
def test_beside_random_follows_the_verdict(verdict, estimate, expected):
    table = claims(ahead_of_random=verdict).assign(estimate=pd.to_numeric(estimate))
    table = table.assign(low=table["estimate"] - 1, high=table["estimate"] + 1)
    assert headline.beside_random(table) == expected
    assert len(expected.split()) <= HEADLINE_WORDS and len(numbers(expected, [])) <= MOST_NUMBERS


def test_a_study_without_claims_says_so(built_study):
    sentences = headline.headline(Tables.read(built_study))
    assert sentences[0] == "Whether KEN's choice beats a random choice of as many entries was not tested here."
    assert sentences[2] == "The claims of the paper were not judged in this study."


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("holds", "The paper's one claim in this study holds."),
        ("does not hold", "The paper's one claim in this study does not hold."),
        ("open", "The paper's one claim in this study is open."),
        ("holds holds", "Of the paper's 2 claims, 2 hold."),
        ("holds open", "Of the paper's 2 claims, 1 holds and the other is open."),
        (
            "fails fails open shown",
            "Of the paper's 4 claims, none holds and 2 do not. "
            "Of the others, 1 shows a loss of open size and 1 is open.",
        ),
        ("holds fails untested", "Of the paper's 3 claims, 1 holds, 1 does not and the other was not tested."),
        ("holds untested untested", "Of the paper's 3 claims, 1 holds and the rest were not tested."),
        (
            "holds holds open untested untested",
            "Of the paper's 5 claims, 2 hold. Of the others, 1 is open and 2 were not tested.",
        ),
        ("open untested", "None of the paper's 2 claims is decided here. Of these, 1 is open and 1 was not tested."),
    ],
)
def test_the_claims_of_the_paper_are_counted_with_correct_plurals(verdicts, expected):
    words = {"fails": "does not hold", "shown": "open (loss shown, size open)", "untested": "not tested here"}
    stored = [verdicts] if verdicts == "does not hold" else [words.get(word, word) for word in verdicts.split()]
    found = headline.paper_claims(claims(**{f"c{index}": word for index, word in enumerate(stored)}))
    assert " ".join(found) == expected


def test_names_in_the_claims_that_hold_keep_their_capitals():
    table = pd.DataFrame([claim_row("ahead-of-lora", short="Ahead of LoRA"), claim_row("other", verdict="open")])
    assert headline.paper_claims(table) == ["Of the paper's 2 claims, 1 holds (ahead of LoRA) and the other is open."]


def test_claims_of_others_are_not_counted():
    table = pd.concat([claims(a="holds"), claims(b="open").assign(source="ours")])
    assert headline.paper_claims(table) == ["The paper's one claim in this study holds."]
    table = pd.concat([claims(a="holds"), claims(a="does not hold").assign(subject="t5")]).assign(subject=["t1", "t5"])
    both = pd.concat([table, claims(b="holds")])
    assert headline.paper_claims(both) == ["Of the paper's 2 claims, 1 holds and the other is mixed."]


def test_the_smallest_file_is_within_half_a_point_or_one(wide_study):
    points = over_all_cells(Tables.read(wide_study).frontier_points).assign(difference_points=-0.1, low=-2.0)
    assert headline.smallest(points) == "No file is shown to lose as little as one point."
    of_ken = (points["method"] == "ken") & (points["budget"] == 0.5)
    size = style.small_share(points[of_ken].iloc[0]["stored_share"])
    one = points.assign(low=points["low"].mask(of_ken, -1.0))
    assert headline.smallest(one) == (
        f"The smallest file shown to lose at most one point here has {size} of the full model's bytes: KEN."
    )
    half = points.assign(low=points["low"].mask(of_ken, -0.5))
    assert "at most half a point here has" in headline.smallest(half)
    everywhere = half.assign(scope="")
    assert "shown to lose at most half a point has" in headline.smallest(everywhere)
    without_interval = points.assign(difference_points=-2.0, low=np.nan)
    without_interval.loc[of_ken, "difference_points"] = -0.5
    assert "that loses at most half a point on average here has" in headline.smallest(without_interval)


def test_readers_see_words_that_they_understand():
    assert style.verdict("open (loss shown, size open)") == "open (loss shown)"
    assert style.verdict("holds") == "holds"
    shown = findings.verdicts({"study": claims(a="open (loss shown, size open)")}, ("paper",))
    assert "| open (loss shown): +1.25 points (+0.25 to +2.25)" in shown


@pytest.mark.parametrize(("points", "expected"), [(-23.46, "loses 23.5"), (0.12, "gains 0.1"), (0.04, "loses 0.0")])
def test_losses_and_gains_have_a_word_instead_of_a_sign(points, expected):
    assert style.loses(points) == expected

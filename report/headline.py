"""A study in a few sentences: KEN beside a random choice and beside none, the smallest file, the paper's claims."""

import pandas as pd

from report import style
from report.measurements.contract import ResultTables
from report.measurements.frontier import over_all_cells, smallest_file, that_loses
from report.measurements.verdicts import MIXED, whole
from report.results import FAILS, HOLDS, NOT_TESTED

RANDOM = "ahead-of-random"  # the claim that KEN's choice is better than a random one
NAMED = 2  # most claims that hold and are named
LOSSES = {0.5: "half a point", 1.0: "one point"}  # permitted loss of the smallest file, in points -> its words


def headline(tables: ResultTables) -> list[str]:
    """Three or four sentences of at most 25 words that answer what the study asks."""
    claims = tables.claims
    return [
        beside_random(claims),
        *([beside_no_choice(claims)] if tested(claims, "ahead-of-shrink") else []),
        smallest(over_all_cells(tables.frontier_points)),
        paper_claims(claims),
    ]


def beside_random(claims: pd.DataFrame) -> str:
    """Whether KEN's choice is better than a random one at an equal kept share."""
    return comparison(claims, RANDOM, "KEN's choice", "a random choice of as many entries")


def beside_no_choice(claims: pd.DataFrame) -> str:
    """Whether KEN's choice is better than shrinking every update to the kept share."""
    return comparison(claims, "ahead-of-shrink", "KEN's choice", "shrinking all updates alike")


def tested(claims: pd.DataFrame, name: str) -> bool:
    """Whether a claim has a verdict with an estimate."""
    claim = _verdicts(claims).get(name)
    return claim is not None and claim["verdict"] != NOT_TESTED and pd.notna(claim["estimate"])


def comparison(claims: pd.DataFrame, name: str, first: str, other: str) -> str:
    """The verdict on a claim that one choice is ahead of another, with its interval.

    Args:
        claims: rows of claims.csv.
        name: of the claim, whose estimate is the first minus the other, in points.
        first: the choice that is claimed to be ahead, as a part of a sentence.
        other: the choice that it is compared with.
    """
    if not tested(claims, name):
        return f"Whether {first} beats {other} was not tested here."
    claim = _verdicts(claims)[name]
    other += _where(claim)
    low, high = claim["low"], claim["high"]
    if claim["verdict"] == FAILS and high < 0:
        sizes = (f"{abs(value):.2f}" for value in (claim["estimate"], high, low))
        return "{} is worse than {}, by {} points ({} to {}).".format(style.capitalised(first), other, *sizes)
    if claim["verdict"] == HOLDS:
        sizes = (f"{value:.2f}".replace("-", "−") for value in (claim["estimate"], low, high))
        return "{} beats {}, by {} points ({} to {}).".format(style.capitalised(first), other, *sizes)
    difference, low, high = (style.points(value, 2) for value in (claim["estimate"], low, high))
    behind = f"{difference} points ({low} to {high})"
    if claim["verdict"] == FAILS:  # which shows no more than that
        return f"{style.capitalised(first)} is not {_margin(claim)} better than {other}: {behind}."
    return f"It is open whether {first} beats {other}: {behind}."


def _margin(claim: pd.Series) -> str:
    """The lead that a claim must show, or exclude: "a point"."""
    return "a point" if claim["limits"] == "1" else f"{claim['limits']} points"


def smallest(points: pd.DataFrame) -> str:
    """The smallest file that is shown to lose at most half a point over all cells, or else one point.

    Args:
        points: see `frontier.over_all_cells`.
    """
    for loss, words in LOSSES.items():
        row = smallest_file(points, loss)
        if row is not None:
            size, method = style.small_share(row["stored_share"]), style.label(row["method"])
            loses = that_loses(row, words) + (" here" if row["scope"] else "")
            return f"The smallest file {loses} has {size} of the full model's bytes: {method}."
    if set(points["method"]) <= set(style.CONTROLS):
        return "No method with a smaller file has a score in every cell."
    return f"No file is shown to lose as little as {words}."


def paper_claims(claims: pd.DataFrame) -> str:
    """How many claims of the paper hold, do not hold, and are not decided."""
    judged = list(_verdicts(claims[claims["source"] == "paper"]).values())
    words = [claim["verdict"] for claim in judged]
    holding, failing = words.count(HOLDS), words.count(FAILS)
    rest = [word for word in words if word not in (HOLDS, FAILS)]
    if not words:
        return "The claims of the paper were not judged in this study."
    if len(words) == 1:
        return f"The paper's one claim in this study {'is ' if rest else ''}{_kinds(words)}."
    of_all = f"the paper's {len(words)} claims"
    if len(rest) == len(words):
        return f"None of {of_all} is decided here: they are {_kinds(rest)}."
    held = [claim for claim in judged if claim["verdict"] == HOLDS]
    names = [f"{claim['short'][:1].lower()}{claim['short'][1:]}{_where(claim)}" for claim in held if claim["short"]]
    named = f" ({style.listed(names)})" if names and len(names) == len(held) <= NAMED else ""
    parts = [f"{holding or 'none'} {'hold' if holding > 1 else 'holds'}{named}"]
    if failing:
        parts.append(f"{failing} {'does' if failing == 1 else 'do'} not")
    if rest:
        parts.append(f"the {'other is' if len(rest) == 1 else 'rest are'} {_kinds(rest)}")
    return f"Of {of_all}, {style.listed(parts)}."


def _where(claim: pd.Series) -> str:
    """What a verdict is limited to, as a part of a sentence: " on these two tasks"; "" if it is not."""
    return f" {claim['scope']}" if claim["scope"] else ""


def _verdicts(claims: pd.DataFrame) -> dict[str, pd.Series]:
    """Claim -> its row as a whole."""
    return dict(whole(claims).iterrows())


def _kinds(words: list[str]) -> str:
    """The different verdicts: "open or not tested"; three that do not decide are "undecided or mixed"."""
    short = {NOT_TESTED: "not tested", MIXED: "mixed", HOLDS: HOLDS, FAILS: FAILS}
    kinds = {short.get(word, "open") for word in words}
    if kinds == {"mixed"}:
        return MIXED
    if kinds == {"open", "not tested", "mixed"}:
        return "undecided or mixed"
    return style.listed(sorted(kinds, key=["open", "not tested", "mixed", HOLDS, FAILS].index), "or")

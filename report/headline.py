"""A study in a few sentences: KEN beside a random choice and beside none, the smallest file, the paper's claims."""

import pandas as pd

from report import style
from report.measurements.contract import ResultTables
from report.measurements.frontier import judged_points, smallest_file, that_loses
from report.measurements.verdicts import MIXED, whole
from report.results import FAILS, HOLDS, NOT_TESTED, OPEN, OPEN_LOSS

RANDOM = "ahead-of-random"  # the claim that KEN's choice is better than a random one
NAMED = 2  # most claims that hold and are named
UNDECIDED = {
    OPEN_LOSS: ("shows a loss of open size", "show a loss of open size"),
    OPEN: ("is open", "are open"),
    MIXED: ("is mixed", "are mixed"),
    NOT_TESTED: ("was not tested", "were not tested"),
}  # verdict -> what one such claim, or several, do
LOSSES = {0.5: "half a point", 1.0: "one point"}  # permitted loss of the smallest file, in points -> its words


def headline(tables: ResultTables) -> list[str]:
    """Three to five sentences of at most 25 words that answer what the study asks."""
    claims = tables.claims
    return [
        beside_random(claims),
        *([beside_no_choice(claims)] if tested(claims, "ahead-of-shrink") else []),
        smallest(judged_points(tables)),
        *paper_claims(claims),
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
        points: see `frontier.judged_points`.
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


def paper_claims(claims: pd.DataFrame) -> list[str]:
    """How many claims of the paper hold, do not hold, and are not decided: one sentence, or two."""
    judged = list(_verdicts(claims[claims["source"] == "paper"]).values())
    words = [claim["verdict"] for claim in judged]
    held = [claim for claim in judged if claim["verdict"] == HOLDS]
    rest = [word for word in words if word not in (HOLDS, FAILS)]
    if not words:
        return ["The claims of the paper were not judged in this study."]
    if len(words) == 1:
        return [f"The paper's one claim in this study {UNDECIDED[words[0]][0] if rest else words[0]}."]
    of_all = f"the paper's {len(words)} claims"
    decided = []
    if len(rest) < len(words):
        decided.append(f"{len(held) or 'none'} {'hold' if len(held) > 1 else 'holds'}{_named(held)}")
    if failing := words.count(FAILS):
        decided.append(f"{failing} {'does' if failing == 1 else 'do'} not")
    if decided and len(set(rest)) == 1:
        decided.append(f"the {'other' if len(rest) == 1 else 'rest'} {UNDECIDED[rest[0]][len(rest) > 1]}")
        rest = []
    first = f"Of {of_all}, {style.listed(decided)}." if decided else f"None of {of_all} is decided here."
    numbers = [(rest.count(word), forms) for word, forms in UNDECIDED.items() if word in rest]
    others = [f"{number} {forms[number > 1]}" for number, forms in numbers]
    return [first, *([f"Of {'the others' if decided else 'these'}, {style.listed(others)}."] if others else [])]


def _named(held: list[pd.Series]) -> str:
    """The names of the claims that hold, in brackets, if they are few."""
    names = [f"{claim['short'][:1].lower()}{claim['short'][1:]}{_where(claim)}" for claim in held if claim["short"]]
    return f" ({style.listed(names)})" if names and len(names) == len(held) <= NAMED else ""


def _where(claim: pd.Series) -> str:
    """What a verdict is limited to, as a part of a sentence: " on these two tasks"; "" if it is not."""
    return f" {claim['scope']}" if claim["scope"] else ""


def _verdicts(claims: pd.DataFrame) -> dict[str, pd.Series]:
    """Claim -> its row as a whole."""
    return dict(whole(claims).iterrows())

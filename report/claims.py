"""Judge the paper's claims and ours from the test predictions of a study, each by a rule of config/claims.yaml.

`python -m report.claims --results results/mini` writes results/mini/claims.csv. A verdict is always computed: "holds",
"does not hold", "open", "open (loss shown, size open)", or "not tested here" (the study lacks data that the claim
needs, has too few pairs or seeds, or its models have not learned). For what is open or not tested, `needs` says what
would decide it.
"""

import argparse
import inspect
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ken.errors import UserError, did_you_mean, run
from report import style
from report.judging import language, measured, scores
from report.judging.evidence import Evidence, Finding, Untested, untested
from report.judging.losses import LossSample
from report.results import ALL_MODELS, read_scores, read_tasks, read_yaml, write_csv
from report.scores import reached_by_chance, unlearned_cells
from report.statistics import DIGITS, read_sample

RULES = Path("config/claims.yaml")
SOURCES = ("paper", "ours", "surgeon")
NO_COMMITS: Mapping[str, str] = {}
DESCRIBING = ("source", "short", "text")  # keys of an entry of the rules file that do not decide on its verdict
COLUMNS = ["claim", "source", "text", "subject", "rule", "unit", "estimate", "low", "high", "verdict", "n", "why"]
COLUMNS += ["scope", "rules_since", "short", "needs", "limits"]
# The numbers that a rule must give are the keyword-only parameters without a default of the function that judges it.
CLAIMS: dict[str, Callable[..., list[Finding]]] = {
    "reset-a-quarter": scores.reset_a_quarter,
    "reset-range": scores.reset_range,
    "ahead-of-random": partial(scores.ahead, method="ken", reference="random"),
    "update-over-value": partial(scores.ahead, method="delta-magnitude", reference="ken"),
    "ahead-of-flop": partial(scores.ahead_on_curve, other="flop", column="kept"),
    "ahead-of-lora": partial(scores.ahead_on_curve, other="lora", column="stored_bytes", scale=np.log),
    "rescaled-keeps": scores.rescaled_keeps,
    "grid-differs": scores.grid_differs,
    "small-file-half-point": partial(scores.small_file, method="seeded-rescaled-3bit", large=True),
    "small-file-quarter-percent": partial(scores.small_file, method="seeded-rescaled-2bit", large=True),
    "small-file-half-point-mini": partial(scores.small_file, method="seeded-rescaled-3bit", large=False),
    "rescaled-ahead-of-random-rescaled": partial(scores.ahead, method="ken-rescaled", reference="random-rescaled"),
    "ahead-of-shrink": partial(scores.ahead, method="ken", reference="shrink"),
    "ahead-of-flop-linear": partial(scores.ahead_on_curve, other="flop", column="kept", method="ken-linear"),
    "spread-evenly": measured.spread_evenly,
    "linear-time": measured.linear_time,
    "surgeon-structured": language.surgeon_structured,
    "surgeon-shots": language.surgeon_shots,
    "surgeon-correlated": partial(language.surgeon_correlated, structures=("row-column",)),
    "surgeon-correlated-elements": partial(language.surgeon_correlated, structures=("element", "2:4")),
    "surgeon-ahead": language.surgeon_ahead,
    "surgeon-ahead-stored": language.surgeon_ahead_stored,
}


@dataclass(frozen=True)
class Rule:
    """One entry of the rules file; `rule` is the rule in words, with its `numbers` filled in."""

    claim: str
    source: str
    short: str
    text: str
    rule: str
    numbers: dict[str, float | list[float]]


def read_rules(path: Path) -> tuple[list[Rule], float]:
    """Read the rules of a YAML file and the confidence of their intervals.

    Raises:
        UserError: the file is missing or not YAML, or an entry has a wrong, missing or unknown key, which is named.
    """
    loaded = read_yaml(path, "the rules of the claims")
    is_mapping = isinstance(loaded, dict) and set(loaded) == {"confidence", "claims"}
    if not is_mapping or not isinstance(loaded["claims"], list) or not loaded["claims"]:
        raise UserError(f"{path} must have the keys confidence and claims, and claims a list of at least one.")
    confidence = loaded["confidence"]
    if not _is_number(confidence) or not 0.5 <= confidence < 1:
        raise UserError(f"{path} has confidence {confidence!r}, expected a number from 0.5 to below 1.")
    rules = [_rule(path, entry, confidence) for entry in loaded["claims"]]
    names = [rule.claim for rule in rules]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the claim {twice[0]!r} twice: remove one.")
    return rules, confidence


def _rule(path: Path, entry: object, confidence: float) -> Rule:
    name = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name not in CLAIMS:
        raise UserError(f"{path} has the unknown claim {name!r}.{did_you_mean(str(name), CLAIMS)}")
    where = f"{path}, claim {name!r},"
    parameters = inspect.signature(CLAIMS[name]).parameters.values()
    expected = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    words = ("id", *DESCRIBING, "rule")
    for key in (*words, *expected):
        if key not in entry:
            raise UserError(f"{where} lacks {key!r}: add it.")
    for key in entry:
        if key not in (*words, *expected):
            raise UserError(f"{where} has the unknown key {key!r}, expected {', '.join((*words, *expected))}.")
    if entry["source"] not in SOURCES:
        raise UserError(f"{where} has the source {entry['source']!r}, expected {' or '.join(SOURCES)}.")
    numbers = {key: _number(where, key, entry[key], kind) for key, kind in expected.items()}
    try:
        rule = _in_words(entry["rule"], numbers | {"confidence": confidence})
    except (AttributeError, LookupError, ValueError, TypeError) as error:
        raise UserError(f"{where} has a rule that cannot be filled in ({error!r}): correct its braces.") from None
    return Rule(name, entry["source"], str(entry["short"]).strip(), str(entry["text"]).strip(), rule.strip(), numbers)


def _in_words(rule: str, numbers: dict[str, float | list[float]]) -> str:
    """A rule with its numbers filled in: lists as shares, and percents, minus and "1 point" as they are printed."""
    lists = {
        key: style.listed([style.percent(number) for number in value])
        for key, value in numbers.items()
        if isinstance(value, list)
    }
    filled = rule.format(**numbers | lists).replace(style.NO_BREAK_SPACE, " ")
    for pattern, printed in ((r"(?<=\d)%", " %"), (r"(?<!\S)-(?=\d)", "−"), (r"(?<![\d.])1 points", "1 point")):
        filled = re.sub(pattern, printed, filled)
    return filled


def _number(where: str, key: str, value: object, kind: object) -> float | list[float]:
    values = value if kind == list[float] and isinstance(value, list) else [value]
    if not values or not all(_is_number(number) and number >= 0 for number in values):
        wanted = "a list of numbers" if kind == list[float] else "a number"
        raise UserError(f"{where} has {key} {value!r}, expected {wanted} from 0.")
    return list(values) if kind == list[float] else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def judge(evidence: Evidence, rule: Rule) -> list[Finding]:
    """The findings on a claim; one on all models if the study lacks what all of them need."""
    try:
        return CLAIMS[rule.claim](evidence, **rule.numbers)
    except Untested as missing:
        return [untested(ALL_MODELS, missing)]


def rules_since(path: Path) -> dict[str, str]:
    """Claim -> the commit since which its rule and numbers are unchanged, and its date.

    Claims whose rule was not committed as it is are left out, as are all if git does not know the file.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=path.resolve().parent, capture_output=True, text=True, check=True).stdout

    present, since = _deciding_keys(path.read_text(encoding="utf-8")), {}
    unchanged = set(present)
    try:
        for line in git("log", "--format=%h %cs", "--", path.name).splitlines():
            commit, date = line.split()
            before = _deciding_keys(git("show", f"{commit}:./{path.name}"))
            unchanged &= {claim for claim in unchanged if before.get(claim) == present[claim]}
            since |= dict.fromkeys(unchanged, f"{commit} of {date}")
    except (OSError, subprocess.CalledProcessError):
        pass
    return since


def _deciding_keys(text: str) -> dict[str, tuple]:
    """Claim -> confidence and the keys of its entry that decide on the verdict; empty if the text has no claims."""
    try:
        loaded = yaml.safe_load(text)
        return {
            entry["id"]: (loaded["confidence"], {key: entry[key] for key in entry if key not in DESCRIBING})
            for entry in loaded["claims"]
        }
    except (yaml.YAMLError, KeyError, TypeError):
        return {}


def judge_all(evidence: Evidence, rules: Sequence[Rule], since: Mapping[str, str] = NO_COMMITS) -> pd.DataFrame:
    """One row per claim and subject, in the order of the rules; `since` is that of `rules_since`."""
    rows = []
    for rule in rules:
        for finding in judge(evidence, rule):
            words = (rule.claim, rule.source, rule.text, finding.subject, rule.rule, finding.unit)
            judged = (*finding.interval, finding.verdict, finding.n, finding.why, finding.scope)
            limits = " ".join(f"{limit:g}" for limit in finding.limits)
            rows.append((*words, *judged, since.get(rule.claim, ""), rule.short, finding.needs, limits))
    return pd.DataFrame(rows, columns=COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge the claims of a rules file from the results of a study.")
    parser.add_argument("--results", required=True, type=Path, help="results folder of the study, with scores.csv")
    parser.add_argument("--rules", type=Path, default=RULES, help=f"default: {RULES}")
    parser.add_argument("--out", type=Path, help="file to write (default: claims.csv in the results folder)")
    arguments = parser.parse_args()
    if arguments.out is None and arguments.rules.resolve() != RULES.resolve():
        raise UserError("verdicts by other rules would replace those of the study: name a file with --out.")
    rules, confidence = read_rules(arguments.rules)
    results = arguments.results
    losses = LossSample.read(results) if (results / "perplexity.csv").exists() else None
    study_scores, tasks = read_scores(results), read_tasks(results)
    texts = tasks["scored_texts"].fillna(tasks["test"])
    unlearned, chance = unlearned_cells(study_scores, tasks), dict(reached_by_chance(tasks, texts))
    evidence = Evidence(results, study_scores, read_sample(results), confidence, losses, unlearned, chance)
    table = judge_all(evidence, rules, rules_since(arguments.rules))
    out = arguments.out or results / "claims.csv"
    write_csv(out, table, DIGITS)
    for row in table.itertuples():
        print(f"{row.claim}, {row.subject}: {row.verdict}. {row.why} {row.needs}".rstrip())


if __name__ == "__main__":
    run(main)

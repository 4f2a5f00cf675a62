"""Tables for publications in LaTeX and Markdown, compared with the CSV files."""

import csv
import itertools
import re
from pathlib import Path

import pytest
import yaml

from ken.errors import UserError
from report import publication, style, tables
from tests.report.synthetic import claim_row, controls, score_row, wide_rows, write_csv, write_results
from tests.steps import run_step

PUBLISHED = Path(__file__).parents[2] / "config" / "published.yaml"
NAMES = ("weighted_f1", "overview", "claims", "ranks", "published")
HOSTILE = "&%$#_{}~^\\ [a] *b* <u>|`c` −1 ± × Δ\u00a0\\end{table*}$x_1^2$ %"
TEX = {
    "\\textbackslash{}": "\\", "\\textasciitilde{}": "~", "\\textasciicircum{}": "^", "\\textless{}": "<",
    "\\textgreater{}": ">", "\\textbar{}": "|", "{[}": "[", "{*}": "*", "$-$": "−", "$\\pm$": "±", "$\\times$": "×",
    "$\\Delta$": "Δ", "~": "\u00a0", **{f"\\{character}": character for character in "&%$#_{}"},
}  # fmt: skip


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_statistics(folder: Path, name: str = "") -> None:
    """Write statistics and claims with distinct numbers for the methods of the study's tables."""
    numbers = (round(7.3217 * step % 20 - 11, 4) for step in itertools.count())
    summary = read_csv(folder / "tables" / "scores_summary.csv")
    scored = [row for row in summary if row["seeds"] != "0" and row["method"] != "full"]
    overview = [row for row in read_csv(folder / "tables" / "overview.csv") if row["method"] != "full"]
    setting = ("method", "unit", "budget")

    def interval() -> dict:
        estimate = next(numbers)
        ends = {"difference_points": estimate, "low": estimate - next(numbers) % 3, "high": estimate + 2}
        return ends | dict.fromkeys(("mcnemar_p", "mcnemar_p_holm", "wilcoxon_p", "wilcoxon_p_holm"), 0.5)

    (folder / "statistics").mkdir()
    compared = [
        {key: row[key] for key in ("model", "task", *setting)} | {"seed": seed, "reference": other} | interval()
        for row, seed, other in itertools.product(scored, (0, 1), ("ken", "full"))
    ]
    write_csv(folder / "statistics" / "comparisons.csv", compared)
    pairs = [
        {key: row[key] for key in setting} | {"other": other, "n": 2} | interval()
        for row, other in itertools.product(overview, ("random", "full"))
        if row["cells"] != "0"
    ]
    write_csv(folder / "statistics" / "pairwise.csv", pairs)
    ranked = [row for row in overview if row["family"] not in ("control", "trained") and row["unit"] == "share"]
    ranks = [
        {key: row[key] for key in setting}
        | {
            "n": 2,
            "average_rank": 1 + index % 4 * 0.618,
            "methods": 4,
            "critical_difference": 1.3,
            "friedman_p": 0.0123,
        }
        for index, row in enumerate(ranked)
    ]
    alone = {"method": "bitdelta", "unit": "bits", "budget": 1, "n": 2, "average_rank": 1, "methods": 1}
    write_csv(folder / "statistics" / "ranks.csv", [*ranks, alone | {"critical_difference": "", "friedman_p": ""}])
    text = f"A claim {name}"
    claims = [
        claim_row(
            "reset-range", subject=f"s1 {name}", text=text, estimate=-1.2345, low=-2.5, high=0.004, verdict="open"
        ),
        claim_row("reset-range", subject="s2", text=text, estimate="", verdict="open"),
        claim_row("spread-evenly", subject="all", text="Evenly", unit="percent", estimate=0.85, low=0.6, high=1),
    ]
    write_csv(folder / "claims.csv", claims)


def write_study(folder: Path, rows: list[dict], name: str = "") -> Path:
    write_results(folder, rows)
    run_step(tables, "--results", folder)
    write_statistics(folder, name)
    return folder


def publish(folder: Path, published: Path = PUBLISHED) -> dict[str, list[dict]]:
    """Run the step and return the tables of every LaTeX file, which must equal those of the Markdown files."""
    run_step(publication, "--results", folder, "--published", published)
    out = folder / "publication"
    assert {path.name for path in out.iterdir()} == {f"{name}.{kind}" for name in NAMES for kind in ("tex", "md")}
    tables_by_name = {name: read_tex((out / f"{name}.tex").read_text(encoding="utf-8")) for name in NAMES}
    for name in NAMES:
        simple = read_markdown((out / f"{name}.md").read_text(encoding="utf-8"))
        assert simple == [(table["caption"], table["heads"], table["rows"]) for table in tables_by_name[name]]
    return tables_by_name


def plain(tex: str) -> str:
    """The text that LaTeX prints for an escaped text."""
    return re.sub("|".join(map(re.escape, TEX)), lambda match: TEX[match[0]], tex)


def tex_cell(tex: str) -> tuple[str, bool, bool]:
    """(text, bold, underlined) of a cell."""
    bold = re.fullmatch(r"\\textbf\{(.*)\}", tex, re.S)
    tex = bold[1] if bold else tex
    underlined = re.fullmatch(r"\\underline\{(.*)\}", tex, re.S)
    return plain(underlined[1] if underlined else tex), bool(bold), bool(underlined)


def read_tex(text: str) -> list[dict]:
    """The tables of a .tex file, which is checked for escaping, balanced braces and environments."""
    comment, body = text.split("\n", 1)
    assert comment.startswith("%") and not re.search(r"(?<!\\)%", body)
    bare = re.sub(r"\\[\\&%$#_{}]", "", body)
    depths = list(itertools.accumulate({"{": 1, "}": -1}.get(character, 0) for character in bare))
    assert min(depths) == 0 and depths[-1] == 0
    assert not re.search(r"[#^_]", bare) and bare.count("$") % 2 == 0
    own = body.replace("{[}", "").replace("{*}", "").replace("table*", "table").replace("\\begin{table}[t]", "")
    assert "[" not in own and "*" not in own, "LaTeX would take them as arguments of a line break"
    opened = []
    for what, name in re.findall(r"\\(begin|end)\{([^}]*)\}", body):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    return [_read_table(table) for table in re.findall(r"\\begin\{table\*\}(.*?)\\end\{table\*\}", body, re.S)]


def _read_table(table: str) -> dict:
    caption = re.search(r"\\caption\{(.*)\}\n", table)[1]
    label = re.search(r"\\label\{tab:([\w.-]+)\}", table)[1]
    kinds, inside = re.search(r"\\begin\{tabular\}\{(.*)\}\n(.*)\\end\{tabular\}", table, re.S).groups()
    columns = re.sub(r"p\{[^}]*\}", "p", kinds)
    assert set(columns) <= set("lrp")
    top, head, body, rest = re.split(r"\\(?:toprule|midrule|bottomrule)\n", inside)
    assert top == rest == "" and all(line.endswith(" \\\\") for line in [*head.splitlines(), *body.splitlines()])
    lines = [re.split(r" (?<!\\)& ", line[: -len(" \\\\")]) for line in [*head.splitlines(), *body.splitlines()]]
    assert {len(line) for line in lines} == {len(columns)}
    heads, *rows = lines
    rows = [[tex_cell(cell) for cell in row] for row in rows]
    return {"label": label, "caption": plain(caption), "heads": list(map(plain, heads)), "rows": rows}


def read_markdown(text: str) -> list[tuple]:
    """(caption, heads, rows) of every table."""

    def unescaped(cell: str) -> str:
        return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)

    def cell(text: str) -> tuple[str, bool, bool]:
        bold = re.fullmatch(r"\*\*(.*)\*\*", text)
        text = bold[1] if bold else text
        underlined = re.fullmatch(r"<u>(.*)</u>", text)
        inside = underlined[1] if underlined else text
        assert not re.search(r"(?<!\\)(?:\\\\)*[|<`*_$]", re.sub(r"\\.", "", inside)), "unescaped markup"
        return unescaped(inside), bool(bold), bool(underlined)

    tables = []
    for block in re.findall(r"([^\n]+)\n\n((?:\|[^\n]*\n)+)", text):
        lines = [re.split(r" (?<!\\)\| |^\| | \|$", line)[1:-1] for line in block[1].splitlines()]
        assert len({len(line) for line in lines}) == 1 and set("".join(lines[1])) <= set("-:")
        rows = [[cell(text) for text in line] for line in lines[2:]]
        tables.append((unescaped(block[0]), list(map(unescaped, lines[0])), rows))
    return tables


def numbers(text: str) -> list[float]:
    return [float(number.replace("−", "-")) for number in re.findall(r"[+−]?\d+(?:\.\d+)?", text)]


def near(text: str, values: list, digits: int) -> bool:
    """Whether the numbers of a cell are the rounded values of the CSV file."""
    shown = numbers(text)
    return len(shown) == len(values) and all(
        abs(a - float(b)) <= 0.5 * 10**-digits + 1e-9 for a, b in zip(shown, values, strict=True)
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study with methods of every family and unit, one of them declined; read-only."""
    return write_study(tmp_path_factory.mktemp("publication") / "study", wide_rows())


@pytest.fixture(scope="module")
def published(study) -> dict[str, list[dict]]:
    return publish(study)


def test_labels_are_unique(published):
    labels = [table["label"] for tables in published.values() for table in tables]
    assert len(labels) == len(set(labels)) > len(NAMES)


def test_every_score_of_the_summary_is_in_the_weighted_f1_tables(study, published):
    comparisons = [row for row in read_csv(study / "statistics/comparisons.csv") if row["reference"] == "full"]
    checked, marks = 0, []
    for row in read_csv(study / "tables/scores_summary.csv"):
        key = {name: row[name] for name in ("model", "task", "method", "budget")}
        budget, own = float(row["budget"]), row["family"] == "trained" or row["unit"] != "share"
        label = "own-budgets" if own else f"{budget:g}"
        name = style.setting(row["method"], budget, row["unit"]) if own else style.label(row["method"])
        for table in published["weighted_f1"]:
            if row["family"] != "control" and table["label"] != f"weighted-f1-{label}":
                continue
            (line,) = [line for line in table["rows"] if [cell[0] for cell in line[:2]] == [key["model"], key["task"]]]
            text, _, underlined = line[table["heads"].index(name)]
            checked += 1
            if row["seeds"] == "0":
                assert text == "declined" and row["method"] == "flop"
                continue
            spread = [row["weighted_f1_sd"]] if row["weighted_f1_sd"] else []
            assert near(text, [row["weighted_f1"], *spread], 3)
            highs = [float(other["high"]) for other in comparisons if all(other[k] == key[k] for k in key)]
            assert underlined == (row["family"] != "control" and all(high >= 0 for high in highs))
            marks.append((underlined, any(high >= 0 for high in highs)))
    assert {(True, True), (False, True), (False, False)} <= set(marks)
    assert checked == 2 * 3 * 4 + 2 * (1 + 0) + 2 + 2 + 1 + 4 * 4  # shares, bitdelta, lora, lt-sft, flop, controls


def test_the_best_score_at_equal_budgets_is_bold(published):
    *shares, own = published["weighted_f1"]
    assert len(shares) == 3
    for table in shares:
        assert table["heads"][2:] == ["None", "KEN", "KEN rescaled", "Random", "KEN grid (layers)", "Full"]
        for row in table["rows"]:
            scores = {head: numbers(cell[0])[0] for head, cell in zip(table["heads"][2:], row[2:], strict=True)}
            del scores["None"], scores["Full"]  # the controls
            assert scores.pop("KEN grid (layers)") > scores["KEN rescaled"] == max(scores.values())
            bold = [head for head, cell in zip(table["heads"], row, strict=True) if cell[1]]
            assert bold == ["KEN rescaled"], "KEN grid (layers) keeps more"
    assert not any(cell[1] for row in own["rows"] for cell in row)


def test_a_method_that_lacks_seeds_is_not_the_best(tmp_path):
    rows = [row for seed in (0, 1) for row in controls(seed=seed)]
    rows += [score_row(seed=seed, f1=0.6 + 0.1 * seed) for seed in (0, 1)]
    rows += [score_row(method="random", seed=0, f1=0.9)]
    rows += [score_row(method="random", seed=1, f1=None, status="failed", reason="lost")]
    (row,) = publish(write_study(tmp_path / "study", rows))["weighted_f1"][0]["rows"]
    assert [cell[:2] for cell in row[3:5]] == [("0.650 ± 0.071", True), ("0.900", False)]


def test_every_difference_to_full_is_in_the_overview(study, published):
    shares, own = published["overview"]
    by_share = {row[0][0]: dict(zip(shares["heads"], row, strict=True)) for row in shares["rows"]}
    by_setting = {(row[0][0], row[1][0]): dict(zip(own["heads"], row, strict=True)) for row in own["rows"]}
    checked = 0
    for row in read_csv(study / "statistics/pairwise.csv"):
        if row["other"] != "full" or row["method"] == "none":
            continue
        values = [row["difference_points"], row["low"], row["high"]]
        label = style.budget_label(float(row["budget"]), row["unit"])
        setting = by_setting.get((style.label(row["method"]), label))
        line = setting or by_share[style.label(row["method"])]
        assert near(line["To full" if setting else label][0], values, 1) and line["Pairs"][0] == row["n"]
        checked += 1
    assert checked == 4 * 3 + 1 + 2 + 2
    assert len(own["rows"]) == 6 and by_setting["FLOP", "size\u00a025\u00a0%"]["To full"][0] == "no score"


def test_the_text_of_a_claim_is_shown_once(published):
    (table,) = published["claims"]
    first, second, third = ([cell[0] for cell in row] for row in table["rows"])
    assert first == ["A claim ", "paper", "s1 ", "−1.23", "−2.50 to 0.00", "points", "open"]
    assert second == ["", "", "s2", "", "", "points", "open"]
    assert third == ["Evenly", "paper", "all", "0.85", "0.60 to 1.00", "percent", "holds"]


def test_ranks_are_shown_with_their_critical_difference(study, published):
    (table,) = published["ranks"]
    rows = {row[0][0]: dict(zip(table["heads"][1:], row[1:], strict=True)) for row in table["rows"]}
    assert {cell[0] for cell in rows.pop("Critical difference").values()} == {"1.30"}
    assert {cell[0] for cell in rows.pop("Friedman p").values()} == {"0.012"}
    *csv_rows, alone = read_csv(study / "statistics/ranks.csv")
    assert style.label(alone["method"]) not in rows and len(csv_rows) == sum(map(len, rows.values()))
    for row in csv_rows:
        text, bold, underlined = rows[style.label(row["method"])][style.budget_label(float(row["budget"]))]
        column = [float(other["average_rank"]) for other in csv_rows if other["budget"] == row["budget"]]
        behind = float(row["average_rank"]) - min(column)
        assert near(text, [row["average_rank"]], 2) and bold == (behind == 0) and underlined == (0 < behind < 1.3)


def test_published_figures_without_a_matching_task(published):
    entry = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["scores"][0]
    scores, ranges = published["published"]
    assert "as reported" in scores["caption"] and "This study has no task sst2 with model bert" in scores["caption"]
    assert entry["source"] in scores["caption"] and "As reported (%)" in scores["heads"] and len(scores["heads"]) == 4
    for row, line in zip(entry["rows"], scores["rows"], strict=True):
        share = 100 * row["millions"] / 109
        assert line[0][0] == row["method"] and near(line[3][0], [row["value"]], 2)
        assert near(line[1][0], [row["millions"]], 6) and near(line[2][0], [share], 1)
    ((what, reported, source, ours),) = ([cell[0] for cell in row] for row in ranges["rows"])
    assert (reported, ours) == ("25 to 70 %", "s1 : open; s2: open") and "Findings of ACL" in source and what


def test_published_figures_next_to_ours_of_the_same_task(tmp_path):
    rows = controls(task="sst2", full=0.92)
    rows += [score_row(task="sst2", budget=share, kept=1100 * share, f1=0.5 + share / 2) for share in (0.25, 0.5, 0.75)]
    scores, _ = publish(write_study(tmp_path / "study", [row | _full_size(row) for row in rows]))["published"]
    lines = [dict(zip(scores["heads"][4:], [cell[0] for cell in row[4:]], strict=True)) for row in scores["rows"]]
    assert "task sst2 with model bert" in scores["caption"] and "no figure of ours" not in scores["caption"]
    ken = [line for row, line in zip(scores["rows"], lines, strict=True) if row[0][0] == "KEN"]
    # 80 and 63 of 109 million: 73 % and 58 % of full.
    assert [line["Ours"] for line in ken] == ["KEN\u00a075\u00a0%", "KEN\u00a050\u00a0%"]
    assert [line["Ours (%)"] for line in ken] == ["87.50", "75.00"] and lines[0]["Ours (%)"] == "92.00"
    assert {line["Ours"] for line in lines} == {"Full", "", *(line["Ours"] for line in ken)}


def _full_size(row: dict) -> dict:
    return {"kept": 1100} if row["method"] == "full" else {}


def test_hostile_names_are_escaped(tmp_path):
    at = {"model": HOSTILE, "task": HOSTILE}
    rows = [*controls(**at), score_row(**at, f1=0.8), score_row(**at, method=HOSTILE, f1=0.7)]
    rows += [score_row(**at, method=f"{HOSTILE}2", f1=0.7, budget=3, unit=HOSTILE)]
    entries = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    entries["scores"][0] |= {"text": HOSTILE, "source": HOSTILE, "task": HOSTILE, "model": HOSTILE}
    entries["scores"][0]["rows"][1]["method"] = HOSTILE
    entries["ranges"][0] |= {"text": HOSTILE, "source": HOSTILE, "unit": HOSTILE}
    others = tmp_path / "published.yaml"
    others.write_text(yaml.safe_dump(entries), encoding="utf-8")
    published = publish(write_study(tmp_path / "study", rows, HOSTILE), others)
    share, own = published["weighted_f1"]
    assert [cell[0] for cell in share["rows"][0][:2]] == [HOSTILE, HOSTILE] and HOSTILE in share["heads"]
    assert (
        own["heads"][3] == f"{HOSTILE}2\u00a0{HOSTILE}\u00a03" and published["overview"][0]["rows"][1][0][0] == HOSTILE
    )
    assert (
        published["claims"][0]["rows"][0][0][0] == f"A claim {HOSTILE}"
        and published["ranks"][0]["rows"][1][0][0] == HOSTILE
    )
    scores, ranges = published["published"]
    assert scores["caption"].count(HOSTILE) == 4 and scores["rows"][1][0][0] == HOSTILE
    assert ranges["rows"][0][2][0] == HOSTILE


def test_budgets_rounded_differently_are_matched(tmp_path):
    rows = [*controls(), score_row(budget=1 / 30, f1=0.6), score_row(method="random", budget=1 / 30, f1=0.5)]
    folder = write_study(tmp_path / "study", rows)
    for path in (folder / "statistics").iterdir():
        path.write_text(path.read_text(encoding="utf-8").replace("0.033333", "0.0333333"), encoding="utf-8")
    for path in (folder / "statistics/comparisons.csv", folder / "statistics/pairwise.csv"):
        changed = [row | {"high": 5.5} for row in read_csv(path)]
        write_csv(path, changed)
    published = publish(folder)
    assert all(row[1][0].endswith("to +5.5)") for row in published["overview"][0]["rows"])
    assert [cell[2] for cell in published["weighted_f1"][0]["rows"][0][3:5]] == [True, True]


@pytest.mark.parametrize("name", ["claims.csv", "statistics/pairwise.csv", "tables/overview.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = write_study(tmp_path / "study", wide_rows())
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} does not exist: run the step that writes it"):
        publish(folder)
    assert not (folder / "publication").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.pop("ranges"), "must have the lists scores and ranges"),
        (lambda entries: entries["scores"][0].pop("source"), "no or a wrong 'source'"),
        (lambda entries: entries["scores"][0]["rows"][2].update(value="93.2 %"), "no or a wrong 'value'"),
        (lambda entries: entries["scores"][0].update(metric="mcc"), "a metric is accuracy or"),
        (lambda entries: entries["scores"][0].update(id="a}b"), "the id is letters"),
        (lambda entries: entries["scores"][0]["rows"].pop(0), "no row with `ours: full`"),
        (lambda entries: entries["ranges"][0].update(low=None), "no or a wrong 'low'"),
    ],
)
def test_a_malformed_file_of_published_figures_is_refused(tmp_path, change, message):
    entries = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    change(entries)
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        publication.read_published(path)


def test_a_missing_or_unreadable_file_of_published_figures_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        publication.read_published(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("scores: [", encoding="utf-8")
    with pytest.raises(UserError, match="is not YAML"):
        publication.read_published(tmp_path / "bad.yaml")

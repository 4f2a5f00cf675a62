"""The board: studies side by side, marked where they cannot be compared, never mixed."""

import csv
import json
import shutil
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from ken.errors import UserError
from report import board, style, tables
from tests.report.conftest import HOSTILE
from tests.report.markup import Cells, Reader, check_elements, check_loads_nothing
from tests.report.synthetic import claim_row, controls, score_row, task_row, write_csv, write_evidence, write_results
from tests.steps import run_step

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
REFERENCES = [REFERENCE / name for name in ("mini", "offline", "real", "base", "small", "surgeon")]
RULES = "1a2b3c4 of 2026-01-01"


def write_study(folder: Path, scores=None, claims=None, **provenance) -> Path:
    """A finished study; without scores, that of one cell, where KEN loses 0.4 points with half of each row kept."""
    scores = scores or [*controls(full=0.9), score_row(budget=0.5, f1=0.896), score_row(budget=0.1, f1=0.5)]
    write_results(folder, scores, **{"study": folder.name} | provenance)
    write_evidence(folder, claims=claims or [judged("ahead")])
    run_step(tables, "--results", folder)
    return folder


def judged(claim: str, **changes) -> dict:
    """A row of claims.csv as it is written today."""
    return claim_row(claim, **{"scope": "", "rules_since": RULES} | changes)


def html_of(*folders: Path) -> str:
    return board.render(board.read_studies(folders))


def verdicts_of(html: str) -> dict[str, list[str]]:
    """Text of a claim -> its cells."""
    return {row[0]: row[1:] for row in Cells(html).tables[0][2:] if len(row) > 1}


def files_of(html: str, table: int = 1) -> dict[str, list[str]]:
    """Method -> its cells in the table of files at most half a point below full (1), or one point (2)."""
    return {row[0]: row[1:] for row in Cells(html).tables[table][1:]}


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True)))


@pytest.fixture(scope="module")
def references():
    """The board of all committed studies."""
    return html_of(*REFERENCES)


@pytest.fixture(scope="module", params=["references", "hostile_study"])
def html(request):
    value = request.getfixturevalue(request.param)
    return value if isinstance(value, str) else html_of(value, request.getfixturevalue("wide_study"))


def test_the_board_loads_no_resources(html):
    check_loads_nothing(html)


def test_elements_are_closed_and_ids_are_unique(html):
    check_elements(html)


def test_every_row_has_a_cell_for_every_study_and_no_nan(html):
    grid, *files = Cells(html).tables
    studies = len(grid[1])
    assert {len(row) for row in grid[2:]} == {1, 1 + studies}
    assert [{len(row) for row in table} for table in files] == [{1 + studies}] * 2
    assert "nan" not in Reader(html).text.lower().split()


def test_hostile_names_are_escaped(hostile_study, tmp_path):
    copy = shutil.copytree(hostile_study, tmp_path / "copy")
    record = json.loads((copy / "provenance.json").read_text())
    record |= {"commit": f"<i>{HOSTILE}", "machine": {"cpu": HOSTILE}, "makers": [{"commit": f"<b>{HOSTILE}"}]}
    (copy / "provenance.json").write_text(json.dumps(record))
    html = html_of(hostile_study, copy)
    reader = Reader(html)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert not {"i", "b"} & {tag for tag, _ in reader.tags}
    assert f"{HOSTILE} The text of {HOSTILE}." in verdicts_of(html)
    assert files_of(html)[f"{HOSTILE}2"] == ["", ""]
    assert f"{HOSTILE} ({copy.as_posix()})" in reader.text and "with changes not committed" in reader.text


def expected_verdict(own: list[dict], latest: dict) -> tuple[str, str]:
    """Word and mark of a verdict, from the rows of a claim without its controls, and a row of the newest study."""
    words = {row["verdict"] for row in own}
    whole = {row["verdict"] for row in own if row["subject"] == "all models"} or words
    word = next(iter(whole)) if len(whole) == 1 else "different from case to case"
    if not words <= {"holds", "does not hold", "open", "open (loss shown, size open)", "not tested here"}:
        return word, "older rules"
    if own[0]["rule"] != latest["rule"]:
        return word, "other rule"
    return word, "" if own[0].get("rules_since") == latest.get("rules_since") else "rules of "


def test_verdicts_of_the_committed_studies_are_shown_as_they_are_and_marked(references):
    studies = [csv_rows(path / "claims.csv") for path in REFERENCES]
    created = [json.loads((path / "provenance.json").read_text())["created"] for path in REFERENCES]
    newest: dict[str, dict] = {}
    for _, rows in sorted(zip(created, studies, strict=True), key=lambda study: study[0]):
        newest |= {row["claim"]: row for row in rows}
    shown, marks = verdicts_of(references), set()
    assert len(shown) == len(newest)
    for at, rows in enumerate(studies):
        for claim, latest in newest.items():
            cell = shown[f"{latest.get('short', '')} {latest['text']}".strip()][at]
            own = [row for row in rows if row["claim"] == claim and not row["subject"].startswith("control")]
            if not own:
                assert cell == "not judged"
                continue
            word, mark = expected_verdict(own, latest)
            assert word in cell
            found = [text for text in ("older rules", "other rule", "rules of ") if text in cell]
            assert found == ([mark] if mark else [])
            marks.add(mark)
    assert "" in marks, "the newest study is judged by its own rules"


def test_other_rules_are_marked(tmp_path):
    old = write_study(
        tmp_path / "old",
        claims=[
            judged("same"),
            judged("text", rule="Another rule."),
            judged("file", rules_since="9f8e7d6 of 2025-12-31"),
            judged("gone"),
        ],
        created="2025-12-31T00:00:00+00:00",
    )
    new = write_study(tmp_path / "new", claims=[judged(name) for name in ("same", "text", "file", "added")])
    numbers = "+1.25 points (+0.25 to +2.25)"
    plain = f"✓ holds {numbers}"
    for folders, first in (((old, new), 0), ((new, old), 1)):  # the newest study counts, wherever it stands
        html = html_of(*folders)
        shown = verdicts_of(html)
        assert html.count('class="board-verdict holds"') == str(shown).count(
            f"'{plain}'"
        )  # what is marked has no colour
        assert {text: (cells[first], cells[1 - first]) for text, cells in shown.items()} == {
            "The text of same.": (plain, plain),
            "The text of text.": (f"✓ holds other rule {numbers}", plain),
            "The text of file.": (f"✓ holds rules of 9f8e7d6 {numbers}", plain),
            "The text of gone.": (plain, "not judged"),
            "The text of added.": ("not judged", plain),
        }
    rules = Reader(html_of(old, new)).text
    assert f"old (rules of {RULES}): Another rule." in rules and f"new (rules of {RULES}): The rule of text." in rules
    assert f"old, new (rules of {RULES}): The rule of same." in rules


def test_a_claim_has_its_short_name_if_the_newest_study_records_one(tmp_path):
    shown = verdicts_of(
        html_of(write_study(tmp_path / "a", claims=[judged("a", short="Short"), judged("b", short="")]))
    )
    assert [*shown] == ["Short The text of a.", "The text of b."]


def test_a_claim_that_differs_between_cases_is_counted(tmp_path):
    cases = [("bert", "holds"), ("bloom", "holds"), ("electra", "open"), ("control: full", "does not hold")]
    folder = write_study(tmp_path / "a", claims=[judged("each", subject=name, verdict=word) for name, word in cases])
    assert verdicts_of(html_of(folder))["The text of each."] == ["± different from case to case 2 holds, 1 open"]


def test_nothing_is_pooled(tmp_path):
    """What a study shows is the same with and without other studies, even of the same data."""
    first = write_study(tmp_path / "first", claims=[judged("a", estimate=1.0)])
    scores = [*controls(full=0.9), score_row(budget=0.25, f1=0.899), score_row(method="dare", budget=0.05, f1=0.899)]
    second = write_study(tmp_path / "second", scores, claims=[judged("a", estimate=3.0), judged("b", estimate=7.0)])
    both, alone = html_of(first, second), [html_of(first), html_of(second)]
    for read in (verdicts_of, files_of, lambda html: files_of(html, 2)):
        together = read(both)
        for at, html in enumerate(alone):
            own = {name: cells[0] for name, cells in read(html).items()}
            assert own and own == {name: together[name][at] for name in own}
            assert all(together[name][at] in ("not judged", "not run") for name in together.keys() - own.keys())


def test_columns_are_grouped_by_data_and_say_their_code(tmp_path):
    one = write_study(tmp_path / "one")
    other = write_study(tmp_path / "other")
    write_csv(other / "tasks.csv", [task_row("t1") | {"sha256": "12" * 32}])
    three = write_study(tmp_path / "three", commit="fedcba9876", dirty=True)
    heads, columns, *_ = Cells(html_of(one, other, three)).tables[0]
    data = [study.data for study in board.read_studies([one, other, three])]
    assert data[0] == data[1] != data[2]
    assert heads == ["Claim", f"Data {data[0]} t1", f"Data {data[2]} t1"]
    assert columns == [
        "one code 0123abcd", "three code fedcba98 with changes not committed", "other code 0123abcd",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mini", "small"])
def test_files_are_those_of_the_table_of_the_study(name, references):
    at = [path.name for path in REFERENCES].index(name)
    rows = [row for row in csv_rows(REFERENCE / name / "tables" / "smallest_files.csv") if row["cells_of"] == "all"]
    for table, within in ((1, "0.5"), (2, "1.0")):
        shown = files_of(references, table)
        own = [row for row in rows if row["model"] == "" and row["within"] == within]
        assert len(own) > 5
        for row in own:
            cell = shown[style.label(row["method"])][at]
            if row["stored_share"]:
                share, rest = cell.split(" %", 1)
                assert float(share) == pytest.approx(100 * float(row["stored_share"]), abs=0.006)
                points = rest.split("; ")[1].replace("−", "-").replace("±", "")
                assert float(points) == pytest.approx(float(row["difference_points"]), abs=0.006)
            else:
                assert cell == ""


def smallest_by_hand(folder: Path, within: float) -> dict[str, float | None]:
    """Method -> smallest mean share of full's bytes of a setting that is in all cells and loses at most `within`."""
    values: dict[tuple, dict[tuple, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in csv_rows(folder / "scores.csv"):
        if row["status"] == "ok":
            cell = row["model"], row["task"], row["seed"]
            pair = float(row["weighted_f1"]), float(row["stored_bytes"])
            values[row["method"], row["budget"]][cell].append(pair)
    full = {cell: pairs[0] for cell, pairs in values["full", "1.0"].items()}
    best: dict[str, float | None] = {}
    for (method, _), cells in values.items():
        if cells.keys() != full.keys():
            continue
        means = {cell: [fmean(column) for column in zip(*pairs, strict=True)] for cell, pairs in cells.items()}
        loss = fmean(100 * (full[cell][0] - f1) for cell, (f1, _) in means.items())
        share = fmean(size / full[cell][1] for cell, (_, size) in means.items())
        best.setdefault(method, None)
        if loss <= within + 1e-9 and (best[method] is None or share < best[method]):
            best[method] = share
    return {method: share for method, share in best.items() if method not in ("full", "none")}


@pytest.mark.parametrize("name", ["real", "surgeon", "small"])
def test_smallest_files_follow_from_the_scores(name, references):
    at = [path.name for path in REFERENCES].index(name)
    for table, within in ((1, 0.5), (2, 1.0)):
        shown, expected = files_of(references, table), smallest_by_hand(REFERENCE / name, within)
        assert len(expected) > 5
        for method, share in expected.items():
            size = shown[style.label(method)][at].split(" %")[0]
            assert size == "" if share is None else float(size) == pytest.approx(100 * share, abs=0.006)


def test_all_methods_of_all_studies_stay_listed(references):
    expected = {row["method"] for path in REFERENCES for row in csv_rows(path / "scores.csv")} - {"full", "none"}
    for table in (1, 2):
        assert {*files_of(references, table)} == {style.label(method) for method in expected}


def test_methods_are_sorted_by_the_first_study_that_has_a_file(tmp_path):
    full = controls(full=0.9)
    lost = [score_row(seed=seed, method="random", f1=0.2) for seed in (0, 1)]
    lost += [score_row(method="magnitude", f1=None, status="failed", reason="no")]
    part = [*controls(seed=1, full=0.9), score_row(method="lora", budget=4, f1=0.9)]
    near = [score_row(seed=seed, budget=0.5, f1=0.9) for seed in (0, 1)]
    nearer = [score_row(seed=seed, method="dare", budget=0.25, f1=0.9) for seed in (0, 1)]
    one = write_study(tmp_path / "one", [*full, *near, *nearer, *lost, *part])
    two = write_study(tmp_path / "two", [*full, score_row(method="delta-magnitude", budget=0.05, f1=0.9)])
    html = html_of(one, two)
    shown = files_of(html)
    assert [*shown] == ["DARE", "KEN", "Δ-magnitude", "Random", "Magnitude", "LoRA"]
    # Sizes of the synthetic files: 4000 bytes × budget + 100, full has 4100.
    assert shown["DARE"] == ["26.83 % 25 %; ±0.00", "not run"]
    assert shown["Δ-magnitude"] == ["not run", "7.32 % 5 %; ±0.00"]
    assert [shown[name][0] for name in ("Random", "Magnitude", "LoRA")] == ["", "no score", "in some cells only"]


def test_cells_contained_in_another_study_are_named(tmp_path, references):
    seeds = {n: [row for seed in range(n) for row in (*controls(seed=seed), score_row(seed=seed))] for n in (1, 2)}
    one, two = write_study(tmp_path / "one", seeds[1]), write_study(tmp_path / "two", seeds[2])
    same = write_study(tmp_path / "same", seeds[2])
    axes, rest = "(model, task, seed, data)", "so they are not independent evidence."
    assert [*board.overlaps(board.read_studies([two, one, same]))] == [
        f"The 1 cell {axes} of one is also in two, {rest}",
        f"The studies two and same have the same 2 cells {axes}, {rest}",
        f"The 1 cell {axes} of one is also in same, {rest}",
    ]
    for name, column in (("tasks.csv", "sha256"), ("models.csv", "sha256")):  # other data, or other weights
        rows = csv_rows(one / name)
        write_csv(one / name, [row | {column: "12" * 32} for row in rows])
        assert [*board.overlaps(board.read_studies([two, one]))] == []
        write_csv(one / name, rows)
    assert f"The 1 cell {axes} of one is also in two, {rest}" in Reader(html_of(two, one)).text


def test_cards_have_the_facts_of_each_study(references):
    text = Reader(references).text
    for path in REFERENCES:
        record = json.loads((path / "provenance.json").read_text())
        commits = {maker["commit"] for maker in record["makers"]} | {record["commit"]}
        assert all(commit[:8] in text for commit in commits)
        assert f"{record['wall_seconds'] / 60:.0f} min; {sum(record['seconds'].values()) / 60:.0f} min of" in text
        assert f"Collected {record['created'][:10]} {record['created'][11:16]} UTC" in text
    dirty = [path.name for path in REFERENCES if json.loads((path / "provenance.json").read_text())["dirty"]]
    assert "small" in dirty
    assert text.count("with changes not committed") == len(dirty) * (1 + 1 + 2)  # card, head, two tables


def test_without_folders_all_finished_studies_are_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds no finished study: run `make study` first"):
        run_step(board)
    for folder in ("results/reference/mini", "results/mini", "results/broken", "results/mine"):
        write_study(Path(folder), study=Path(folder).name)
    Path("results/mine/claims.csv").unlink()
    Path("results/broken/provenance.json").write_text("{")
    Path("results/reference/benchmarks").mkdir()
    run_step(board)
    *_, broken, unfinished, board_of = capsys.readouterr().out.splitlines()
    assert broken.startswith("left out: results/broken/provenance.json is not JSON")
    assert unfinished == "left out: results/mine is not finished (no claims.csv)"
    assert board_of == "board of 2 studies: results/board.html"
    html = Path("results/board.html").read_text(encoding="utf-8")
    heads = Cells(html).tables[0][1]
    assert [head.split(" code")[0] for head in heads] == ["mini (results/reference/mini)", "mini (results/mini)"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is no results folder of a study: name one"),
        (lambda folder: (folder / "claims.csv").unlink(), r"no finished study \(no claims.csv\): finish it"),
        (lambda folder: shorten(folder / "claims.csv"), "claims.csv has no rows"),
        (lambda folder: shutil.rmtree(folder / "tables"), r"no finished study \(no tables/counts.json\)"),
        (lambda folder: (folder / "provenance.json").write_text("{"), r"provenance.json is not JSON"),
        (lambda folder: change(folder, commit=None), "has no 'commit'"),
        (lambda folder: change(folder, created="yesterday"), "has the date 'yesterday'"),
        (lambda folder: change(folder, seconds={"a": "long"}), "a time that is no number of seconds"),
        (lambda folder: (folder / "claims.csv").write_text("a,b\n"), r"claims.csv has no column"),
        (lambda folder: (folder / "scores.csv").write_text("a,b\n"), r"scores.csv has no column"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path, break_it, message):
    folder = write_study(tmp_path / "study")
    break_it(folder)
    with pytest.raises(UserError, match=message) as error:
        html_of(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def shorten(path: Path) -> None:
    """Keep only the first line of a file."""
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def change(folder: Path, **values: object) -> None:
    path = folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_named_twice_is_refused(tmp_path, monkeypatch):
    folder = write_study(tmp_path / "study")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="are the same folder: name it once"):
        html_of(folder, Path("study/../study"))


def test_two_boards_of_the_same_studies_are_the_same(references, tmp_path):
    run_step(board, *REFERENCES, "--out", tmp_path / "board.html")
    assert (tmp_path / "board.html").read_text(encoding="utf-8") == references

"""The page: valid, escaped, self-contained, and with the numbers of the tables."""

import re
import shutil
from pathlib import Path

import pytest

from ken.errors import UserError
from report import page, publication
from report.measurements.inputs import classes_table
from report.measurements.scores import score_table
from report.tables import Tables
from study.running.code import dependencies
from tests.report.conftest import HOSTILE, build, pages_of
from tests.report.markup import Reader, check_elements, check_loads_nothing
from tests.report.synthetic import controls, score_row, whole_evidence, write_evidence, write_results
from tests.steps import run_step


def test_models_that_have_not_learned_are_named_first_and_in_the_tables(tmp_path):
    rows = [row for seed in (0, 1) for row in (*controls(seed=seed, full=0.5 + 0.4 * seed), score_row(seed=seed))]
    rows += [*controls("good"), score_row("good")]
    folder = write_results(tmp_path / "study", rows)
    text = Reader(build(folder)).text
    warning = "1 cell has not learned: the fully fine-tuned model is hardly better than the majority class or far below"
    assert text.index(warning) < text.index("Does each claim hold?")
    assert text.count("Not learned: bert on t1, in 1 of 2 seeds. Its mean weighted F1 is 0.700; the majority") == 2
    assert "good on t1" not in text and "NO, in 1 of 2 seeds" in text
    write_evidence(folder, **whole_evidence())
    run_step(publication, "--results", folder, "--out", tmp_path / "publication")
    assert warning in (tmp_path / "publication" / "weighted_f1.md").read_text()


def test_a_study_whose_models_have_learned_has_no_warning(built_study):
    assert "Not learned" not in pages_of(built_study)


@pytest.fixture(scope="module", params=["built_study", "wide_study", "hostile_study"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module", params=["index.html", page.APPENDIX])
def html(folder, request):
    return (folder / "report" / request.param).read_text(encoding="utf-8")


def test_the_page_loads_no_resources(html):
    check_loads_nothing(html, beside=("kenviz.html", "index.html", page.APPENDIX))


def test_elements_are_closed_and_ids_are_unique(html):
    check_elements(html)


def test_no_nan_is_shown(html):
    assert not re.search(r"\bnan\b", Reader(html).text, re.IGNORECASE)


def test_every_caption_states_the_number_of_seeds(html):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.DOTALL)
    assert captions
    assert all(re.search(r"\d+ seeds?\b", caption) for caption in captions)
    assert len(re.findall("<figure[ >]", html)) == html.count('<svg role="img"') == len(captions)


def test_hostile_names_are_escaped(hostile_study):
    html = pages_of(hostile_study)
    reader = Reader(html)
    assert [tag for tag, _ in reader.tags].count(
        "script"
    ) == 2 + 1  # data and script of the page, script of the appendix
    assert HOSTILE in reader.text
    assert f"why: {HOSTILE}" in reader.text
    assert "with changes that were not committed" in reader.text
    assert "Wall time 1.5 min" in reader.text
    assert "Fine-tuning from random initialisation was not run" in reader.text
    assert not (hostile_study / "figures" / "pretraining_gain.svg").exists()


def test_one_seed_has_no_spread(hostile_study):
    html = pages_of(hostile_study)
    assert "<small>±" not in html
    assert "One seed: no band." in html


def test_scores_are_shown_with_their_spread(built_study):
    tables = Tables.read(built_study)
    sheet = score_table(tables, tables.counts["models"])
    assert [head.replace("\xa0", " ") for head in sheet.heads] == [
        *("Model", "Task", "Method", "none", "10 %", "50 %", "full"),
    ]
    rows = {(row[0].text, row[2].text): row for row in sheet.rows}
    assert len(rows) == 4
    # Seeds 0.7 and 0.72: mean 0.71, standard deviation 0.02 / sqrt 2.
    cell = rows["bert", "KEN"][4]
    assert (cell.text, cell.behind) == ("0.710", "±0.014")
    assert cell.marks == "best"
    # 0.90 and 0.92 minus one point.
    assert rows["bert", "KEN"][5].marks == "best near"
    assert rows["bloom", "KEN"][6].text == "0.810"
    html = pages_of(built_study)
    assert "0.710 <small>±0.014</small>" in html


def test_declined_methods_are_shown(hostile_study):
    tables = Tables.read(hostile_study)
    sheet = score_table(tables, tables.counts["models"])
    assert "declined" in [cell.text for row in sheet.rows for cell in row]
    text = Reader(pages_of(hostile_study)).text
    assert "Of 6 rows, 1 has no score; the report lists each with its reason. Of these, 1 declined." in text


def test_two_builds_give_the_same_page(built_study):
    written = [built_study / "report" / name for name in ("index.html", page.APPENDIX)]
    assert page.render(built_study) == tuple(path.read_text(encoding="utf-8") for path in written)


def test_a_method_that_fails_everywhere_is_reported(tmp_path):
    rows = [*controls(), score_row(f1=None, status="failed", reason="out of memory")]
    text = Reader(build(write_results(tmp_path / "study", rows))).text
    assert "out of memory" in text


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("figures/frontier.svg", "frontier.svg does not exist"),
        ("tables/overview.csv", "overview.csv does not exist"),
        ("provenance.json", "provenance.json does not exist"),
    ],
)
def test_missing_parts_are_named(built_study, tmp_path, missing, expected):
    copy = shutil.copytree(built_study, tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(UserError, match=expected):
        page.render(copy)


@pytest.mark.parametrize("content", ["[]", "{", '{"study": "x"}', '{"study": 1}'])
def test_malformed_provenance_is_refused(built_study, tmp_path, content):
    copy = shutil.copytree(built_study, tmp_path / "copy")
    (copy / "provenance.json").write_text(content)
    with pytest.raises(UserError, match=r"provenance\.json"):
        page.render(copy)


def test_class_counts_with_and_without_splits():
    with_splits = classes_table('{"train": {"a": 3, "b": 1}, "test": {"a": 2}}')
    assert [[cell.text for cell in row] for row in with_splits.rows] == [["a", "3", "2"], ["b", "1", "0"]]
    assert classes_table('{"a": 3}').heads == ["Class", "Examples"]
    with pytest.raises(UserError, match="class_counts"):
        classes_table("[1, 2]")


def test_sections_missing_from_the_template_are_appended(built_study, monkeypatch):
    _, placed = page.render(built_study)
    monkeypatch.setattr(page, "PLACED", page.PLACED[:-1])
    _, html = page.render(built_study)
    assert placed.count("<h2>Does pre-training help?</h2>") == 1
    assert html.count("<h2>Does pre-training help?</h2>") == html.count('<li><a href="#pretraining">') == 2


def test_all_templates_and_scripts_count_as_code_of_the_step():
    names = {path.name for path in dependencies("report.page")}
    folder = Path(page.__file__).parent
    written = {path.name for pattern in ("*.j2", "page.css", "*.js") for path in folder.glob(pattern)}
    assert written - {"board.html.j2"} <= names

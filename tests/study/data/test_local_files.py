"""Users' own data files: every format, special rows, and error messages."""

import csv
import json

import datasets
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ken.errors import UserError
from study.data.local_files import load_split, prepare

AWKWARD = [
    ("plain", "a"),
    ('quotes " and, commas', "b"),
    ("two\nlines", "a"),
    ("emoji 👩‍🔬🇩🇪 ̈", "é"),
    ("NA", "b"),
    ("null", "nan"),
    ("  spaces kept ", "a"),
    ("x" * 100_000, "b"),
]


def write(path, rows, columns=("text", "label")):
    """Write rows in the format that the file's ending names."""
    frame = pd.DataFrame(rows, columns=list(columns))
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")), encoding="utf-8")
        case ".parquet":
            frame.to_parquet(path)
        case _:
            datasets.Dataset.from_pandas(frame).save_to_disk(path)
    return path


def spec(tmp_path, train, test, validation=None, **others):
    result = {"source": "files", "text": "text", "label": "label", **others}
    for split, rows in (("train", train), ("test", test), ("validation", validation)):
        if rows is not None:
            result[split] = str(write(tmp_path / f"{split}.csv", rows))
    return result


def make_rows(count, labels="ab", prefix="text"):
    return [(f"{prefix} {i}", labels[i % len(labels)]) for i in range(count)]


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl", "d.parquet", "saved"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path / name, AWKWARD)
    frame = load_split(path, "text", "label")
    assert list(frame.itertuples(index=False, name=None)) == AWKWARD
    assert list(frame.columns) == ["text", "label"]


# Without control characters, which CSV readers may treat as line ends.
_characters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.text(_characters, min_size=1), st.sampled_from(["x", "y"])), min_size=1))
@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.jsonl"])
def test_any_unicode_survives_a_round_trip(tmp_path, name, rows):
    frame = load_split(write(tmp_path / name, rows), "text", "label")
    assert list(frame["text"]) == [text if text.strip() else "" for text, _ in rows]
    assert list(frame["label"]) == [label for _, label in rows]


def test_byte_order_mark_and_other_columns(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,label,more\nhi,1,2\n", encoding="utf-8-sig")
    assert load_split(path, "text", "label").to_dict("records") == [{"text": "hi", "label": "1"}]
    assert load_split(path, "text", "more")["label"].tolist() == ["2"]


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.parquet", "saved"])
def test_whole_numbers_are_labels(tmp_path, name):
    frame = load_split(write(tmp_path / name, [("a", 0), ("b", -1), ("c", 10)]), "text", "label")
    assert frame["label"].tolist() == ["0", "-1", "10"]


def test_missing_and_fractional_labels_in_parquet_are_refused(tmp_path):
    pd.DataFrame({"text": ["a", "b"], "label": [1, None]}).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(UserError, match='no label in column "label" at row 2'):
        load_split(tmp_path / "d.parquet", "text", "label")
    pd.DataFrame({"text": ["a", "b"], "label": [1.0, 0.5]}).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(UserError, match=r"0.5 at row 2: labels must be text or whole numbers"):
        load_split(tmp_path / "d.parquet", "text", "label")


def test_class_labels_become_their_names(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    hidden = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    datasets.DatasetDict({"train": train, "test": hidden}).save_to_disk(tmp_path / "d")
    assert load_split(f"{tmp_path}/d#train", "text", "label")["label"].tolist() == ["pos", "neg"]
    assert load_split(tmp_path / "d", "text", "label", "train")["label"].tolist() == ["pos", "neg"]
    with pytest.raises(UserError, match="no label in column"):
        load_split(tmp_path / "d", "text", "label", "test")
    with pytest.raises(UserError, match=r'no split "dev".*Valid: test, train'):
        load_split(tmp_path / "d#dev", "text", "label")


def test_class_labels_of_a_parquet_file_become_their_names(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    shown = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    shown.to_parquet(tmp_path / "d.parquet")
    assert load_split(tmp_path / "d.parquet", "text", "label")["label"].tolist() == ["pos", "neg"]
    hidden = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    hidden.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(UserError, match='no label in column "label" at row 2: look elsewhere'):
        load_split(tmp_path / "d.parquet", "text", "label", advice="look elsewhere")


@pytest.mark.parametrize(
    "described", [b"[1]", b"{", b'{"info": {"features": [1]}}', b'{"info": {"features": {"label": 1}}}']
)
def test_unreadable_features_of_a_parquet_file_are_ignored(tmp_path, described):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ["a"], "label": [3]}).replace_schema_metadata({b"huggingface": described})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    assert load_split(tmp_path / "d.parquet", "text", "label")["label"].tolist() == ["3"]


def test_lone_surrogates_are_replaced(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a \\ud83d b \\ud83d\\ude00", "label": "x"}\n\n', encoding="utf-8")
    assert load_split(path, "text", "label")["text"].tolist() == ["a ? b 😀"]


def damaged_parquet(path):
    write(path, make_rows(50))
    path.write_bytes(path.read_bytes()[:-20])


REFUSED = {
    "missing.csv": (None, "missing.csv does not exist"),
    "d.xlsx": (b"x", r'the extension ".xlsx".*supported are .csv, .tsv, .jsonl, .parquet'),
    "d": (b"x", "has no extension"),
    "empty.csv": (b"", "is empty"),
    "latin.csv": ("text,label\nüber,a\n".encode("latin-1"), r"not UTF-8 \(it has a byte 0xfc\)"),
    "utf16.csv": ("text,label\nüber,a\n".encode("utf-16"), "not UTF-8"),
    "latin.jsonl": ('{"text": "ü", "label": 1}'.encode("latin-1"), "not UTF-8"),
    "columns.csv": (b"txt,label\na,b\n", 'no column "text", it has "txt", "label". Did you mean "txt"'),
    "columns.jsonl": (b'{"text": "a"}\n', 'no column "label", it has "text"'),
    "none.jsonl": (b"", 'no column "text", it has none'),
    "fields.csv": (b"text,label\na,b\na,b,c\n", "has 3 fields on line 3, but 2 columns: put a text that contains ','"),
    "surplus.csv": (b"text,label\na,b,c\na,b,c\n", "has 3 fields on line 2, but 2 columns"),
    "open.csv": (b'text,label\na,b\n"a,b\nc,d\n', r'a quote \("\) in the row on line 3 that is never closed'),
    "early.csv": (b'text,label\n"Well" said she,b\n', r'a quote \("\) in the wrong place on line 2: put a text'),
    "escaped.csv": (b'text,label\n"say \\"hi\\" now",b\n', r'a quote \("\) in the wrong place on line 2'),
    "next.csv": (b'text,label\n"a,b\nc,d\n"e, f",b\n', "wrong place on line 4, in the row that begins on line 2"),
    "pair.csv": (b'text,label\na,b\n"a,b\nc,d\ne",b\nf,d\n', "of several lines that contains the row on line 3"),
    "inner.csv": (b'text,label\na,b\n"a, and\nc,b\ne",b\n', "of several lines that contains the row on line 4"),
    "label-first.csv": (b'label,text\nb,a\nb,"c\nb,d\nb,e"\n', "of several lines that contains the row on line 4"),
    "last.csv": (b'label,text\nb,a\nb,"c\nb,d"\n', "of several lines that contains the row on line 4"),
    "quotes.tsv": (b'text\tlabel\n"a\tx\nb"\ty\n', "of several lines that contains the row on line 2"),
    "in-label.csv": (b'text,label\na,"b\nc,b\n"\nd,b\n', "has a label of several lines at row 1"),
    "twice.csv": (b"text,label,label\na,b,c\n", '2 columns with the name "label": rename or remove all but one'),
    "twice.tsv": (b"text\ttext\tlabel\na\tb\tc\n", '2 columns with the name "text"'),
    "twice.jsonl": (b'{"text": "a", "text": "b", "label": 1}\n', 'has the key "text" twice on line 1'),
    "line.jsonl": (b'{"text": "a", "label": 1}\n{"text": \n', "no JSON on line 2"),
    "list.jsonl": (b"[1]\n", "no JSON object on line 1"),
    "nested.jsonl": (b'{"text": ["a"], "label": 1}\n', "list instead of text at row 1"),
    "label.jsonl": (b'{"text": "a", "label": [1]}\n', r"the label \[1\] at row 1"),
    "labels.csv": (b"text,label\na,x\nb,\nc, \nd\n", 'no label in column "label" at rows 2, 3, 4'),
    "text.parquet": (b"not parquet", "damaged or not a .parquet file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_line_and_name_the_file(tmp_path, name):
    content, message = REFUSED[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        load_split(tmp_path / name, "text", "label")
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_columns_that_are_not_used_may_have_one_name(tmp_path):
    (tmp_path / "d.csv").write_text("text,,label,\na,1,x,2\n\n  \nb,,y\n")
    assert load_split(tmp_path / "d.csv", "text", "label").to_numpy().tolist() == [["a", "x"], ["b", "y"]]


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(UserError, match='2 columns with the name "label"'):
        load_split(tmp_path / "d.parquet", "text", "label")


def test_texts_of_several_lines_are_no_swallowed_rows(tmp_path):
    rows = [("Dear Sir,\nthank you, and bye", "pos"), ("a,b\nc,d", "neg"), ("one\r\ntwo", "pos"), ('"quoted"\n', "pos")]
    for name in ("d.csv", "d.tsv"):
        frame = load_split(write(tmp_path / name, rows), "text", "label")
        assert list(frame.itertuples(index=False, name=None)) == rows
        frame = load_split(write(tmp_path / name, [row[::-1] for row in rows], ("label", "text")), "text", "label")
        assert list(frame.itertuples(index=False, name=None)) == rows


def test_a_path_may_contain_a_number_sign(tmp_path):
    path = write(tmp_path / "my#file.csv", make_rows(3))
    assert len(load_split(path, "text", "label")) == 3
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]})})
    saved.save_to_disk(tmp_path / "my#set")
    assert len(load_split(f"{tmp_path}/my#set#train", "text", "label")) == 1
    with pytest.raises(UserError, match=r'no split "dev"'):
        load_split(f"{tmp_path}/my#set#dev", "text", "label")
    with pytest.raises(UserError, match=r'my#file.csv#test names the split "test" of a file, but only saved folders'):
        load_split(f"{path}#test", "text", "label")
    with pytest.raises(UserError, match=r'no does not exist \(behind "#" stands a split of a saved folder\)'):
        load_split(tmp_path / "no#train", "text", "label")


@pytest.mark.parametrize(
    ("labels", "ways"),
    [
        (("1", "1.0"), r"'1' in .*train.csv and '1.0' in .*test.csv"),
        (("01", "1"), "'01' in .* and '1' in"),
        (("+2", "2."), r"'\+2' in .* and '2.' in"),
        (("é", "e\u0301"), r"'\\xe9' in .* and 'e\\u0301' in"),
    ],
)
def test_one_label_in_two_spellings_is_refused(tmp_path, labels, ways):
    first, second = labels
    train = [(f"text {i}", label) for i, label in enumerate([first, "a"] * 5)]
    with pytest.raises(UserError, match=f"the same label is written in two ways, {ways}"):
        prepare(spec(tmp_path, train, [("x", second)]))
    with pytest.raises(UserError, match="the same label is written in two ways"):
        prepare(spec(tmp_path, [*train, ("y", second), ("z", second)], [("x", first)]))


def test_labels_that_look_alike_but_differ_are_kept(tmp_path):
    labels = ["1", "-1", "²", "--1", "1.5", "1.50", "3.1", "3.10", "Pos", "pos"]
    train = [(f"text {i}", label) for i, label in enumerate(labels * 3)]
    frames = prepare(spec(tmp_path, train, [("x", "²")]))
    assert set(frames[0]["label"]) == set(labels)
    assert "labels 'Pos' and 'pos' differ only in case, kept as 2 classes" in frames[3]


def test_truncated_parquet_and_foreign_folders_are_refused(tmp_path):
    damaged_parquet(tmp_path / "d.parquet")
    with pytest.raises(UserError, match=r"damaged or not a .parquet file"):
        load_split(tmp_path / "d.parquet", "text", "label")
    with pytest.raises(UserError, match="was not saved by the datasets library"):
        load_split(tmp_path, "text", "label")
    write(tmp_path / "saved", make_rows(3))
    for arrow in (tmp_path / "saved").glob("*.arrow"):
        arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged datasets folder"):
        load_split(tmp_path / "saved", "text", "label")


def test_many_missing_labels_are_counted(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,label\n" + "a,\n" * 9)
    with pytest.raises(UserError, match="at rows 1, 2, 3, 4, 5 and 4 more"):
        load_split(path, "text", "label")


def test_awkward_rows_are_dropped_or_kept_and_counted(tmp_path):
    train = [*make_rows(10), ("", "a"), (" \t", "b"), ("text 0", "a"), ("text 1", "a"), ("leak", "a"), ("dev", "b")]
    test = [("leak", "a"), ("", "b"), ("only here", "b")]
    validation = [("dev", "b"), ("only here", "a"), ("", "a"), ("mine", "a")]
    result = prepare(spec(tmp_path, train, test, validation))
    train_rows, validation_rows, test_rows = (list(frame.itertuples(index=False, name=None)) for frame in result[:3])
    assert train_rows == [*make_rows(10), ("text 1", "a")]
    assert validation_rows == [("dev", "b"), ("mine", "a")]
    assert test_rows == test
    assert sorted(result[3]) == [
        "test: 1 row without text, kept as empty text",
        "train: 1 row repeating an earlier one dropped",
        "train: 1 text with more than one label, kept",
        "train: 2 rows whose text is also in a later split dropped",
        "train: 2 rows without text dropped",
        "validation: 1 row whose text is also in a later split dropped",
        "validation: 1 row without text dropped",
    ]


def test_validation_is_a_deterministic_stratified_part_of_train(tmp_path):
    rows = [*make_rows(300, "aab"), ("text 1", "b"), ("text 2", "a")]
    task = spec(tmp_path, rows, make_rows(4, prefix="test"), validation_share=0.2, seed=3)
    train, validation, _, notes = prepare(task)
    again = prepare(task)[1]
    other = prepare({**task, "seed": 4})[1]
    assert validation.equals(again) and not validation.equals(other)
    assert 60 <= len(validation) <= 62 and len(train) + len(validation) == 302
    assert not set(train["text"]) & set(validation["text"])
    assert 38 <= (validation["label"] == "a").sum() <= 42
    assert f"validation: {len(validation)} rows taken from train" in notes


def test_limited_splits_are_drawn_from_the_whole_ones(tmp_path):
    task = spec(tmp_path, make_rows(200), make_rows(40, prefix="test"), limits={"train": 90, "test": 500}, seed=1)
    whole, limited = prepare(task | {"limits": {}}), prepare(task)
    other = prepare(task | {"seed": 2, "limits": {"train": 90}})
    assert [len(frame) for frame in limited[:3]] == [90, len(whole[1]), 40]
    drawn = set(limited[0]["text"])
    assert len(drawn) == 90 and drawn < set(whole[0]["text"]) and drawn != set(other[0]["text"])
    order = list(whole[0]["text"])
    assert [order.index(text) for text in limited[0]["text"]] == sorted(map(order.index, drawn)), "in the file's order"
    assert limited[0].equals(prepare(task)[0])
    assert f"train: 90 of {len(whole[0])} rows drawn" in limited[3] and not any("test" in note for note in limited[3])


def test_every_class_is_in_both_splits_however_small_the_share(tmp_path):
    task = spec(tmp_path, make_rows(12, "abcdef"), make_rows(6, "abcdef", "test"), validation_share=0.01)
    train, validation, *_ = prepare(task)
    assert set(train["label"]) == set(validation["label"]) == set("abcdef")
    train, validation, *_ = prepare({**task, "validation_share": 0.99})
    assert set(train["label"]) == set(validation["label"]) == set("abcdef")


def test_labels_without_enough_training_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'label "c" occurs in test \(.*test.csv, 2 rows\) but in no usable row'):
        prepare(spec(tmp_path, make_rows(10), [("x", "c"), ("y", "c"), ("z", "a")]))
    with pytest.raises(UserError, match=r'label "C" occurs in validation \(.*validation.csv, 1 row\)'):
        prepare(spec(tmp_path, make_rows(10), make_rows(2, prefix="test"), [("x", "C")]))
    with pytest.raises(UserError, match=r'label "c" of .* has only one training row'):
        prepare(spec(tmp_path, [*make_rows(10), ("x", "c")], make_rows(2, prefix="test")))
    with pytest.raises(UserError, match='label "c" occurs in test'):  # its only training row is also in test
        prepare(spec(tmp_path, [*make_rows(10), ("x", "c")], [("x", "c")]))


def test_a_split_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no usable rows for train: .*later split dropped"):
        prepare(spec(tmp_path, make_rows(3), make_rows(3)))
    with pytest.raises(UserError, match="no usable rows for test: it is empty"):
        prepare(spec(tmp_path, make_rows(3), []))


def test_one_folder_may_contain_all_splits(tmp_path):
    rows = {"train": make_rows(10), "validation": make_rows(4, prefix="dev"), "test": make_rows(4, prefix="test")}
    saved = {
        name: datasets.Dataset.from_pandas(pd.DataFrame(part, columns=["text", "label"])) for name, part in rows.items()
    }
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "d")
    folder = str(tmp_path / "d")
    task = {"train": folder, "validation": folder, "test": f"{folder}#test", "text": "text", "label": "label"}
    *frames, notes = prepare(task)
    assert [len(frame) for frame in frames] == [10, 4, 4] and notes == []


def test_quotes_inside_a_tsv_follow_the_csv_rules(tmp_path):
    path = tmp_path / "d.tsv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, dialect="excel-tab")
        writer.writerows([("text", "label"), ('"Well" said\tshe', "a"), ('5" disk', "b")])
    assert load_split(path, "text", "label")["text"].tolist() == ['"Well" said\tshe', '5" disk']

"""Docstring tasks: exact sizes, grouped splits, and no text that reveals its label."""

import itertools

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from ken.errors import UserError
from study import corpus
from study.data import docstring_tasks

SPEC = {
    "label": "library",
    "classes": ["mpmath", "networkx", "seaborn"],
    "min_words": 15,
    "max_words": 45,
    "train": 120,
    "validation": 30,
    "test": 60,
}


@pytest.fixture(scope="module")
def corpora():
    return {package: corpus.extract(package) for package in SPEC["classes"]}


@pytest.fixture(scope="module")
def splits(corpora):
    return docstring_tasks.build(corpora, SPEC)


def test_sizes_classes_and_lengths(splits):
    assert {split: len(frame) for split, frame in splits.items()} == {"train": 120, "validation": 30, "test": 60}
    for frame in splits.values():
        assert set(frame["label"]) == set(SPEC["classes"])
        assert frame["text"].str.split().str.len().between(15, 45).all()
    assert splits["train"]["label"].value_counts().tolist() == [40, 40, 40]


def test_building_is_deterministic(corpora, splits):
    again = docstring_tasks.build(corpora, SPEC)
    assert all(again[split].equals(splits[split]) for split in splits)


def test_no_two_texts_are_similar(splits):
    texts = pd.concat(splits.values())["text"]
    similarity = cosine_similarity(TfidfVectorizer().fit_transform(texts))
    close = [(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if similarity[i, j] > 0.9]
    assert close == []


def test_package_names_are_masked(splits):
    words = " ".join(pd.concat(splits.values())["text"]).lower()
    for name in ("mpmath", "networkx", "seaborn", "nx.", "numpy"):
        assert name not in words


def test_packages_are_masked_inside_words_but_other_words_only_as_a_whole():
    texts = [
        "SciPy's scipy.signal.lfilter filters; signals np or SciPyError.",
        "A sparse_matrix is not sparsely stored.",
    ]
    masked = docstring_tasks.mask_names(texts, ["scipy", "numpy"], ["sparse"])
    assert masked == ["X's X filters; signals X or X.", "A X_matrix is not sparsely stored."]


def test_snippets_fill_up_to_the_limit_and_never_cross_docstrings():
    rows = [("a.py", "train", d, 0, " ".join(["word"] * n)) for d, n in [(0, 10), (0, 10), (0, 30), (1, 20), (1, 50)]]
    frame = pd.DataFrame(rows, columns=["file", "split", "docstring", "paragraph", "sentence"])
    lengths = docstring_tasks.snippets(frame, 15, 45)["text"].str.split().str.len().tolist()
    assert lengths == [20, 30, 20]


def test_a_class_without_text_is_named(corpora):
    with pytest.raises(UserError, match="no_such_class"):
        docstring_tasks.build(corpora, SPEC | {"classes": ["mpmath", "no_such_class"]})

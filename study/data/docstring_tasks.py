"""Classification tasks from docstrings: which library, or which part of one, does a text describe?

Names that reveal the class are masked. Near-duplicates are removed within and across splits. Splits follow the source
file (`corpus.split_of`). Rows are sampled by the hash of their text, so they are the same everywhere.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from ken.errors import UserError
from study.definition.paths import SPLITS

MASK = "X"
NEAR_DUPLICATE = 0.8  # cosine similarity of TF-IDF vectors above which a text is dropped
ALIASES = {
    "matplotlib": ["mpl", "pyplot", "plt"],
    "networkx": ["nx"],
    "numpy": ["np"],
    "pandas": ["pd"],
    "scipy": ["sp"],
    "sklearn": ["scikit-learn", "scikit learn", "scikit"],
    "statsmodels": ["sm", "smf"],
    "torch": ["pytorch"],
    "transformers": ["huggingface", "hugging face"],
}
_DOTTED = re.compile(r"\w+(?:\.\w+)+")


def snippets(corpus: pd.DataFrame, min_words: int, max_words: int) -> pd.DataFrame:
    """Join consecutive sentences of a docstring into texts of `min_words` to `max_words` words.

    Args:
        corpus: sentences, as `corpus.extract` returns them.

    Returns:
        One row per text: file, split, text.
    """
    rows = []
    for (file, split, _), group in corpus.groupby(["file", "split", "docstring"], sort=False):
        words: list[str] = []
        for sentence in [*(text.split() for text in group["sentence"]), None]:
            if sentence is None or len(words) + len(sentence) > max_words:
                if min_words <= len(words) <= max_words:
                    rows.append((file, split, " ".join(words)))
                words = []
            words += sentence or []
    return pd.DataFrame(rows, columns=["file", "split", "text"])


def mask_names(texts: Iterable[str], packages: Iterable[str], words: Iterable[str]) -> list[str]:
    """Replace by "X": dotted names, words that contain a package's name, its usual short forms, and the given words."""
    packages = list(packages)
    inside = "|".join(map(re.escape, packages))
    forms = {form for name in packages for form in ALIASES.get(name, [])}.union(words)
    whole = "|".join(
        sorted(map(re.escape, {*forms, *(word.replace("_", " ") for word in words)}), key=len, reverse=True)
    )
    pattern = re.compile(rf"\w*(?:{inside})\w*|(?<![a-z0-9])(?:{whole})(?![a-z0-9])", re.IGNORECASE)
    return [pattern.sub(MASK, _DOTTED.sub(MASK, text)) for text in texts]


def without_near_duplicates(texts: pd.Series) -> np.ndarray:
    """Mask (n,), True for texts that are no near-duplicate of an earlier one (see `NEAR_DUPLICATE`)."""
    vectors = TfidfVectorizer(dtype=np.float32).fit_transform(texts)
    keep = np.ones(len(texts), dtype=bool)
    step = 512
    for start in range(0, len(texts), step):
        similarity = (vectors[start : start + step] @ vectors[: start + step].T).tocoo()
        earlier = similarity.col < similarity.row + start
        keep[start + similarity.row[earlier & (similarity.data > NEAR_DUPLICATE)]] = False
    return keep


def sample_evenly(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """At most `size` rows, with classes as balanced as possible, chosen and ordered by the hash of the text."""
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in rows["text"]]
    ordered = rows.assign(hash=hashes).sort_values("hash")
    rank = ordered.groupby("label").cumcount()  # within the class
    chosen = ordered.assign(rank=rank).sort_values(["rank", "hash"]).head(size)
    return chosen.sort_values("hash").drop(columns=["hash", "rank"])


def label_snippets(corpora: dict[str, pd.DataFrame], spec: dict) -> pd.DataFrame:
    """Texts of the wanted classes with their label: the package, or its sub-package or module."""
    parts = [snippets(corpus, spec["min_words"], spec["max_words"]) for corpus in corpora.values()]
    rows = pd.concat(parts, ignore_index=True)
    depth = 0 if spec["label"] == "library" else 1
    rows["label"] = rows["file"].str.split("/").str[depth].str.removesuffix(".py")
    return rows[rows["label"].isin(spec["classes"])]


def build(corpora: dict[str, pd.DataFrame], spec: dict) -> dict[str, pd.DataFrame]:
    """Build a task from docstrings.

    Args:
        corpora: package -> sentences, as `corpus.extract` returns them.
        spec: label ("library" or "topic"), classes, min_words, max_words and the sizes train, validation, test.

    Returns:
        split -> table with columns text and label.

    Raises:
        UserError: a class has no text in one of the splits.
    """
    rows = label_snippets(corpora, spec)
    words = spec["classes"] if spec["label"] == "topic" else []
    rows["text"] = mask_names(rows["text"], {*corpora, "numpy"}, ["python", *words])
    splits = ("test", "validation", "train")  # of near-duplicates in train and test, the one in test is kept
    pool = pd.concat([sample_evenly(rows[rows["split"] == split], 2 * spec[split]) for split in splits])
    pool = pool[without_near_duplicates(pool["text"])]
    result = {split: sample_evenly(pool[pool["split"] == split], spec[split])[["text", "label"]] for split in SPLITS}
    for split, frame in result.items():
        if missing := sorted(set(spec["classes"]) - set(frame["label"])):
            raise UserError(f"class {missing[0]!r} has no docstring text in the {split} split: remove it from classes.")
    return {split: frame.reset_index(drop=True) for split, frame in result.items()}

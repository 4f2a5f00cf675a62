"""Classification tasks that docstring prose carries by itself: which library, or which part of one, is described?

Names that would give the answer away are masked; near-duplicates are removed within and across splits; splits follow
the source file (`corpus.split_of`). Sampling is by hash of the text: no random state, the same rows everywhere.
"""

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from ken.errors import UserError
from study.corpus import SPLITS

MASK = "X"
NEAR_DUPLICATE = 0.8  # cosine similarity of TF-IDF vectors
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
    """Consecutive sentences of one docstring, as many as fit into `max_words`, where that gives at least `min_words`.

    Returns:
        One row a snippet: file, split, text.
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
    """Replace by "X": dotted names, words with a package's name in them, its usual short forms, and the given words."""
    packages = list(packages)
    inside = "|".join(map(re.escape, packages))
    forms = {form for name in packages for form in ALIASES.get(name, [])}.union(words)
    whole = "|".join(
        sorted(map(re.escape, {*forms, *(word.replace("_", " ") for word in words)}), key=len, reverse=True)
    )
    pattern = re.compile(rf"\w*(?:{inside})\w*|(?<![a-z0-9])(?:{whole})(?![a-z0-9])", re.IGNORECASE)
    return [pattern.sub(MASK, _DOTTED.sub(MASK, text)) for text in texts]


def without_near_duplicates(texts: pd.Series) -> np.ndarray:
    """Mask (n,) of the texts that resemble no earlier one (TF-IDF cosine below `NEAR_DUPLICATE`)."""
    vectors = TfidfVectorizer(dtype=np.float32).fit_transform(texts)
    keep = np.ones(len(texts), dtype=bool)
    step = 512
    for start in range(0, len(texts), step):
        similarity = (vectors[start : start + step] @ vectors[: start + step].T).tocoo()
        earlier = similarity.col < similarity.row + start
        keep[start + similarity.row[earlier & (similarity.data > NEAR_DUPLICATE)]] = False
    return keep


def evenly(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """At most `size` rows, the classes as even as the text allows, chosen and ordered by the hash of the text."""
    ordered = rows.assign(hash=[hashlib.sha256(text.encode()).hexdigest() for text in rows["text"]])
    ordered = ordered.sort_values("hash")
    turn = ordered.groupby("label").cumcount()
    chosen = ordered.assign(turn=turn).sort_values(["turn", "hash"]).head(size)
    return chosen.sort_values("hash").drop(columns=["hash", "turn"])


def label_snippets(corpora: dict[str, pd.DataFrame], spec: dict) -> pd.DataFrame:
    """Snippets of the wanted classes with their label: the package, or the sub-package one level down."""
    parts = []
    for corpus in corpora.values():
        found = snippets(corpus, spec["min_words"], spec["max_words"])
        depth = 0 if spec["label"] == "library" else 1
        names = found["file"].str.split("/").str[depth].str.removesuffix(".py")
        parts.append(found.assign(label=names))
    rows = pd.concat(parts, ignore_index=True)
    return rows[rows["label"].isin(spec["classes"])]


def build(corpora: dict[str, pd.DataFrame], spec: dict) -> dict[str, pd.DataFrame]:
    """Build a task from docstrings.

    Args:
        corpora: package -> sentences as `corpus.extract` gives them.
        spec: label ("library" or "topic"), classes, min_words, max_words and the sizes train, validation, test.

    Returns:
        split -> frame with columns text, label.

    Raises:
        UserError: a class has no text in some split.
    """
    rows = label_snippets(corpora, spec)
    words = spec["classes"] if spec["label"] == "topic" else []
    rows["text"] = mask_names(rows["text"], {*corpora, "numpy"}, ["python", *words])
    splits = ("test", "validation", "train")  # what resembles a test row leaves train, not the other way round
    pool = pd.concat([evenly(rows[rows["split"] == split], 2 * spec[split]) for split in splits])
    pool = pool[without_near_duplicates(pool["text"])]
    result = {split: evenly(pool[pool["split"] == split], spec[split])[["text", "label"]] for split in SPLITS}
    for split, frame in result.items():
        if missing := sorted(set(spec["classes"]) - set(frame["label"])):
            raise UserError(f"class {missing[0]!r} has no docstring text in the {split} split: take it out of classes.")
    return {split: frame.reset_index(drop=True) for split, frame in result.items()}

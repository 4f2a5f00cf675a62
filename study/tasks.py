"""Build one task: splits as Parquet files, and a manifest with counts, hashes and reference scores.

The reference scores are those of predicting the most frequent class, and of TF-IDF with logistic regression, or with
the nearest class centroid if there are many classes. A fine-tuned model that does not exceed them has learnt little.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from ken.errors import UserError
from study import corpus
from study.data import docstring_tasks, hub_tasks, local_files
from study.definition.paths import SPLITS
from study.definition.step import parse_step
from study.running import files, provenance
from study.running.workflow import run
from study.training import metrics

MOST_COEFFICIENTS = 20_000_000  # of the TF-IDF reference, whose training takes some 200 bytes for each
MANY_CLASSES = 200


class NearestCentroid(ClassifierMixin, BaseEstimator):
    """Predicts the class whose mean row has the largest cosine with a sparse row (Rocchio).

    That of scikit-learn makes the centroids dense.
    """

    def fit(self, rows: sparse.csr_matrix, labels: pd.Series) -> "NearestCentroid":
        """Take the mean of the rows of each class; returns itself."""
        self.classes_, codes = np.unique(labels, return_inverse=True)
        members = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))))
        self.centroids_ = normalize(members @ rows)
        return self

    def predict(self, rows: sparse.csr_matrix) -> np.ndarray:
        """Labels of rows, (rows,)."""
        blocks = (rows[start : start + 256] for start in range(0, rows.shape[0], 256))
        return self.classes_[np.concatenate([(block @ self.centroids_.T).toarray().argmax(axis=1) for block in blocks])]


def reference_scores(splits: dict[str, pd.DataFrame]) -> dict[str, dict[str, float]]:
    """Scores on test of the most frequent training label and of TF-IDF with an untuned linear classifier.

    With many classes, the regression has the most frequent terms alone, or gives way to centroids.
    """
    train, test = splits["train"], splits["test"]
    counts = train["label"].value_counts(sort=True)
    many = len(counts) > MANY_CLASSES
    terms = None if many else MOST_COEFFICIENTS // len(counts)
    pipeline = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\S+", max_features=terms),
        NearestCentroid() if many else LogisticRegression(C=10, max_iter=2000),
    )
    pipeline.fit(train["text"] + " .", train["label"])  # so that an empty text has a token
    return {
        "majority": metrics.scores(test["label"], [counts.index[0]] * len(test)),
        "tfidf": metrics.scores(test["label"], pipeline.predict(test["text"] + " .")),
    }


def class_order(labels: pd.Series) -> list[str]:
    """Classes in the order of the model's outputs: numbers by value, names alphabetically."""
    unique = sorted(set(labels))
    return sorted(unique, key=int) if all(re.fullmatch("[+-]?[0-9]+", label) for label in unique) else unique


def read_splits(
    spec: dict, corpora: dict[str, Path]
) -> tuple[dict[str, pd.DataFrame], list[str], dict[str, object], dict[str, object]]:
    """Read the splits of a task, notes, the origin of its text, and the hashes of its inputs; see `build`."""
    if spec["source"] == "docstrings":
        splits = docstring_tasks.build({package: corpus.read(path) for package, path in corpora.items()}, spec)
        manifests = [files.read_json(path.with_suffix(".json")) for path in corpora.values()]
        origin = {manifest["package"]: manifest["version"] for manifest in manifests}
        return splits, [], origin, {manifest["package"]: manifest["sha256"] for manifest in manifests}
    if spec["source"] == "hub":
        *frames, notes, origin = hub_tasks.prepare(spec)
        inputs = origin["sha256"]
    else:
        *frames, notes = local_files.prepare(spec)
        origin = {split: str(spec[split]) for split in SPLITS if spec.get(split)}
        inputs = {path: local_files.sha256(path) for path in origin.values()}
    return dict(zip(SPLITS, frames, strict=True)), notes, origin, inputs


def build(name: str, spec: dict, corpora: dict[str, Path], out: Path) -> dict[str, object]:
    """Build a task into the folder `out` and return its manifest.

    Args:
        spec: the task's section of the config (source "docstrings", "files" or "hub").
        corpora: package -> Parquet file of study.corpus, for docstring tasks.

    Raises:
        UserError: the task has only one class or too many, or its source cannot be read.
    """
    splits, notes, origin, inputs = read_splits(spec, corpora)
    classes = class_order(splits["train"]["label"])
    if len(classes) < 2:
        raise UserError(f"task {name!r} has only one class ({classes[0]!r}): there is nothing to classify.")
    if len(classes) > MANY_CLASSES:
        notes = [*notes, f"{len(classes):,} classes: the TF-IDF reference is the nearest centroid"]
    with files.replacing_folder(out) as folder:
        for split, frame in splits.items():
            files.write_parquet(folder / f"{split}.parquet", frame.reset_index(drop=True))
        manifest = {
            "task": name,
            "spec": spec,
            "origin": origin,
            "inputs": inputs,
            "classes": classes,
            "notes": notes,
            "counts": {split: frame["label"].value_counts().to_dict() for split, frame in splits.items()},
            "sha256": {split: files.sha256(folder / f"{split}.parquet") for split in splits},
            "made": provenance.describe_process(),
            "reference": reference_scores(splits),
        }
        files.write_json(folder / "manifest.json", manifest)
    return manifest


def main() -> None:
    a, study, paths = parse_step("Make one task of the study.", "task")
    provenance.make_deterministic(0)
    corpora = {package: paths.corpus(package) for package in study.task_packages(a.task)}
    manifest = build(a.task, study.task_settings(a.task), corpora, paths.task(a.task))
    sizes = {split: sum(counts.values()) for split, counts in manifest["counts"].items()}
    print(f"{a.task}: {sizes}, TF-IDF reference {manifest['reference']['tfidf']['weighted_f1']:.3f}")
    for note in manifest["notes"]:
        print(f"note: {note}")


if __name__ == "__main__":
    run(main)

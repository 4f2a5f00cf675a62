"""Tasks with thousands of classes: their references, cells with class indices beyond 16 bits, and intervals."""

import json
import resource

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from report.statistics import weighted_f1
from study import tasks
from study.cells.finetuned_cell import FinetunedCell
from study.collect import read_references, read_scores
from study.compress import compress
from study.finetune import finetune
from study.running import files
from tests.conftest import SETTINGS
from tests.study.test_cells import EVALUATION


def make_rows(classes: int, seed: int) -> pd.DataFrame:
    """Two texts of every class: a word of its own and two others."""
    generator = np.random.default_rng(seed)
    labels = [f"c{i:05d}" for i in range(classes)] * 2
    others = generator.integers(50, size=(len(labels), 2))
    texts = [f"{label} w{a} w{b}" for label, (a, b) in zip(labels, others, strict=True)]
    return pd.DataFrame({"text": texts, "label": labels}).sample(frac=1, random_state=0, ignore_index=True)


def test_a_task_of_two_thousand_classes_has_references_in_little_memory(tmp_path):
    spec = {"source": "files", "text": "text", "label": "label"}
    for seed, split in enumerate(("train", "validation", "test")):
        make_rows(2000, seed).to_csv(tmp_path / f"{split}.csv", index=False)
        spec[split] = str(tmp_path / f"{split}.csv")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    manifest = tasks.build("many", spec, {}, tmp_path / "task")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024, "KiB"
    assert manifest["reference"]["tfidf"]["weighted_f1"] > 0.8
    assert manifest["notes"][-1] == "2,000 classes: the TF-IDF reference is the nearest centroid"


def test_the_nearest_centroid_is_that_of_a_plain_loop():
    train, vectorizer = make_rows(300, 0), tasks.TfidfVectorizer()
    rows, labels = vectorizer.fit_transform(train["text"]), train["label"]
    dense = rows.toarray()
    centroids = {label: dense[(labels == label).to_numpy()].mean(axis=0) for label in sorted(set(labels))}
    tested = vectorizer.transform(["c00007 w1", "c00299", "w3 w4", ""])
    expected = [
        max(centroids, key=lambda label: row @ centroids[label] / np.linalg.norm(centroids[label]))
        for row in tested.toarray()
    ]
    assert tasks.NearestCentroid().fit(rows, labels).predict(tested).tolist() == expected


def test_class_indices_beyond_sixteen_bits(tmp_path, checkpoints):
    classes = [f"c{i:05d}" for i in range(40_000)]
    task = tmp_path / "task"
    task.mkdir()
    frame = pd.DataFrame({"text": ["apple pear", "hammer saw"] * 12, "label": [classes[39_998], classes[39_999]] * 12})
    for split in ("train", "validation", "test"):
        frame.to_parquet(task / f"{split}.parquet")
    sha256 = {name.removesuffix(".parquet"): digest for name, digest in files.sha256_of(task).items()}
    (task / "manifest.json").write_text(json.dumps({"classes": classes, "sha256": sha256}))
    axes = {"model": "bert", "task": "many", "seed": 0}
    finetune(checkpoints["bert"], task, axes, SETTINGS | {"learning_rate": 0.05}, tmp_path / "cell")
    compress(FinetunedCell(tmp_path / "cell", task, EVALUATION), ["full"], tmp_path / "out")
    predicted = pd.read_parquet(tmp_path / "out" / "full" / "predictions.parquet")["full/draw0/1.0.safetensors"]
    assert predicted.min() >= 39_998 and read_references(task, "many").scored[:2] == [39_998, 39_999]
    assert len(read_scores(tmp_path / "out" / "full", read_references(task, "many"))) == 1


def test_intervals_need_no_matrix_of_examples_and_classes():
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(40_000, size=5_000), generator.integers(40_000, size=(2, 5_000))
    predictions[0, :4_000] = labels[:4_000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = [weighted_f1(labels, predicted, 40_000)[0] for predicted in predictions]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024, "KiB"
    expected = [f1_score(labels, predicted, average="weighted", zero_division=0) for predicted in predictions]
    assert np.allclose(scores, expected, atol=1e-12)

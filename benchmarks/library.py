"""Size, accuracy and speed of a library of fifty real fine-tunings of one small BERT.

The base is pre-trained for a minute on docstrings of installed packages. Each fine-tuning tells the docstrings of
another set of packages apart. The speed of restoring is that of a model with the shapes of MiniLM-L6 (22.7 M
parameters), with random weights and random updates.
"""

import argparse
import json
import shutil
import tempfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from benchmarks import common
from ken.library import Library
from ken.options import PRESETS, RULE
from study import corpus
from study.data import docstring_tasks
from study.finetune import finetune
from study.models.classifiers import load_tokenizer
from study.pretrain import pretrain
from study.running import files
from study.training import metrics
from study.training.examples import encode, load_task, predict

PACKAGES = ("matplotlib", "networkx", "pandas", "scipy", "sklearn", "sympy")  # fifty sets of two to four
TEXTS = {"label": "library", "min_words": 15, "max_words": 45, "validation": 40, "test": 100}
PRETRAINING = {
    "learning_rate": 1e-3, "batch_size": 16, "max_length": 64, "vocabulary": 8192, "mask_share": 0.2, "seed": 0,
}  # fmt: skip
FINETUNING = {
    "batch_size": 16, "learning_rate": 5e-4, "warmup_share": 0.1, "weight_decay": 0.01, "max_length": 48,
    "evaluation_batch_size": 64,
}  # fmt: skip
TRIES = 5  # sub-networks whose restoring is timed


def make_base(corpora: dict[str, pd.DataFrame], a: argparse.Namespace, folder: Path) -> None:
    """Pre-train the base and save it in float32."""
    sentences = pd.concat(corpora.values())
    texts = {split: list(part["sentence"]) for split, part in sentences.groupby("split")}
    size = {"hidden_size": a.hidden, "layers": 2, "heads": 4, "intermediate_size": 4 * a.hidden}
    pretrain(texts, "bert", size, PRETRAINING | {"tokens": a.tokens}, folder)
    AutoModel.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)
    (folder / "manifest.json").unlink()  # it has the hash of the weights in half precision


def make_task(corpora: dict[str, pd.DataFrame], classes: tuple[str, ...], train: int, folder: Path) -> None:
    """Write a task as study.tasks does."""
    spec = TEXTS | {"classes": list(classes), "train": train}
    splits = docstring_tasks.build({name: corpora[name] for name in classes}, spec)
    for split, frame in splits.items():
        files.write_parquet(folder / f"{split}.parquet", frame)
    sha256 = {split: files.sha256(folder / f"{split}.parquet") for split in splits}
    files.write_json(folder / "manifest.json", {"classes": list(classes), "sha256": sha256})


def class_sets(count: int) -> list[tuple[str, ...]]:
    """Different sets of two to four packages, in random order."""
    sets = [classes for size in (2, 3, 4) for classes in combinations(PACKAGES, size)]
    return [sets[i] for i in np.random.default_rng(0).permutation(len(sets))[:count]]


def weighted_f1(model_folder: Path, task: Path) -> float:
    """Weighted F1 of a model on the test texts of a task."""
    splits, classes = load_task(task)
    test = encode(splits["test"], classes, load_tokenizer(model_folder, FINETUNING["max_length"]))
    model = AutoModelForSequenceClassification.from_pretrained(model_folder)
    return metrics.scores(test.labels, predict(model, test, FINETUNING["evaluation_batch_size"]))["weighted_f1"]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fill(libraries: dict[str, Library], corpora: dict[str, pd.DataFrame], base: Path, a: argparse.Namespace) -> dict:
    """Fine-tune all models and add them; weighted F1 of the full and of the restored ones, by preset."""
    scores: dict[str, list[float]] = {name: [] for name in ("full", *libraries)}
    for number, classes in enumerate(class_sets(a.models)):
        with tempfile.TemporaryDirectory() as temporary:
            task, tuned, restored = (Path(temporary, name) for name in ("task", "tuned", "restored"))
            make_task(corpora, classes, a.texts, task)
            axes = {"model": "bert", "task": "-".join(classes), "seed": number}
            finetune(base, task, axes, FINETUNING | {"epochs": a.epochs}, tuned)
            scores["full"].append(weighted_f1(tuned, task))
            for preset, library in libraries.items():
                name = f"{number:02}-{axes['task']}"
                library.add(tuned, name, rule=RULE, seed=number, **PRESETS[preset])
                library.restore(name, restored)
                scores[preset].append(weighted_f1(restored, task))
                shutil.rmtree(restored)
        print(number, axes["task"], {name: round(values[-1], 3) for name, values in scores.items()}, flush=True)
    return scores


def sizes_and_scores(libraries: dict[str, Library], scores: dict[str, list[float]], base: Path) -> dict[str, object]:
    """Bytes and weighted F1 of the libraries, after checking all their files."""
    weights, full = (base / "model.safetensors").stat().st_size, np.array(scores["full"])
    numbers: dict[str, object] = {
        "models": len(full), "parameters of the base": weights // 4, "base in float32, bytes": weights,
        "full: weighted F1, mean": full.mean(), "full: weighted F1, lowest": full.min(),
    }  # fmt: skip
    for preset, library in libraries.items():
        start = time.perf_counter()
        library.check_base()
        for name in library.names():
            library.verify(name)
        seconds = time.perf_counter() - start
        size, points = folder_bytes(library.folder), 100 * (np.array(scores[preset]) - full)
        dense = sum(library.entry(name).dense_bytes for name in library.names())
        numbers |= {
            f"{preset}: library, bytes": size,
            f"{preset}: base and library, times the base": (weights + size) / weights,
            f"{preset}: library, share of dense models": size / dense,
            f"{preset}: points to full, mean": points.mean(),
            f"{preset}: points to full, standard error": points.std(ddof=1) / len(points) ** 0.5,
            f"{preset}: points to full, lowest": points.min(),
            f"{preset}: verifying all, s": seconds,
        }
    return numbers


def restoring(folder: Path) -> dict[str, object]:
    """Seconds to restore models with the shapes of MiniLM-L6, and to read or copy a dense checkpoint instead."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    model.bert.save_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 2e-4 * torch.randn_like(parameter)
    model.save_pretrained(folder / "tuned")
    entries = sum(parameter.numel() for parameter in model.parameters())
    library, dense = Library.create(folder / "library", folder / "base"), folder / "tuned" / "model.safetensors"
    out = folder / "out"

    def timed(work, *arguments: object) -> float:
        def run() -> None:
            shutil.rmtree(out, ignore_errors=True)
            work(*arguments)

        return common.seconds_of(run, TRIES) * 20e6 / entries

    def read_dense() -> None:
        model.load_state_dict(load_file(dense))

    numbers: dict[str, object] = {"restored model, parameters": entries}
    numbers["copying a dense folder, s per 20 M"] = timed(lambda: shutil.copytree(folder / "tuned", out))
    numbers["load_state_dict of a dense file, s per 20 M"] = timed(read_dense)
    for preset in PRESETS:
        library.add(folder / "tuned", preset, rule=RULE, **PRESETS[preset])
        numbers[f"{preset}: restoring to a folder, s per 20 M"] = timed(library.restore, preset, out)
        numbers[f"{preset}: restoring in memory, s per 20 M"] = timed(
            lambda name: library.load(name).apply(library.pretrained), preset
        )
    return numbers


def main() -> None:
    parser = common.parser("Fill a library with real fine-tunings of a small BERT; size, accuracy and speed.")
    parser.add_argument("--models", type=int, default=50, help="at most 50")
    parser.add_argument("--hidden", type=int, default=192, help="width of the BERT")
    parser.add_argument("--tokens", type=int, default=150_000, help="of pre-training")
    parser.add_argument("--texts", type=int, default=240, help="of a training set")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["small", "balanced"])
    a = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        numbers: dict[str, object] = {"restoring threads": 1} | restoring(Path(temporary, "restoring"))
        print(json.dumps(numbers, indent=1), flush=True)
    torch.set_num_threads(a.threads)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "base")
        corpora = {name: corpus.extract(name) for name in PACKAGES}
        make_base(corpora, a, base)
        libraries = {preset: Library.create(Path(temporary, preset), base) for preset in a.presets}
        scores = fill(libraries, corpora, base, a)
        numbers |= {"threads": a.threads, "tokens of pre-training": a.tokens, "texts": a.texts, "epochs": a.epochs}
        numbers |= sizes_and_scores(libraries, scores, base)
    common.finish("library", numbers, a.out)


if __name__ == "__main__":
    main()

"""Size, speed and accuracy of fine-tuned models stored by `ken` and by other libraries, on one pair of checkpoints.

Each library writes its files, and restores the model from them and the base. Libraries that are not installed
(`pip install -r envs/rivals.txt`) are named.
"""

import importlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from benchmarks import common
from benchmarks.rival_libraries import PairFolders, Rival, Tensors, ours, rivals
from ken.errors import UserError, run
from study.models.classifiers import load_tokenizer
from study.training import metrics
from study.training.examples import encode, load_task, predict

BATCH = 32  # texts, of the evaluation
Scorer = Callable[[Tensors], float]


def weights_of(path: Path) -> Tensors:
    """The tensors of a safetensors file, or of the one in a checkpoint folder.

    Raises:
        UserError: there is no such file.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} does not exist: name a safetensors file, or a folder with model.safetensors.")
    return load_file(file)


def prepare(pretrained: Path | None, finetuned: Path, out: Path) -> PairFolders:
    """Write base and fine-tuned model with equal names and shapes.

    Args:
        pretrained: file or folder of the base. Where it has no value of the same shape, the base is zero; such tensors
            are the head. None: initial.safetensors of `finetuned`, whose manifest.json names the head.
        finetuned: folder of the fine-tuned model, with config.json.

    Raises:
        UserError: a file is missing, or the two models share no tensor.
    """
    source = pretrained or finetuned / "initial.safetensors"
    tuned, base = weights_of(finetuned), weights_of(source)
    shared = {name for name, tensor in tuned.items() if name in base and base[name].shape == tensor.shape}
    if not shared:
        raise UserError(f"{source} and {finetuned} share no tensor: their names or shapes differ.")
    head = set() if pretrained else set(json.loads((finetuned / "manifest.json").read_text())["head"])
    base = {name: base[name].to(t.dtype) if name in shared else torch.zeros_like(t) for name, t in tuned.items()}
    pair = PairFolders(*(out / name for name in ("base", "finetuned", "pretrained")))
    contents = {
        pair.base: base,
        pair.finetuned: tuned,
        pair.pretrained: {name: base[name] for name in shared - head},
    }
    for folder, tensors in contents.items():
        folder.mkdir(parents=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        if (finetuned / "config.json").exists():
            shutil.copy(finetuned / "config.json", folder)
    return pair


def scorer(finetuned: Path, task: Path, max_length: int) -> Scorer:
    """A function from the tensors of a model to its weighted F1 on the test texts of a task."""
    from transformers import AutoModelForSequenceClassification

    splits, classes = load_task(task)
    test = encode(splits["test"], classes, load_tokenizer(finetuned, max_length))
    model = AutoModelForSequenceClassification.from_pretrained(finetuned)

    def weighted_f1(tensors: Tensors) -> float:
        model.load_state_dict(tensors)
        return metrics.scores(test.labels, predict(model, test, BATCH))["weighted_f1"]

    return weighted_f1


def relative_error(restored: Tensors, finetuned: Tensors, base: Tensors) -> float:
    """||restored - finetuned|| / ||finetuned - base|| over the tensors of `base`."""
    error = sum((restored[name].double() - finetuned[name].double()).square().sum().item() for name in base)
    update = sum((finetuned[name].double() - base[name].double()).square().sum().item() for name in base)
    return math.sqrt(error / update)


def measure(rival: Rival, pair: PairFolders, score: Scorer | None) -> dict[str, object]:
    """Size, seconds, relative error of the body's update, and weighted F1 of one library.

    Raises:
        ValueError: the restored model has other tensors than the fine-tuned one.
    """
    importlib.import_module(rival.module)
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        rival.write(pair, Path(temporary))
        written = time.perf_counter()
        stored = sum(path.stat().st_size for path in Path(temporary).rglob("*") if path.is_file())
        reading = time.perf_counter()
        restored = rival.restore(pair, Path(temporary))
        done = time.perf_counter()
    finetuned, pretrained = (load_file(folder / "model.safetensors") for folder in (pair.finetuned, pair.pretrained))
    if restored.keys() != finetuned.keys():
        raise ValueError(f"tensors missing or added: {', '.join(sorted(restored.keys() ^ finetuned.keys()))}")
    measured: dict[str, object] = {
        "share of the dense file": stored / pair.files[1].stat().st_size,
        "writing, s": written - start,
        "restoring, s": done - reading,
        "relative error": relative_error(restored, finetuned, pretrained),
        "exact": all(torch.equal(restored[name], tensor) for name, tensor in finetuned.items()),
    }
    return measured | ({"weighted F1": score(restored)} if score else {})


def compare(candidates: Sequence[Rival], pair: PairFolders, score: Scorer | None = None) -> tuple[dict, list[str]]:
    """Measure all libraries that are installed.

    Returns:
        label -> what -> value; and one sentence for each library that is not installed or failed.
    """
    table, notes = {}, []
    for rival in candidates:
        if not rival.installed:
            notes.append(f"{rival.package} is not installed")
            continue
        try:
            table[rival.label] = measure(rival, pair, score)
        except Exception as error:  # of any kind: one library must not end the comparison of the others
            notes.append(f"{rival.label} failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return table, list(dict.fromkeys(notes))


def shown(table: dict[str, dict], notes: Sequence[str]) -> str:
    """The table, smallest files first, and the notes below it."""
    frame = pd.DataFrame.from_dict(table, orient="index")
    if len(frame):
        frame = frame.sort_values("share of the dense file")
    forms = {"share of the dense file": "{:.2%}".format, "writing, s": "{:.2f}".format, "restoring, s": "{:.2f}".format}
    forms |= {"relative error": "{:.3f}".format, "weighted F1": "{:.4f}".format}
    return "\n".join([frame.to_string(formatters=forms), *notes])


def main() -> None:
    parser = common.parser("Store and restore one fine-tuned model with ken and with other libraries.")
    parser.add_argument("--finetuned", type=Path, required=True, help="folder of the model, such as that of a cell")
    parser.add_argument("--pretrained", type=Path, help="the base (default: initial.safetensors of --finetuned)")
    parser.add_argument("--task", type=Path, help="task folder, for weighted F1 on its test texts")
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a text")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    score = scorer(a.finetuned, a.task, a.max_length) if a.task else None
    with tempfile.TemporaryDirectory() as temporary:
        pair = prepare(a.pretrained, a.finetuned, Path(temporary))
        dense = weights_of(pair.finetuned)
        numbers: dict[str, object] = {
            "threads": a.threads,
            "parameters": sum(tensor.numel() for tensor in dense.values()),
            "dense file, bytes": pair.files[1].stat().st_size,
        }
        if score:
            numbers["dense: weighted F1"] = score(dense)
        candidates = [*ours(), *rivals()]
        table, notes = compare(candidates, pair, score)
    print(shown(table, notes))
    numbers["versions"] = {r.package: r.version for r in candidates if r.package and r.installed}
    numbers["notes"] = notes
    numbers |= {f"{label}: {what}": value for label, row in table.items() for what, value in row.items()}
    common.record("rivals", numbers, a.out)


if __name__ == "__main__":
    run(main)

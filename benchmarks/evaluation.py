"""Time to evaluate many sub-networks of one model, compared with the straightforward way.

Straightforward: for every budget, read the file, make the compressed state dict, load it into the model, tokenise the
texts and evaluate them in their order, in batches padded to the longest text. The study tokenises once, sorts and pads
the batches once for all budgets, and writes only the entries that change into the live model. Both restore the same
files and must predict the same classes.

Two cells: one with a model of the default study, and one of the size of MPNet-base with random weights.
"""

import copy
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from benchmarks import common
from ken import selection
from ken.subnetwork import Subnetwork
from study.running import provenance
from study.training.examples import Examples, Predictor, encode

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / "checkpoints" / "bert"
CLASSES = ["a", "b", "c", "d", "e", "f"]


def default_model(folder: Path) -> nn.Module:
    """A classifier of the default study's size, with the body of a committed checkpoint."""
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(CLASSES)).eval()


def real_model(layers: int) -> nn.Module:
    """A classifier of the size of MPNet-base, with random weights."""
    from transformers import MPNetConfig

    config = MPNetConfig(num_labels=len(CLASSES), num_hidden_layers=layers)
    return AutoModelForSequenceClassification.from_config(config).eval()


def make_texts(count: int, words: int, seed: int = 0) -> pd.DataFrame:
    """Texts of random words; their numbers of words are log-normal, as in running text, with a mean of `words`."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(words), 0.5, count), 3, 4 * words).astype(int)
    vocabulary = ["matrix", "sample", "graph", "signal", "sparse", "solver", "the", "of", "a", "returns", "value"]
    texts = [" ".join(rng.choice(vocabulary, length)) for length in lengths]
    return pd.DataFrame({"text": texts, "label": rng.choice(CLASSES, count)})


def write_files(model: nn.Module, shares: list[float], folder: Path) -> tuple[dict, list[Path]]:
    """Base values of the body and the files of sub-networks of a model with small random updates."""
    head = {name for name, _ in model.named_parameters() if name.startswith("classifier")}
    base = {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name not in head}
    tuned = {name: tensor + 0.002 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    ranks = selection.rank_tensors(tuned, base, "random", seed=0)
    paths = [folder / f"{share}.safetensors" for share in shares]
    for share, path in zip(shares, paths, strict=True):
        Subnetwork.from_ranks(base, tuned, ranks, share, "random").save(path)
    return base, paths


@torch.inference_mode()
def straightforward(
    model: nn.Module, base: dict, path: Path, texts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> np.ndarray:
    """Restore one file and evaluate it, without anything that is shared with other files."""
    model.load_state_dict(Subnetwork.load(path).apply(base))
    predictions = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts["text"].iloc[start : start + batch_size])
        encoded = tokenizer(batch, truncation=True, padding=True, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        predictions.append(model(**{name: encoded[name] for name in names}).logits.argmax(1))
    return torch.cat(predictions).numpy()


def shared(model: nn.Module, predictor: Predictor, path: Path) -> np.ndarray:
    """Restore one file and evaluate it, as the study does."""
    Subnetwork.load(path).inject(model)
    return predictor(model)


def measure(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: pd.DataFrame, shares: list[float], batch_size: int
) -> dict[str, float]:
    """Seconds of both ways for all files, which take turns, and the share of equal predictions."""
    seconds, equal = [0.0, 0.0], []
    with tempfile.TemporaryDirectory() as name:
        base, paths = write_files(model, shares, Path(name))
        live = copy.deepcopy(model)
        start = time.perf_counter()
        examples: Examples = encode(texts, CLASSES, tokenizer)
        predictor = Predictor(examples, batch_size)
        seconds[1] = time.perf_counter() - start
        for path in paths:
            start = time.perf_counter()
            plain = straightforward(model, base, path, texts, tokenizer, batch_size)
            middle = time.perf_counter()
            ours = shared(live, predictor, path)
            seconds[0] += middle - start
            seconds[1] += time.perf_counter() - middle
            equal.append(np.mean(plain == ours))
    tokens = sum(map(len, examples.ids)) / len(texts)
    return {
        "before, s": seconds[0],
        "after, s": seconds[1],
        "before, times after": seconds[0] / seconds[1],
        "share of equal predictions": float(np.mean(equal)),
        "tokens of a text": tokens,
    }


def main() -> None:
    parser = common.parser("Time evaluating many sub-networks of one model against the straightforward way.")
    parser.add_argument("--texts", type=int, default=1000, help="texts of the real encoder; 300 of the default study")
    parser.add_argument("--budgets", type=int, default=40, help="sub-networks of each model")
    parser.add_argument("--layers", type=int, default=12, help="layers of the real encoder")
    parser.add_argument("--words", type=int, default=30, help="mean number of words of a text")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    provenance.make_deterministic(0)
    from study.models.classifiers import load_tokenizer

    tokenizer = load_tokenizer(DEFAULT, 128)
    shares = np.linspace(0.02, 0.9, a.budgets).round(4).tolist()
    cells = {
        "default cell (BERT, 2 layers, 300 texts)": (default_model(DEFAULT), 300),
        f"MPNet-base size, {a.layers} layers, {a.texts:,} texts": (real_model(a.layers), a.texts),
    }
    numbers: dict[str, object] = {"budgets": a.budgets, "threads": a.threads}
    for name, (model, count) in cells.items():
        found = measure(model, tokenizer, make_texts(count, a.words), shares, batch_size=32)
        numbers |= {f"{name}: {key}": value for key, value in found.items()}
    common.finish("evaluation", numbers, a.out)


if __name__ == "__main__":
    main()

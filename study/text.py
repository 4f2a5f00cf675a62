"""Make running text for language models: documents for training, validation and test.

A document is the docstring prose of one source file, or a part of a text file or data-set column with at least
`DOCUMENT_WORDS` words. Confidence intervals of perplexity resample documents.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ken.errors import UserError
from study import corpus
from study.data import hub_tasks, table_files
from study.definition.paths import SPLITS
from study.definition.step import parse_step
from study.running import files, provenance
from study.running.workflow import run

DOCUMENT_WORDS = 500
VALIDATION_EVERY = 10  # without a validation part, every tenth document of train is used
HELD_OUT_WORDS = 200  # largest number of words of one source file in validation and test: more files are represented


def from_docstrings(corpora: Iterable[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """split -> documents, one for each source file, ordered by the hash of its path."""
    rows = pd.concat(corpora, ignore_index=True)
    documents = rows.groupby(["split", "file"], sort=False)["sentence"].agg(" ".join).reset_index()
    held_out = documents["split"] != "train"
    cut = documents["sentence"].str.split().str[:HELD_OUT_WORDS].str.join(" ")
    documents["sentence"] = documents["sentence"].mask(held_out, cut)
    order = [hashlib.sha256(name.encode()).hexdigest() for name in documents["file"]]
    documents = documents.assign(order=order).sort_values("order")
    documents = documents.rename(columns={"file": "document", "sentence": "text"})
    return {split: documents.loc[documents["split"] == split, ["document", "text"]] for split in SPLITS}


def from_lines(lines: Iterable[str], name: str) -> pd.DataFrame:
    """Documents of consecutive lines with at least `DOCUMENT_WORDS` words; the last one may be shorter."""
    rows = [(f"{name}:{index}", text) for index, text in enumerate(_joined(lines))]
    return pd.DataFrame(rows, columns=["document", "text"])


def _joined(lines: Iterable[str]) -> Iterator[str]:
    part: list[str] = []
    words = 0
    for line in lines:
        part.append(line.rstrip("\n"))
        words += len(line.split())
        if words >= DOCUMENT_WORDS:
            yield "\n".join(part)
            part, words = [], 0
    if words:
        yield "\n".join(part)


def from_files(spec: dict) -> dict[str, pd.DataFrame]:
    """split -> documents of text files.

    Raises:
        UserError: a file is not UTF-8.
    """
    documents = {}
    for split in (split for split in SPLITS if split in spec):
        try:
            documents[split] = from_lines(Path(spec[split]).read_text(encoding="utf-8").splitlines(), split)
        except UnicodeDecodeError:
            raise UserError(f"{spec[split]} is not UTF-8 text: convert it to UTF-8.") from None
    return with_validation(documents)


def from_hub(spec: dict) -> tuple[dict[str, pd.DataFrame], dict[str, object]]:
    """split -> documents of a data set's splits train, validation and test, and their origin on the hub.

    Raises:
        UserError: see `hub_tasks.fetch_splits` and `table_files.read_columns`.
    """
    column = spec["text"]
    snapshot, shards = hub_tasks.fetch_splits(spec, list(SPLITS))
    documents = {}
    for split in SPLITS:
        lines = [line for path in shards[split] for line in table_files.read_columns(path, [column])[column]]
        documents[split] = from_lines(lines, split)
    return documents, snapshot.origin()


def with_validation(documents: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Move every tenth document of train to validation if there is no validation part."""
    if "validation" in documents:
        return documents
    train = documents["train"]
    chosen = np.arange(len(train)) % VALIDATION_EVERY == VALIDATION_EVERY - 1
    return documents | {"train": train[~chosen], "validation": train[chosen]}


def first_words(documents: pd.DataFrame, words: int) -> pd.DataFrame:
    """The first documents with at most `words` words together, at least one document."""
    counts = documents["text"].str.split().str.len()
    number = max(1, int((counts.cumsum() <= words).sum()))
    return documents.head(number).reset_index(drop=True)


def build(spec: dict, corpora: list[Path]) -> tuple[dict[str, pd.DataFrame], dict[str, object] | None]:
    """split -> documents (columns document and text), and their origin on the hub or None.

    Args:
        spec: the config's section `text` (source "docstrings", "files" or "hub").
        corpora: Parquet files of study.corpus, for docstrings.

    Raises:
        UserError: a part has no text.
    """
    origin = None
    if spec["source"] == "docstrings":
        documents = from_docstrings(map(corpus.read, corpora))
    elif spec["source"] == "files":
        documents = from_files(spec)
    else:
        documents, origin = from_hub(spec)
    limits = {"train": spec["train_words"], "validation": spec["test_words"], "test": spec["test_words"]}
    result = {}
    for split in SPLITS:
        if documents[split].empty:
            raise UserError(f"the text has no documents in its part {split}: give a longer text.")
        result[split] = first_words(documents[split], limits[split])
    return result, origin


def main() -> None:
    a, study, paths = parse_step("Make the running text of an experiment on language models.", "experiment")
    spec = study.text_settings(a.experiment)
    documents, origin = build(spec, [paths.corpus(package) for package in spec.get("packages", [])])
    with files.replacing_folder(paths.text(a.experiment)) as folder:
        for split, frame in documents.items():
            files.write_parquet(folder / f"{split}.parquet", frame)
        manifest = provenance.write_manifest(
            folder,
            spec=spec,
            hub=origin,
            documents={split: len(frame) for split, frame in documents.items()},
            words={split: int(frame["text"].str.split().str.len().sum()) for split, frame in documents.items()},
        )
    print(", ".join(f"{split}: {count:,} words" for split, count in manifest["words"].items()))


if __name__ == "__main__":
    run(main)

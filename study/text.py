"""Running text for language models: documents of a training, a validation and a held-out part.

A document is the prose of one source file, or a part of a text file or of a data set's column with at least
`DOCUMENT_WORDS` words: what intervals of perplexity are resampled by.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from ken import hub
from ken.errors import UserError
from study.corpus import SPLITS
from study.data import hub_tasks
from study.definition.step import parse_step
from study.running import files, provenance
from study.running.workflow import run

DOCUMENT_WORDS = 500
VALIDATION_EVERY = 10  # without a validation part, which documents of train become it
HELD_OUT_WORDS = 200  # of one source file at most, so that many files stand behind a number


def from_docstrings(corpora: Iterable[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """split -> documents, a source file each, in an order by the hash of its path."""
    rows = pd.concat(corpora, ignore_index=True)
    documents = rows.groupby(["split", "file"], sort=False)["sentence"].agg(" ".join).reset_index()
    held_out = documents["split"] != "train"
    cut = documents["sentence"].str.split().str[:HELD_OUT_WORDS].str.join(" ")
    documents["sentence"] = documents["sentence"].mask(held_out, cut)
    order = [hashlib.sha256(name.encode()).hexdigest() for name in documents["file"]]
    documents = documents.assign(order=order).sort_values("order").rename(columns={"file": "document"})
    documents = documents.rename(columns={"sentence": "text"})
    return {split: documents.loc[documents["split"] == split, ["document", "text"]] for split in SPLITS}


def from_lines(lines: Iterable[str], name: str) -> pd.DataFrame:
    """Documents of running text: consecutive lines with at least `DOCUMENT_WORDS` words, the last perhaps fewer."""
    rows = [(f"{name}:{place}", text) for place, text in enumerate(_joined(lines))]
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
    found = {}
    for split in (split for split in SPLITS if split in spec):
        try:
            found[split] = from_lines(Path(spec[split]).read_text(encoding="utf-8").splitlines(), split)
        except UnicodeDecodeError:
            raise UserError(f"{spec[split]} is not text in UTF-8: convert it.") from None
    return with_validation(found)


def from_hub(spec: dict) -> tuple[dict[str, pd.DataFrame], dict[str, object]]:
    """split -> documents of a data set's splits train, validation and test, and where on the hub they come from.

    Raises:
        UserError: see `ken.hub.fetch` and `hub_tasks.parquet_files`; or there is no such column.
    """
    wanted = list(SPLITS)
    snapshot = hub.fetch(
        spec["repository"],
        "dataset",
        spec["revision"],
        lambda listed: [name for shards in hub_tasks.parquet_files(listed, spec, wanted).values() for name in shards],
    )
    shards = hub_tasks.parquet_files(snapshot.names, spec, wanted)
    found = {}
    for split in SPLITS:
        try:
            parts = [pd.read_parquet(snapshot.folder / name, columns=[spec["text"]]) for name in shards[split]]
        except (ValueError, OSError) as error:
            raise UserError(
                f'{spec["repository"]} has no column "{spec["text"]}" in its split {split}: correct text.'
            ) from error
        found[split] = from_lines(pd.concat(parts)[spec["text"]], split)
    return found, snapshot.origin()


def with_validation(documents: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same with every tenth document of train as validation where there is none."""
    if "validation" in documents:
        return documents
    train = documents["train"]
    chosen = [place % VALIDATION_EVERY == VALIDATION_EVERY - 1 for place in range(len(train))]
    kept = [not own for own in chosen]
    return documents | {"train": train[kept], "validation": train[chosen]}


def first_words(documents: pd.DataFrame, words: int) -> pd.DataFrame:
    """The first documents, so many that they have at most `words` words, and at least one."""
    counts = documents["text"].str.split().str.len()
    number = max(1, int((counts.cumsum() <= words).sum()))
    return documents.head(number).reset_index(drop=True)


def build(spec: dict, corpora: list[Path]) -> tuple[dict[str, pd.DataFrame], dict[str, object] | None]:
    """split -> documents (columns document and text) as a config's section `text` says, and their origin on the hub.

    Raises:
        UserError: a part has no text.
    """
    origin = None
    if spec["source"] == "docstrings":
        found = from_docstrings(pd.read_parquet(path) for path in corpora)
    elif spec["source"] == "files":
        found = from_files(spec)
    else:
        found, origin = from_hub(spec)
    limits = {"train": spec["train_words"], "validation": spec["test_words"], "test": spec["test_words"]}
    result = {}
    for split in SPLITS:
        if found[split].empty:
            raise UserError(f"the text has no documents in its part {split}: give a longer text.")
        result[split] = first_words(found[split], limits[split])
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

"""Tasks from data sets of the Hugging Face hub. Only their Parquet files are read; loading scripts are never run."""

import re
from pathlib import Path

import pandas as pd

from ken import hub
from ken.errors import UserError, did_you_mean
from study.data import local_files
from study.definition.paths import SPLITS

ADVICE = "name a split that has labels (splits: {train: train, test: validation} where those of test are hidden)"


def prepare(spec: dict) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str], dict[str, object]]:
    """Fetch and clean the splits of a task.

    Without a test split, the validation split is the test set. Without a validation split, a stratified part of train
    is used.

    Args:
        spec: the task's section of the config: repository, revision, splits, text, label, and optionally config,
            validation_share and seed.

    Returns:
        train, validation, test (columns text and label, str), notes, and the origin of the files on the hub.

    Raises:
        UserError: see `fetch_splits` and `local_files.prepare`.
    """
    splits, notes = dict(spec["splits"]), []
    if "test" not in splits:
        splits["test"] = splits.pop("validation")
        notes.append(f'test: the split "{splits["test"]}", since no test split is named')
    snapshot, shards = fetch_splits(spec, sorted(splits.values()))
    origin = snapshot.origin() | {"config": spec.get("config"), "splits": splits}
    frames, names = {}, {}
    for split in [name for name in SPLITS if name in splits]:
        names[split] = f"{spec['repository']}, split {splits[split]}"
        parts = [
            local_files.load_split(path, spec["text"], spec["label"], advice=ADVICE) for path in shards[splits[split]]
        ]
        frames[split] = pd.concat(parts, ignore_index=True)
    *cleaned, more = local_files.clean(frames, names, spec)
    return *cleaned, notes + more, origin


def fetch_splits(spec: dict, wanted: list[str]) -> tuple[hub.Snapshot, dict[str, list[Path]]]:
    """Fetch the Parquet files of some splits of a data set.

    Args:
        spec: repository, revision and optionally config.

    Returns:
        The files' snapshot, and split -> paths of its files in order.

    Raises:
        UserError: see `hub.fetch` and `parquet_files`.
    """

    def choose(listed: list[str]) -> list[str]:
        return [name for names in parquet_files(listed, spec, wanted).values() for name in names]

    snapshot = hub.fetch(spec["repository"], "dataset", spec["revision"], choose)
    shards = parquet_files(snapshot.names, spec, wanted)
    return snapshot, {split: [snapshot.folder / name for name in names] for split, names in shards.items()}


def parquet_files(listed: list[str], spec: dict, wanted: list[str]) -> dict[str, list[str]]:
    """Names of the files of some splits: split -> names in order.

    Two layouts are known: that of the hub's conversion (``config/split/0000.parquet``) and that of `datasets`
    (``config/split-00000-of-00002.parquet``; a single configuration may be in the folder ``data`` or at the top).

    Raises:
        UserError: the repository has no Parquet files, or lacks the configuration or a split.
    """
    what = f"{spec['repository']} at revision {spec['revision']}"
    configs: dict[str, dict[str, list[str]]] = {}
    for name in sorted(name for name in listed if name.endswith(".parquet")):
        config, split = _config_and_split(name)
        configs.setdefault(config, {}).setdefault(split, []).append(name)
    if not configs:
        raise UserError(
            f"{what} has no Parquet files, and loading scripts are never run: set revision to refs/convert/parquet, "
            "where the hub keeps its own conversion, or name another repository."
        )
    config = spec.get("config") or (next(iter(configs)) if len(configs) == 1 else None)
    if config is None:
        raise UserError(f"{what} has {len(configs)} configurations: name one as config.{did_you_mean('', configs)}")
    if config not in configs:
        raise UserError(f'{what} has no configuration "{config}".{did_you_mean(config, configs)}')
    splits = configs[config]
    for split in wanted:
        if f"partial-{split}" in splits:
            raise UserError(f'{what} holds only a part of the split "{split}": name a revision with all of it.')
        if split not in splits:
            raise UserError(f'{what} has no split "{split}".{did_you_mean(split, splits)}')
    return {split: splits[split] for split in wanted}


def _config_and_split(name: str) -> tuple[str, str]:
    """Configuration and split of a Parquet file, from its name in the repository."""
    *folders, file = name.split("/")
    stem = file.removesuffix(".parquet")
    numbered = folders and re.fullmatch(r"\d+", stem)
    split = folders.pop() if numbered else re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", stem)
    config = "/".join(folders)
    return "default" if config in ("", "data") else config, split

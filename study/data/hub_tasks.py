"""Tasks from data sets of the Hugging Face hub: their Parquet files, read by Arrow; loading scripts are never run."""

import re

import pandas as pd

from ken.errors import UserError, did_you_mean
from study.data import local_files as local_data
from study.running import hub

ADVICE = "name a split that has labels (splits: {train: train, test: validation} where those of test are hidden)"


def prepare(spec: dict) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str], dict[str, object]]:
    """Fetch and clean the splits of a task.

    Without a test split the validation split is the test set; without one for validation a stratified part of train
    becomes it.

    Args:
        spec: the task's section of the config: repository, revision, splits, text, label and where given config,
            validation_share, seed.

    Returns:
        train, validation, test (columns text and label, str), notes, and where on the hub it all comes from.

    Raises:
        UserError: see `hub.fetch`, `parquet_files` and `local_data.prepare`.
    """
    splits, notes = dict(spec["splits"]), []
    if "test" not in splits:
        splits["test"] = splits.pop("validation")
        notes.append(f'test: the split "{splits["test"]}", since no test split is named')
    wanted = sorted(splits.values())
    snapshot = hub.fetch(
        spec["repository"],
        "dataset",
        spec["revision"],
        lambda listed: [name for shards in parquet_files(listed, spec, wanted).values() for name in shards],
    )
    shards = parquet_files(snapshot.names, spec, wanted)
    origin = snapshot.origin() | {"config": spec.get("config"), "splits": splits}
    frames, paths = {}, {}
    for split in [name for name in ("train", "validation", "test") if name in splits]:
        paths[split] = f"{spec['repository']}, split {splits[split]}"
        places = [snapshot.folder / name for name in shards[splits[split]]]
        parts = [local_data.load_split(place, spec["text"], spec["label"], advice=ADVICE) for place in places]
        frames[split] = pd.concat(parts, ignore_index=True)
    *cleaned, more = local_data.clean(frames, paths, spec)
    return *cleaned, notes + more, origin


def parquet_files(listed: list[str], spec: dict, wanted: list[str]) -> dict[str, list[str]]:
    """Files of the wanted splits, in order.

    The layouts are those of the hub's conversion (``config/split/0000.parquet``) and of `datasets`
    (``config/split-00000-of-00002.parquet``, the folder ``data`` or none for the only configuration).

    Raises:
        UserError: the repository has no Parquet files, or not this configuration or split.
    """
    what = f"{spec['repository']} at revision {spec['revision']}"
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(name for name in listed if name.endswith(".parquet")):
        config, split = _place(name)
        found.setdefault(config, {}).setdefault(split, []).append(name)
    if not found:
        raise UserError(
            f"{what} has no Parquet files, and loading scripts are never run: set revision to refs/convert/parquet, "
            "where the hub keeps its own conversion, or name another repository."
        )
    config = spec.get("config") or (next(iter(found)) if len(found) == 1 else None)
    if config is None:
        raise UserError(f"{what} has {len(found)} configurations: name one as config.{did_you_mean('', found)}")
    if config not in found:
        raise UserError(f'{what} has no configuration "{config}".{did_you_mean(config, found)}')
    for split in wanted:
        if f"partial-{split}" in found[config]:
            raise UserError(f'{what} holds only a part of the split "{split}": name a revision with all of it.')
        if split not in found[config]:
            raise UserError(f'{what} has no split "{split}".{did_you_mean(split, found[config])}')
    return {split: found[config][split] for split in wanted}


def _place(name: str) -> tuple[str, str]:
    """Configuration and split of a Parquet file, from its path."""
    *folders, file = name.split("/")
    stem = file.removesuffix(".parquet")
    numbered = folders and re.fullmatch(r"\d+", stem)
    split = folders.pop() if numbered else re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", stem)
    config = "/".join(folders)
    return "default" if config in ("", "data") else config, split

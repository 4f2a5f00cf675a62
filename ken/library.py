"""A library: a folder with many sub-networks of one pre-trained base, which stays where it is.

`library.json` names the base and its fingerprint. Each sub-network has a folder of its own with its file and
`entry.json`. Such a folder is made under a hidden name and then renamed, so that it is there whole or not at all, and
several processes can add at the same time without a lock.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from ken import streaming
from ken.any_subnetwork import SUFFIX
from ken.coded import CodedSubnetwork
from ken.errors import did_you_mean
from ken.files import path_exists, replacing
from ken.pairing import opened_base
from ken.sources import AnySource, Fingerprint, Source, fingerprint, open_source
from ken.storage import AnyReader, open_reader
from ken.subnetwork import Subnetwork

FORMAT = "ken-library-1"
INDEX, ENTRY = "library.json", "entry.json"
_NAME = re.compile(r"\w([\w.+-]{0,98}\w)?")


@dataclass(frozen=True)
class Entry:
    """What a library records of a sub-network.

    Attributes:
        name: in the library.
        bytes: of the file. dense_bytes: of all tensors of the restored model.
        added: time in UTC, ISO 8601.
        restored: SHA-256 over names, dtypes, shapes and bytes of the restored tensors.
        method, k, rule, scope, values, positions, seed: how the sub-network was made.
        labels: names of the model's classes, as far as its config.json names them.
        notes: what `ken.prune` said about the pair, mostly nothing.
    """

    name: str
    bytes: int
    dense_bytes: int
    added: str
    restored: str
    method: str
    k: int | float | None
    rule: str
    scope: str
    values: str
    positions: str
    seed: int
    labels: list[str]
    notes: list[str]


class Library:
    """Many sub-networks of one base in a folder.

    Attributes:
        folder: of the library.
        pretrained: the base, an absolute path or a hub repository.
        fingerprint: of all tensors of the base.

    Raises:
        ValueError: the folder is no library.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / INDEX
        if not path_exists(path):
            raise ValueError(f"{folder} is not a library: make one with `ken library init`.")
        contents = _read(path, {"format", "pretrained", "fingerprint"}, "make the library again")
        if contents["format"] != FORMAT:
            raise ValueError(f"{folder} has format {contents['format']}, expected {FORMAT}: install a newer ken.")
        self.pretrained, self.fingerprint = str(contents["pretrained"]), str(contents["fingerprint"])

    @classmethod
    def create(cls, folder: str | Path, pretrained: str | Path, replace: bool = False) -> "Library":
        """Make an empty library.

        Args:
            folder: new or empty.
            pretrained: the base: a checkpoint folder, a safetensors file or a hub repository. It is not copied.
            replace: name another location of the same base in an existing library.

        Raises:
            ValueError: the folder is not empty, there is no such base, or an existing library has another base.
        """
        folder = Path(folder)
        if (folder / INDEX).exists():
            if not replace:
                raise ValueError(f"{folder} is a library already: name another folder, or give --replace.")
            expected = cls(folder).fingerprint
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and is not an empty folder: name another one.")
        else:
            expected = None
        found = fingerprint(pretrained)
        if expected not in (None, found):
            raise ValueError(_other_base(folder, pretrained, found, expected))
        location = os.path.abspath(pretrained) if path_exists(pretrained) else str(pretrained)
        with replacing(folder / INDEX) as temporary:
            _write(temporary, {"format": FORMAT, "pretrained": location, "fingerprint": found})
        return cls(folder)

    def add(self, finetuned: AnySource, name: str | None = None, replace: bool = False, **choice: object) -> Entry:
        """Prune a fine-tuned model and add the result.

        Args:
            finetuned: a checkpoint folder, safetensors file, hub repository, module or state dict.
            name: by default that of the folder or repository.
            replace: whether a sub-network of this name may be replaced.
            choice: arguments of `ken.prune`, such as `k` (required), `values` and `positions`.

        Raises:
            ValueError: the name is not valid or taken, the base has changed, or as `ken.prune`.
        """
        if name is None:
            if not isinstance(finetuned, str | Path):
                raise ValueError("a model in memory has no name: give one.")
            name = default_name(finetuned)
        self._check_new(name, replace)
        self.check_base()
        with self._new_folder(name, replace) as folder:
            notes = streaming.prune(self.pretrained, finetuned, _file(folder, name), **choice)
            return self._write_entry(folder, name, notes)

    def add_file(self, path: str | Path, name: str | None = None, replace: bool = False) -> Entry:
        """Add a copy of a sub-network file.

        Args:
            path: written by `ken.prune` or `Subnetwork.save`.
            name: by default that of the file.
            replace: whether a sub-network of this name may be replaced.

        Raises:
            ValueError: the name is not valid or taken, or the file is damaged or of another base.
            FileNotFoundError: there is no such file.
        """
        open_reader(Path(path))  # its sentence names the file, not the copy
        name = default_name(path) if name is None else name
        self._check_new(name, replace)
        self.check_base()
        with self._new_folder(name, replace) as folder:
            shutil.copyfile(path, _file(folder, name))
            try:
                return self._write_entry(folder, name, [])
            except ValueError as error:
                raise ValueError(f"{path} does not fit the base of {self.folder}, {self.pretrained}: {error}") from None

    def names(self) -> list[str]:
        """Names of all sub-networks, sorted."""
        folders = (path.parent for path in self.folder.glob(f"*/{ENTRY}"))
        return sorted(folder.name for folder in folders if not folder.name.startswith("."))

    def entry(self, name: str) -> Entry:
        """The record of a sub-network.

        Raises:
            ValueError: there is none of this name, or its record is damaged.
        """
        path = self.path(name).parent / ENTRY
        fields = set(Entry.__dataclass_fields__)
        advice = "add the sub-network again with --replace"
        record = _read(path, fields, advice)
        kinds = {"bytes": int, "dense_bytes": int, "added": str, "labels": list}
        if not all(isinstance(record[field], kind) for field, kind in kinds.items()) or record["dense_bytes"] < 1:
            raise ValueError(f"{path} is damaged: {advice}.")
        return Entry(**{field: record[field] for field in fields})

    def path(self, name: str) -> Path:
        """The file of a sub-network.

        Raises:
            ValueError: there is none of this name.
        """
        check_name(name)
        if not (self.folder / name / ENTRY).exists():
            hint = did_you_mean(name, self.names()) or " It is empty."
            raise ValueError(f'{self.folder} has no sub-network "{name}".{hint}')
        return _file(self.folder / name, name)

    def load(self, name: str) -> Subnetwork | CodedSubnetwork[Subnetwork]:
        """Read a sub-network; raises ValueError as `path` and `Subnetwork.load`."""
        return Subnetwork.load(self.path(name))

    def swap(self, model: nn.Module, name: str) -> Subnetwork | CodedSubnetwork[Subnetwork]:
        """Inject a sub-network into a live model, in exchange for the one that is in it, if any.

        Args:
            model: with the values of the base, and a head of the shapes of the sub-network.

        Returns:
            The sub-network, whose `eject` restores the base.

        Raises:
            ValueError: as `load` and `Subnetwork.inject`.
        """
        subnetwork = self.load(name)
        subnetwork.inject(model)
        return subnetwork

    def restore(self, name: str, out: str | Path, progress: bool = False, companions: str | Path | None = None) -> None:
        """Write the compressed model as a folder that transformers loads; arguments and errors as `ken.inject`."""
        streaming.inject(self._opened_base(), self.path(name), out, progress, companions)

    def verify(self, name: str) -> None:
        """Check that a file is whole and of this base, and that it restores the weights recorded when it was added.

        Raises:
            ValueError: what is wrong.
            FileNotFoundError: the file is missing.
        """
        entry, reader = self.entry(name), open_reader(self.path(name))
        if restored_digest(self._opened_base(), reader) != entry.restored:
            raise ValueError(f"{reader.path} restores other weights than when it was added: add it again.")

    def remove(self, name: str) -> None:
        """Delete a sub-network.

        Raises:
            ValueError: there is none of this name.
        """
        folder = self.path(name).parent
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f".{name}.") as hidden:
            folder.rename(Path(hidden, name))  # gone at once, then deleted

    def check_base(self) -> None:
        """Check that the base is the one the library was made for.

        Raises:
            ValueError: it is missing or has changed.
        """
        found = fingerprint(self._opened_base())
        if found != self.fingerprint:
            raise ValueError(_other_base(self.folder, self.pretrained, found, self.fingerprint))

    def _opened_base(self) -> Source:
        try:
            return open_source(self.pretrained)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise ValueError(
                f"the base of {self.folder} cannot be read ({reason}); if it was moved, give its new place with "
                "`ken library init --replace`."
            ) from None

    def _check_new(self, name: str, replace: bool) -> None:
        check_name(name)
        folder = self.folder / name
        if os.path.lexists(folder) and not (folder / ENTRY).exists():
            raise ValueError(f"{folder} exists and is not a sub-network of the library: remove it, or name another.")
        if not replace and (folder / ENTRY).exists():
            raise ValueError(_taken(self.folder, name))

    @contextmanager
    def _new_folder(self, name: str, replace: bool) -> Iterator[Path]:
        """A folder under a hidden name that becomes that of an entry on success."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f".{name}.") as hidden:
            folder, old, target = Path(hidden, "new"), Path(hidden, "old"), self.folder / name
            folder.mkdir()
            yield folder
            if replace:
                with suppress(FileNotFoundError):
                    target.rename(old)
            try:
                folder.rename(target)
            except OSError as error:
                if not target.exists():
                    with suppress(FileNotFoundError):
                        old.rename(target)
                    raise
                raise ValueError(_taken(self.folder, name)) from error

    def _write_entry(self, folder: Path, name: str, notes: list[str]) -> Entry:
        reader = open_reader(_file(folder, name))
        entry = Entry(
            name=name,
            bytes=reader.path.stat().st_size,
            dense_bytes=sum(stored.spec.bytes for stored in reader.tensors.values()),
            added=datetime.now(UTC).isoformat(timespec="seconds"),
            restored=restored_digest(self.pretrained, reader),
            **{key: value for key, value in reader.settings.items() if key != "base"},
            **reader.coding,
            labels=_labels(reader.config),
            notes=notes,
        )
        _write(folder / ENTRY, asdict(entry))
        return entry


def restored_digest(pretrained: AnySource, reader: AnyReader) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the tensors that a file restores, tied ones once.

    Raises:
        ValueError: the base is not the one the file was made from, or the file is damaged.
    """
    base, names = opened_base(pretrained, reader.body)
    digest, base_fingerprint = Fingerprint(), Fingerprint()
    for name, stored in reader.tensors.items():
        for rows in streaming.restored_rows(base, reader, name, names, base_fingerprint):
            digest.update(name, stored.spec, rows)
    base_fingerprint.check(reader.settings["base"])
    return digest.hexdigest()


def check_name(name: str) -> None:
    """Refuse names that are no plain, visible name of a folder on every system.

    Raises:
        ValueError: the name is not valid.
    """
    if not _NAME.fullmatch(name) or name == INDEX:
        raise ValueError(
            f'"{name}" cannot name a sub-network: use up to 100 letters, digits and . _ + -, with a letter or a digit '
            "at both ends."
        )


def default_name(path: str | Path) -> str:
    """The name of a model or a sub-network file, if none is given.

    Example:
        >>> [default_name(path) for path in ("models/reviews/", "reviews.ken.safetensors", "reviews/model.safetensors")]
        ['reviews', 'reviews', 'reviews']
    """
    path = Path(os.path.abspath(path))
    return path.parent.name if path.name == "model.safetensors" else path.name.removesuffix(SUFFIX)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}{SUFFIX}"


def _taken(folder: Path, name: str) -> str:
    return f'{folder} has a sub-network "{name}" already: name another, or give --replace.'


def _other_base(folder: Path, pretrained: str | Path, found: str, expected: str) -> str:
    return f"{pretrained} has fingerprint {found[:12]}, expected {expected[:12]}: give the base of {folder}."


def _labels(config: dict | None) -> list[str]:
    names = (config or {}).get("id2label")
    return [str(label) for label in names.values()] if isinstance(names, dict) else []


def _write(path: Path, contents: dict) -> None:
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _read(path: Path, keys: set[str], advice: str) -> dict:
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        contents = None
    if not isinstance(contents, dict) or not keys <= contents.keys():
        raise ValueError(f"{path} is damaged: {advice}.")
    return contents

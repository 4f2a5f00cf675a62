"""Files of the Hugging Face hub at one commit. Errors are one sentence. Needs huggingface_hub.

Files come through the cache of huggingface_hub, which holds complete files only. After an interruption, a program
fetches only the missing files when it runs again. Once all files are there, it needs no network
(``HF_HUB_OFFLINE=1``).
"""

import errno
import glob
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ken.errors import UserError, import_sentence
from ken.files import leads_out

PAGES = {"model": "", "dataset": "datasets/"}  # kind of repository -> path of its pages on the hub
REASON = 200  # characters of a network error in a message


class HubError(UserError, ValueError):
    """The hub cannot be read or written; the message is one sentence without tokens."""


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit.

    Attributes:
        revision: the requested commit, tag or branch.
        commit: the commit of the files.
        folder: folder of the files, perhaps with others that were fetched before.
        names: paths of the requested files in `folder`.
    """

    repository: str
    revision: str
    commit: str
    folder: Path
    names: list[str]

    def origin(self) -> dict[str, object]:
        """The record for a manifest: repository, revision, commit, and the SHA-256 of every file.

        Raises:
            HubError: a file in the cache differs from that on the hub.
        """
        sha256 = {name: _checked_sha256(self.folder / name) for name in self.names}
        return {"repository": self.repository, "revision": self.revision, "commit": self.commit, "sha256": sha256}


def fetch(repository: str, kind: str, revision: str, choose: Callable[[list[str]], list[str]]) -> Snapshot:
    """Fetch some files of a repository, or find them in the cache.

    Args:
        kind: "model" or "dataset".
        revision: commit, tag or branch.
        choose: selects the wanted paths from those of all files of the repository.

    Raises:
        HubError: the repository or revision does not exist, access is denied, there is no network,
            a path leads out of the folder, or huggingface_hub is not installed.
    """
    commit, hashes = look_up(repository, kind, revision)
    return download(repository, kind, revision, commit, choose(list(hashes)))


def at_the_top(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Paths of files outside all folders that match a pattern such as "*.safetensors"."""
    patterns = list(patterns)
    return [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)]


def look_up(repository: str, kind: str, revision: str) -> tuple[str, dict[str, str]]:
    """Commit of a revision, and path -> hash of the content of all its files; raises as `fetch`."""
    with client(repository, kind, revision, "look-up") as hub:
        commit = Path(hub.snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=[])).name
        files = hub.get_cached_repo_tree(repository, repo_type=kind, revision=commit)
    return commit, {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}


def download(repository: str, kind: str, revision: str, commit: str, names: list[str]) -> Snapshot:
    """Files of a repository at the commit of a revision; raises as `fetch`."""
    for name in names:
        if leads_out(name):
            raise HubError(f"{repository} has a file named {name!r}, which leads out of its folder: do not trust it.")
    with client(repository, kind, revision, "download") as hub:
        wanted = [glob.escape(name) for name in names]
        folder = hub.snapshot_download(repository, repo_type=kind, revision=commit, allow_patterns=wanted)
    return Snapshot(repository, revision, commit, Path(folder), sorted(names))


def upload(
    path: Path, repository: str, name: str, message: str, private: bool | None = None, token: str | None = None
) -> str:
    """Upload a file into a model repository, which is created if it does not exist.

    Args:
        path: the file to upload.
        repository: "owner/name".
        name: path of the file in the repository.
        message: of the commit.
        private, token: as in huggingface_hub.

    Returns:
        Address of the commit.

    Raises:
        HubError: the repository may not be written to; or see `fetch`.
    """
    with client(repository, "model", "main", "upload") as hub:
        api = hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_file(path_or_fileobj=path, path_in_repo=name, repo_id=repository, commit_message=message)
    return str(commit.commit_url)


def page(repository: str, kind: str) -> str:
    """Address of a repository's page."""
    from huggingface_hub import constants

    return f"{_without_secrets(constants.ENDPOINT)}/{PAGES[kind]}{repository}"


@contextmanager
def client(repository: str, kind: str, revision: str, stage: str) -> Iterator:
    """The huggingface_hub module, without its progress bars and log; its errors become `HubError`.

    Args:
        repository, kind, revision: named in error messages.
        stage: "look-up", "download" or "upload".
    """
    try:
        import huggingface_hub
    except ImportError as error:
        sentence = import_sentence(error, "huggingface_hub", "hub")
        raise HubError(f"{repository} would be read from the hub, but {sentence}") from None
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HfHubHTTPError, XetDownloadError
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    disable_progress_bars()
    client_error = HfHubHTTPError.__mro__[1]  # of the HTTP client, which differs between versions
    xet_errors = (XetDownloadError, RuntimeError)
    try:
        yield huggingface_hub
    except (OSError, ValueError, client_error, CachedRepoTreeNotFoundError, *xet_errors) as error:
        raise HubError(_sentence(error, repository, kind, revision, stage)) from None


def _sentence(error: BaseException, repository: str, kind: str, revision: str, stage: str) -> str:
    """A sentence that says what went wrong and what to do, without tokens."""
    from huggingface_hub import constants, errors

    what = f"{'data set' if kind == 'dataset' else kind} {repository}"
    cause = next((one for one in _causes(error) if not isinstance(one, errors.LocalEntryNotFoundError)), error)
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    address, token = page(repository, kind), "set HF_TOKEN to a token that may read it (or log in with `hf auth login`)"
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return (
            f"{what} at revision {revision} is not complete in the cache {constants.HF_HUB_CACHE}, and "
            "HF_HUB_OFFLINE is set: unset it and run once with a network."
        )
    if isinstance(cause, errors.GatedRepoError):
        return f"{what} is gated: request access on {address}, then {token} and run again."
    if isinstance(cause, errors.RevisionNotFoundError):
        return f'{what} has no revision "{revision}": name a commit, tag or branch that {address} shows.'
    if status == 401 and "Invalid credentials" in str(cause):
        return f"the hub rejects the token for {what} (401): renew or unset HF_TOKEN."
    if isinstance(cause, errors.RepositoryNotFoundError) or status == 401:
        return f"{what} is not on the hub, or private: correct the name; for a private one {token}."
    if status == 403:
        return f"the hub denies access to {what} (403): request it on {address}, then {token} and run again."
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return f"no space for {what} is left in {constants.HF_HUB_CACHE}: free some, or set HF_HOME to another disk."
    if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{what} cannot be stored in the cache {constants.HF_HUB_CACHE}, which may not be written to: set HF_HOME "
            "to a folder that may."
        )
    reason = (_without_secrets(str(cause)) or type(cause).__name__)[:REASON]
    if isinstance(cause, errors.HFValidationError):
        return f"{repository} is not a valid repository name ({reason}): correct it."
    if stage == "download":
        return f"the download of {what} was interrupted ({reason}): run again; complete files are kept."
    return f"a request to the hub for {what} failed ({reason}): check the network and HF_ENDPOINT, and run again."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _without_secrets(text: str) -> str:
    """A message on one line without tokens, passwords in addresses, and signatures of addresses."""
    from huggingface_hub import get_token

    if token := get_token():
        text = text.replace(token, "…")
    text = re.sub(r"(\w+://)[^/\s@]*@", r"\1", text)
    text = re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)
    return " ".join(re.sub(r"\bhf_[A-Za-z0-9]{16,}", "…", text).split()).rstrip(".")


def _checked_sha256(path: Path) -> str:
    """SHA-256 of a file, compared with its name in the cache if that is a SHA-256, as for large files."""
    stored = path.resolve()
    with open(stored, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if re.fullmatch(r"[0-9a-f]{64}", stored.name) and stored.name != digest:
        raise HubError(f"{stored} is not the file that the hub has ({path.name} is damaged): delete it and run again.")
    return digest

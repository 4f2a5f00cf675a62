"""Files of the Hugging Face hub at one commit, and what went wrong in one sentence.

Files come by way of huggingface_hub's cache, which holds none but whole ones. A step that was stopped or lost its
connection fetches what is missing when it is run again, and needs no network (``HF_HUB_OFFLINE=1``) once nothing is;
but for the hub's conversion of a model's weights, which offline has to be asked for by its own commit.
"""

import errno
import glob
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ken.errors import UserError
from study.running import files

CONVERTER = "SFconvertbot"  # account of the hub that offers conversions of weights to safetensors
UNREAD_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot")
NO_DISCUSSIONS = (403, 404, 410)  # answers where a repository has them turned off
PAGES = {"model": "", "dataset": "datasets/"}  # kind of repository -> where its pages are on the hub
REASON = 200  # characters of an error of the network that a message repeats


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit.

    Attributes:
        revision: what was asked for: a commit, a tag or a branch.
        commit: what that was when the files were fetched, or that of the hub's conversion of it to safetensors.
        folder: where the files lie, some of them perhaps fetched by others.
        names: paths in `folder` of those that were asked for.
    """

    repository: str
    revision: str
    commit: str
    folder: Path
    names: list[str]

    def origin(self) -> dict[str, object]:
        """What a manifest records: repository, revision, commit, and the SHA-256 of every file.

        Raises:
            UserError: a file in the cache is not the one that the hub has.
        """
        sha256 = {name: _checked_sha256(self.folder / name) for name in self.names}
        return {"repository": self.repository, "revision": self.revision, "commit": self.commit, "sha256": sha256}


def fetch(repository: str, kind: str, revision: str, choose: Callable[[list[str]], list[str]]) -> Snapshot:
    """Take over some files of a repository, or find them in the cache.

    Args:
        kind: "model" or "dataset".
        choose: from the paths of all its files to those that are wanted.

    Raises:
        UserError: there is no such repository or revision, it may not be read, the network is missing or broke off,
            or a path leads out of the folder.
    """
    commit, listed = look_up(repository, kind, revision)
    return download(repository, kind, revision, commit, choose(list(listed)))


def look_up(repository: str, kind: str, revision: str) -> tuple[str, dict[str, str]]:
    """Commit of a revision, and path -> hash of the content of all its files; raises as `fetch`."""
    with _explained(repository, kind, revision, "look-up") as hub:
        commit = Path(hub.snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=[])).name
        listed = hub.get_cached_repo_tree(repository, repo_type=kind, revision=commit)
    return commit, {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in listed}


def download(repository: str, kind: str, revision: str, commit: str, names: list[str]) -> Snapshot:
    """Files of a repository at a commit, which is that of a revision; raises as `fetch`."""
    for name in names:
        if files.leads_out(name):
            raise UserError(f"{repository} has a file named {name!r}, which leads out of its folder: do not trust it.")
    with _explained(repository, kind, revision, "download") as hub:
        wanted = [glob.escape(name) for name in names]
        folder = hub.snapshot_download(repository, repo_type=kind, revision=commit, allow_patterns=wanted)
    return Snapshot(repository, revision, commit, Path(folder), sorted(names))


def fetch_model(repository: str, revision: str, patterns: tuple[str, ...]) -> Snapshot:
    """Weights, configuration and tokenizer of a model.

    Where a revision has its weights in another format only, the hub's own conversion of these very weights to
    safetensors is taken, if there is one: see `conversion`.

    Args:
        patterns: names of the files to take from the top folder.

    Raises:
        UserError: see `fetch`; or the repository has no config.json or no weights in safetensors.
    """
    commit, listed = look_up(repository, "model", revision)
    what = f"{repository} at revision {revision}"
    if "config.json" not in listed:
        raise UserError(f"{what} has no config.json: name the repository of a transformers model.")
    if not _in_safetensors(listed):
        others = [name for name in listed if "/" not in name and name.endswith(UNREAD_WEIGHTS)]
        needed = {name: listed[name] for name in ("config.json", *others)}
        converted = conversion(repository, needed) if others else None
        if converted is None:
            found = f"its weights as {', '.join(others)} only" if others else "no weights"
            raise UserError(
                f"{what} has {found}, and nothing but safetensors is read, of which the hub has no conversion of its "
                f"own: set revision to one of others that you trust (refs/pr/<number>, see "
                f"{_page(repository, 'model')}/discussions), or convert it into a folder of your own."
            )
        download(repository, "model", revision, commit, ["config.json"])  # so that offline the revision is known
        commit, listed = converted
    top = [name for name in listed if "/" not in name]
    names = [name for name in top if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return download(repository, "model", revision, commit, names)


def conversion(repository: str, needed: dict[str, str]) -> tuple[str, dict[str, str]] | None:
    """The hub's own conversion of a model's weights to safetensors: commit and files, as of `look_up`.

    That is a pull request of the hub's account for it, in which the files that were converted, and the configuration,
    are those asked for. What others have proposed is not taken.

    Args:
        needed: path -> hash of files that it must have.
    """
    with _explained(repository, "model", "main", "look-up") as hub:
        if hub.constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{repository} has no safetensors at the revision asked for, and HF_HUB_OFFLINE is set, with which the "
                "hub's conversion cannot be looked for: set revision to its commit, which the model's manifest has "
                "after a run with a network."
            )
        try:
            asked = {"author": CONVERTER, "discussion_type": "pull_request"}
            found = list(hub.HfApi().get_repo_discussions(repository, **asked))
        except hub.errors.HfHubHTTPError as error:
            if error.response.status_code not in NO_DISCUSSIONS:
                raise
            found = []
    for request in found:
        if request.author == CONVERTER and request.is_pull_request:
            commit, listed = look_up(repository, "model", request.git_reference)
            if _in_safetensors(listed) and needed.items() <= listed.items():
                return commit, listed
    return None


def _in_safetensors(listed: Iterable[str]) -> bool:
    return any("/" not in name and name.endswith(".safetensors") for name in listed)


def _checked_sha256(path: Path) -> str:
    """SHA-256 of a file, which the cache of a large one is named after."""
    digest, stored = files.sha256(path), path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", stored.name) and stored.name != digest:
        raise UserError(f"{stored} is not the file that the hub has ({path.name} is damaged): delete it and run again.")
    return digest


def _page(repository: str, kind: str) -> str:
    """Address of a repository's page."""
    from huggingface_hub import constants

    return f"{_without_secrets(constants.ENDPOINT)}/{PAGES[kind]}{repository}"


@contextmanager
def _explained(repository: str, kind: str, revision: str, stage: str) -> Iterator:
    """The huggingface_hub module, silent; its errors become one sentence."""
    import huggingface_hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HfHubHTTPError, XetDownloadError
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    disable_progress_bars()
    client_error = HfHubHTTPError.__mro__[1]  # of the HTTP client, which differs between versions
    xet_errors = (XetDownloadError, RuntimeError)
    try:
        yield huggingface_hub
    except (OSError, ValueError, client_error, CachedRepoTreeNotFoundError, *xet_errors) as error:
        raise UserError(_sentence(error, repository, kind, revision, stage)) from None


def _sentence(error: BaseException, repository: str, kind: str, revision: str, stage: str) -> str:
    """What went wrong and what to do, without tokens."""
    from huggingface_hub import constants, errors

    what = f"{'data set' if kind == 'dataset' else kind} {repository}"
    cause = next((found for found in _causes(error) if not isinstance(found, errors.LocalEntryNotFoundError)), error)
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    page, token = _page(repository, kind), "set HF_TOKEN to a token that may read it (or log in with `hf auth login`)"
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return (
            f"{what} at revision {revision} is not whole in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is "
            "set: unset it and run once with a network."
        )
    if isinstance(cause, errors.GatedRepoError):
        return f"{what} is gated: ask for access on {page}, then {token} and run again."
    if isinstance(cause, errors.RevisionNotFoundError):
        return f'{what} has no revision "{revision}": name a commit, tag or branch that {page} shows.'
    if status == 401 and "Invalid credentials" in str(cause):
        return f"the hub does not know the token that it was shown for {what} (401): renew or unset HF_TOKEN."
    if isinstance(cause, errors.RepositoryNotFoundError) or status == 401:
        return f"{what} is not on the hub, or private: correct the name; for a private one {token}."
    if status == 403:
        return f"the hub refuses to give out {what} (403): ask for access on {page}, then {token} and run again."
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return f"there is no room for {what} in {constants.HF_HUB_CACHE}: make some, or set HF_HOME to another disk."
    reason = (_without_secrets(str(cause)) or type(cause).__name__)[:REASON]
    if isinstance(cause, errors.HFValidationError):
        return f"{what} cannot be a repository ({reason}): correct the name."
    if stage == "download":
        return f"the download of {what} broke off ({reason}): run again, files that are whole are kept."
    return f"the hub gave no answer for {what} ({reason}): check the network and HF_ENDPOINT, and run again."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _without_secrets(text: str) -> str:
    """A message in one line without tokens, passwords in addresses, and signatures of addresses."""
    from huggingface_hub import get_token

    if token := get_token():
        text = text.replace(token, "…")
    text = re.sub(r"(\w+://)[^/\s@]*@", r"\1", text)
    text = re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)
    return " ".join(re.sub(r"\bhf_[A-Za-z0-9]{16,}", "…", text).split()).rstrip(".")

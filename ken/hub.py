"""Bases and sub-networks on the Hugging Face hub; needs huggingface_hub (`pip install "ken-benchmark[hub]"`)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ken.sources import COMPANIONS

if TYPE_CHECKING:
    from ken.subnetwork import Subnetwork

SUFFIX = ".ken.safetensors"


def download_checkpoint(repository: str) -> Path:
    """Folder with safetensors weights, configuration and tokenizer of a repository, from the hub or its local cache.

    Raises:
        ValueError: the repository cannot be had, or huggingface_hub is not installed.
    """
    with _explained(repository) as hub:
        return Path(hub.snapshot_download(repository, allow_patterns=["*.safetensors", *COMPANIONS]))


def download_subnetwork(repository: str, filename: str | None = None, revision: str | None = None) -> Path:
    """Local path of a sub-network file of a repository; of its only one where no name is given.

    Raises:
        ValueError: as `download_checkpoint`, or the repository has not exactly one such file.
    """
    with _explained(repository) as hub:
        if filename is None:
            names = hub.list_repo_files(repository, revision=revision)
            found = [name for name in names if name.endswith(SUFFIX)]
            if len(found) != 1:
                listed = f": {', '.join(found)}" if found else ""
                raise ValueError(f"{repository} has {len(found)} files ending in {SUFFIX}{listed}: name one.")
            filename = found[0]
        return Path(hub.hf_hub_download(repository, filename, revision=revision))


def push(
    subnetwork: "Subnetwork",
    repository: str,
    filename: str,
    private: bool | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a sub-network as a file of a repository, which is made if it does not exist.

    Returns:
        Address of the commit.

    Raises:
        ValueError: the name does not end in `SUFFIX`, or as `download_checkpoint`.
    """
    if not filename.endswith(SUFFIX):
        raise ValueError(f"{filename} does not end in {SUFFIX}, by which sub-networks are found: rename it.")
    with _explained(repository) as hub, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "subnetwork")
        subnetwork.save(path)
        api = hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        message = commit_message or f"Sub-network: {subnetwork.method}, {subnetwork.kept_share:.1%} of the body kept"
        return str(
            api.upload_file(
                path_or_fileobj=path, path_in_repo=filename, repo_id=repository, commit_message=message
            ).commit_url
        )


@contextmanager
def _explained(repository: str) -> Iterator:
    """The huggingface_hub module; its errors become one sentence."""
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"{repository} is no local path, and the hub needs huggingface_hub: "
            'pip install "ken-benchmark[hub]", or give a local path.'
        ) from None
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    client_error = HfHubHTTPError.__mro__[1]  # of the HTTP client, which differs between versions
    try:
        yield huggingface_hub
    except (OSError, HFValidationError, client_error) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"{repository} is no local path and cannot be had from the hub ({reason}): check the name, your access "
            "and the connection, or give a local path."
        ) from None

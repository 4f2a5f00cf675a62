"""Models of the Hugging Face hub in safetensors: their own files, or the hub's conversion of their weights.

Without a network, a conversion can be named only by its commit.
"""

from ken import hub
from ken.errors import UserError

CONVERTER = "SFconvertbot"  # account with which the hub offers conversions of weights to safetensors
UNREAD_WEIGHTS = tuple(f"*{suffix}" for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot"))
NO_DISCUSSIONS = (403, 404, 410)  # HTTP status of a repository whose discussions are turned off


def fetch_model(repository: str, revision: str, patterns: tuple[str, ...]) -> hub.Snapshot:
    """Fetch the weights, configuration and tokenizer of a model.

    If a revision has weights in other formats only, the hub's conversion of exactly these weights is used, if there is
    one: see `find_conversion`.

    Args:
        patterns: names of the files to fetch from the top folder.

    Raises:
        UserError: see `ken.hub.fetch`; or the repository has no config.json or no weights in safetensors.
    """
    commit, hashes = hub.look_up(repository, "model", revision)
    what = f"{repository} at revision {revision}"
    if "config.json" not in hashes:
        raise UserError(f"{what} has no config.json: name the repository of a transformers model.")
    if not has_safetensors(hashes):
        others = hub.at_the_top(hashes, UNREAD_WEIGHTS)
        needed = {name: hashes[name] for name in ("config.json", *others)}
        conversion = find_conversion(repository, needed) if others else None
        if conversion is None:
            weights = f"its weights as {', '.join(others)} only" if others else "no weights"
            raise UserError(
                f"{what} has {weights}, but only safetensors is read, and the hub has no conversion of its own: set "
                f"revision to somebody else's conversion that you trust (refs/pr/<number>, see "
                f"{hub.page(repository, 'model')}/discussions), or convert the model into a local folder."
            )
        hub.download(repository, "model", revision, commit, ["config.json"])  # so that the revision is known offline
        commit, hashes = conversion
    return hub.download(repository, "model", revision, commit, hub.at_the_top(hashes, patterns))


def find_conversion(repository: str, needed: dict[str, str]) -> tuple[str, dict[str, str]] | None:
    """Find the hub's own conversion of a model's weights to safetensors.

    It is a pull request by the hub's account for conversions that holds the converted files and the configuration with
    the same hashes. Pull requests by others are ignored.

    Args:
        needed: path -> hash of the files that the pull request must hold.

    Returns:
        Commit and hashes, as from `ken.hub.look_up`, or None.

    Raises:
        UserError: HF_HUB_OFFLINE is set.
    """
    with hub.client(repository, "model", "main", "look-up") as library:
        if library.constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{repository} has no safetensors at this revision, and HF_HUB_OFFLINE is set, so the hub's conversion "
                "cannot be looked up: set revision to the commit of the conversion, which a run with a network records "
                "in the model's manifest."
            )
        try:
            discussions = library.HfApi().get_repo_discussions(
                repository, author=CONVERTER, discussion_type="pull_request"
            )
            requests = [request for request in discussions if request.author == CONVERTER and request.is_pull_request]
        except library.errors.HfHubHTTPError as error:
            if error.response.status_code not in NO_DISCUSSIONS:
                raise
            requests = []
    for request in requests:
        commit, hashes = hub.look_up(repository, "model", request.git_reference)
        if has_safetensors(hashes) and needed.items() <= hashes.items():
            return commit, hashes
    return None


def has_safetensors(hashes: dict[str, str]) -> bool:
    """Whether the top folder of a repository holds weights in safetensors, from its path -> hash."""
    return bool(hub.at_the_top(hashes, ("*.safetensors",)))

"""A model of the Hugging Face hub in safetensors: its own files, or the hub's own conversion of its weights.

Offline, a conversion can only be asked for by its own commit.
"""

from ken import hub
from ken.errors import UserError

CONVERTER = "SFconvertbot"  # account of the hub that offers conversions of weights to safetensors
UNREAD_WEIGHTS = tuple(f"*{suffix}" for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot"))
NO_DISCUSSIONS = (403, 404, 410)  # status of a repository that has its discussions turned off


def fetch_model(repository: str, revision: str, patterns: tuple[str, ...]) -> hub.Snapshot:
    """Weights, configuration and tokenizer of a model.

    Where a revision has its weights in another format only, the hub's own conversion of these very weights to
    safetensors is taken, if there is one: see `find_conversion`.

    Args:
        patterns: names of the files to take from the top folder.

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
                f"{what} has {weights}, and nothing but safetensors is read, of which the hub has no conversion of its "
                f"own: set revision to one of others that you trust (refs/pr/<number>, see "
                f"{hub.page(repository, 'model')}/discussions), or convert it into a folder of your own."
            )
        hub.download(repository, "model", revision, commit, ["config.json"])  # so that offline the revision is known
        commit, hashes = conversion
    return hub.download(repository, "model", revision, commit, hub.at_the_top(hashes, patterns))


def find_conversion(repository: str, needed: dict[str, str]) -> tuple[str, dict[str, str]] | None:
    """The hub's own conversion of a model's weights to safetensors: commit and hashes, as `ken.hub.look_up`.

    That is a pull request of the hub's account for it, in which the files that were converted, and the configuration,
    have the hashes asked for. Proposals of others are not taken.

    Args:
        needed: path -> hash of files that it must have.
    """
    with hub.client(repository, "model", "main", "look-up") as library:
        if library.constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{repository} has no safetensors at the revision asked for, and HF_HUB_OFFLINE is set, with which the "
                "hub's conversion cannot be looked for: set revision to its commit, which the model's manifest has "
                "after a run with a network."
            )
        try:
            discussions = library.HfApi().get_repo_discussions(
                repository, author=CONVERTER, discussion_type="pull_request"
            )
            requests = [found for found in discussions if found.author == CONVERTER and found.is_pull_request]
        except library.errors.HfHubHTTPError as error:
            if error.response.status_code not in NO_DISCUSSIONS:
                raise
            requests = []
    for request in requests:
        commit, hashes = hub.look_up(repository, "model", request.git_reference)
        if has_safetensors(hashes) and needed.items() <= hashes.items():
            return commit, hashes
    return None


def has_safetensors(names: dict[str, str]) -> bool:
    """Whether there are weights in safetensors among the files, outside all folders."""
    return bool(hub.at_the_top(names, ("*.safetensors",)))

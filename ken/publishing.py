"""Upload of sub-networks to the hub."""

import tempfile
from abc import abstractmethod
from pathlib import Path

from ken import hub

SUFFIX = ".ken.safetensors"
"""End of the names of sub-network files on the hub."""


class Published:
    """A sub-network that can be uploaded; one with values as they are, or in few bits."""

    method: str

    @property
    @abstractmethod
    def kept_share(self) -> float:
        """Kept share of the body, 0 to 1."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the file."""

    def push_to_hub(
        self,
        repository: str,
        filename: str = f"subnetwork{SUFFIX}",
        private: bool | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the file to a hub repository, which is created if it does not exist.

        Args:
            repository: "owner/name".
            filename: name in the repository.
            private, commit_message, token: as in huggingface_hub.

        Returns:
            Address of the commit.

        Raises:
            ValueError: the name does not end in ".ken.safetensors", or the hub refuses the file.
        """
        if not filename.endswith(SUFFIX):
            raise ValueError(f"{filename} does not end in {SUFFIX}, by which sub-networks are found: rename it.")
        message = commit_message or f"Sub-network: {self.method}, {self.kept_share:.1%} of the body kept"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "subnetwork")
            self.save(path)
            return hub.upload(path, repository, filename, message, private, token)

"""What sub-networks with values as they are and those with values in few bits have in common."""

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import nn

from ken import hub, injection

SUFFIX = ".ken.safetensors"
"""End of the names of sub-network files on the hub."""


class AnySubnetwork(ABC):
    """Sizes, and upload to the hub."""

    method: str
    whole: dict[str, torch.Tensor]

    @property
    @abstractmethod
    def counts(self) -> dict[str, tuple[int, int]]:
        """Body tensor -> (kept entries, all entries)."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""

    @property
    def kept_body(self) -> int:
        """Kept entries of the body."""
        return sum(kept for kept, _ in self.counts.values())

    @property
    def total_body(self) -> int:
        """Entries of the body: all parameters that have a pre-trained value, tied ones once."""
        return sum(total for _, total in self.counts.values())

    @property
    def kept_share(self) -> float:
        """Kept share of the body, 0 to 1."""
        return self.kept_body / max(1, self.total_body)

    @property
    def head_size(self) -> int:
        """Entries without a pre-trained value."""
        return sum(tensor.numel() for tensor in self.whole.values() if tensor.is_floating_point())

    @staticmethod
    def forget(model: nn.Module) -> None:
        """Keep the present values of the model: its sub-network can no longer be ejected."""
        injection.forget(model)

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

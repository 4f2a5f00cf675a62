"""KEN as a library: kernel density selection of fine-tuned weights and sub-networks worth a small file.

    >>> import ken
    >>> subnetwork = ken.Subnetwork.extract(pretrained, finetuned, k=0.25)  # doctest: +SKIP
    >>> subnetwork.save("task.safetensors")  # doctest: +SKIP
"""

from ken import kde, selection
from ken.selection import rank, select
from ken.subnetwork import Subnetwork, fingerprint

__all__ = ["Subnetwork", "fingerprint", "kde", "rank", "select", "selection"]

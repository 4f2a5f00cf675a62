"""Files of sub-networks, in two formats (docs/format.md)."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from ken.storage import coded, exact
from ken.storage.container import read_header

AnyReader = exact.Reader | coded.CodedReader


def open_reader(path: Path) -> AnyReader:
    """Open a file of either format.

    Raises:
        ValueError: the file is truncated, altered, or not a sub-network.
        FileNotFoundError: there is no such file.
    """
    header, *_ = read_header(path)
    return coded.CodedReader(path) if header["format"] == coded.FORMAT else exact.Reader(path)


def is_subnetwork(path: Path) -> bool:
    """Whether a file is a sub-network, by its header."""
    try:
        read_header(path)
    except (ValueError, OSError):
        return False
    return True


def is_weights(path: Path) -> bool:
    """Whether a file is a safetensors file, by its header, and not a sub-network."""
    try:
        with safe_open(path, framework="pt"):
            return not is_subnetwork(path)
    except (SafetensorError, OSError):
        return False

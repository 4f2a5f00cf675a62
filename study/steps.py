"""The environment that the steps of a study run in; set once, in the Snakefile."""

import os
import sys
from pathlib import Path


def prepare_environment() -> None:
    """Let steps use the Python that runs Snakemake, activated or not, and keep their memory between tensors.

    glibc otherwise returns the memory of every larger tensor to the system and asks for it again, which takes a third
    of the time. What the user has set stays.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))

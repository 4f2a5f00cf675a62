"""What surrounds the steps of a study: their environment, one run at a time, and an end with the run they belong to."""

import contextlib
import fcntl
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ken import errors
from ken.errors import UserError

SNAKEMAKE = "STUDY_SNAKEMAKE"  # process id of the Snakemake that starts the steps
POLL = 1.0  # seconds between two looks whether it is still there

_held: list[int] = []  # open lock files: closing one would let another run in


def prepare_environment(device: str, checkpoint_minutes: float) -> None:
    """Let steps use the Python that runs Snakemake, activated or not, and keep their memory between tensors.

    glibc otherwise returns the memory of every larger tensor to the system and asks for it again, which takes a third
    of the time. What the user has set stays.

    Args:
        device: what the config says of it, see `study.running.device`.
        checkpoint_minutes: see `study.training.resumption`. Neither changes what a step is to do, so neither is part of
            its command, which would have to run again when it changes.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
    os.environ.setdefault("STUDY_DEVICE", device)
    os.environ["STUDY_CHECKPOINT_MINUTES"] = str(checkpoint_minutes)
    os.environ[SNAKEMAKE] = str(os.getpid())


def hold_study(study: str, folder: Path = Path(".snakemake")) -> None:
    """Keep other runs of a study out until this process ends.

    In place of Snakemake's own lock, whose files outlive a run that was killed and then want --unlock: this one is the
    operating system's and ends with the process, however that ends.

    Raises:
        UserError: another run holds it; the sentence says which.
    """
    path = folder / f"{study}.lock"
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise UserError(f"the study {study} is being run by {path.read_text()}: wait for its end or stop it.") from None
    except OSError as error:
        print(f"no lock in {folder} ({error}): see that only one run of {study} works here at a time", file=sys.stderr)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.truncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
    _held.append(file)


def run(main: Callable[[], object]) -> None:
    """Run the `main` of a step: `ken.errors.run`, and the step also ends when its run is killed."""
    end_with_snakemake()
    errors.run(main)


def end_with_snakemake() -> None:
    """End this process when the Snakemake that started it, or the shell between them, has been killed.

    Left alone it would go on, and write the same files as its successor in the next run.
    """
    import psutil

    if SNAKEMAKE not in os.environ:
        return  # run by hand
    ids = [process.pid for process in psutil.Process().parents()]
    snakemake = int(os.environ[SNAKEMAKE])
    if snakemake not in ids:  # killed while this process was being loaded
        sys.exit("error: the run that this step belongs to has been killed: run it again.")
    threading.Thread(target=_watch, args=(ids[: ids.index(snakemake) + 1],), daemon=True).start()


def _watch(ids: list[int]) -> None:
    """Wait, without using the processor, until one of the processes ends; then end this one."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(ProcessLookupError):  # one has ended already
            select.select([os.pidfd_open(number) for number in ids], [], [])
    else:  # not Linux
        import psutil

        while all(map(psutil.pid_exists, ids)):
            time.sleep(POLL)
    os._exit(1)

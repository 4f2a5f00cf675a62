"""Running the steps of a study: their environment, one run at a time, and an end to steps whose run is killed."""

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
POLL = 1.0  # seconds between checks that it is still running

_held: list[int] = []  # open lock files: closing one releases its lock


def prepare_environment(device: str, jobs_per_gpu: int, checkpoint_minutes: float) -> None:
    """Set environment variables for the steps. Variables that the user has set are kept.

    Steps use the Python that runs Snakemake, whether its environment is activated or not. glibc keeps the memory of
    large tensors: returning it to the system takes a third of a step's time.

    Args:
        device, jobs_per_gpu: of the config; see `study.running.device`.
        checkpoint_minutes: see `study.training.resumption`. None of them changes a step's result, so they are passed
            here and not in the commands, where a change would run the steps again.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
    os.environ.setdefault("STUDY_DEVICE", device)
    os.environ.setdefault("STUDY_JOBS_PER_GPU", str(jobs_per_gpu))
    os.environ["STUDY_CHECKPOINT_MINUTES"] = str(checkpoint_minutes)
    os.environ[SNAKEMAKE] = str(os.getpid())


def hold_study(study: str, folder: Path = Path(".snakemake")) -> None:
    """Lock a study until this process ends, so that only one run of it works at a time.

    It replaces Snakemake's lock, which remains after a run is killed and then needs --unlock. This one is a lock of the
    operating system, which is released however the process ends.

    Raises:
        UserError: another run holds the lock; the message names it.
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
        print(f"{folder} cannot be locked ({error}): start only one run of {study} at a time", file=sys.stderr)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.truncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
    _held.append(file)


def run(main: Callable[[], object]) -> None:
    """Run the `main` of a step with `ken.errors.run`; the step also ends when its run is killed."""
    end_with_snakemake()
    errors.run(main)


def end_with_snakemake() -> None:
    """End this process when the Snakemake that started it, or the shell between them, is killed.

    Otherwise it would continue and write the same files as the next run.
    """
    import psutil

    if SNAKEMAKE not in os.environ:
        return  # run by hand
    ids = [process.pid for process in psutil.Process().parents()]
    snakemake = int(os.environ[SNAKEMAKE])
    if snakemake not in ids:  # killed while this process was starting
        sys.exit("error: the run that this step belongs to has been killed: run it again.")
    threading.Thread(target=_watch, args=(ids[: ids.index(snakemake) + 1],), daemon=True).start()


def _watch(ids: list[int]) -> None:
    """Wait, without using the CPU, until one of the processes ends; then end this one."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(ProcessLookupError):  # one has ended already
            select.select([os.pidfd_open(number) for number in ids], [], [])
    else:  # not Linux
        import psutil

        while all(map(psutil.pid_exists, ids)):
            time.sleep(POLL)
    os._exit(1)

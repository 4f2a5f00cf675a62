"""How long a run of a study takes: its jobs started one by one, as Snakemake and the locks of the GPUs start them.

A job waits for the jobs that make its inputs, then for a core and, if it uses a GPU, for one of the slots that
`jobs_per_gpu` gives. With these, it waits for its parts of a GPU. If they are not free, it is next in line for one GPU,
and nobody else gets parts of that GPU before it. Which of the ready jobs Snakemake starts first depends on hashes and
on sizes of files, so a run is simulated in several orders. Jobs that wait behind the next in line get on in the order
of their start; in a real run, in any order.
"""

import heapq
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from study.planning.jobs import Job
from study.running.device import PARTS

ORDERS = 10
ENDED = 1e-6  # seconds that rounding may leave of a job


@dataclass
class Running:
    """A job that runs, the number of its GPU (None: it uses none), and the seconds that it would need alone."""

    job: Job
    gpu: int | None
    left: float


@dataclass(eq=False)
class Waiting:
    """A job that waits for its parts of a GPU, and the GPU that it is next in line for."""

    job: Job
    place: int | None = None


class Run:
    """The state of a run. Files that none of its jobs makes are there already.

    Args:
        jobs: those of equal priority are started in this order.
        gpus, cores: numbers of workers.
        sharing: most jobs at once on a GPU.
    """

    def __init__(self, jobs: Sequence[Job], gpus: int, cores: int, sharing: int):
        self.jobs = sorted(jobs, key=lambda job: -job.priority)
        self.cores, self.slots, self.free = cores, gpus * sharing, [PARTS] * gpus
        self.ready: dict[bool, list[int]] = {True: [], False: []}  # uses a GPU -> heap of indices of jobs
        self.next_in_line: list[Waiting | None] = [None] * gpus
        self.line: list[Waiting] = []
        self.running: list[Running] = []
        numbers = {job.number for job in jobs}
        self.missing: dict[int, int] = {}  # index of a job -> how many jobs it waits for
        self.followers: dict[int, list[int]] = defaultdict(list)  # number of a job -> indices of those that wait for it
        for index, job in enumerate(self.jobs):
            before = numbers.intersection(job.after)
            self.missing[index] = len(before)
            for number in before:
                self.followers[number].append(index)
            if not before:
                heapq.heappush(self.ready[job.on_gpu], index)

    def seconds(self) -> float:
        """Seconds until the last job has ended."""
        now = 0.0
        self._start()
        while self.running:
            speeds = self._speeds()
            step = min(one.left / speed for one, speed in zip(self.running, speeds, strict=True))
            for one, speed in zip(self.running, speeds, strict=True):
                one.left -= step * speed
            now += step
            for one in [one for one in self.running if one.left <= ENDED]:
                self._end(one)
            self.running = [one for one in self.running if one.left > ENDED]
            self._start()
        return now

    def _start(self) -> None:
        """Start what can start, and let those in line onto a GPU."""
        while self.cores and (heaps := [self.ready[gpu] for gpu in (True, False) if self._can_start(gpu)]):
            job = self.jobs[heapq.heappop(min(heaps))]  # of the heap with the lower first index
            self.cores -= 1
            if job.on_gpu:
                self.slots -= 1
                self.line.append(Waiting(job))
            else:
                self.running.append(Running(job, None, job.seconds))
        while admitted := next(filter(self._admit, self.line), None):
            self.line.remove(admitted)

    def _can_start(self, on_gpu: bool) -> bool:
        return bool(self.ready[on_gpu] and (self.slots or not on_gpu))

    def _admit(self, one: Waiting) -> bool:
        """Run a job on the first GPU that has its parts and that no other job is next for, if there is one."""
        for gpu, first in enumerate(self.next_in_line):
            if first not in (None, one):
                continue
            if self.free[gpu] >= one.job.parts:
                self.free[gpu] -= one.job.parts
                self.running.append(Running(one.job, gpu, one.job.seconds))
                if one.place is not None:
                    self.next_in_line[one.place] = None
                return True
            if one.place is None:
                self.next_in_line[gpu], one.place = one, gpu
        return False

    def _speeds(self) -> list[float]:
        """Speed of each running job: those that together ask for more than all of a GPU's time slow down alike."""
        asked = [0.0] * len(self.free)
        for one in self.running:
            if one.gpu is not None and one.job.seconds:
                asked[one.gpu] += one.job.computed / one.job.seconds
        return [1.0 if one.gpu is None else 1 / max(1.0, asked[one.gpu]) for one in self.running]

    def _end(self, one: Running) -> None:
        """Free what a job held, and let the jobs go on that waited for it."""
        self.cores += 1
        if one.gpu is not None:
            self.slots += 1
            self.free[one.gpu] += one.job.parts
        for index in self.followers[one.job.number]:
            self.missing[index] -= 1
            if not self.missing[index]:
                heapq.heappush(self.ready[self.jobs[index].on_gpu], index)


def run_seconds(jobs: Sequence[Job], gpus: int, cores: int, sharing: int) -> list[float]:
    """Seconds from start to end of a run, in each of `ORDERS` random orders of its jobs; see `Run`."""
    listed = sorted(jobs, key=lambda job: (job.rule, *job.wildcards.values()))
    orders = [random.Random(order).sample(listed, len(listed)) for order in range(ORDERS)]
    return [Run(order, gpus, cores, sharing).seconds() for order in orders]

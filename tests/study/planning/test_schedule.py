"""How long a run takes: against a slow simulation written separately, and against times worked out by hand."""

import random
import time
from dataclasses import replace
from fractions import Fraction

import pytest

from study.planning.jobs import Job
from study.planning.schedule import ORDERS, Run, run_seconds


def on_gpu(seconds: float, parts: int, computed: float = 0.0, **more) -> Job:
    return Job("a", {}, seconds, on_gpu=True, parts=parts, computed=computed, **more)


def on_cpu(seconds: float, **more) -> Job:
    return Job("b", {}, seconds, **more)


def slow_seconds(jobs: list[Job], gpus: int, cores: int, sharing: int) -> Fraction:
    """Exact time of a run: at every event, the state of each job is looked up among all jobs."""
    now, state, left, where = Fraction(0), ["waiting"] * len(jobs), [Fraction(job.seconds) for job in jobs], {}
    line: list[int] = []
    kept_for: dict[int, int] = {}
    while set(state) != {"ended"}:
        while True:  # start the best job that may start
            begun = [i for i in range(len(jobs)) if state[i] in ("running", "in line")]
            ended = {job.number for i, job in enumerate(jobs) if state[i] == "ended"}
            may = [
                i
                for i, job in enumerate(jobs)
                if state[i] == "waiting"
                and set(job.after) <= ended
                and len(begun) < cores
                and not (job.on_gpu and sum(jobs[j].on_gpu for j in begun) >= gpus * sharing)
            ]
            if not may:
                break
            best = min(may, key=lambda i: (-jobs[i].priority, i))
            state[best] = "in line" if jobs[best].on_gpu else "running"
            line += [best] if jobs[best].on_gpu else []
        moved = True
        while moved:  # in the order of the line, a job takes the first GPU that is not kept for another, or keeps one
            moved = False
            for i in line:
                used = [sum(jobs[j].parts for j, at in where.items() if at == gpu) for gpu in range(gpus)]
                open_to_it = [gpu for gpu in range(gpus) if kept_for.get(gpu, i) == i]
                free = [gpu for gpu in open_to_it if used[gpu] + jobs[i].parts <= 8]
                if free:
                    where[i], state[i], moved = free[0], "running", True
                    kept_for = {gpu: j for gpu, j in kept_for.items() if j != i}
                    line.remove(i)
                    break
                if open_to_it and i not in kept_for.values():
                    kept_for[open_to_it[0]] = i
        speed = {}
        for i in range(len(jobs)):
            if state[i] == "running":
                beside = [j for j in where if where[j] == where.get(i)]
                asked = sum((Fraction(jobs[j].computed) / Fraction(jobs[j].seconds) for j in beside), Fraction(0))
                speed[i] = 1 / max(Fraction(1), asked)
        step = min(left[i] / speed[i] for i in speed)
        now += step
        for i in speed:
            left[i] -= step * speed[i]
            if not left[i]:
                state[i] = "ended"
                where.pop(i, None)
    return now


def random_jobs(rng: random.Random, count: int) -> list[Job]:
    """Jobs of whole seconds that wait for earlier ones, in a shuffled order."""
    jobs = []
    for number in range(1, count + 1):
        seconds, earlier = rng.randint(1, 60), range(1, number)
        after = tuple(rng.sample(earlier, min(len(earlier), rng.choice([0, 0, 1, 2]))))
        job = Job("a", {}, seconds, priority=rng.choice([0, 0, 1]), number=number, after=after)
        if rng.random() < 0.7:
            computed = Fraction(seconds) * rng.choice([0, 1, 2, 4]) / 4
            job = replace(job, on_gpu=True, parts=rng.choice([2, 2, 2, 3, 4, 5, 8]), computed=float(computed))
        jobs.append(job)
    return rng.sample(jobs, count)


@pytest.mark.parametrize("seed", range(60))
def test_a_run_takes_as_long_as_in_a_slow_simulation(seed):
    rng = random.Random(seed)
    jobs = random_jobs(rng, rng.randint(1, 40))
    workers = rng.randint(1, 3), rng.randint(1, 12), rng.randint(1, 8)
    assert Run(jobs, *workers).seconds() == pytest.approx(float(slow_seconds(jobs, *workers)), rel=1e-9)


def test_parts_that_no_waiting_job_fits_into_stay_idle():
    jobs = [on_gpu(10, parts=5)] * 4
    assert sum(job.seconds * job.parts / 8 for job in jobs) == 25, "if all parts were filled"
    assert Run(jobs, gpus=1, cores=8, sharing=4).seconds() == 40
    assert Run([on_gpu(10, parts=3)] * 4, gpus=1, cores=8, sharing=4).seconds() == 20, "two at once"


def test_a_job_that_needs_many_parts_is_next_in_line():
    jobs = [on_gpu(10, parts=2), on_gpu(20, parts=2), on_gpu(5, parts=8), on_gpu(10, parts=2)]
    assert Run(jobs, gpus=1, cores=8, sharing=4).seconds() == 20 + 5 + 10
    assert Run(jobs, gpus=2, cores=8, sharing=4).seconds() == 20, "beside it, on the second GPU"
    kept = [on_gpu(9, parts=6), on_gpu(5, parts=6), on_gpu(9, parts=6), on_gpu(9, parts=2)]
    assert Run(kept, gpus=2, cores=8, sharing=4).seconds() == 5 + 9, "the third waits for a GPU, the last passes it"


def test_places_and_cores_limit_what_runs_at_once():
    shared = [on_gpu(10, parts=2)] * 8
    assert Run(shared, gpus=1, cores=16, sharing=4).seconds() == 20
    assert Run(shared, gpus=1, cores=2, sharing=4).seconds() == 40
    assert Run(shared, gpus=1, cores=16, sharing=2).seconds() == 40
    assert Run(shared, gpus=2, cores=16, sharing=4).seconds() == 10
    assert Run([*shared, *[on_cpu(4)] * 3], gpus=1, cores=4, sharing=4).seconds() == 24, "CPU jobs get the last cores"
    assert Run([*shared, *[on_cpu(4)] * 3], gpus=1, cores=5, sharing=4).seconds() == 20


def test_a_gpu_computes_for_one_job_at_a_time():
    jobs = [on_gpu(10, parts=2, computed=8)] * 4
    assert Run(jobs, gpus=1, cores=8, sharing=4).seconds() == pytest.approx(32)
    assert Run([replace(job, computed=2) for job in jobs], gpus=1, cores=8, sharing=4).seconds() == pytest.approx(10)
    assert Run([*jobs, on_cpu(20)], gpus=1, cores=8, sharing=4).seconds() == pytest.approx(32), "beside the GPU"


def test_a_job_waits_for_those_that_make_its_inputs():
    first, second = on_cpu(7, number=1), on_gpu(5, parts=2, number=2, after=(1,))
    assert Run([second, first], gpus=1, cores=4, sharing=4).seconds() == 12
    assert Run([second], gpus=1, cores=4, sharing=4).seconds() == 5, "its input is there"
    urgent = [on_cpu(3, number=3), on_cpu(5, number=4, priority=1)]
    later = on_cpu(9, number=5, after=(4,))
    assert Run([*urgent, later], gpus=1, cores=1, sharing=1).seconds() == 17
    assert Run([*urgent, later], gpus=1, cores=2, sharing=1).seconds() == 14


def test_orders_do_not_depend_on_the_numbers_of_snakemake():
    rng = random.Random(5)
    jobs = [replace(job, wildcards={"model": str(i)}, after=()) for i, job in enumerate(random_jobs(rng, 30))]
    seconds = run_seconds(jobs, gpus=1, cores=4, sharing=4)
    assert len(seconds) == ORDERS and len(set(seconds)) > 1
    assert run_seconds(rng.sample(jobs, 30), gpus=1, cores=4, sharing=4) == seconds
    filled = sum(job.seconds * job.parts / 8 for job in jobs if job.on_gpu)
    assert min(seconds) >= max(filled, sum(job.computed for job in jobs), sum(job.seconds for job in jobs) / 4)


def test_thousands_of_jobs_take_seconds():
    rng = random.Random(0)
    jobs = [replace(job, wildcards={"model": str(job.number)}) for job in random_jobs(rng, 3000)]
    begun = time.process_time()
    run_seconds(jobs, gpus=1, cores=16, sharing=4)
    assert time.process_time() - begun < 5


def test_no_jobs_take_no_time():
    assert Run([], gpus=1, cores=1, sharing=1).seconds() == 0

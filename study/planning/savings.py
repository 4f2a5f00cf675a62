"""What a smaller study would save, by the same cost model: half the test texts, seeds or budgets."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from study.planning.jobs import Job
from study.planning.sizes import SizedStudy

Smaller = tuple[SizedStudy, list[Job]]


def half_the_texts(study: SizedStudy, jobs: Sequence[Job]) -> Smaller:
    """The study with half of the test texts that it evaluates on."""
    return replace(study, scored_share=study.scored_share / 2), list(jobs)


def half_the_seeds(study: SizedStudy, jobs: Sequence[Job]) -> Smaller:
    """The study with the first half of its seeds, rounded up."""
    seeds = study.config["seeds"]
    kept = seeds[: -(-len(seeds) // 2)]
    fewer = [job for job in jobs if "seed" not in job.wildcards or int(job.wildcards["seed"]) in kept]
    return replace(study, config=study.config | {"seeds": kept}), fewer


def half_the_budgets(study: SizedStudy, jobs: Sequence[Job]) -> Smaller:
    """The study with every second budget of every method."""
    return replace(study, budget_step=2 * study.budget_step), list(jobs)


HALVES: dict[str, Callable[[SizedStudy, Sequence[Job]], Smaller]] = {
    "test texts": half_the_texts,
    "seeds": half_the_seeds,
    "budgets of the methods": half_the_budgets,
}


def saved_seconds(
    study: SizedStudy, jobs: Sequence[Job], costed: Callable[[SizedStudy, Sequence[Job]], list[Job]]
) -> dict[str, float]:
    """What is halved -> seconds that all jobs together would take less.

    Args:
        costed: returns jobs of a study with their costs on the machine of the plan.
    """
    total = sum(job.seconds for job in costed(study, jobs))
    return {what: total - sum(job.seconds for job in costed(*half(study, jobs))) for what, half in HALVES.items()}

"""The machine to plan for: the one at hand, once it has been measured, or one of config/plan.yaml."""

from pathlib import Path

from ken.errors import UserError, did_you_mean
from study.planning import jobs
from study.running import files

MEASURED = Path("results/machine.json")


def known_machines(measured: Path) -> dict:
    """The plan's speeds, with the machine at hand if it has been measured."""
    plan = jobs.read_plan()
    return jobs.with_machine_at_hand(plan, files.read_json(measured)) if measured.is_file() else plan


def chosen_machine(name: str | None, plan: dict) -> str:
    """Name of the machine to plan for: as asked for, else the one at hand, else the CPU of the committed runs.

    Raises:
        UserError: there is no such machine.
    """
    name = name or (jobs.HERE if jobs.HERE in plan["machines"] else "cpu")
    if name not in plan["machines"]:
        if name == jobs.HERE:
            raise UserError("this machine has not been measured: measure it first (--measure).")
        known = did_you_mean(name, plan["machines"])
        raise UserError(f"the machine {name!r} is not known: add it to config/plan.yaml, or name another.{known}")
    return name

"""Options of the LLM Surgeon methods in a config."""

from typing import Annotated, Literal

from pydantic import MISSING, Field, ValidationInfo, field_validator

from baselines.llm_surgeon.costs import KINDS
from baselines.llm_surgeon.schedule import STRUCTURES, UPDATES, Settings
from baselines.options import Above0, Natural, Positive, Section, optional

DAMPING = "added to the diagonal of a factor of the curvature, in units of its mean"
Structure = Annotated[
    Literal[*STRUCTURES],
    Field(description='what is removed at once: an entry, two of four neighbours ("2:4" in quotes), rows and columns'),
]
LowRank = Annotated[
    Natural, Field(description="rank of a correction of what is kept that is trained between two shots; 0 for none")
]


class CurvatureOptions(Section):
    """Options of all methods that prune by curvature; a missing key leaves the setting of the method."""

    sequences: Positive | MISSING = optional("training texts that the curvature is estimated from")
    shots: Positive | MISSING = optional("how often the curvature is estimated and a part is removed")
    damping_g: Above0 | MISSING = optional(DAMPING)
    damping_a: Above0 | MISSING = optional(DAMPING)


class SurgeonOptions(CurvatureOptions):
    """Options of LLM Surgeon towards zero."""

    structure: Structure | MISSING = MISSING
    costs: Literal[*KINDS] | MISSING = optional(
        "of what is removed, by LLM Surgeon (obs), K-OBD (obd), L-OBD or magnitude"
    )
    updates: Literal[*UPDATES] | MISSING = optional(
        "of what is kept; by default correlated for the costs obs and none for others"
    )
    low_rank: LowRank | MISSING = MISSING
    low_rank_rate: Above0 | MISSING = optional("learning rate of that correction")

    @field_validator("low_rank")
    @classmethod
    def _needs_updates(cls, rank: int, info: ValidationInfo) -> int:
        chosen = {key: info.data[key] for key in ("costs", "updates") if info.data.get(key, MISSING) is not MISSING}
        if rank and not Settings().with_options(chosen).update:
            raise ValueError(f"is {rank}, but nothing is updated: set updates or leave it out.")
        return rank

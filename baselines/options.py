"""Typed sections of a config: their base, and numbers and lists as YAML gives them.

A method describes its own options with a `Section`; `study.definition.sections` describes everything else.
A validator raises a ValueError whose text follows the path of the key, such as "is 3, which is odd: take 4."
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WrapValidator,
    model_validator,
)

SHOWN = 60  # characters of a wrong value in a message
T = TypeVar("T")


class Section(BaseModel):
    """Keys with values of exactly the types of the fields; `MISSING` marks a key without a default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, regex_engine="python-re")

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        """Read a section whose lines are all commented out as an empty one."""
        return {} if value is None else value


def shown(value: object) -> str:
    """A value in the JSON form of YAML, shortened for a sentence."""
    if value is None:
        return "empty"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _number(value: object) -> object:
    """Read a number that YAML 1.1 takes for text, such as 1e-3."""
    if isinstance(value, str):
        try:
            return int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            pass
    return value


def _integer(value: object) -> object:
    number = _number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _validated(value: object, validate: Callable[[object], object]) -> object:
    """Validate as a float, but leave a whole number whole."""
    number = _number(value)
    validate(number)
    return number


def _unique(values: list) -> list:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"names {shown(value)} twice: take one out.")
    return values


NUMBER = WrapValidator(_validated)  # comes last, behind the limits
Integer = Annotated[int, BeforeValidator(_integer), Field(description="a whole number")]
Natural = Annotated[Integer, Field(ge=0, description="a whole number from 0")]
Positive = Annotated[Integer, Field(ge=1, description="a whole number from 1")]
Number = Annotated[float, Field(description="a number"), NUMBER]
Above0 = Annotated[float, Field(gt=0, description="a number above 0"), NUMBER]
Share = Annotated[float, Field(gt=0, lt=1, description="a share between 0 and 1"), NUMBER]
Unique = Annotated[list[T], AfterValidator(_unique), Field(json_schema_extra={"uniqueItems": True})]
Several = Annotated[Unique[T], Field(min_length=1)]


def optional(description: str, **limits: object) -> Any:
    """A field for a key without a default; the key is absent if a config does not give it."""
    return Field(MISSING, description=description, **limits)

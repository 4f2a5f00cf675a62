"""Places of a forest plot, which the page draws as one row of SVG per estimate: percent of the width of the plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TICKS = 5  # at most
MARGIN = 0.06  # of the width, on both sides of what is drawn


@dataclass(frozen=True)
class Mark:
    """An estimate and the ends of its interval in percent of the width; the ends are equal if there is no interval."""

    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Forest:
    """A forest plot.

    Attributes:
        marks: one per estimate, None for an estimate that is missing.
        zero: place of no difference, in percent. limits: places of the margins.
        ticks: place and text of each tick of the axis.
    """

    marks: list[Mark | None]
    zero: float
    limits: list[float]
    ticks: list[tuple[float, str]]

    @classmethod
    def of(cls, estimates: Sequence[tuple[float, float, float]], limits: Sequence[float]) -> "Forest":
        """The plot of estimates with their intervals: (estimate, low, high), NaN for what is missing.

        Args:
            limits: values of the estimate at the margins of the rule.
        """
        drawn = [value for row in estimates for value in row if not math.isnan(value)]
        least, most = min([0.0, *drawn, *limits]), max([0.0, *drawn, *limits])
        width = (most - least) or 1.0
        least, width = least - MARGIN * width, (1 + 2 * MARGIN) * width

        def place(value: float) -> float:
            return round(100 * (value - least) / width, 2)

        def mark(estimate: float, low: float, high: float) -> Mark | None:
            if math.isnan(estimate):
                return None
            ends = (estimate, estimate) if math.isnan(low) else (low, high)
            return Mark(place(estimate), *map(place, ends))

        ticks = [(place(value), text) for value, text in _ticks(least, least + width)]
        return cls([mark(*row) for row in estimates], place(0.0), [place(limit) for limit in limits], ticks)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round values between two ends, at most `TICKS`, with their texts."""
    decade = 10 ** math.floor(math.log10((high - low) / TICKS))
    step = next(step for step in (decade * factor for factor in (1, 2, 5, 10)) if (high - low) / step <= TICKS)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [(index * step, f"{index * step:g}".replace("-", "−")) for index in range(first, last + 1)]

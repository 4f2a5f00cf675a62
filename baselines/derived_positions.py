"""Selections whose positions take no byte, since a reader derives them: from a seed, or from the pre-trained rows.

Without a number of bits in the name, values have 16: "seeded-rescaled-2bit" has 2.
"""

from baselines.base import Selection, register_selection

register_selection(Selection("seeded", "random", stochastic=True, values="16bit", positions="seed"))
register_selection(Selection("ken-base", "ken", values="16bit", positions="base"))

"""KEN itself as one of the compared methods: fine-tuned values kept (`ken`) or updates rescaled (`ken-rescaled`)."""

from baselines.base import Selection, register, rescaled

register(Selection("ken", criterion="ken"))
rescaled("ken-rescaled", of="ken")

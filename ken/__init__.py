"""KEN: keep part of a fine-tuned transformer and reset the rest to its pre-trained values.

Density estimates (`kde`), selections (`selection`), the sub-network that has to be stored (`Subnetwork`), and the same
from disk to disk for models of any size (`prune`, `inject`).
Source: M. Mastromattei, F. M. Zanzotto, "Less is KEN", Findings of ACL 2024, arXiv 2402.03142.
"""

from ken import kde, selection
from ken.selection import rank, select
from ken.sources import fingerprint
from ken.streaming import inject, prune
from ken.subnetwork import Subnetwork
from ken.suggestion import suggest

__all__ = ["Subnetwork", "fingerprint", "inject", "kde", "prune", "rank", "select", "selection", "suggest"]

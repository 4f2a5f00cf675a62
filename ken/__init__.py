"""KEN: keep part of a fine-tuned transformer and reset the rest to its pre-trained values.

Density estimates (`kde`), selections (`selection`), and the sub-network that has to be stored (`Subnetwork`).
Source: M. Mastromattei, F. M. Zanzotto, "Less is KEN", Findings of ACL 2024, arXiv 2402.03142.
"""

from ken import kde, selection
from ken.selection import rank, select
from ken.subnetwork import Subnetwork, fingerprint

__all__ = ["Subnetwork", "fingerprint", "kde", "rank", "select", "selection"]

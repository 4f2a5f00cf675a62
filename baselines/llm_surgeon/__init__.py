"""The LLM Surgeon (van der Ouderaa et al., ICLR 2024): second-order pruning with Kronecker-factored curvature."""

from baselines.llm_surgeon import method

__all__ = ["method"]

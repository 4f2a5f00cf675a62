"""Slow reference implementations in plain float64 loops, independent of the tested code."""

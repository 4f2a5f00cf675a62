"""Slow independent implementations, in plain float64 loops, that the fast ones are compared with."""

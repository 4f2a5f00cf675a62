"""Speed, memory and size: every benchmark compares two things in one run and prints the ratio.

Each is a program of its own: `python -m benchmarks.ranking`. `--out FILE` keeps the numbers as JSON.
"""

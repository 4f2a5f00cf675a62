"""Put a study's main numbers and its summary figure into the README, between two marks; nothing there is typed.

`python -m report.readme` after the reference run has changed; with `--check` it only says whether the README is up to date.
"""

import argparse
import re
import sys
from pathlib import Path

from report import style
from report.errors import ReportError, run
from report.results import read_json, write_text
from report.summary import sentences
from report.tables import Tables

ROOT = Path(__file__).parent.parent
START, END = "<!-- results: written by `python -m report.readme` from {} -->", "<!-- end of results -->"
SHARES = (0.02, 0.05, 0.10, 0.25, 0.50, 0.75)


def block(results: Path) -> str:
    """The part of the README that shows what came out of a committed run."""
    raise NotImplementedError

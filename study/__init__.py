"""The steps of a study: text and tasks, models, fine-tuning, compression, evaluation, provenance.

Every step is a module that runs as ``python -m study.<step>``; the rules of the Snakefile run the same command.
"""

import gc
import os

from study.running.workflow import SNAKEMAKE

if SNAKEMAKE in os.environ:  # a step of a run
    # Importing torch and transformers creates a million objects that are never freed. By default, Python searches them
    # for garbage after every 700 new ones, which takes a sixth of a step's start-up time.
    gc.set_threshold(100_000, 20, 100)

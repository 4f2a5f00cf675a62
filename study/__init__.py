"""One cell of the study: tasks, models, pre-training, fine-tuning, compression, evaluation, provenance.

Every step is a module that runs as ``python -m study.<step>``; the Snakefile calls it with that very command.
"""

import gc
import os

from study.running.workflow import SNAKEMAKE

if SNAKEMAKE in os.environ:  # a step of a run
    # Importing torch and transformers makes a million objects that all stay; by default Python looks for garbage among
    # them every 700, which takes a sixth of a step's start.
    gc.set_threshold(100_000, 20, 100)

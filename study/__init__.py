"""One cell of the study: tasks, models, pre-training, fine-tuning, compression, evaluation, provenance.

Every step is a module that runs as ``python -m study.<step>``; the Snakefile calls it with that very command.
"""

"""Cells: one fine-tuned model on one task, as the steps that compress and evaluate it see it."""

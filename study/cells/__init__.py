"""Cells: fine-tuned models on their tasks, loaded for compression and evaluation."""

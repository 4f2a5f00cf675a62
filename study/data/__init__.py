"""Text and tasks: from docstrings, local files or the hub to tables of text and label."""

"""Tasks as tables of text and label: from docstrings, local files or the hub."""

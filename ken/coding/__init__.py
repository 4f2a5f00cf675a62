"""Updates in few bits: the values, positions and blocks of small files (docs/format.md)."""

"""`python -m ken` is the command `ken`."""

from ken.cli import main

main()

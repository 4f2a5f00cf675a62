"""Documents, and the program that writes the one about the code."""

"""A model as it runs under gates: compiled, checked against itself, and known again."""

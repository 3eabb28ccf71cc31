"""Kept runs: memory first, then memory-mapped files, each within a budget.

`keys` is what a kept run depends on, `rows` is the form in which it is kept, `disk` and `folder` are the
files, `kept_rows` puts a batch together from both. `pruning.frozen.runs` decides what is kept.
"""

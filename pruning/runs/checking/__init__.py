"""What is looked at before any work: whether a model, a task and the settings fit, and what a run would cost.

`pruning.preflight` brings it together; each file holds one kind of look.
"""

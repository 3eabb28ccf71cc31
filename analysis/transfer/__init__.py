"""Circuits of some tasks on others: how faithful each is, what they share, whether kinds of tasks differ.

- `matrices`: task × circuit, as shares of the way from no edge to the full model, or to the task's own circuit;
- `groups`: tasks of the same kind against tasks of different kinds, tested by exchanging labels;
- `writing`: tables, figures and a page in a folder.

The table they are made of is that of `pruning.transfer.measure.measure_transfer`, a row per circuit and task.
"""

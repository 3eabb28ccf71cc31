"""How much memory a training run will take, and what to do about it: from sizes alone, no weights, no graph.

`estimate` is what a run holds at its peak, put together of what a step holds (`step`) and what is kept
of frozen runs (`cache`); `plan` decides from it how a batch is run so that it fits; `available` asks a
device what is free.
"""

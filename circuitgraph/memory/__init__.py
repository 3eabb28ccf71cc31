"""How much memory a training run will take, and what to do about it: from sizes alone, no weights, no graph.

`estimate` says what a run holds at its dearest moment, put together of what a step holds (`step`) and what is kept
of runs that never change (`cache`); `plan` decides from it how a batch is run so that it fits; `available` asks a
device what is free.
"""

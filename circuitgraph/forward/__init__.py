"""The masked forward pass, in the delta form.

`reference` runs the plain model and keeps what ablation needs; `plan` turns gates into what must run;
`stream` holds the writers' deltas and mixes them for each reader, forward and backward; `passing` makes
autograd functions of that; `masked` puts a whole pass together.
"""

"""Parts of a model turned up and down: what is changed, as data, and a model run with it."""

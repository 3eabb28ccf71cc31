"""A small query language over node names: `find(circuit, "a5.*<q> <- m*")`.

`language` reads queries, `names` says what of a universe each step fits, `chains` finds the edges on matching
paths, and `found` is the function to call and what it returns.
"""

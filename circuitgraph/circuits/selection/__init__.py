"""From edge scores to a circuit, by a named rule: one rule a file; `rules` lists them."""

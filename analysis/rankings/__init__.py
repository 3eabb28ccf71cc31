"""How good a ranking of edges is: areas under curves over sizes, and against a circuit that is known."""

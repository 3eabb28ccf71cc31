"""How the products of frozen MLPs are computed."""

"""The structure of one circuit, as graph operations: paths, cuts, hubs, composition, communities, motifs.

Plain functions on `Circuit`; the same questions can be put to networkx through `Circuit.graph`. Structural
edges let paths pass from a head's readers to the head; they are never counted and never cut.
"""

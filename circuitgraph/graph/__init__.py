"""What there is: the nodes and edges of a model as a graph, with the gate of each edge."""

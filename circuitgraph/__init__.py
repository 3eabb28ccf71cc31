"""circuitgraph."""

"""How edges are ranked: one file or folder per method."""

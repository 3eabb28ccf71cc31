"""How the sums of a masked pass are computed on a device."""

"""What of a masked pass has to run for given gates."""

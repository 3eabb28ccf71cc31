"""From trained gates to a circuit."""

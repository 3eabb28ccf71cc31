"""Coordinates inside a found circuit: which value dimensions of its heads and neurons of its MLPs it needs."""

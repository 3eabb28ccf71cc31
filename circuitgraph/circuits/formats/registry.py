"""All formats of other tools, by name and by what a file looks like."""

from __future__ import annotations

from pathlib import Path

from circuitgraph.circuits.formats.auto_circuit import AUTO_CIRCUIT
from circuitgraph.circuits.formats.eap_ig import EAP_IG
from circuitgraph.circuits.formats.eap_ig_pt import EAP_IG_PT
from circuitgraph.circuits.formats.edge_pruning import EDGE_PRUNING
from circuitgraph.circuits.formats.file_format import FileFormat
from circuitgraph.circuits.formats.mib import MIB
from circuitgraph.errors import UnknownNameError

FORMATS: dict[str, FileFormat] = {known.name: known for known in (EAP_IG, EAP_IG_PT, MIB, EDGE_PRUNING, AUTO_CIRCUIT)}


def format_named(name: str) -> FileFormat:
    """A format by its name.

    Raises:
        UnknownNameError: No such format.

    Examples:
        >>> format_named("edge-pruning").holds
        ('kept edges',)
    """
    if name not in FORMATS:
        raise UnknownNameError.of("format", name, FORMATS)
    return FORMATS[name]


def recognised_format(path: Path) -> FileFormat | None:
    """The format that a file or folder looks like, or None.

    Args:
        path: The file or folder.
    """
    return next((known for known in FORMATS.values() if known.recognises(path)), None)

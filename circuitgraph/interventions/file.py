"""The file of an intervention: its JSON values, checked for what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitgraph.errors import CircuitFormatError, UnknownNameError
from circuitgraph.files.strict_json import parse_strictly

FORMAT = "circuitgraph intervention"
FORMAT_VERSION = 1
_FIELDS = ("format", "format_version", "universe", "ablation", "edges", "provenance")
_OPTIONAL = ("at_positions",)


def parsed(path: Path) -> dict[str, Any]:
    """The JSON values of an intervention's file.

    Args:
        path: The file.

    Raises:
        CircuitFormatError: It cannot be read, is no intervention or of a newer version, or lacks a field or has one
            that is unknown.
    """
    try:
        values = parse_strictly(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitFormatError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise CircuitFormatError(f"{path}: no intervention file: {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CircuitFormatError(
            f'{path}: no intervention file: expected an object with "format": {FORMAT!r}, as Intervention.save '
            "writes it. A circuit is run with `circuitgraph run CIRCUIT`"
        )
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise CircuitFormatError(
            f"{path}: format_version is {version!r}, and this version of circuitgraph reads {FORMAT_VERSION}"
        )
    missing = [name for name in _FIELDS if name not in values]
    if missing:
        raise CircuitFormatError(f"{path}: the field {missing[0]!r} is missing; expected {', '.join(_FIELDS)}")
    known = (*_FIELDS, *_OPTIONAL)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise CircuitFormatError(f"{path}: {UnknownNameError.of('field', str(unknown[0]), known)}")
    return values

"""Results of ours as one JSON object: of a named format and version, with the fields that it has to have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuitgraph.errors import CircuitFormatError, UnknownNameError
from circuitgraph.files.strict_json import parse_strictly

FORMAT_FIELDS = ("format", "format_version")


def read_document(
    path: Path, *, format: str, version: int, fields: Sequence[str], optional: Sequence[str] = (), hint: str = ""
) -> dict[str, Any]:
    """Read an object, and check that it is what it is taken for; what its fields hold is not looked at.

    Args:
        path: The file.
        format: What its field `format` says, such as `circuitgraph intervention`.
        version: What its field `format_version` says.
        fields: Those that it has besides.
        optional: Those that it may have.
        hint: What the message adds where it is something else.

    Raises:
        CircuitFormatError: It cannot be read, is of another format or version, or lacks a field or has one that is
            unknown.
    """
    called = format.removeprefix("circuitgraph ")
    try:
        values = parse_strictly(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitFormatError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise CircuitFormatError(f"{path}: no {called} file: {error}") from None
    if not isinstance(values, dict) or values.get("format") != format:
        raise CircuitFormatError(
            f'{path}: no {called} file: expected an object with "format": {format!r}{f", {hint}" if hint else ""}'
        )
    found = values.get("format_version")
    if type(found) is not int or found != version:
        raise CircuitFormatError(
            f"{path}: format_version is {found!r}, and this version of circuitgraph reads {version}"
        )
    wanted = (*FORMAT_FIELDS, *fields)
    missing = [name for name in wanted if name not in values]
    if missing:
        raise CircuitFormatError(f"{path}: the field {missing[0]!r} is missing; expected {', '.join(wanted)}")
    known = (*wanted, *optional)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise CircuitFormatError(f"{path}: {UnknownNameError.of('field', str(unknown[0]), known)}")
    return values

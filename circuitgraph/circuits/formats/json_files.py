"""JSON files of other tools: read whole, with what was expected in every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from circuitgraph.errors import CircuitFormatError
from circuitgraph.files.strict_json import parse_strictly

_HEAD = 4096


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file; NaN and infinity, which some tools write, are for the caller to refuse.

    Args:
        path: The file.
        expected: What it should be, for messages.

    Raises:
        CircuitFormatError: It cannot be read, is no JSON, or has a key twice in one object.
    """
    try:
        return parse_strictly(path.read_text(encoding="utf-8-sig"), constants=True)
    except OSError as error:
        raise CircuitFormatError(f"{path}: cannot be read: {error.strerror}; expected {expected}") from error
    except json.JSONDecodeError as error:
        raise CircuitFormatError(
            f"{path}: line {error.lineno}, column {error.colno}: no complete JSON ({error.msg}); expected {expected}"
        ) from error
    except UnicodeDecodeError as error:
        raise CircuitFormatError(f"{path}: byte {error.start}: no text in UTF-8; expected {expected}") from error
    except ValueError as error:
        raise CircuitFormatError(f"{path}: {error}; expected {expected}") from error


def begins_like(path: Path, pattern: str) -> bool:
    """Whether a file is text that begins in some way.

    Args:
        path: The file.
        pattern: A regular expression for its beginning.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return re.match(pattern, head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")) is not None

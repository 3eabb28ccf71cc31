"""Files written whole or not at all, so that a full disk or a killed run leaves no half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from circuitgraph.errors import OutputError


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file under another name beside it, then rename it over the old one.

    Args:
        path: Where to write; its folder must exist.
        content: The whole content; text is written as UTF-8, with `?` for what UTF-8 cannot hold.

    Returns:
        The path.

    Raises:
        OutputError: The folder is missing or not writable, or the disk is full. An old file stays as it was.
    """
    data = content.encode(errors="replace") if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        try:
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"cannot write {path}: {reason}; choose another place or make room") from error
    return path

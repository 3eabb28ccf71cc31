"""Files written whole or not at all, so that a full disk or a killed run leaves no half of one.

A file or folder is made under a hidden name beside its place, `.NAME.xxxxxxxx.tmp`, and renamed when it is whole. What
a killed process leaves there is removed by the next one that writes to the same place.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from circuitgraph.errors import OutputError

_LONGEST = 200
"""Bytes of a name that its hidden name repeats; most file systems take 255 in all."""
_DEAD_AFTER_SECONDS = 3600.0


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file under another name beside it, then rename it over the old one.

    Args:
        path: Where to write; its folder must exist.
        content: The whole content; text is written as UTF-8, with `?` for what UTF-8 cannot hold.

    Returns:
        The path.

    Raises:
        OutputError: The folder is missing or not writable, the name is too long, or the disk is full. An old file
            stays as it was.
    """
    data = content.encode(errors="replace") if isinstance(content, str) else content
    beside = hidden_beside(path)
    try:
        try:
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {reason(error)}; choose another place or make room") from error
    return path


def reason(error: OSError) -> str:
    """What the system says went wrong.

    Examples:
        >>> reason(OSError(28, "No space left on device")), reason(TimeoutError())
        ('No space left on device', 'TimeoutError')
    """
    return error.strerror or type(error).__name__


def hidden_beside(path: Path, suffix: str = ".tmp") -> Path:
    """A fresh hidden name beside a place.

    Args:
        path: The file or folder that it shall become.
        suffix: What it ends with.
    """
    return path.with_name(f".{shortened(path.name)}.{uuid.uuid4().hex[:8]}{suffix}")


def sweep(path: Path, *, older_than: float = _DEAD_AFTER_SECONDS) -> list[str]:
    """Remove the hidden files and folders that killed processes left beside a place.

    Args:
        path: The file or folder that they were to become.
        older_than: Seconds since they were last written to. A younger one may be somebody's who still writes.

    Returns:
        The names of what was removed.
    """
    swept = []
    for entry in leftovers(path):
        with contextlib.suppress(OSError):
            if time.time() - entry.lstat().st_mtime < older_than:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            swept.append(entry.name)
    return swept


def leftovers(path: Path, suffix: str = ".tmp") -> list[Path]:
    """Hidden names beside a place, as `hidden_beside` makes them.

    Args:
        path: The file or folder that they were to become.
        suffix: What they end with.
    """
    form = re.compile(re.escape(f".{shortened(path.name)}.") + "[0-9a-f]{8}" + re.escape(suffix))
    try:
        return sorted(entry for entry in path.parent.iterdir() if form.fullmatch(entry.name))
    except OSError:
        return []


def shortened(name: str) -> str:
    """As much of a name as a hidden name beside it may repeat."""
    return os.fsencode(name)[:_LONGEST].decode(errors="ignore")

"""The folder that holds kept runs: what lies in it, how it is bounded, how it is emptied. Loads no torch.

    FOLDER / model key / kind-key-content.safetensors

`key` is what was looked up (see `keys`), `content` is the SHA-256 of the file's own bytes, so a file that was
cut short or changed is known by its name. The modification time is the time of the last use.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METADATA = "circuitgraph"
ENTRY = re.compile(r"([a-z-]+)-([0-9a-f]{32})-([0-9a-f]{32})\.safetensors")
UNFINISHED = re.compile(r"\.[a-z-]+-[0-9a-f]{32}\.[0-9a-f]{32}\.tmp")
_MODEL = re.compile(r"[0-9a-f]{32}")
_ABANDONED_SECONDS = 3600
_LONGEST_HEADER = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of the cache.

    Attributes:
        path: The file.
        n_bytes: Its size.
        used: When it was last written or read, in seconds since 1970.
        finished: Whether it is whole; others are being written, or were left behind.
    """

    path: Path
    n_bytes: int
    used: float
    finished: bool

    @property
    def about(self) -> dict[str, Any]:
        """What the file's header holds; empty where it cannot be read."""
        try:
            return json.loads(header(self.path)["__metadata__"][METADATA])["about"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_LONGEST_HEADER, os.fstat(file.fileno()).st_size - 8):
            raise ValueError(f"{path} has no safetensors header")
        return json.loads(file.read(length))


def entries(folder: Path) -> list[Entry]:
    """Every file of the cache, the one used longest ago first; anything else in the folder is not listed.

    Args:
        folder: The cache's folder; it need not exist.

    Examples:
        >>> entries(Path("/no/such/folder"))
        []
    """
    found = []
    for place in _folders(folder):
        with contextlib.suppress(OSError), os.scandir(place) as listing:
            for item in listing:
                finished = ENTRY.fullmatch(item.name) is not None
                if not finished and UNFINISHED.fullmatch(item.name) is None:
                    continue
                with contextlib.suppress(OSError):  # another process may have removed it just now
                    status = item.stat(follow_symlinks=False)
                    found.append(
                        Entry(path=Path(item.path), n_bytes=status.st_size, used=status.st_mtime, finished=finished)
                    )
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as listing:
            return [Path(item.path) for item in listing if _MODEL.fullmatch(item.name) and item.is_dir()]
    except OSError:
        return []


def room(folder: Path, *, budget_bytes: int, keep: Collection[Path]) -> int:
    """How many bytes could be written, if everything that may go went.

    Args:
        folder: The cache's folder.
        budget_bytes: How large it may be.
        keep: Files that must stay.
    """
    return budget_bytes - sum(entry.n_bytes for entry in entries(folder) if not _may_go(entry, keep))


def make_room(folder: Path, n_bytes: int, *, budget_bytes: int, keep: Collection[Path]) -> bool:
    """Remove the files used longest ago until a new one fits; where it cannot fit, nothing is removed.

    Args:
        folder: The cache's folder.
        n_bytes: Size of the new file.
        budget_bytes: How large the folder may be with it.
        keep: Files that must stay.

    Returns:
        Whether it fits now.
    """
    held = entries(folder)
    total = sum(entry.n_bytes for entry in held) + n_bytes
    if total - sum(entry.n_bytes for entry in held if _may_go(entry, keep)) > budget_bytes:
        return False
    for entry in held:
        if total <= budget_bytes:
            break
        if _may_go(entry, keep) and _removed(entry.path):
            total -= entry.n_bytes
    return total <= budget_bytes


def clear(folder: Path) -> tuple[int, int]:
    """Remove every file of the cache, and the folders left empty; anything else stays.

    Args:
        folder: The cache's folder.

    Returns:
        How many files went, and their bytes.
    """
    gone = [entry for entry in entries(folder) if _removed(entry.path)]
    for place in (*_folders(folder), folder):
        with contextlib.suppress(OSError):
            place.rmdir()
    return len(gone), sum(entry.n_bytes for entry in gone)


def _may_go(entry: Entry, keep: Collection[Path]) -> bool:
    if entry.finished:
        return entry.path not in keep
    return time.time() - entry.used > _ABANDONED_SECONDS


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True

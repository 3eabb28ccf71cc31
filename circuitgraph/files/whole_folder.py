"""Result folders of a few files, written whole or not at all: a hidden folder beside the place, renamed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from circuitgraph.errors import OutputError
from circuitgraph.files.atomic_file import hidden_beside, reason, sweep, write_atomically


def check_free(place: Path, *, overwrite: bool, names: Collection[str], what: str) -> None:
    """Refuse a place that is taken.

    Args:
        place: The folder to make.
        overwrite: Whether an older result there may be replaced.
        names: Files that such a result may hold; a folder with others is never replaced.
        what: What the message calls such a result.

    Raises:
        OutputError: There is a file, or a folder that may not be replaced.
    """
    if not place.exists():
        return
    if not place.is_dir():
        raise OutputError(f"{place} is a file; choose a folder")
    if not overwrite:
        raise OutputError(f"{place} exists; choose another folder, or allow it to be overwritten (--overwrite)")
    strangers = sorted(entry.name for entry in place.iterdir() if entry.name not in names)
    if strangers:
        raise OutputError(
            f"{place} holds {', '.join(strangers[:3])}, which no {what} does, so it is not overwritten; "
            "choose another folder"
        )


def write_folder(place: Path, files: Mapping[str, str | bytes]) -> Path:
    """Make a folder of files; an older one goes when the new one is whole.

    Args:
        place: The folder; see `check_free` for what may be replaced.
        files: Content by name; a name may have folders before it, `model/weights.safetensors`.

    Returns:
        The folder.

    Raises:
        OutputError: It cannot be made; what was there stays.
    """
    hidden = hidden_beside(place)
    try:
        hidden.mkdir(parents=True)
        sweep(place)
        for name, content in files.items():
            (hidden / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(hidden / name, content)
        _move(hidden, place)
    except OSError as error:
        raise OutputError(f"{place} cannot be made: {reason(error)}; choose another folder") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return place


def _move(hidden: Path, place: Path) -> None:
    """Put a finished folder in its place; an older one goes only then."""
    older = hidden_beside(place, ".old")
    if place.exists():
        place.rename(older)
    try:
        hidden.rename(place)
    except OSError:
        if older.exists():
            older.rename(place)
        raise
    shutil.rmtree(older, ignore_errors=True)

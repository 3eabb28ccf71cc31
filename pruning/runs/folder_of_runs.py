"""A folder of several trainings: begun, or gone on in where it is there; never taken for something else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from circuitgraph.errors import OutputError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.plain_json import json_text
from circuitgraph.files.reservation import reserved

FORMAT_VERSION = 1
Kind = TypeVar("Kind", bound="FolderOfRuns")
_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""A file that a killed run was writing, see `circuitgraph.files.atomic_file`."""


@dataclass(frozen=True)
class FolderOfRuns:
    """A folder of several trainings. Subclasses say of what kind.

    Attributes:
        path: Where it is.
        note: What was found there of a dead run, in a sentence, or an empty text.
    """

    KIND: ClassVar[str]
    """What messages call it."""
    MARK: ClassVar[str]
    """The file that makes a folder one of these, with what was asked for."""
    CONTENTS: ClassVar[re.Pattern[str]]
    """The names of everything that it may hold."""

    path: Path
    note: str = ""

    @classmethod
    @contextlib.contextmanager
    def opened(cls: type[Kind], path: str | Path, *, overwrite: bool = False) -> Iterator[Kind]:
        """Make the folder, or go on in one that is there; no other run may for as long as the block lasts.

        Args:
            path: The folder.
            overwrite: Remove what is there, with all its circuits.

        Yields:
            The folder.

        Raises:
            OutputError: It holds something else, is reserved by another run, or cannot be made.
        """
        place = Path(os.path.realpath(Path(path).expanduser()))
        with reserved(place) as note:
            for hidden in place.rglob(".*.tmp") if place.is_dir() else ():
                if _HALF_WRITTEN.fullmatch(hidden.name) and hidden.is_file():
                    hidden.unlink(missing_ok=True)
            yield replace(cls.open(place, overwrite=overwrite), note=note)

    @classmethod
    def open(cls: type[Kind], path: str | Path, *, overwrite: bool = False) -> Kind:
        """Make the folder, or go on in one that is there.

        Args:
            path: The folder.
            overwrite: Remove what is there, with all its circuits.

        Returns:
            The folder.

        Raises:
            OutputError: It holds something else, or cannot be made.
        """
        folder = cls(Path(os.path.realpath(Path(path).expanduser())))
        folder.check(overwrite=overwrite)
        try:
            if overwrite and folder.path.exists():
                shutil.rmtree(folder.path)
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder.path} cannot be made: {error.strerror or error}; choose another") from error
        return folder

    def check(self, *, overwrite: bool = False) -> None:
        """Refuse a place that holds something else.

        Args:
            overwrite: Whether all that is there would go.

        Raises:
            OutputError: It is a file, a folder with files and without `MARK`, or, where all would go, one with
                something beside its own.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; choose a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.mark.exists():
            raise OutputError(
                f"{self.path} exists and is no {self.KIND} (it has no {self.MARK}); choose another folder"
            )
        names = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        strangers = [name for name in names if not self.CONTENTS.fullmatch(name)]
        if overwrite and strangers:
            raise OutputError(
                f"{self.path} holds {', '.join(strangers[:3])}{' …' if len(strangers) > 3 else ''}, which no "
                f"{self.KIND} holds, so it is not overwritten; choose another folder"
            )

    @property
    def mark(self) -> Path:
        """The file with what was asked for."""
        return self.path / self.MARK

    def write_mark(self, values: Mapping[str, Any]) -> None:
        """Write what was asked for, and what there is.

        Args:
            values: As JSON values.
        """
        write_atomically(self.mark, json_text({"format_version": FORMAT_VERSION, **values}) + "\n")

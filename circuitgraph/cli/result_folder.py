"""A result folder: made whole beside its place and moved there at the end, or not at all.

1. `ResultFolder.check` refuses, before any work, a folder that exists, cannot be made, or would not fit.
2. `publishing` gives a hidden folder beside it to write into.
3. When all is written, that folder takes its place; an older result is put away only then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from circuitgraph.cli.output import bytes_text
from circuitgraph.errors import OutputError

FILES = (
    "circuit.json",
    "metrics.json",
    "examples.csv",
    "curve.csv",
    "curve.png",
    "circuit.dot",
    "circuit.pdf",
    "circuit.svg",
    "circuit.html",
    "gates.safetensors",
    "report.md",
)
"""Everything that a result folder may hold."""


@dataclass(frozen=True, kw_only=True)
class ResultFolder:
    """Where a run's files go.

    Attributes:
        path: The folder, absolute.
        overwrite: Whether an older result there may be replaced.
    """

    path: Path
    overwrite: bool

    @classmethod
    def check(cls, path: Path, *, overwrite: bool, n_bytes: int) -> ResultFolder:
        """Make sure that a result can be written, before the work.

        Args:
            path: The folder to make.
            overwrite: Whether an older result may be replaced.
            n_bytes: About how large the result will be.

        Returns:
            The folder, not made yet.

        Raises:
            OutputError: It exists, holds something else, cannot be made, or the disk is too full.
        """
        folder = cls(path=Path(os.path.realpath(path.expanduser())), overwrite=overwrite)
        folder._check_free()
        with folder._explained(), folder._beside():
            free = shutil.disk_usage(folder.path.parent).free
        if free < n_bytes:
            raise OutputError(
                f"{folder.path.parent} has {bytes_text(free)} left, and the result needs about "
                f"{bytes_text(n_bytes)}; make room, or choose another --out"
            )
        return folder

    def _check_free(self) -> None:
        """Refuse a place that is taken."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; choose a folder for --out")
        if not self.overwrite:
            raise OutputError(f"{self.path} exists; choose another --out, or replace it with --overwrite")
        strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name not in FILES)
        if strangers:
            raise OutputError(
                f"{self.path} holds {', '.join(strangers[:3])}{' …' if len(strangers) > 3 else ''}, which no "
                "result of circuitgraph holds, so it is not overwritten; choose another --out"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.path} cannot be made: {error.strerror or error}; choose another --out") from error

    @contextlib.contextmanager
    def _beside(self) -> Iterator[Path]:
        """A fresh hidden folder beside the result's place; it and the parents made for it go afterwards."""
        made = []
        missing = [parent for parent in self.path.parents if not parent.exists()]
        hidden = self.path.parent / f".{self.path.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            for folder in (*reversed(missing), hidden):
                folder.mkdir()
                made.append(folder)
            yield hidden
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    @contextlib.contextmanager
    def publishing(self) -> Iterator[Path]:
        """Write the result.

        Yields:
            A hidden folder to write into; when the block ends well it becomes the result.

        Raises:
            OutputError: Something cannot be written; what stood there before still does.
        """
        with self._explained(), self._beside() as hidden:
            yield hidden
            self._check_free()
            older = None
            if self.path.exists():
                older = hidden.with_suffix(".old")
                self.path.rename(older)
            try:
                hidden.rename(self.path)
            except OSError:
                if older is not None:
                    older.rename(self.path)
                raise
            if older is not None:
                shutil.rmtree(older, ignore_errors=True)

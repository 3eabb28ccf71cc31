"""A result's folder: reserved before the work, filled as the run goes on, and never half of a file.

1. `ResultFolder.opened` refuses a place that is taken, reserves it (`circuitgraph.files.reservation`), and clears what
   a dead run left beside it.
2. The first files, gates and curve or scores, make the folder. Where an older result stands that may be replaced, they
   go into a hidden folder beside it, and `settle` puts that in the older one's place as soon as the circuit is in it.
3. Later parts are written into the folder one after another. `state.json` says at any moment which are missing, why,
   and how to make them.
4. Checkpoints of the training lie in `checkpoint` inside of it, beside an older result too, until all steps were taken
   and every later part was tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitgraph.errors import CheckpointError, OutputError
from circuitgraph.files.atomic_file import hidden_beside, leftovers, reason, sweep, write_atomically
from circuitgraph.files.plain_json import json_text
from circuitgraph.files.reservation import lock_of, reserved
from pruning.runs.parts import NOT_MADE_YET, was_tried
from pruning.runs.result_files import CHECKPOINT, CIRCUIT, FILES, LEARNT, STATE, is_of_result

FORMAT_VERSION = 1


class ResultFolder:
    """Where a run's files go; made by `opened`.

    Args:
        path: The folder, absolute.
        replaces: Whether an older result stands there, which goes when the new one's circuit is safe.
        note: What was found there of a dead run, in a sentence, or an empty text.

    Attributes:
        command: The command line that makes the result, for `state.json`; None where there is none.
        later: Parts that are made when all others are, and so are missing until then.
        resumes: Whether a run that was ended goes on here.
        ended_early: Whether the run was ended before its circuit was what it was to be.
    """

    def __init__(self, path: Path, *, replaces: bool = False, note: str = "") -> None:
        self.path, self.note = path, note
        self.command: str | None = None
        self.later: tuple[str, ...] = ()
        self.resumes = self.ended_early = False
        self._place = hidden_beside(path) if replaces else path

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[ResultFolder]:
        """Reserve a result's place for as long as the block lasts.

        Args:
            path: The folder to make.
            overwrite: Whether an older result there may be replaced; it stays until the new circuit is safe.
            resume: Whether a run there that was ended goes on. What it left stays until the new circuit is safe.

        Yields:
            The folder; nothing is made until something is written.

        Raises:
            OutputError: It exists, holds something else, is reserved by another run, or cannot be made.
            CheckpointError: There is a result, and nothing to go on from.
        """
        place = Path(os.path.realpath(Path(path).expanduser()))
        check_free(place, overwrite=overwrite or resume, reserved_by_us=False)
        with reserved(place) as note:
            recovered = _clear(place)
            check_free(place, overwrite=overwrite or resume)
            if resume:
                _require_checkpoint(place)
            older = place.exists() and [entry.name for entry in place.iterdir()] != [CHECKPOINT]
            folder = cls(place, replaces=older, note=" ".join(part for part in (note, recovered) if part))
            folder.resumes = resume
            try:
                yield folder
            finally:
                folder._leave()

    @classmethod
    @contextlib.contextmanager
    def completing(cls, path: str | Path) -> Iterator[ResultFolder]:
        """A result that is there, reserved to write more parts into.

        Args:
            path: The folder.

        Yields:
            The folder.

        Raises:
            OutputError: There is none, it has no circuit, or another run holds it.
        """
        place = Path(os.path.realpath(Path(path).expanduser()))
        if not (place / CIRCUIT).is_file():
            there = "has no circuit.json" if place.is_dir() else "is no folder"
            raise OutputError(f"{path} {there}; expected a result's folder, as `circuitgraph discover --out` makes it")
        with reserved(place) as note:
            for name in FILES:
                sweep(place / name, older_than=0.0)
            folder = cls(place, note=note)
            command = folder.read_json(STATE).get("command")
            folder.command = command if isinstance(command, str) else None
            folder.ended_early = bool(folder.read_json(STATE).get("resume"))
            yield folder

    @property
    def place(self) -> Path:
        """Where files are written now."""
        return self._place

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints are; beside an older result too, which a killed run leaves in its place."""
        return self.path / CHECKPOINT

    def __contains__(self, name: str) -> bool:
        return (self._place / name).is_file()

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file, whole or not at all.

        Args:
            name: Its name.
            content: What is in it.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            self._place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be made: {reason(error)}; choose another place") from error
        return write_atomically(self._place / name, content)

    def write_json(self, name: str, values: Mapping[str, Any]) -> Path:
        """Write a JSON file; NaN and infinity become null.

        Args:
            name: Its name.
            values: What is in it.
        """
        return self.write(name, json_text(values) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file; empty where it is missing or damaged."""
        try:
            found = json.loads((self._place / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_state(self, missing: Mapping[str, str], **about: Any) -> None:
        """Write which parts are missing; what an earlier state said beside that stays.

        Where none is, and the run was not ended early, checkpoints are removed.

        Args:
            missing: Why a part is not there, by part.
            about: What else is to be known: `evaluation`, `stopped_by`.
        """
        earlier = self.read_json(STATE)
        missing = {**missing, **{part: NOT_MADE_YET for part in self.later if part not in missing}}
        state = {
            "format_version": FORMAT_VERSION,
            "finished": not missing,
            "missing": [{"part": part, "reason": text} for part, text in missing.items()],
            "again": report_command(self.path) if missing else None,
            "command": self.command or earlier.get("command"),
            "stopped_by": None,
            "resume": resume_command(self.path) if self.ended_early and self.checkpoints.is_dir() else None,
        }
        self.write_json(STATE, {**state, "evaluation": earlier.get("evaluation"), **about})
        if not missing and not self.ended_early:
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def missing(self) -> dict[str, str]:
        """Why parts are not there, by part, as the state says."""
        listed = self.read_json(STATE).get("missing")
        rows = listed if isinstance(listed, list) else []
        return {str(row["part"]): str(row.get("reason", "")) for row in rows if isinstance(row, dict) and "part" in row}

    def how_evaluated(self) -> dict[str, Any]:
        """How the evaluation was asked for: by the names in `state.json`; empty where the state is gone."""
        found = self.read_json(STATE).get("evaluation")
        return found if isinstance(found, dict) else {}

    def settle(self) -> None:
        """Put a new result in an older one's place.

        Raises:
            OutputError: It cannot be moved; the older one still stands, and the new one is named.
        """
        if self._place == self.path:
            return
        hidden, older = self._place, hidden_beside(self.path, ".old")
        try:
            if self.checkpoints.is_dir():  # a copy, so that there is one in both if the process dies here
                shutil.copytree(self.checkpoints, hidden / CHECKPOINT)
            self.path.rename(older)
            try:
                hidden.rename(self.path)
            except OSError:
                older.rename(self.path)
                raise
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be replaced: {reason(error)}; the older result is still there, the new one is in "
                f"{hidden}"
            ) from error
        self._place = self.path
        shutil.rmtree(older, ignore_errors=True)

    def _leave(self) -> None:
        """Leave nothing that is of no use: a new result without gates or scores, an empty folder."""
        if self._place != self.path and not any(name in self for name in LEARNT):
            shutil.rmtree(self._place, ignore_errors=True)
        if self._ran_to_its_end() or not any(self.checkpoints.glob("step-*.json")):
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        with contextlib.suppress(OSError):
            if self._place.is_dir():
                self._place.rmdir()

    def _ran_to_its_end(self) -> bool:
        """Whether every part was tried: what failed is for `circuitgraph report`, and no checkpoint is needed."""
        return STATE in self and not self.ended_early and all(map(was_tried, self.missing().values()))


def check_free(place: Path, *, overwrite: bool, reserved_by_us: bool = True) -> None:
    """Refuse a place that is taken.

    Args:
        place: The folder to make.
        overwrite: Whether an older result there may be replaced.
        reserved_by_us: Whether nobody else can be making it; else a result that is being made is left to the
            reservation to tell of.

    Raises:
        OutputError: It is a file, exists, or holds something that no result holds.
    """
    try:
        if not place.exists() or (not reserved_by_us and lock_of(place).exists()):
            return
        if not place.is_dir():
            raise OutputError(f"{place} is a file; choose a folder for --out")
        strangers = sorted(
            entry.name for entry in place.iterdir() if entry.name != CHECKPOINT and not is_of_result(entry.name)
        )
    except OSError as error:
        raise OutputError(f"{place} cannot be made: {reason(error)}; choose another --out") from error
    if not overwrite:
        raise OutputError(
            f"{place} exists; choose another --out, or replace it with --overwrite (overwrite=True){_unfinished(place)}"
        )
    strangers = [name for name in strangers if not (name.startswith(".") and name.endswith(".tmp"))]
    if strangers:
        raise OutputError(
            f"{place} holds {', '.join(strangers[:3])}{' …' if len(strangers) > 3 else ''}, which no "
            "result of circuitgraph holds, so it is not overwritten; choose another --out"
        )


def _unfinished(place: Path) -> str:
    """How to complete a result that stands in the way."""
    if (place / CHECKPOINT).is_dir():
        return f". Its run was ended: `{resume_command(place)}` (resume=True) goes on with it"
    if not (place / CIRCUIT).is_file():
        return ""
    n_missing = len(ResultFolder(place).missing())
    return f". {n_missing} of its parts are missing: `{report_command(place)}` makes them" if n_missing else ""


def _require_checkpoint(place: Path) -> None:
    """Refuse to go on where there is a result and no checkpoint.

    Raises:
        CheckpointError: It is so.
    """
    if not place.exists() or (place / CHECKPOINT).is_dir() or not any(place.iterdir()):
        return
    lacking = ResultFolder(place).missing()
    if lacking:
        more = f"no step is left to take; `{report_command(place)}` makes the {len(lacking)} parts that are missing"
    else:
        more = "its run is finished. To make it anew give another --out, or --overwrite (overwrite=True)"
    raise CheckpointError(f"{place} has no checkpoint to go on from: {more}")


def require_room(path: Path, n_bytes: int) -> None:
    """Refuse a disk that is too full.

    Args:
        path: The folder to make.
        n_bytes: About how large it will be.

    Raises:
        OutputError: Less is left.
    """
    parent = next(parent for parent in path.parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < n_bytes:
        raise OutputError(
            f"{parent} has {free / 2**20:,.0f} MiB left, and the result needs about {n_bytes / 2**20:,.0f} MiB; make "
            "room, or choose another --out"
        )


def report_command(path: Path, parts: Sequence[str] = ()) -> str:
    """The command that makes missing parts of a result.

    Args:
        path: The result's folder.
        parts: Which; all that are missing where none is named.

    Examples:
        >>> report_command(Path("runs/ioi"), ["report"])
        'circuitgraph report runs/ioi --only report'
    """
    return shlex.join(["circuitgraph", "report", str(path), *(word for part in parts for word in ("--only", part))])


def resume_command(path: Path) -> str:
    """The command that goes on with a run that was ended.

    Args:
        path: The result's folder.

    Examples:
        >>> resume_command(Path("runs/ioi"))
        'circuitgraph discover --resume runs/ioi'
    """
    return shlex.join(["circuitgraph", "discover", "--resume", str(path)])


def _clear(place: Path) -> str:
    """Remove what dead runs left beside a reserved place; gives a sentence where that put a result back."""
    note = ""
    if not place.exists():
        whole = [hidden for hidden in leftovers(place) if (hidden / CIRCUIT).is_file()]
        for hidden in [*whole, *leftovers(place, ".old")]:
            with contextlib.suppress(OSError):
                hidden.rename(place)  # it died between taking the older result away and putting the new one there
                note = f"{place} was being replaced by a run that has died; a whole result was put back there."
                break
    sweep(place, older_than=0.0)
    for older in leftovers(place, ".old"):
        shutil.rmtree(older, ignore_errors=True)
    return note

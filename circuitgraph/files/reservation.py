"""A folder that is to be made belongs to one run at a time, from before its work to its end.

The reservation of `NAME` is a small JSON file `.NAME.lock` beside it, made by one process and by no second. It says who
holds it; that of a process that is no longer there is taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from circuitgraph.errors import OutputError
from circuitgraph.files.atomic_file import hidden_beside, reason, shortened

_BEING_MADE_SECONDS = 10.0
"""How long an empty reservation may be one that is just being written."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a reservation.

    Attributes:
        host: The machine's name.
        pid: The process.
        born: When that process began, in the system's ticks, so that a new process with an old number is told apart;
            None where the system does not say.
        since: When it was reserved, as text.
    """

    host: str
    pid: int
    born: int | None
    since: str

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), pid=pid, born=_born(pid), since=time.strftime("%Y-%m-%d %H:%M:%S"))

    @property
    def is_dead(self) -> bool:
        """Whether it is known that the process has ended; of another machine's that is never known."""
        if self.host != socket.gethostname():
            return False
        if not _is_there(self.pid):
            return True
        return self.born is not None and _born(self.pid) not in (None, self.born)


def lock_of(path: Path) -> Path:
    """Where the reservation of a folder is."""
    return path.with_name(f".{shortened(path.name)}.lock")


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[str]:
    """Hold a folder's place, with the parents that it needs.

    Args:
        path: The folder, which need not be there.

    Yields:
        A sentence on a dead run whose reservation was taken over, or an empty text.

    Raises:
        OutputError: Another run holds it, or nothing can be written there.
    """
    made = []
    lock = lock_of(path)
    try:
        try:
            for parent in [parent for parent in reversed(path.parents) if not parent.exists()]:
                parent.mkdir(exist_ok=True)
                made.append(parent)
            note = _take(lock, path)
        except OSError as error:
            raise OutputError(f"{path} cannot be made: {reason(error)}; choose another place") from error
        try:
            yield note
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()
    finally:
        for parent in reversed(made):
            with contextlib.suppress(OSError):
                parent.rmdir()  # of those that nothing was put into


def _take(lock: Path, path: Path) -> str:
    """Make the reservation; gives a sentence where a dead run's was taken over."""
    note = ""
    while True:
        try:
            with lock.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(Holder.me())))
            return note
        except FileExistsError:
            note = _take_over(lock, path)


def _take_over(lock: Path, path: Path) -> str:
    """Put a dead run's reservation away, so that one process of several gets it.

    Raises:
        OutputError: Its holder lives, or may live.
    """
    holder, age = _holder(lock), _age(lock)
    if age is None:
        return ""  # it was given back in the meantime
    if holder is None and age < _BEING_MADE_SECONDS:
        raise OutputError(f"another run is just reserving {path}; choose another place, or wait for it to end")
    if holder is not None and not holder.is_dead:
        here = holder.host == socket.gethostname()
        raise OutputError(
            f"{path} is reserved by another run (process {holder.pid} on {holder.host}, since {holder.since}); choose "
            "another place, or wait for it to end"
            + ("" if here else f". If that run is no longer there, remove {lock} and try again")
        )
    aside = hidden_beside(lock)
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return ""
    aside.unlink()
    who = "an unknown process" if holder is None else f"process {holder.pid}, since {holder.since}"
    return f"{path} was reserved by a run that has ended without giving it back ({who}); it is taken over"


def _holder(lock: Path) -> Holder | None:
    try:
        values: Any = json.loads(lock.read_text(encoding="utf-8"))
        return Holder(host=str(values["host"]), pid=int(values["pid"]), born=values["born"], since=str(values["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _age(lock: Path) -> float | None:
    try:
        return time.time() - lock.stat().st_mtime
    except OSError:
        return None


def _is_there(pid: int) -> bool:
    """Whether a process of this machine lives."""
    if os.name == "nt":
        return _is_there_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return _state(pid) not in ("Z", "X")  # of a zombie only the number is left


def _is_there_on_windows(pid: int) -> bool:
    import ctypes

    # `os.kill` would end the process there.
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # pyright: ignore[reportAttributeAccessIssue]
    process = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not process:
        return ctypes.get_last_error() == 5  # pyright: ignore[reportAttributeAccessIssue]  # access denied
    code = ctypes.c_ulong()
    kernel.GetExitCodeProcess(process, ctypes.byref(code))
    kernel.CloseHandle(process)
    return code.value == 259  # STILL_ACTIVE


def _stat(pid: int) -> list[str]:
    """What Linux says of a process after its name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    return (_stat(pid) or ["?"])[0]


def _born(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else None

"""Runs that are killed with `kill -9` at random moments and go on; what is left at the end is compared to the bit.

Run as a program, in a process of its own: it loads what a run loads and forks a child for each, so that a run begins at
once. `python -m tests.pruning.runs.killed_runs FOLDER KILLS SEED [OPTION …]`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TRACR = ("--model", "tracr:reverse", "--task", "tracr-reverse", "--task-option", "max_length=2", "--n-random", "0")
UNTIMED = ("seconds", "training_seconds", "peak_rss_bytes", "preflight")


def bits(folder: Path) -> dict[str, Any]:
    """All of a result but times, memory, where it lies, and where frozen runs came from at the start."""
    metrics = json.loads((folder / "metrics.json").read_text())
    circuit = json.loads((folder / "circuit.json").read_text())
    provenance = {name: value for name, value in circuit.pop("provenance").items() if name not in UNTIMED}
    metrics["frozen_runs"].pop("filled")  # read from disk, where an earlier run left them
    rows = [line.split(",") for line in (folder / "curve.csv").read_text().splitlines()]
    timed = rows[0].index("seconds")
    return {
        "gates": (folder / "gates.safetensors").read_bytes().hex(),
        "circuit": circuit,
        "provenance": provenance,
        "metrics": {name: value for name, value in metrics.items() if name not in UNTIMED},
        "curve": [row[:timed] + row[timed + 1 :] for row in rows],
        "examples": (folder / "examples.csv").read_text(),
        "effects": (folder / "effects.csv").read_text(),
    }


def listing_modules(place: Path) -> Callable[[], None]:
    """Leaves the names of all modules that the process which calls it has loaded."""

    def write() -> None:
        (place / "modules.json").write_text(json.dumps(list(sys.modules)))

    return write


def load_as(place: Path) -> None:
    """Load them here too: no more than that, since threads that a computation starts do not outlive a fork."""
    for name in json.loads((place / "modules.json").read_text()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def started(
    arguments: Sequence[str],
    log: Path,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> int:
    """Begin a command in a child; gives its process number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        before()
        from circuitgraph.cli import main

        code = main(list(arguments))
        after()
    finally:
        os._exit(code)


def ended(child: int, within: float | None = None) -> int | None:
    """The exit code of a child; None where it was killed because it took longer than so many seconds."""
    end = None if within is None else time.monotonic() + within
    while end is None or time.monotonic() < end:
        found, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def dying_in_a_write(draws: random.Random) -> Callable[[], None]:
    """Makes the process that calls it die while it writes a file: half of it, all of it under its hidden name, just
    after it was renamed, or while what is older is removed."""
    where, n = draws.choice(["half", "hidden", "renamed", "removed"]), draws.randrange(1, 25)

    def prepare() -> None:
        left = [n]

        def dies() -> bool:
            left[0] -= 1
            return left[0] == 0

        fsync, rename, unlink = os.fsync, Path.replace, Path.unlink

        def flushed(number: int) -> None:
            if where in ("half", "hidden") and dies():
                if where == "half":
                    os.ftruncate(number, os.fstat(number).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(number)

        def renamed(path: Path, target: Path) -> Path:
            result = rename(path, target)
            if where == "renamed" and dies():
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        def removed(path: Path, missing_ok: bool = False) -> None:
            if where == "removed" and path.name.startswith("step-") and dies():
                os.kill(os.getpid(), signal.SIGKILL)
            unlink(path, missing_ok=missing_ok)

        os.fsync, Path.replace, Path.unlink = flushed, renamed, removed  # type: ignore[assignment, method-assign]

    return prepare


def command(folder: Path, options: Sequence[str]) -> list[str]:
    """Begin the run, or go on with it where there is something of it."""
    if (folder / "checkpoint" / "run.toml").exists():
        return ["discover", "--resume", str(folder)]
    return ["discover", *TRACR, *options, "--out", str(folder), *(["--overwrite"] if folder.exists() else [])]


def main() -> None:
    """Kill runs until they were killed as often as asked; each ends with the bits of an undisturbed one."""
    place, kills, seed, options = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    draws = random.Random(seed)
    log = place / "log.txt"
    assert ended(started(command(place / "first", options), log, after=listing_modules(place))) == 0, log.read_text()
    load_as(place)
    began = time.monotonic()
    assert ended(started(command(place / "whole", options), log)) == 0, log.read_text()[-3000:]
    lasts = time.monotonic() - began
    expected = bits(place / "whole")
    killed, in_writes, runs = 0, 0, 0
    while killed < kills:
        folder, runs = place / f"run{runs}", runs + 1
        while True:
            arguments, limit, before = command(folder, options), None, None
            if killed < kills and killed % 2:
                before = dying_in_a_write(draws)
            elif killed < kills:
                limit = draws.uniform(0.0, 1.1 * lasts)
            code = ended(started(arguments, log, before or (lambda: None)), limit)
            if code in (None, -signal.SIGKILL):
                killed, in_writes = killed + 1, in_writes + (code is not None)
                continue
            assert code == 0, log.read_text()[-3000:]
            break
        found = bits(folder)
        unlike = [name for name in expected if found[name] != expected[name]]
        assert not unlike, f"run {runs}: {unlike} differ"
        assert not (folder / "checkpoint").exists()
        left = {path.name for path in place.iterdir() if path.name.startswith(".")}
        assert not left, left
    told = {"killed": killed, "in_writes": in_writes, "runs": runs, "seconds_undisturbed": round(lasts, 1)}
    print(json.dumps({**told, "went_on": log.read_text().count("going on after step")}))


if __name__ == "__main__":
    main()

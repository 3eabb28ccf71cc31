"""`circuitgraph cache`: the runs kept on disk, shown and cleared; and what other commands need of the cache."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from pruning.frozen.disk import DiskCache
    from pruning.frozen.folder import Entry


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of them.")] = False,
    cache_dir: options.CacheDir = None,
    as_json: options.Json = False,
) -> None:
    """Show what `discover` keeps on disk of runs that never change, or clear it.

    What is not there is computed again. Converted models are not shown, and stay.
    """
    from circuitgraph.cli.output import bytes_text, print_json
    from circuitgraph.files.cache_folder import frozen_folder
    from pruning.frozen import folder as files

    folder = cache_dir.expanduser() if cache_dir is not None else frozen_folder()
    if clear:
        n_files, n_bytes = files.clear(folder)
        if as_json:
            print_json({"folder": str(folder), "removed_files": n_files, "removed_bytes": n_bytes})
            return
        print(f"Removed {n_files:,} {_files(n_files)}, {bytes_text(n_bytes)}, from {folder}")
        return
    held = files.entries(folder)
    rows = summary(held)
    if as_json:
        n_bytes = sum(entry.n_bytes for entry in held)
        print_json({"folder": str(folder), "files": len(held), "bytes": n_bytes, "runs": rows})
        return
    _print(folder, rows)


def summary(held: Sequence[Entry]) -> list[dict[str, Any]]:
    """Files of the cache, put together by what they hold of which model, the one used last first.

    Args:
        held: The files.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in held:
        about = entry.about
        told = {name: about.get(name) for name in ("model", "dtype", "device", "kind")}
        told["kind"] = told["kind"] if entry.finished else "unfinished"
        row = rows.setdefault((entry.path.parent, *told.values()), {**told, "prompts": 0, "files": 0, "bytes": 0})
        row["prompts"] += about.get("prompts") or 0
        row["files"] += 1
        row["bytes"] += entry.n_bytes
        row["used"] = entry.used
    return sorted(rows.values(), key=lambda row: -row["used"])


def _files(n: int) -> str:
    return "file" if n == 1 else "files"


def _print(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    from datetime import datetime

    from circuitgraph.cli.output import bytes_text, print_table

    if rows:
        cells = [
            [
                row["model"] or "unknown", row["dtype"] or "", row["device"] or "", row["kind"] or "unknown",
                f"{row['prompts']:,}", f"{row['files']:,}", bytes_text(row["bytes"]),
                datetime.fromtimestamp(row["used"]).strftime("%Y-%m-%d %H:%M"),
            ]
            for row in rows
        ]  # fmt: skip
        columns = ["model", "dtype", "device", "what", ">prompts", ">files", ">size", "last used"]
        print_table(columns, cells)
        print()
    n_files, n_bytes = sum(row["files"] for row in rows), sum(row["bytes"] for row in rows)
    print(f"{n_files:,} {_files(n_files)}, {bytes_text(n_bytes)}, in {folder}")


def disk_cache(folder: Path | None, gib: float) -> DiskCache | None:
    """The disk cache that a command's options ask for.

    Args:
        folder: Where, or None for the usual place.
        gib: How large; 0 for none.
    """
    from pruning.frozen.disk import DiskCache

    return DiskCache(folder, budget_bytes=round(gib * 2**30)) if gib else None


@contextlib.contextmanager
def told_as_notes() -> Iterator[None]:
    """Say warnings of ours as the command line says its own, each once."""
    from circuitgraph.cli.output import warn
    from circuitgraph.errors import CacheWarning, CheckpointWarning, ModelWarning, UndefinedWarning

    ours = (CacheWarning, CheckpointWarning, ModelWarning, UndefinedWarning)
    said: set[str] = set()
    with warnings.catch_warnings():
        for one in ours:
            warnings.simplefilter("always", one)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, ours):
                others(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                warn(str(message))

        warnings.showwarning = show
        yield

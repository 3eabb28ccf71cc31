"""The folder of a leaderboard: a file per cell, so that a run that was ended goes on with the cells that are missing.

```
leaderboard.json                     what was asked for
cells/METHOD--TASK--SEED.json        the measures of one cell, and what it cost
scores/METHOD--TASK--SEED/           its scores (circuitgraph.circuits.edge_scores)
```

A cell's file is written last, whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError, OutputError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.plain_json import json_text
from circuitgraph.files.reservation import reserved
from circuitgraph.files.strict_json import parse_strictly
from pruning.methods.edge_pruning.checkpoint import first_difference

FORMAT_VERSION = 1
ABOUT = "leaderboard.json"
OWN = (ABOUT, "cells", "scores", "table.csv", "summary.csv", "leaderboard.md")
"""What a leaderboard's folder may hold, beside figures (`*.png`)."""


@dataclass(frozen=True)
class BoardFolder:
    """The folder of a leaderboard; made by `opened`.

    Attributes:
        path: Where it is.
    """

    path: Path

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: str | Path, request: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[BoardFolder]:
        """Make a leaderboard's folder, or go on in one of the same request; no other run may meanwhile.

        Args:
            path: The folder.
            request: What is asked for, as JSON values, but for the methods, tasks and seeds: more of these may be
                added.
            overwrite: Remove what is there.

        Yields:
            The folder.

        Raises:
            OutputError: It holds something else, is reserved by another run, or cannot be made.
            ConfigurationError: It is of another request; the first difference is named.
        """
        place = Path(os.path.realpath(Path(path).expanduser()))
        folder = cls(place)
        with reserved(place):
            folder._check(overwrite=overwrite)
            if overwrite and place.exists():
                shutil.rmtree(place)
            known = folder._request()
            plain = json.loads(json.dumps(request))
            if known is not None and (told := first_difference(known, plain)):
                raise ConfigurationError(
                    f"{place} is a leaderboard of other settings: {told}; give those, another folder, or --overwrite"
                )
            try:
                (place / "cells").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{place} cannot be made: {error.strerror or error}; choose another") from error
            write_atomically(place / ABOUT, json_text({"format_version": FORMAT_VERSION, "request": plain}) + "\n")
            yield folder

    def _check(self, *, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; choose a folder")
        names = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        if names and ABOUT not in names:
            raise OutputError(f"{self.path} exists and is no leaderboard (it has no {ABOUT}); choose another folder")
        strangers = [name for name in names if name not in OWN and not name.endswith(".png")]
        if overwrite and strangers:
            raise OutputError(
                f"{self.path} holds {', '.join(strangers[:3])}, which no leaderboard holds, so it is not overwritten"
            )

    def _request(self) -> dict[str, Any] | None:
        path = self.path / ABOUT
        if not path.is_file():
            return None
        try:
            found = parse_strictly(path.read_text(encoding="utf-8"))
            return dict(found["request"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path} is damaged ({error}); give another folder, or --overwrite") from None

    def cell(self, name: str) -> dict[str, Any] | None:
        """What is known of a cell; None where it is still to be run, or its file is damaged.

        Args:
            name: See `cell_name`.
        """
        try:
            found = parse_strictly((self.path / "cells" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("format_version") == FORMAT_VERSION else None

    def keep(self, name: str, scores: EdgeScores, found: Mapping[str, Any]) -> None:
        """Keep a cell.

        Args:
            name: See `cell_name`.
            scores: Its scores.
            found: Its measures and cost, as JSON values.
        """
        place = self.path / "scores" / name
        if place.exists():
            shutil.rmtree(place)
        place.parent.mkdir(exist_ok=True)
        scores.save(place)
        write_atomically(
            self.path / "cells" / f"{name}.json", json_text({"format_version": FORMAT_VERSION, **found}) + "\n"
        )


def cell_name(method: str, task: str, seed: int) -> str:
    """The name of a cell's files.

    Args:
        method: Its method, as it is called in the table.
        task: Its task.
        seed: Its seed.

    Examples:
        >>> cell_name("eap", "greater-than", 0), cell_name("eap-ig[steps=30]", "jsonl:my data", 1)
        ('eap--greater-than--0', 'eap-ig_steps=30---jsonl_my_data--1')
    """
    plain = [re.sub(r"[^A-Za-z0-9.=-]", "_", text) for text in (method, task)]
    return f"{plain[0]}--{plain[1]}--{seed}".replace("_--", "---")

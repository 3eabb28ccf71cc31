"""The folder of a leaderboard: a file per cell, so that a run that was ended goes on with the cells that are missing.

```
leaderboard.json                     what was asked for
cells/METHOD--TASK--SEED.json        the measures of one cell, and what it cost
scores/METHOD--TASK--SEED/           its scores (circuitgraph.circuits.edge_scores)
```

A cell's file is written last, whole or not at all.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import ConfigurationError, OutputError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.plain_json import json_text
from circuitgraph.files.strict_json import parse_strictly
from pruning.methods.edge_pruning.checkpoint import first_difference
from pruning.runs.folder_of_runs import FORMAT_VERSION, FolderOfRuns


@dataclass(frozen=True)
class BoardFolder(FolderOfRuns):
    """The folder of a leaderboard."""

    KIND, MARK = "leaderboard", "leaderboard.json"
    CONTENTS = re.compile(r"leaderboard\.(json|md)|(table|summary)\.csv|cells|scores|.*\.png")

    def begin(self, request: Mapping[str, Any]) -> None:
        """Note what is asked for, or refuse to go on with something else.

        Args:
            request: As JSON values, but for the methods, tasks and seeds: more of these may be added.

        Raises:
            OutputError: What is noted there is damaged.
            ConfigurationError: It is another request; the first difference is named.
        """
        known = self._request()
        plain = json.loads(json.dumps(request))
        if known is not None and (told := first_difference(known, plain)):
            raise ConfigurationError(
                f"{self.path} is a leaderboard of other settings: {told}; give those, another folder, or --overwrite"
            )
        (self.path / "cells").mkdir(exist_ok=True)
        self.write_mark({"request": plain})

    def _request(self) -> dict[str, Any] | None:
        if not self.mark.is_file():
            return None
        try:
            return dict(parse_strictly(self.mark.read_text(encoding="utf-8"))["request"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.mark} is damaged ({error}); give another folder, or --overwrite") from None

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

    def require_same(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse to replace a cell by one of other prompts, or of other settings of its method.

        Args:
            wanted: What each cell is to be made with, by its name: the prompts' `data_hash`, the method's `settings`.

        Raises:
            ConfigurationError: One that is there was made with others; it is left as it is.
        """
        for name, made_with in wanted.items():
            known = self.cell(name)
            if known is None:
                continue
            if known.get("data_hash") != made_with["data_hash"]:
                told = "other prompts (other numbers of them, another file, or another seed of the data)"
            elif known.get("settings") != made_with["settings"]:
                told = f"other settings: {first_difference(known.get('settings'), made_with['settings'])}"
            else:
                continue
            raise ConfigurationError(
                f"{self.path / 'cells' / name}.json is of {told}; ask for the same, give another folder, or "
                "--overwrite to begin anew"
            )

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

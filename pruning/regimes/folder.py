"""A study's folder: where its files are, and what an earlier run left there that need not be made again.

```
study.json                          what was asked, which circuits there are, versions
faithfulness.csv                    a row per circuit and regime
circuits/REGIME/seed-K/circuit.json with curve.csv and metrics.json beside it
```

Every file is written whole or not at all, and a circuit's `circuit.json` last of its three, so that a study
killed at any moment goes on from the circuits that it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, OutputError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.csv_text import csv_text
from pruning.runs.folder_of_runs import FolderOfRuns

CONTENTS = ("study.json", "faithfulness.csv", "circuits", "report.md", "tables", "figures", "drawings")
"""Everything that a study's folder may hold, what `analysis` writes into it included."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class StudyFolder(FolderOfRuns):
    """The folder of a study."""

    KIND, MARK, CONTENTS = "study", "study.json", re.compile("|".join(map(re.escape, CONTENTS)))

    def circuit_file(self, regime: str, seed: int) -> Path:
        """Where a trained circuit is kept."""
        return self.path / "circuits" / regime / f"seed-{seed}" / "circuit.json"

    def write_faithfulness(self, table: pd.DataFrame) -> None:
        """Write the table of circuit × regime."""
        write_atomically(self.path / "faithfulness.csv", csv_text(table))

    def write_circuit(
        self, regime: str, seed: int, circuit: Circuit, *, curve: pd.DataFrame, metrics: Mapping[str, Any]
    ) -> None:
        """Write a trained circuit, the file that says that it is there last."""
        path = self.circuit_file(regime, seed)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {error.strerror or error}") from error
        write_atomically(path.with_name("curve.csv"), csv_text(curve))
        write_atomically(path.with_name("metrics.json"), json.dumps(metrics, indent=2, default=float) + "\n")
        circuit.save(path)


def require_file_names(names: Mapping[str, object] | list[str]) -> None:
    """Refuse regime names that cannot be folder names, or that only differ in case.

    Raises:
        ConfigurationError: Such a name.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"regime {name!r}: a name is also a folder's; use letters, digits, '.', '_' and '-', with a letter or "
                "digit first"
            )
    if len({name.lower() for name in names}) < len(names):
        raise ConfigurationError(
            f"regimes {', '.join(names)}: two names differ in upper and lower case alone; rename one"
        )

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

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import ConfigurationError, OutputError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.csv_text import csv_text
from circuitgraph.files.reservation import reserved

FORMAT_VERSION = 1
CONTENTS = ("study.json", "faithfulness.csv", "circuits", "report.md", "tables", "figures", "drawings")
"""Everything that a study's folder may hold, what `analysis` writes into it included."""

_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""A file that a killed run was writing, see `circuitgraph.files.atomic_file`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study.

    Attributes:
        path: Where it is.
        note: What was found there of a dead run, in a sentence, or an empty text.
    """

    path: Path
    note: str = ""

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: str | Path, *, overwrite: bool = False) -> Iterator[StudyFolder]:
        """Make a study's folder, or go on in one that is there; no other run may for as long as the block lasts.

        Args:
            path: The folder.
            overwrite: Remove the study that is there, with all its circuits.

        Yields:
            The folder.

        Raises:
            OutputError: It holds something that is no study, is reserved by another run, or cannot be made.
        """
        place = Path(os.path.realpath(Path(path).expanduser()))
        with reserved(place) as note:
            for hidden in place.rglob(".*.tmp") if place.is_dir() else ():
                if _HALF_WRITTEN.fullmatch(hidden.name):
                    hidden.unlink(missing_ok=True)
            yield replace(cls.open(place, overwrite=overwrite), note=note)

    @classmethod
    def open(cls, path: str | Path, *, overwrite: bool = False) -> StudyFolder:
        """Make a study's folder, or go on in one that is there.

        Args:
            path: The folder.
            overwrite: Remove the study that is there, with all its circuits.

        Returns:
            The folder.

        Raises:
            OutputError: It holds something that is no study, or cannot be made.
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
        """Refuse a place that holds something else than a study.

        Args:
            overwrite: Whether all that is there would go.

        Raises:
            OutputError: It is a file, a folder with files and without `study.json`, or, where all would go, one with
                something beside a study's own.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; choose a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.study_file.exists():
            raise OutputError(f"{self.path} exists and is no study (it has no study.json); choose another folder")
        strangers = sorted({entry.name for entry in self.path.iterdir()} - set(CONTENTS)) if self.path.is_dir() else []
        if overwrite and strangers:
            raise OutputError(
                f"{self.path} holds {', '.join(strangers[:3])}{' …' if len(strangers) > 3 else ''}, which no study "
                "holds, so it is not overwritten; choose another folder"
            )

    @property
    def study_file(self) -> Path:
        """What the study is."""
        return self.path / "study.json"

    def circuit_file(self, regime: str, seed: int) -> Path:
        """Where a trained circuit is kept."""
        return self.path / "circuits" / regime / f"seed-{seed}" / "circuit.json"

    def write_study(self, values: Mapping[str, Any]) -> None:
        """Write what the study is."""
        text = json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.study_file, text + "\n")

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


def first_difference(circuit: Circuit, wanted: Mapping[str, Any]) -> str | None:
    """The first setting in which a kept circuit is not what would be trained now.

    Args:
        circuit: The circuit of an earlier run.
        wanted: Settings by their name in a circuit's provenance.

    Returns:
        What differs, with both values, or None.
    """
    known = circuit.provenance
    for name, value in wanted.items():
        plain, found = json.loads(json.dumps(value)), known.get(name)
        if found == plain or (name == "weights" and found is None):  # circuits of before weights were told
            continue
        if isinstance(plain, dict) and isinstance(found, dict):
            name, found, plain = next(
                (f"{name}.{key}", found.get(key), plain.get(key))
                for key in {**plain, **found}
                if found.get(key) != plain.get(key)
            )
        return f"{name} is {found!r} there and would be {plain!r} now"
    return None

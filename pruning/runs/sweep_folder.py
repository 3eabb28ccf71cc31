"""The folder of several seeds and sparsities: where its files are, and what an earlier run left there.

```
sweep.json                          what was asked for, which trainings and circuits there are
run.toml                            the run that all trainings have in common
seed-S/                             a whole result, as `discover` gives it, where one training ranks for all sparsities
seed-S/sparsity-X/                  one for each sparsity, where it does not
consensus-X.json, averaged-X.json   circuits of all seeds, by sparsity
vectors.safetensors                 what was added to the model, if anything was
front.csv                           a row per circuit
```

`summary.csv`, `stability.csv`, `front.png` and `report.md` are made of these by `analysis.write_sweep`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.vector_files import vectors_bytes
from circuitgraph.errors import OutputError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.strict_json import parse_strictly
from pruning.methods.edge_pruning.checkpoint import first_difference
from pruning.runs import provenance
from pruning.runs.choice_files import RUN_FILE
from pruning.runs.decide import run_text
from pruning.runs.folder_of_runs import FORMAT_VERSION, FolderOfRuns
from pruning.runs.planned_sweep import PlannedSweep, Training
from pruning.runs.result_files import (
    CHECKPOINT,
    CIRCUIT,
    GATES,
    METRICS,
    STATE,
    VECTORS,
    front_file,
    read_gates,
    sparsity_text,
)
from pruning.runs.result_folder import ResultFolder
from pruning.runs.run import Run
from pruning.runs.trained_run import known_provenance

_NAMES = r"sweep\.json|run\.toml|front\.(csv|png)|summary\.csv|stability\.csv|report\.md|vectors\.safetensors"
_CIRCUITS = r"seed-\d+|(consensus|averaged)-\d+(\.\d+)?\.json"


@dataclass(frozen=True, kw_only=True)
class TrainedCircuits:
    """What one training gave.

    Attributes:
        training: Which one.
        circuits: By sparsity.
        scores: One score an edge `[edge]`, infinite where an edge was removed or frozen.
        rows: What is known already of how faithful they are, by sparsity, see `pruning.runs.front`.
        steps: How many steps were taken.
        verdicts: What the figures say against its circuit.
    """

    training: Training
    circuits: dict[float, Circuit]
    scores: np.ndarray
    rows: dict[float, dict[str, Any]]
    steps: int
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class SweepFolder(FolderOfRuns):
    """The folder of several seeds."""

    KIND, MARK, CONTENTS = "result of several seeds", "sweep.json", re.compile(f"{_NAMES}|{_CIRCUITS}")

    def require_same(self, planned: PlannedSweep) -> None:
        """Refuse trainings of other settings than those that are there.

        Args:
            planned: What was asked for.

        Raises:
            OutputError: They are; the message has the first difference.
        """
        there = self.read_mark()
        other = first_difference(there["identity"], _as_json(planned.identity())) if there else ""
        if other:
            raise OutputError(
                f"{self.path} holds trainings of other settings: {other}. Give the settings that it was begun with, "
                "choose another folder, or replace all of it with --overwrite (overwrite=True)"
            )

    def read_mark(self) -> dict[str, Any]:
        """What `sweep.json` says; empty where there is none.

        Raises:
            OutputError: It is damaged, or of another version.
        """
        if not self.mark.exists():
            return {}
        try:
            found = parse_strictly(self.mark.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.mark}: {error}; choose another folder, or replace it with --overwrite") from error
        if not isinstance(found, dict) or found.get("format_version") != FORMAT_VERSION or "identity" not in found:
            raise OutputError(f"{self.mark} is none of this version of circuitgraph; choose another folder")
        return found

    def write_run(self, run: Run) -> None:
        """Write what all trainings have in common: the run, which `--resume` and `--like` make again, and vectors.

        Args:
            run: The run.
        """
        settings = replace(run.settings, time_limit_seconds=None)
        write_atomically(self.path / RUN_FILE, run_text(run.request, settings))
        if run.compiled.vectors:
            write_atomically(self.path / VECTORS, vectors_bytes(run.compiled.vectors))

    def circuit_file(self, which: str, sparsity: float) -> Path:
        """Where a circuit of all seeds is.

        Args:
            which: `consensus` or `averaged`.
            sparsity: The sparsity.
        """
        return self.path / f"{which}-{sparsity_text(sparsity)}.json"

    def remove_derived(self) -> None:
        """Remove the circuits of all seeds."""
        for path in self.path.glob("*.json"):
            if path.name.startswith(("consensus-", "averaged-")):
                path.unlink(missing_ok=True)

    def trained(self, planned: PlannedSweep, training: Training) -> TrainedCircuits | None:
        """What a training has left, if it was carried to its end.

        Args:
            planned: What it belongs to.
            training: The training.

        Returns:
            Its circuits; None where it is still to be begun, or to be gone on with.

        Raises:
            OutputError: It was found with other settings.
            CircuitFormatError: A file of it is damaged or gone.
        """
        place = self.path / training.place
        if not self.is_done(training):
            return None
        run, folder = planned.run_of(training), ResultFolder(place)
        files = files_of(planned, training)
        circuits = {sparsity: Circuit.load(place / name) for name, sparsity in files.items()}
        for circuit in circuits.values():
            other = circuit.universe.first_difference(run.compiled.universe)
            other = other or provenance.first_difference(circuit, known_provenance(run))
            if other is not None:
                raise OutputError(
                    f"{place} was found with other settings: {other}. Remove it, or choose another folder"
                )
        metrics = folder.read_json(METRICS)
        scores = read_gates(place / GATES, run.compiled.gate_map).scores().double().cpu().numpy()
        steps = next(iter(circuits.values())).provenance.get("steps_taken", run.recipe.steps)
        return TrainedCircuits(
            training=training, circuits=circuits, scores=scores, rows=known_rows(metrics, training, planned.split),
            steps=steps, verdicts=verdicts_in(metrics),
        )  # fmt: skip

    def is_done(self, training: Training) -> bool:
        """Whether a training was carried to its end, so that nothing is to be gone on with.

        Args:
            training: The training.
        """
        place = self.path / training.place
        state = ResultFolder(place).read_json(STATE)
        if not (place / CIRCUIT).is_file() or state.get("resume"):
            return False
        return bool(state.get("finished")) or not (place / CHECKPOINT).is_dir()


def files_of(planned: PlannedSweep, training: Training) -> dict[str, float]:
    """The files with the circuits that a training gives, and what each was asked to be: its sparsity.

    Args:
        planned: What it belongs to.
        training: The training.
    """
    if training.sparsity is not None:
        return {CIRCUIT: training.sparsity}
    return {front_file(sparsity): sparsity for sparsity in planned.sparsities}


def known_rows(metrics: dict[str, Any], training: Training, split: str) -> dict[float, dict[str, Any]]:
    """What a result's measures say of its circuits on a split.

    Args:
        metrics: As in `metrics.json`.
        training: The training.
        split: The split.

    Returns:
        Rows as of `pruning.runs.front.measured_front`, by sparsity; none where a training has one circuit, which is
        measured with the others.
    """
    if training.sparsity is not None:
        return {}
    return {row["sparsity"]: row for row in metrics.get("front") or () if row.get("split") == split}


def verdicts_in(metrics: dict[str, Any]) -> tuple[str, ...]:
    """What a result's measures say against it, in words.

    Args:
        metrics: As in `metrics.json`.
    """
    return tuple(one["text"] for one in metrics.get("verdicts") or () if isinstance(one, dict))


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they come back from a file."""
    from circuitgraph.files.plain_json import json_text

    return parse_strictly(json_text(values))

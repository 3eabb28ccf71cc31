"""What `pruning.runs.discover` gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import EdgeScores
from circuitgraph.errors import UnknownNameError
from circuitgraph.forward.ablation_values import AblationValues
from pruning.evaluation.card import metrics_line
from pruning.evaluation.tables import metrics_table
from pruning.methods.edge_pruning.loop import TrainingRun
from pruning.runs.card import discovery_card
from pruning.runs.front import front_table
from pruning.runs.request import RunRequest
from pruning.runs.settings import RunSettings


@dataclass(frozen=True, kw_only=True, repr=False)
class Discovery:
    """What `discover` gives back.

    Attributes:
        circuit: The circuit, with its provenance.
        metrics: `sparsity`, `splits` (by split, role and metric), `seconds`, `peak_rss_bytes`, `frozen_runs`
            (prompts by where their runs came from), `verdicts` (what the figures say against the run, see
            `pruning.runs.verdicts`).
        examples: A row a test prompt.
        curve: A row a training step; empty where nothing was trained.
        diagnoses: What may be wrong, in words.
        run: The training run with its gates; None where another method ranked the edges.
        scores: A score for every edge: the gates' log α, or the method's.
        request: What was asked for.
        settings: How it was done.
        circuits: Further circuits of the same ranking, by the sparsity asked for.
        missing: Why a part of the result is not there, by part, such as `evaluation:test`; empty where all are.
        errors: What was raised, by part, of those that failed.
        constants: What the circuit's cut edges carry under optimal ablation, for `evaluate(…, ablation_data=…)`; else
            None.
    """

    circuit: Circuit
    metrics: dict[str, Any]
    examples: pd.DataFrame
    curve: pd.DataFrame
    diagnoses: tuple[str, ...]
    run: TrainingRun | None
    scores: EdgeScores
    request: RunRequest
    settings: RunSettings
    circuits: Mapping[float, Circuit] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, Exception] = field(default_factory=dict)
    constants: AblationValues | None = None

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What the figures say against the result, in words, the gravest first; see `pruning.runs.verdicts`."""
        return tuple(one["text"] for one in self.metrics.get("verdicts", []))

    @property
    def n_steps(self) -> int:
        """How many steps were trained."""
        return 0 if self.run is None else len(self.run.records)

    @property
    def interrupted(self) -> bool:
        """Whether training was ended early by the user."""
        return self.run is not None and self.run.interrupted

    @property
    def stopped_by(self) -> str:
        """Why training ended early, or an empty text."""
        return "" if self.run is None else self.run.stopped_by

    def table(self, split: str = "test") -> pd.DataFrame:
        """The metrics of a split as a table, see `pruning.metrics_table`.

        Raises:
            UnknownNameError: That split was not evaluated.
        """
        by_split = self.metrics["splits"]
        if split not in by_split:
            raise UnknownNameError.of("evaluated split", split, by_split, self.missing.get(f"evaluation:{split}", ""))
        return metrics_table(by_split[split])

    @property
    def front(self) -> pd.DataFrame:
        """The measures of `circuits`, a row each; see `pruning.runs.front`. Empty where none were asked for."""
        return front_table(self.metrics.get("front", []))

    def __repr__(self) -> str:
        by_split = self.metrics["splits"]
        told = "".join(f"; {split}: {metrics_line(by_role)}" for split, by_role in by_split.items())
        missing = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        against = f"; verdicts against it: {len(self.verdicts)}, see .verdicts" if self.verdicts else ""
        return f"<Discovery of {self.circuit!r}{told}{missing}{against}>"

    def _repr_html_(self) -> str:
        return discovery_card(
            self.circuit, self.metrics, n_steps=self.n_steps, warnings=[*self.verdicts, *self.diagnoses]
        )

"""Regimes compared in one call: every table, and a folder of them with drawings, figures and a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.drawing.membership import draw_membership
from analysis.regimes.case_study import CONSENSUS, case_study_table
from analysis.regimes.circuits import (
    Given,
    RegimeCircuits,
    read_faithfulness,
    read_study,
    regime_circuits,
    study_verdicts_in,
)
from analysis.regimes.differences import edge_differences, module_differences
from analysis.regimes.overlaps import consensus_tests, pairwise_overlap, pairwise_tests, within_and_across
from circuitgraph.circuits.circuit import Circuit

MAX_EDGES = 150


@dataclass(frozen=True, kw_only=True)
class RegimeComparison:
    """What `compare_regimes` gives back.

    Attributes:
        circuits: The circuits by regime and seed, with their consensus.
        overlap: Overlap of every two circuits, see `analysis.regimes.overlaps.pairwise_overlap`.
        yardstick: Overlap within a regime against across regimes, see `within_and_across`.
        tests: Every two circuits against the null models, see `pairwise_tests`.
        consensus_tests: The consensus circuits against them, see `consensus_tests`.
        differences: Shared and private edges by layer and kind, see `analysis.regimes.differences.edge_differences`.
        modules: Heads and MLPs by regime, see `module_differences`.
        metrics: The table of circuit × regime, or None.
        verdicts: What figures say against the circuits: `severity`, `text` and `seeds` of each.
    """

    circuits: RegimeCircuits
    overlap: pd.DataFrame
    yardstick: pd.DataFrame
    tests: pd.DataFrame
    consensus_tests: pd.DataFrame
    differences: pd.DataFrame
    modules: pd.DataFrame
    metrics: pd.DataFrame | None
    verdicts: tuple[Mapping[str, Any], ...] = ()

    @property
    def shared(self) -> Circuit:
        """What the consensus circuits of all regimes share, less what dangles."""
        return self.circuits.shared

    @property
    def private(self) -> dict[str, Circuit]:
        """For each regime the edges of its consensus circuit that no other has, less what dangles."""
        return self.circuits.private

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by name; the case study's only where metrics are there."""
        tables = {
            "overlap": self.overlap,
            "yardstick": self.yardstick,
            "tests": self.tests,
            "consensus_tests": self.consensus_tests,
            "differences": self.differences,
            "modules": self.modules,
        }
        if self.metrics is not None:
            tables["case_study"] = case_study_table(self.metrics)
            if self.has_consensus:
                tables["case_study_consensus"] = case_study_table(self.metrics, over=CONSENSUS)
        return tables

    @property
    def has_consensus(self) -> bool:
        """Whether consensus circuits were measured."""
        return self.metrics is not None and bool((self.metrics["seed"] == CONSENSUS).any())

    def draw(self, path: str | Path, *, side_by_side: bool = True, max_edges: int = MAX_EDGES) -> Path:
        """Draw the consensus circuits, edges coloured by which regimes have them.

        Args:
            path: Where to; the suffix says what: `.dot`, `.pdf`, `.svg` or `.png`.
            side_by_side: A panel for what is shared and for each regime's own; else one picture.
            max_edges: Above this many edges only the strongest are drawn, and the drawing says so.

        Returns:
            The path.

        Raises:
            RenderingError: Graphviz is missing or failed; `.dot` never needs it.
            OutputError: The file cannot be written.
        """
        return draw_membership(
            self.circuits.consensus,
            path,
            side_by_side=side_by_side,
            max_edges=max_edges,
            title=" against ".join(self.circuits.regimes),
            across_checkpoints=self.circuits.across_checkpoints,
        )


def compare_regimes(
    circuits: Given | RegimeCircuits | str | Path,
    metrics: pd.DataFrame | str | Path | None = None,
    *,
    threshold: float = 0.5,
    n_samples: int = 999,
    confidence: float = 0.95,
    seed: int = 0,
    across_checkpoints: bool = False,
    verdicts: Iterable[Mapping[str, Any]] | None = None,
) -> RegimeComparison:
    """Compare the circuits of several regimes, from saved circuits alone.

    Args:
        circuits: By regime: a circuit, several (one per seed), or circuits by seed. Or the folder of a study.
        metrics: The table of circuit × regime of `pruning.run_regimes`, or its file; by default the study's own.
        threshold: In which share of the seeds an edge of a consensus circuit has to be at least; a study's own is
            taken from it.
        n_samples: How many samples for the degree-preserving null; 0 leaves it out.
        confidence: Of the intervals.
        seed: Of the sampling.
        across_checkpoints: Allow other weights or another model of the same universe.
        verdicts: What figures say against the circuits, see `pruning.regimes.judged`; by default the study's own.

    Returns:
        Tables, circuits, and `draw`; `write_comparison` writes all of it into a folder.

    Raises:
        ConfigurationError: Fewer than two regimes, or one without circuits.
        GraphMismatchError: The circuits are of different universes or models.
        CircuitFormatError: The folder is no study, or a file of it is damaged.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits", "input->a0.h0<v>", "a0.h0->logits"])
        >>> found = compare_regimes({"asked": [a, a], "shown": [b, b]}, n_samples=9)
        >>> found.yardstick.set_index("level")[["within", "across"]].loc["edges"].tolist()
        [1.0, 0.2]
    """
    if isinstance(circuits, (str, Path)):
        verdicts = study_verdicts_in(circuits) if verdicts is None else verdicts
        circuits, own = read_study(circuits)
        metrics = own if metrics is None else metrics
    if not isinstance(circuits, RegimeCircuits):
        circuits = regime_circuits(circuits, threshold=threshold, across_checkpoints=across_checkpoints)
    if isinstance(metrics, (str, Path)):
        metrics = read_faithfulness(metrics)
    overlap = pairwise_overlap(circuits)
    return RegimeComparison(
        circuits=circuits,
        overlap=overlap,
        yardstick=within_and_across(overlap, confidence=confidence, seed=seed),
        tests=pairwise_tests(circuits, n_samples=n_samples, seed=seed),
        consensus_tests=consensus_tests(circuits, n_samples=n_samples, seed=seed),
        differences=edge_differences(circuits),
        modules=module_differences(circuits),
        metrics=metrics,
        verdicts=tuple(verdicts or ()),
    )

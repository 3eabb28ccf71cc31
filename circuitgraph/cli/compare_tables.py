"""The tables of `circuitgraph compare`: overlap, tests, changes between checkpoints, matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from analysis.checkpoints import CheckpointComparison
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.tables import ResultTable

SAMPLED = "degree-preserving"
"""The null model that is sampled."""


def overlap_table(overlap: pd.DataFrame) -> ResultTable:
    """What circuits share, pair by pair."""
    from circuitgraph.cli.tables import ResultTable

    shown = {
        "a": "a", "b": "b", "level": "level", "n_a": "of a", "n_b": "of b", "intersection": "shared", "union": "in any",
        "n_universe": "of all", "iou": "IoU", "a_in_b": "a in b", "b_in_a": "b in a", "spearman": "Spearman",
    }  # fmt: skip
    return ResultTable(name="overlap", title="What they share", frame=overlap, shown=shown)


def test_table(tests: pd.DataFrame, correction: str | None) -> ResultTable:
    """Their overlap against chance."""
    from circuitgraph.cli.output import power_of_ten
    from circuitgraph.cli.tables import ResultTable

    shown = {
        "a": "a", "b": "b", "level": "level", "null": "null", "observed": "shared", "expected": "expected", "sd": "sd",
        "ratio": "ratio", "log10_p": "p",
    }  # fmt: skip
    if correction is not None:
        shown["log10_p_adjusted"] = f"p ({correction})"
    alternative = tests["alternative"].iloc[0]
    title = f"Against chance (alternative: {alternative}"
    sampled = tests["n_samples"].dropna()
    title += f"; {SAMPLED}: {sampled.iloc[0]:,} samples)" if len(sampled) else ")"
    if bool(tests["at_floor"].any()):
        title += "; ≤: no sample reached what was observed, more samples may make p smaller"
    people = tests.copy()
    for name in (name for name in shown if name.startswith("log10_")):
        people[name] = [
            f"{'≤ ' if at_floor else ''}{power_of_ten(value)}"
            for value, at_floor in zip(tests[name], tests["at_floor"], strict=True)
        ]
    return ResultTable(name="tests", title=title, frame=tests, shown=shown, for_people=people)


def changes(circuits: Mapping[str, Circuit]) -> list[ResultTable]:
    """What changed between two checkpoints, by kind and by layer."""
    from analysis.checkpoints import LEVELS, compare_checkpoints

    before, after = circuits
    comparison = compare_checkpoints(circuits[before], circuits[after])
    return [_changes_by(comparison, level, by, f"{before} to {after}") for level in LEVELS for by in ("kind", "layer")]


def _changes_by(comparison: CheckpointComparison, level: str, by: str, pair: str) -> ResultTable:
    from circuitgraph.cli.tables import ResultTable

    shown = {by: by, "kept": "kept", "gained": "gained", "lost": "lost", "n_universe": "of all"}
    return ResultTable(
        name=f"changes_{level}_by_{by}",
        title=f"From {pair}: {level} by {by}",
        frame=comparison.counts(level, by=by),
        shown=shown,
    )


def matrix_table(circuits: Mapping[str, Circuit], measure: str, level: str, across_checkpoints: bool) -> ResultTable:
    """One measure for every two circuits."""
    from analysis.overlap.matrices import overlap_matrix
    from circuitgraph.cli.tables import ResultTable

    square = overlap_matrix(circuits, measure=measure, level=level, across_checkpoints=across_checkpoints)
    # A circuit may be called anything; no name is the empty text.
    return ResultTable(
        name="matrix",
        title=f"{measure.replace('_', ' ')} of {level}",
        frame=square.rename_axis("").reset_index(),
        shown={"": "", **{name: name for name in circuits}},
    )


def sizes(circuits: Mapping[str, Circuit]) -> str:
    """How large the circuits are, in a line."""
    from circuitgraph.cli.output import visible

    return "\n".join(
        f"{visible(name)}: {len(circuit):,} of {circuit.universe.n_edges:,} edges, {len(circuit.heads)} heads, "
        f"{len(circuit.mlps)} MLPs ({circuit.ablation} ablation)"
        for name, circuit in circuits.items()
    )

"""What may be wrong with a run, said in words while it can still be mended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from circuitgraph.circuits.circuit import Circuit
from pruning.methods.edge_pruning.loop import TrainingRun
from pruning.methods.edge_pruning.recipes import Recipe

_LAST = 50
_IN_VAIN = frozenset({"nothing-to-explain", "undefined-outputs"})
"""Verdicts under which training was in vain, however it went."""


def diagnose(
    run: TrainingRun,
    circuit: Circuit,
    recipe: Recipe,
    metrics: Mapping[str, Mapping[str, Any]] | None,
    *,
    objective: str = "kl",
    verdicts: Collection[str] = (),
) -> list[str]:
    """Look for the usual troubles.

    Args:
        run: The training run.
        circuit: What was kept.
        recipe: The settings.
        metrics: Validation metrics by role, if there are any.
        objective: What was trained; only a KL can be compared with the validation KL.
        verdicts: Names of what the figures say against the run (see `pruning.runs.verdicts`). Where there is nothing to
            explain, or outputs are no numbers, no training helps, and no advice on it is given.

    Returns:
        A sentence for each trouble found; empty if there is none.
    """
    found = [run.stopped_by] if run.stopped_by else []
    in_vain = not _IN_VAIN.isdisjoint(verdicts)
    found += _empty(circuit, "" if in_vain else " Lower --target-sparsity or raise --steps.")
    if not run.records:
        return [*found, "No step was taken, so the gates are as they began."]
    if in_vain:
        return found
    # In a short run the last steps reach back to where less was asked for, and say nothing about the end.
    last = [record for record in run.records[-_LAST:] if record.target == run.records[-1].target]
    found += _sparsity(last, recipe, run)
    found += _shape(circuit)
    if objective == "kl":
        found += _gap(last, metrics)
    return found


def diagnose_selected(circuit: Circuit, *, verdicts: Collection[str] = ()) -> list[str]:
    """The same for a circuit that was chosen by the scores of a method.

    Args:
        circuit: What was kept.
        verdicts: As of `diagnose`.
    """
    in_vain = not _IN_VAIN.isdisjoint(verdicts)
    cure = " Lower --target-sparsity, or take --rule greedy or connected, which keep paths."
    return [*_empty(circuit, "" if in_vain else cure), *_shape(circuit)]


def _empty(circuit: Circuit, cure: str) -> list[str]:
    if len(circuit):
        return []
    return [f"The circuit is empty: no path of kept edges leads from the input to the logits.{cure}"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _sparsity(last: Sequence[Any], recipe: Recipe, run: TrainingRun) -> list[str]:
    found = []
    sparsity, target = _mean([r.sparsity for r in last]), last[-1].target
    # A price asks for no size, so none is missed.
    if target < 1 and sparsity < target - 0.01 and recipe.control != "continuous":
        found.append(
            f"The target was not reached: the gates' sparsity is {sparsity:.3f}, {target:.3f} was asked for. "
            "Raise --steps, or the recipe's multiplier_rate."
        )
    if target >= 1 and sparsity < 0.5:
        found.append(
            f"The gates hardly moved: their sparsity is {sparsity:.3f} at the end of a schedule towards {target:g}, so "
            "most edges were never pressed to close. Raise --steps."
        )
    n_edges = run.gates.gate_map.universe.n_edges
    undecided, kept = _mean([r.undecided for r in last]), (1 - sparsity) * n_edges
    if undecided > 0.5 * max(kept, 1):
        found.append(
            f"The gates are undecided: {undecided:,.0f} of them were strictly between 0 and 1 in the last steps, "
            f"where about {kept:,.0f} edges are kept. More steps would let them settle."
        )
    return found


def _shape(circuit: Circuit) -> list[str]:
    n_raw, n_effective = circuit.n_raw, len(circuit)
    if n_effective and n_raw - n_effective > 0.25 * n_raw:
        lost = f"{n_raw - n_effective:,} of {n_raw:,} kept edges dangled (no path through them) and were dropped: "
        return [lost + "the circuit is sparser than was asked for."]
    return []


def _gap(last: Sequence[Any], metrics: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    kl = (metrics or {}).get("circuit", {}).get("kl")
    if kl is None:
        return []
    soft = _mean([r.objective for r in last])
    if kl > 1.5 * soft + 0.05:
        found = f"KL {kl:.3f} on validation prompts, {soft:.3f} in the last training steps"
        cure = "More steps, more training prompts, or a lower target sparsity would close the gap."
        return [f"The kept circuit is worse than the gates it came from: {found}. {cure}"]
    return []

"""A plan made once for many passes, whatever their gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitgraph.forward.plan.plan import StepPlan, covering_edges, plan_step
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.graph.universe import Universe


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedPlan:
    """What runs in many passes alike, whatever their gates.

    Attributes:
        plan: What runs, and where.
        open_edges: Booleans `[edge]`: gates that may be other than 0, and whose gradients are given.
        ablation: Where the ablation values come from.
    """

    plan: StepPlan
    open_edges: np.ndarray
    ablation: str

    @staticmethod
    def of(universe: Universe, live: np.ndarray, *, ablation: str) -> FixedPlan:
        """A plan for all gates whose live edges are among some.

        Args:
            universe: The universe.
            live: Booleans `[edge]`: those that are live, or likely to be.
            ablation: Where the ablation values come from.
        """
        rules = _rules(ablation)
        edges = covering_edges(universe, effective_edges(universe, live, ablation), **rules)
        plan = plan_step(universe, edges, edges, learnt_base=ablation == "optimal", **rules)
        return FixedPlan(plan=plan, open_edges=edges, ablation=ablation)

    def missed(self, universe: Universe, active: np.ndarray) -> np.ndarray | None:
        """Live edges that the plan has no place for; None where there are none.

        Args:
            universe: The universe.
            active: Booleans `[edge]`: gates of a pass that are not 0, or whose gradient is wanted.
        """
        if not (active & ~self.open_edges).any():
            return None
        missed = effective_edges(universe, active, self.ablation) & ~self.open_edges
        return missed if missed.any() else None


def _rules(ablation: str) -> dict[str, bool]:
    """How nodes without live edges count, where the values of one ablated run are at hand or constants are."""
    counterfactual = ablation == "counterfactual"
    return {"constant_when_dead": not counterfactual, "run_dead_readers": not counterfactual}

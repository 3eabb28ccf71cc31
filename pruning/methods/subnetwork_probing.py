"""Subnetwork probing: hard-concrete gates trained under a fixed price per open gate.

Gates are drawn as in Edge Pruning (`pruning.methods.edge_pruning.gates`); what is minimised is

    objective + penalty · (1 / n) Σ_i P(gate i is not 0)

by Adam, with one draw of all gates a batch. The price is fixed where Edge Pruning fixes the sparsity, so the size of
the circuit follows from it. The price is on the *share* of gates that are expected to be open, as published, so that it
means the same in graphs of all sizes. A score is the gate's log α.

Published subnetwork probing gates weights (Cao et al.) or the queries, keys and values of heads and the MLPs (Conmy et
al.); here a gate is an edge's, or with `nodes` a writer's: all edges out of it share one. The published comparison with
ACDC takes 3,000 steps at a learning rate of 0.001 and one fixed batch.

References:
    Cao, Sanh, Rush 2021, Low-Complexity Probing via Finding Subnetworks (arXiv 2104.03514).
    Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability (arXiv 2304.14997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float

from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.errors import ConfigurationError
from circuitgraph.torch_state import with_gradients
from pruning.execution.batch_run import Share
from pruning.execution.finite import require_numbers
from pruning.execution.probe import Probe
from pruning.methods.answers import ComparesAsTask
from pruning.methods.edge_pruning.gates import probability_nonzero, sample_hard_concrete
from pruning.methods.method import RANKING_ABLATIONS
from pruning.prompts.batch_order import BatchOrder


@dataclass(frozen=True, kw_only=True)
class SubnetworkProbing(ComparesAsTask):
    """Subnetwork probing (Cao et al. 2021) over edges or nodes.

    Attributes:
        penalty: What keeping all gates open costs, in units of the objective.
        steps: How many batches.
        prompts: Prompts a batch.
        learning_rate: Adam's.
        start: The log α to begin with.
        nodes: Whether all edges out of a writer share a gate.

    Raises:
        ConfigurationError: A number that is out of its range.

    Examples:
        >>> SubnetworkProbing(nodes=True).name
        'subnetwork-probing'
    """

    name: ClassVar[str] = "subnetwork-probing"
    summary: ClassVar[str] = "subnetwork probing: hard-concrete gates under a fixed price, of edges or nodes"
    source: ClassVar[str] = "Cao, Sanh, Rush 2021, Low-Complexity Probing via Finding Subnetworks"
    direction = "between"
    cost: ClassVar[str] = "steps forward and backward passes over the prompts of a batch"
    estimates = LOG_ALPHA
    ablations = RANKING_ABLATIONS

    penalty: float = 1.0
    steps: int = 3000
    prompts: int = 8
    learning_rate: float = 1e-3
    start: float = 1.6
    nodes: bool = False

    def __post_init__(self) -> None:
        for field in ("steps", "prompts"):
            if getattr(self, field) < 1:
                raise ConfigurationError(f"method '{self.name}': {field} must be 1 or more; got {getattr(self, field)}")
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise ConfigurationError(
                f"method '{self.name}': penalty must be a number of at least 0; got {self.penalty}"
            )
        if not self.learning_rate > 0:
            raise ConfigurationError(f"method '{self.name}': learning_rate must be above 0; got {self.learning_rate}")

    @with_gradients
    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Train a gate for every edge or node.

        Args:
            probe: The model and the prompts.
            seed: Of the order of prompts and the gates drawn.

        Returns:
            The log α of each edge's gate.
        """
        universe, runner = probe.compiled.universe, probe.runner
        generator = torch.Generator().manual_seed(seed)
        order = BatchOrder(probe.frozen.by_length, self.prompts, np.random.default_rng(seed))
        n_gates = universe.n_writers if self.nodes else universe.n_edges
        edges = np.arange(universe.n_edges)
        gate_of_edge = torch.from_numpy(universe.endpoints(edges)[0] if self.nodes else edges)
        log_alpha = torch.full((n_gates,), float(self.start), requires_grad=True)
        optimiser = torch.optim.Adam([log_alpha], lr=self.learning_rate)
        for _ in range(self.steps):
            drawn = sample_hard_concrete(log_alpha, generator)[gate_of_edge]
            gates = drawn.detach()
            ran = runner.run([Share(prompts=order.next(), gates=gates, wanted=(gates > 0) & (gates < 1))])
            require_numbers(ran.gradients[0], probe.frozen, "gate gradients")
            price = self.penalty * probability_nonzero(log_alpha).mean()
            optimiser.zero_grad()
            torch.autograd.backward([drawn, price], [ran.gradients[0].to("cpu"), None])
            optimiser.step()
        return log_alpha.detach()[gate_of_edge].double().numpy()

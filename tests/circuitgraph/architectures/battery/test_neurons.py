"""Neurons gated where a norm or a factor stands behind the MLP, against hooks on what goes into its last map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from circuitgraph.forward.coordinates import CoordinateGates, neurons_of
from tests.circuitgraph.architectures.battery.case import differs_by, exact, gates_of, prompts
from tests.oracles.hooks import call, hooked
from tests.oracles.uncast import uncast

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", ["gemma2", "olmo2", "exaone4", "granite"])
@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_gated_neurons_are_hooks(case: str, ablation: str) -> None:
    own = exact(case)
    compiled, model, (clean, other) = own.compiled, own.model, prompts()
    layer: Any = model.get_submodule("model.layers.1")
    last, seen = layer.mlp.down_proj, []
    gates = torch.linspace(-0.3, 1.3, last.in_features, dtype=torch.float64).clamp(0, 1)
    everything = torch.ones(own.n_edges, dtype=torch.float64)

    def gated(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        instead = seen[0] if ablation == "counterfactual" else 0.0
        return (gates * inputs[0] + (1 - gates) * instead,)

    with uncast(), torch.no_grad():
        with hooked([last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))]):
            call(model, other)
        with hooked([last.register_forward_pre_hook(gated)]):
            theirs = call(model, clean)
        values = (
            compiled.run_with_values(other)[1] if ablation == "counterfactual" else compiled.ablation_values("zero")
        )
        assert neurons_of(compiled.bound.blocks[1].mlp) == len(gates)
        found = compiled.masked(everything, clean, values, coordinates=CoordinateGates(mlps={1: gates})).logits
        assert differs_by(found, theirs) < own.case.exact and differs_by(theirs, call(model, clean)) > 0.1
        # With all of them kept the pass is the circuit's; with none, counterfactuals are those of the cut MLP.
        edges = gates_of(own.n_edges, cut=0.3).double()
        whole = CoordinateGates(mlps={1: torch.ones_like(gates)})
        plain = compiled.masked(edges, clean, values).logits
        assert differs_by(compiled.masked(edges, clean, values, coordinates=whole).logits, plain) < own.case.exact
        if ablation == "counterfactual":
            universe = compiled.universe
            cut = edges.clone()
            cut[torch.from_numpy(universe.writer_of_edge == universe.writers.index("m1"))] = 0
            none = CoordinateGates(mlps={1: torch.zeros_like(gates)})
            found = compiled.masked(edges, clean, values, coordinates=none).logits
            assert differs_by(found, compiled.masked(cut, clean, values).logits) < own.case.exact

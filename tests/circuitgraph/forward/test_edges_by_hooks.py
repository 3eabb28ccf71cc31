"""All gates 1 but one, against forward hooks in the untouched model, for sampled edges of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.graph.universe import EDGE_KINDS
from tests.oracles.cases import BATTERY, ModelMakers, pair_of_batches
from tests.oracles.hooks import (
    call,
    cut_edge,
    said_by,
    with_a_key_and_value_head_for_each_query,
)

pytestmark = pytest.mark.slow

EDGES_A_KIND = 4


@pytest.fixture(scope="module", params=BATTERY)
def compiled(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> CompiledModel:
    return ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64)


def hookable(compiled: CompiledModel) -> nn.Module:
    """The model itself; where a grouped key has a reader for each query head, its ungrouped equal."""
    universe = compiled.universe
    if universe.kv_heads == "per_query" and universe.n_kv_heads < universe.n_heads:
        return with_a_key_and_value_head_for_each_query(compiled.model)
    return compiled.model


def sampled_edges(compiled: CompiledModel, seed: int) -> list[int]:
    """Some edges of each kind there is, and of each kind of writer into each kind of reader."""
    universe, rng = compiled.universe, np.random.default_rng(seed)
    writers, readers = universe.endpoints(np.arange(universe.n_edges))
    kinds, sources = universe.reader_kinds[readers], universe.writer_kinds[writers]
    chosen: set[int] = set()
    for kind in EDGE_KINDS:
        for source in ("embedding", "head", "mlp"):
            edges = np.flatnonzero((kinds == kind) & (sources == source))
            chosen |= set(rng.permutation(edges)[:EDGES_A_KIND].tolist())
    return sorted(chosen)


def test_the_ungrouped_model_is_the_same_function(tiny_gpt2, tiny_llama) -> None:
    model = ModelMakers(tiny_gpt2, tiny_llama).make("llama-biases", dtype=torch.float64, n_kv_heads=2)
    batch, _ = pair_of_batches(lengths=[5, 3], side="left", n_asked=2, n_tokens=29, seed=0)
    torch.testing.assert_close(
        call(with_a_key_and_value_head_for_each_query(model), batch), call(model, batch), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_cutting_one_edge_equals_hooking_its_reader(compiled: CompiledModel, ablation: str) -> None:
    universe, model = compiled.universe, hookable(compiled)
    clean, corrupted = pair_of_batches(lengths=[5, 3], side="left", n_asked=2, n_tokens=model.config.vocab_size, seed=1)
    values = (
        compiled.run_with_values(corrupted)[1] if ablation == "counterfactual" else compiled.ablation_values("zero")
    )
    untouched, moved = call(model, clean), 0
    for number, edge in enumerate(sampled_edges(compiled, seed=2)):
        writer, reader = universe.edge_name(edge).split("->")
        gate = (0.0, 0.3)[number % 2]
        gates = torch.ones(universe.n_edges, dtype=torch.float64)
        gates[edge] = gate
        ours = compiled.masked(gates, clean, values).logits
        ablated = said_by(model, writer, corrupted) if ablation == "counterfactual" else torch.zeros(())
        theirs = cut_edge(model, writer, reader, clean, ablated, gate)
        # float64 sums in another order; 1e-13 is seen.
        torch.testing.assert_close(
            ours, theirs, atol=1e-9, rtol=1e-9, msg=lambda m, e=edge: f"{universe.edge_name(e)}: {m}"
        )
        moved += bool((theirs - untouched).abs().max() > 1e-6)
    # A hook that did nothing would agree with a gate that does nothing.
    assert moved > 0.8 * (number + 1)

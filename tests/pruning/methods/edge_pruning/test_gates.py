"""Hard-concrete gates against their distribution, and edges that share, miss or multiply gates, by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from pruning.methods.edge_pruning.gates import (
    Gates,
    probability_nonzero,
    probability_one,
    sample_hard_concrete,
    soft_mask,
)
from tests.pruning.prompts.small_prompts import GlobalRandomState

ALPHAS = (-6.0, -2.5, -0.7, 0.0, 0.4, 1.6, 3.0, 7.0)
TAU = 2 / 3

# One layer, one head. Its edges, in order: input->q, input->k, input->v, input->m0, a0.h0->m0, and
# input, a0.h0 and m0 into the logits.
SMALL = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)


def chance_at_most(x: float, alpha: float) -> float:
    """P(z <= x) for 0 <= x < 1: u <= σ(τ·logit((x + 0.1) / 1.2) − α), u uniform."""
    return float(expit(TAU * logit((x + 0.1) / 1.2) - alpha))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the distribution


@pytest.mark.parametrize("alpha", ALPHAS)
def test_chances_of_exact_zero_and_one(alpha: float) -> None:
    zero = float(expit(TAU * np.log(0.1 / 1.1) - alpha))
    one = float(1 - expit(TAU * np.log(1.1 / 0.1) - alpha))
    given = torch.tensor([alpha], dtype=torch.float64)
    assert probability_nonzero(given).item() == pytest.approx(1 - zero, abs=1e-12)
    assert probability_one(given).item() == pytest.approx(one, abs=1e-12)
    n = 200_000
    drawn = sample_hard_concrete(torch.full((n,), alpha), generator())
    for event, chance in (((drawn == 0), zero), ((drawn == 1), one)):
        spread = max((chance * (1 - chance) / n) ** 0.5, 2e-6)
        assert abs(event.double().mean().item() - chance) < 4.5 * spread


@pytest.mark.parametrize("alpha", [-2.5, 0.0, 1.6])
def test_the_whole_distribution(alpha: float) -> None:
    n = 200_000
    drawn = sample_hard_concrete(torch.full((n,), alpha), generator(1)).numpy()
    assert drawn.min() == 0 and drawn.max() == 1
    for x in np.linspace(0, 0.98, 15):
        assert np.mean(drawn <= x) == pytest.approx(chance_at_most(x, alpha), abs=4.5 * 0.5 / n**0.5)


def test_the_gradient_is_zero_where_clamped_and_the_formula_between() -> None:
    alpha = torch.linspace(-5, 5, 4001, dtype=torch.float64, requires_grad=True)
    gates = sample_hard_concrete(alpha, generator(2))
    (gradient,) = torch.autograd.grad(gates.sum(), alpha)
    clamped = (gates == 0) | (gates == 1)
    assert 500 < int(clamped.sum()) < 3900
    assert bool((gradient[clamped] == 0).all())
    # z = 1.2 s − 0.1 and s = σ(…/τ), so dz/dα = 1.2 s (1 − s) / τ.
    s = (gates[~clamped].detach() + 0.1) / 1.2
    torch.testing.assert_close(gradient[~clamped], 1.2 * s * (1 - s) / TAU)


def test_draws_come_from_the_generator_alone() -> None:
    state = GlobalRandomState()
    alpha = torch.zeros(50)
    first, again, other = (sample_hard_concrete(alpha, generator(seed)) for seed in (3, 3, 4))
    one = Gates(GateMap.identity(SMALL), init_mean=0.0, init_std=1.0, writers=True, generator=generator(5))
    two = Gates(GateMap.identity(SMALL), init_mean=0.0, init_std=1.0, writers=True, generator=generator(5))
    source = generator(6)
    drawn = one.sample(source), one.sample(source)
    state.assert_untouched()
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(one.log_alpha, two.log_alpha)
    assert not torch.equal(drawn[0].edges, drawn[1].edges)


def test_the_start_has_the_mean_and_spread_asked_for() -> None:
    universe = Universe(family="gpt2", n_layers=4, n_heads=6, n_kv_heads=6)
    gates = Gates(GateMap.identity(universe), init_mean=10.0, init_std=0.01, generator=generator())
    assert gates.log_alpha.mean().item() == pytest.approx(10, abs=0.002)
    assert gates.log_alpha.std().item() == pytest.approx(0.01, rel=0.1)
    assert gates.log_alpha.requires_grad and gates.log_alpha.is_leaf


# ---------------------------------------------------------------- the published soft mask


def test_soft_mask_as_published() -> None:
    alpha = [4.0, -3.0, 0.5, -0.2, 6.0, -4.0]
    # The expected number of zeros: 0.004 + 0.802 + 0.109 + 0.198 + 0.0005 + 0.917 = 2.03, so the two lowest.
    assert round(sum(chance_at_most(0, a) for a in alpha)) == 2
    expected = [expit(0.8 * a * 1.5) for a in alpha]
    expected[1] = expected[5] = 0.0
    assert soft_mask(torch.tensor(alpha)).tolist() == pytest.approx(expected, abs=1e-6)


def test_soft_mask_at_the_ends() -> None:
    assert soft_mask(torch.full((5,), -20.0)).tolist() == [0] * 5
    assert soft_mask(torch.full((5,), 40.0)).tolist() == [1] * 5
    # Ten equal gates at α = 0, each zero with chance 0.168: two of them go, the first two.
    assert soft_mask(torch.zeros(10)).tolist() == [0, 0, *[0.5] * 8]


# ---------------------------------------------------------------- edges and parameters


def edited_gates(**choices: object) -> Gates:
    """Query and key tied, input->m0 removed, m0->logits frozen; parameters: qk, v, a0->m0, input and a0->logits."""
    graph: nx.DiGraph = build_graph(SMALL)
    graph.remove_edge("input", "m0")
    graph.edges["m0", "logits"]["frozen"] = True
    graph.edges["input", "a0.h0<k>"]["mask"] = graph.edges["input", "a0.h0<q>"]["mask"]
    gate_map = GateMap.from_graph(SMALL, graph)
    assert gate_map.n_parameters == 5
    return Gates(gate_map, init_mean=0.0, init_std=0.01, generator=generator(), **choices)


def set_to(parameter: torch.Tensor, values: list[float]) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def test_edges_of_tied_removed_and_frozen_gates() -> None:
    gates = edited_gates()
    set_to(gates.log_alpha, [40, -40, 40, -40, 40])
    sample = gates.sample(generator())
    assert sample.edges.tolist() == [1, 1, 0, 0, 1, 0, 1, 1]
    # Five of eight edges are kept: the tied pair counts twice, the removed one is 0, the frozen one 1.
    assert sample.sparsity.item() == pytest.approx(3 / 8)
    assert not sample.wanted.any() and sample.undecided == 0
    assert sample.writer_sparsity is None
    assert gates.soft_edges().tolist() == pytest.approx([1, 1, 0, 0, 1, 0, 1, 1])
    assert gates.expand(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])).tolist() == pytest.approx(
        [0.1, 0.1, 0.2, 0, 0.3, 0.4, 0.5, 1]
    )
    inf = float("inf")
    assert gates.scores().tolist() == [40, 40, -40, -inf, 40, -40, 40, inf]


def test_sparsity_counts_every_edge_and_its_gradient_too() -> None:
    gates = edited_gates()
    for seed in range(20):
        set_to(gates.log_alpha, [0.0, 0.1, -0.1, 0.3, 40])
        sample = gates.sample(generator(seed))
        edges = sample.edges.tolist()
        assert edges[0] == edges[1] and edges[3] == 0 and edges[6] == edges[7] == 1
        assert sample.sparsity.item() == pytest.approx(1 - sum(edges) / 8, abs=1e-6)
        assert sample.wanted.tolist() == [0 < z < 1 for z in edges]
        assert sample.undecided == sum(0 < z < 1 for z in edges)
        (gradient,) = torch.autograd.grad(sample.sparsity, gates.log_alpha)
        s = [(z + 0.1) / 1.2 for z in edges]
        slope = [1.2 * p * (1 - p) * 1.5 if 0 < z < 1 else 0.0 for p, z in zip(s, edges, strict=True)]
        expected = [-2 * slope[0] / 8, -slope[2] / 8, -slope[4] / 8, -slope[5] / 8, 0]
        assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_shift_is_taken_off_every_edge() -> None:
    gates = edited_gates()
    shifted = gates.sample(generator(7), shift=1.5).edges
    set_to(gates.log_alpha, (gates.log_alpha - 1.5).tolist())
    assert torch.equal(shifted, gates.sample(generator(7)).edges)


# ---------------------------------------------------------------- writer gates

# Writers: input, a0.h0, m0. Who writes each of the eight edges:
WRITER = [0, 0, 0, 0, 1, 0, 1, 2]


def test_an_edge_needs_its_writer() -> None:
    gates = edited_gates(writers=True)
    assert gates.writer_log_alpha is not None and len(gates.parameters) == 2
    set_to(gates.log_alpha, [40, -40, 40, 40, 40])
    set_to(gates.writer_log_alpha, [40, -40, 40])
    sample = gates.sample(generator())
    assert sample.edges.tolist() == [1, 1, 0, 0, 0, 1, 0, 1]
    assert sample.sparsity.item() == pytest.approx(4 / 8)
    assert sample.writer_sparsity is not None and sample.writer_sparsity.item() == pytest.approx(1 / 3)
    set_to(gates.writer_log_alpha, [3, -1, -2])
    assert gates.scores().tolist()[:3] == [3, 3, -40]
    assert gates.scores().tolist()[4:] == [-1, 3, -1, -2]  # m0->logits is frozen, its writer is not


def test_wanted_edges_are_those_with_a_gradient() -> None:
    gates = edited_gates(writers=True)
    assert gates.writer_log_alpha is not None
    seen = set()
    for seed in range(60):
        set_to(gates.log_alpha, [0.0, 0.5, -0.5, 0.0, 1.0])
        set_to(gates.writer_log_alpha, [0.5, 0.0, -0.5])
        sample = gates.sample(generator(seed))
        source = generator(seed)
        z = gates.expand(sample_hard_concrete(gates.log_alpha, source)).tolist()
        w = sample_hard_concrete(gates.writer_log_alpha, source).tolist()
        products = [a * w[writer] for a, writer in zip(z, WRITER, strict=True)]
        assert sample.edges.tolist() == pytest.approx(products, abs=1e-7)
        assert sample.wanted.tolist() == [0 < p < 1 for p in products]
        seen |= {(0 < a < 1, 0 < w[b] < 1, a * w[b] == 0) for a, b in zip(z, WRITER, strict=True)}
        # Each edge's own share of the gradient: none where it is not wanted, some where it is.
        for edge in range(8):
            gradients = torch.autograd.grad(sample.edges[edge], gates.parameters, retain_graph=True)
            moves = any(bool((g != 0).any()) for g in gradients)
            assert moves == bool(sample.wanted[edge]), (seed, edge)
    assert len(seen) >= 7, "all ways for a gate and its writer to be decided or not came up"


# ---------------------------------------------------------------- a start from importance


def test_start_from_importance() -> None:
    gates = edited_gates()
    importance = torch.tensor([1.0, 2.0, 0.5, 100.0, 12.0, 0.0, 3.0, 100.0])
    gates.start_from(importance, mean=1.0, spread=2.0)
    # Tied edges add up (1 + 2), what is fixed takes no part, and 0 counts as the smallest that is not: 0.5.
    order = np.log([3.0, 0.5, 12.0, 0.5, 3.0])
    expected = 1 + 2 * (order - order.mean()) / order.std()
    assert gates.log_alpha.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert gates.log_alpha.requires_grad and gates.log_alpha.is_leaf


def test_start_from_no_importance_at_all() -> None:
    gates = edited_gates()
    gates.start_from(torch.zeros(8), mean=1.0, spread=2.0)
    assert gates.log_alpha.tolist() == [1.0] * 5


def test_start_from_importance_with_everything_tied() -> None:
    graph = build_graph(SMALL)
    for _, _, data in graph.edges(data=True):
        if "mask" in data:
            data["mask"] = 0
    gates = Gates(GateMap.from_graph(SMALL, graph), init_mean=0.0, init_std=1.0, generator=generator())
    gates.start_from(torch.ones(8), mean=1.0, spread=2.0)
    assert gates.log_alpha.tolist() == [1.0]

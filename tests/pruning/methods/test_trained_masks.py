"""UGS and subnetwork probing: what is drawn and its gradient against their formulas, and a program that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.universe import Universe
from circuitgraph.models import load_model
from circuitgraph.tracr import ground_truth_edges
from pruning.execution.batch_run import BatchResult, Share
from pruning.execution.probe import Probe
from pruning.methods.subnetwork_probing import SubnetworkProbing
from pruning.methods.ugs import UGS, _Nodes, draw_gates
from pruning.tasks import load_task
from tests.pruning.prompts.small_prompts import GlobalRandomState

N = 200_000


@pytest.mark.parametrize("mean", [0.1, 0.5, 0.85])
def test_gates_have_the_published_distribution_and_an_unbiased_gradient(mean: float) -> None:
    theta = torch.full((N,), mean, dtype=torch.float64)
    gates, inside = draw_gates(theta, torch.Generator().manual_seed(0))
    width = mean * (1 - mean)
    near = 4 / math.sqrt(N)  # four standard errors of a share at most
    assert gates.mean().item() == pytest.approx(mean, abs=near)
    assert inside.double().mean().item() == pytest.approx(width, abs=near)
    assert (gates == 1).double().mean().item() == pytest.approx(mean - width / 2, abs=near)
    assert (gates == 0).double().mean().item() == pytest.approx(1 - mean - width / 2, abs=near)
    assert gates[inside].quantile(0.25).item() == pytest.approx(0.25, abs=0.01)  # even in between
    # Of the loss α³ + α: the mean of 3 α² + 1 inside is L(1) − L(0) = 2.
    assert (3 * gates[inside] ** 2 + 1).mean().item() == pytest.approx(2, abs=0.03)


def test_gates_by_hand() -> None:
    """θ = 0.2 has a window of 0.16: u = 0.12 is its lower end, u = 0.28 its upper one."""
    theta, n_inside = torch.tensor([0.2], dtype=torch.float64), 0
    for seed in range(60):
        u = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).item()
        gates, inside = draw_gates(theta, torch.Generator().manual_seed(seed))
        expected = 1.0 if u <= 0.12 else 0.0 if u >= 0.28 else (0.28 - u) / 0.16
        assert gates.item() == pytest.approx(expected, abs=1e-12) and inside.item() == (0.12 < u < 0.28)
        n_inside += inside.item()
    assert 2 < n_inside < 25


def test_the_price_of_nodes_by_hand() -> None:
    """One layer of one head: s = 1; the head has 3 + 2 edges, the MLP 2 + 1."""
    universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
    price = _Nodes(universe).price(torch.full((8,), 0.1, dtype=torch.float64))
    assert price.item() == pytest.approx((math.tanh(2 * 0.5) + math.tanh(2 * 0.3)) / 2)


def test_a_grouped_reader_is_into_each_of_its_heads() -> None:
    """Two heads of one key and value: each has 1 query, 1 key and 1 value edge, and 2 out; s = 2."""
    universe = Universe(family="llama", n_layers=1, n_heads=2, n_kv_heads=1)
    theta = torch.full((universe.n_edges,), 0.1, dtype=torch.float64)
    heads, mlp = 2 * math.tanh(0.5), math.tanh(0.4)
    assert _Nodes(universe).price(theta).item() == pytest.approx(heads + mlp)


def test_published_rates() -> None:
    rates = [UGS(penalty=penalty).rate("zero") for penalty in (1e-4, 5e-4, 1e-3)]
    assert rates == [0.15, 0.1, 0.05] and UGS().rate("counterfactual") == pytest.approx(0.01)


class Constant:
    """Stands in for a runner: every gate that is wanted has the same gradient in each draw."""

    def __init__(self, slope: torch.Tensor) -> None:
        self.slope, self.ran = slope, list[list[Share]]()

    def run(self, shares: list[Share]) -> BatchResult:
        self.ran.append(shares)
        gradients = [self.slope * share.wanted / len(shares) for share in shares]
        return BatchResult(gradients=gradients, objective=torch.zeros(()), live_heads=0, live_mlps=0)


def test_steps_of_ugs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient in p is (mean slope inside the window, plus the price) · θ(1 − θ), whatever fell inside."""
    probe = reverse_probe()
    n = probe.compiled.universe.n_edges
    slope = torch.linspace(-1, 1, n)
    runner = Constant(slope)
    monkeypatch.setitem(vars(probe), "runner", runner)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda ps, most: seen.append(ps[0].grad.clone()))
    UGS(penalty=0.0, steps=1, draws=12, prompts=2).score(probe, seed=0)
    inside = torch.stack([share.wanted for share in runner.ran[0]]).any(0)
    theta = 1 / (1 + math.exp(-1))
    expected = torch.where(inside, slope, 0.0) * theta * (1 - theta)
    assert 0.5 * n < inside.sum() and len(runner.ran[0]) == 12
    torch.testing.assert_close(seen[0], expected)


def reverse_probe(objective: str = "kl") -> Probe:
    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    task = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3})
    return Probe(compiled=compiled, pairs=task.split("train"), objective=objective, ablation="zero")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        UGS(steps=40, draws=3, prompts=6, learning_rate=0.15, start=4.0),
        SubnetworkProbing(penalty=0.3, steps=100, learning_rate=0.1, start=3.0),
    ],
    ids=lambda method: method.name,
)
def test_the_edges_of_a_program_come_first(method: UGS | SubnetworkProbing) -> None:
    probe = reverse_probe()
    state = GlobalRandomState()
    scores = method.score(probe, seed=0)
    state.assert_untouched()
    universe = probe.compiled.universe
    true = [universe.edge_index(*edge.split("->")) for edge in ground_truth_edges("reverse")]
    needed = np.isin(np.arange(universe.n_edges), true)
    # The share of pairs of a true edge and another in which the true one has more: 0.5 by chance.
    assert (scores[needed][:, None] > scores[~needed]).mean() > 0.88 and np.isfinite(scores).all()


def test_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = reverse_probe()
    for method in (UGS(steps=2, draws=2), SubnetworkProbing(steps=2, learning_rate=0.1)):
        one, again, other = (method.score(probe, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()


def test_a_node_has_one_gate() -> None:
    probe = reverse_probe()
    scores = SubnetworkProbing(nodes=True, steps=3, learning_rate=0.1).score(probe, seed=0)
    writers, _ = probe.compiled.universe.endpoints(np.arange(len(scores)))
    found = {writer: set(scores[writers == writer].tolist()) for writer in np.unique(writers)}
    assert all(len(values) == 1 for values in found.values()) and len(set.union(*found.values())) > 3
    assert SubnetworkProbing.estimates == LOG_ALPHA


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: UGS(steps=0), "'ugs': steps must be 1 or more; got 0"),
        (lambda: UGS(penalty=-1.0), "'ugs': penalty must be a number of at least 0; got -1.0"),
        (lambda: UGS(learning_rate=0.0), "learning_rate must be above 0"),
        (lambda: SubnetworkProbing(prompts=0), "'subnetwork-probing': prompts must be 1 or more; got 0"),
        (lambda: SubnetworkProbing(penalty=math.nan), "penalty must be a number of at least 0; got nan"),
        (lambda: SubnetworkProbing(learning_rate=-1.0), "learning_rate must be above 0"),
    ],
)
def test_settings_out_of_range(made, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        made()

"""ACDC against a plain loop over all edges that runs the whole masked model for each, and knows nothing of the rest."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, NotFiniteError, UnknownNameError
from circuitgraph.forward.tail import Tail
from circuitgraph.graph.universe import Universe
from circuitgraph.models import load_model
from circuitgraph.tracr import ground_truth_edges
from pruning.execution.objectives import objective_named
from pruning.execution.probe import Probe
from pruning.methods.acdc import ACDC, acdc
from pruning.methods.writer_orders import ORDERS, writer_orders
from pruning.prompts.encoding import EncodedPairs
from pruning.tasks import load_task
from tests.circuitgraph.architectures.battery.case import exact
from tests.oracles.cases import CASES, ModelMakers
from tests.oracles.uncast import uncast
from tests.pruning.prompts.small_prompts import GlobalRandomState, random_prompts

PROMPTS = random_prompts(lengths=[5, 4, 5], n_asked=(1, 2), wrong=True)


def naive_acdc(
    universe: Universe, objective: Callable[[np.ndarray], float], threshold: float
) -> tuple[np.ndarray, dict[int, float]]:
    """The published loop: the circuit `[edge]`, and the rise of each edge that was tried."""
    kept, rises = np.ones(universe.n_edges, dtype=bool), {}
    current = objective(kept)
    for reader in reversed(universe.readers):
        graph = nx.DiGraph(universe.structural_edges())
        for edge in np.flatnonzero(kept).tolist():
            graph.add_edge(*universe.edge_name(edge).split("->"))
        # An MLP writes under the name by which it reads.
        connected = reader == "logits" or (reader in graph and nx.has_path(graph, reader, "logits"))
        for writer in reversed(universe.writers):
            try:
                edge = universe.edge_index(writer, reader)
            except UnknownNameError:
                continue
            kept[edge] = False
            if connected:
                new = objective(kept)
                rises[edge] = new - current
                if new - current < threshold:
                    current = new
                else:
                    kept[edge] = True
    return kept, rises


def by_masked_runs(
    compiled: CompiledModel, pairs: EncodedPairs, name: str, ablation: str
) -> Callable[[np.ndarray], float]:
    """The mean objective of a circuit, from whole masked runs."""
    objective, groups = objective_named(name), []
    for length in sorted(set(pairs.lengths.tolist())):
        batch = pairs.batch(np.flatnonzero(pairs.lengths == length))
        if ablation == "counterfactual":
            values = compiled.run_with_values(batch.corrupted)[1]
        else:
            values = compiled.ablation_values(ablation, iter([batch.clean]))
        groups.append((batch, values, compiled.logits(batch.clean), len(batch.clean.input_ids) / len(pairs)))

    @torch.no_grad()
    def of(kept: np.ndarray) -> float:
        gates = torch.from_numpy(kept.astype(np.float64)).to(compiled.dtype)
        total = 0.0
        for batch, values, full, share in groups:
            total += share * float(objective(compiled.masked(gates, batch.clean, values).logits, full, batch))
        return total

    return of


@pytest.mark.parametrize(
    ("case", "objective", "ablation", "threshold"),
    [
        ("gpt2", "kl", "counterfactual", 0.003),
        pytest.param("gpt2-joint-qkv", "negative-logit-diff", "counterfactual", 0.03, marks=pytest.mark.slow),
        ("llama-gqa", "kl", "counterfactual", 0.1),
        pytest.param("llama-gqa-per-query", "logit-diff", "zero", 0.1, marks=pytest.mark.slow),
        pytest.param("mistral", "kl", "zero", 0.03, marks=pytest.mark.slow),
    ],
)
def test_the_circuit_of_the_plain_loop(
    tiny_gpt2, tiny_llama, case: str, objective: str, ablation: str, threshold: float
) -> None:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    assert compiled.universe.grouped == (case in ("llama-gqa", "mistral")) and case in CASES
    kept, rises = naive_acdc(compiled.universe, by_masked_runs(compiled, PROMPTS, objective, ablation), threshold)
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective=objective, ablation=ablation)
    found = acdc(probe, ACDC(threshold=threshold))
    assert 3 < kept.sum() < 0.9 * len(kept) and len(rises) < len(kept)
    np.testing.assert_array_equal(found.kept, kept)
    assert found.edges.tolist() == list(rises)
    # The logit difference is taken in float32, whatever the model's format.
    np.testing.assert_allclose(found.rises[found.edges], list(rises.values()), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", [pytest.param("counterfactual", marks=pytest.mark.full), "zero"])
def test_a_model_that_looks_both_ways_through_windows(ablation: str) -> None:
    compiled = exact("modernbert").compiled
    with uncast():
        kept, rises = naive_acdc(compiled.universe, by_masked_runs(compiled, PROMPTS, "kl", ablation), 0.3)
        found = acdc(Probe(compiled=compiled, pairs=PROMPTS, objective="kl", ablation=ablation), ACDC(threshold=0.3))
    assert 3 < kept.sum() < 0.9 * len(kept)
    np.testing.assert_array_equal(found.kept, kept)
    np.testing.assert_allclose(found.rises[found.edges], list(rises.values()), atol=2e-6)


def reverse_probe(**choices: object) -> Probe:
    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split", verify=False)
    pairs = load_task("tracr-reverse", loaded.tokenizer, options={"max_length": 3}).split("train").subset(range(6))
    return Probe(compiled=compiled, pairs=pairs, objective="kl", **{"ablation": "zero", **choices})


def test_the_circuit_of_a_program_and_of_the_plain_loop() -> None:
    probe = reverse_probe()
    universe = probe.compiled.universe
    found = acdc(probe, ACDC(threshold=0.01))
    objective = by_masked_runs(probe.compiled, probe.pairs, "kl", "zero")
    kept, _ = naive_acdc(universe, objective, 0.01)
    np.testing.assert_array_equal(found.kept, kept)
    names = {universe.edge_name(edge) for edge in np.flatnonzero(kept).tolist()}
    assert names <= set(ground_truth_edges("reverse")) and len(names) > 3


def test_scores_give_the_circuit_back_and_untried_edges_come_last() -> None:
    probe = reverse_probe()
    state = GlobalRandomState()
    method = ACDC(threshold=0.01)
    scores, found = method.score(probe), acdc(probe, method)
    state.assert_untouched()
    np.testing.assert_array_equal(scores >= 0.01, found.kept)
    tried = np.isin(np.arange(len(scores)), found.edges)
    assert 0 < tried.sum() < len(scores) and scores[~tried].max() < scores[tried].min()
    assert len(set(scores[~tried].tolist())) == 1


def test_what_runs_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = acdc(reverse_probe(), ACDC(threshold=0.01))
    monkeypatch.setattr("pruning.methods.acdc._CELLS_AT_ONCE", {"cpu": 1})
    monkeypatch.setattr("pruning.methods.acdc._LOGITS_AT_ONCE", {"cpu": 1})
    alone = acdc(reverse_probe(), ACDC(threshold=0.01))
    np.testing.assert_array_equal(found.edges, alone.edges)
    np.testing.assert_allclose(found.values, alone.values, rtol=1e-4, atol=1e-6)


def test_a_wanted_size_takes_over_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, ran, told = reverse_probe(), [], []
    plain = Tail.final
    monkeypatch.setattr(Tail, "final", lambda self, seen, **more: (ran.append(len(seen)), plain(self, seen, **more))[1])
    one = acdc(probe, ACDC(threshold=0.01))
    in_one, wanted = sum(ran), one.n_kept
    ran.clear()
    probe = reverse_probe(say=told.append)
    found = acdc(probe, ACDC(threshold=3.0, target_edges=wanted))
    assert found.n_kept == wanted and len(told) > 1
    assert sum(ran) < len(told) * in_one
    # What was taken over is what a search of its own measures.
    again = acdc(reverse_probe(), ACDC(threshold=found.threshold))
    np.testing.assert_array_equal(again.kept, found.kept)
    np.testing.assert_allclose(again.rises, found.rises, atol=1e-5)


def test_orders() -> None:
    universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
    by_name = {order: [universe.writers[w] for w in writer_orders(universe, order, 0)[4]] for order in ORDERS}
    assert by_name["reverse"] == ["m0", "a0.h1", "a0.h0", "input"]
    assert by_name["heads-forward"] == ["m0", "a0.h0", "a0.h1", "input"]
    assert sorted(by_name["random"]) == sorted(universe.writers)
    drawn = {tuple(writer_orders(universe, "random", seed)[4]) for seed in range(8)}
    assert len(drawn) > 2
    np.testing.assert_array_equal(writer_orders(universe, "random", 3)[4], writer_orders(universe, "random", 3)[4])


def test_a_model_that_says_no_numbers(tiny_gpt2) -> None:
    model = tiny_gpt2()
    model.transformer.wpe.weight.data[4] = float("nan")
    probe = Probe(compiled=compile_model(model, verify=False), pairs=PROMPTS, objective="kl")
    with pytest.raises(NotFiniteError, match="2 of 3 prompts"):
        acdc(probe)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threshold": 0.0}, "threshold must be a number above 0; got 0.0"),
        ({"threshold": float("nan")}, "threshold must be a number above 0; got nan"),
        ({"target_edges": 0}, "target_edges must be 1 or more; got 0"),
        ({"order": "shuffle"}, "order of method 'acdc' 'shuffle'"),
    ],
)
def test_settings_out_of_range(settings: dict, said: str) -> None:
    with pytest.raises(ConfigurationError if "order" not in settings else UnknownNameError, match=said):
        ACDC(**settings)

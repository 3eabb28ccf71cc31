"""Traces: every share against masked runs by hand; a program's whole circuit comes back as its tree."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

from circuitgraph import Circuit, compile_model, load_model
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.tracr import ground_truth_edges
from pruning import load_task, trace
from pruning.evaluation.trace import Trace


@pytest.fixture(scope="module")
def induction():
    loaded = load_model("induction-neox")
    compiled = compile_model(loaded, verify=False)
    pairs = load_task("induction", loaded.tokenizer, sizes={"train": 1, "validation": 0, "test": 4}).split("test")
    return compiled, Circuit.from_edges(compiled.universe, np.ones(compiled.universe.n_edges, dtype=bool)), pairs


def kl_without(compiled, pairs, cut: list[int]) -> float:
    """KL(full ‖ all edges but some), each prompt by itself."""
    gates = torch.ones(compiled.universe.n_edges)
    gates[cut] = 0
    found = []
    for prompt in range(len(pairs)):
        batch = pairs.batch([prompt])
        values = compiled.run_with_values(batch.corrupted)[1]
        with torch.no_grad():
            ours = compiled.masked(gates, batch.clean, values).logits.double().log_softmax(-1)
        full = compiled.logits(batch.clean).double().log_softmax(-1)
        found.append(float((full.exp() * (full - ours)).sum(-1).mean()))
    return float(np.mean(found))


def test_shares_are_those_of_masked_runs(induction) -> None:
    compiled, circuit, pairs = induction
    made = trace(compiled, circuit, "a1.h2<k>", pairs, depth=1)
    universe = compiled.universe
    into = [universe.edge_index(writer, "a1.h2<k>") for writer in universe.writers[:6]]
    all_cut = kl_without(compiled, pairs, into)
    assert made.distance == pytest.approx(0, abs=1e-6)
    assert made.readers["a1.h2<k>"] == pytest.approx({"n_edges": 6, "worth": all_cut, "cut": all_cut}, abs=1e-5)
    rows = made.table.set_index("edge")
    assert len(rows) == 6 and all_cut > 0.05
    for edge in into:
        alone = kl_without(compiled, pairs, [one for one in into if one != edge])
        row = rows.loc[universe.edge_name(edge)]
        assert row["distance"] == pytest.approx(alone, abs=1e-5)
        assert row["restored"] == pytest.approx((all_cut - alone) / all_cut, abs=1e-4)
    # The strongest looks one back, as its study says, and the first in the table is the strongest.
    assert made.table["edge"][0] == "a0.h1->a1.h2<k>" and made.table["restored"].is_monotonic_decreasing


def test_edges_that_restore_little_are_counted(induction) -> None:
    compiled, circuit, pairs = induction
    made = trace(compiled, circuit, "a1.h2<k>", pairs, depth=1)
    shares = made.table["restored"].tolist()
    little = sum(abs(share) < 0.01 for share in shares)
    lines = made.text.splitlines()
    assert 1 < little < len(shares) and len(lines) == 1 + len(shares) - little + 1
    assert lines[-1] == f"└─ {little} more edges, less than 1 % each"
    assert Trace.matters({"restored": float("nan"), "followed": False})  # worth nothing, so that there is no share


def test_a_programs_tree_is_its_circuit() -> None:
    compiled = compile_model(load_model("tracr:reverse"), embeddings="split", verify=False)
    circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
    pairs = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 4}).split("test")
    pairs = pairs.subset(range(0, len(pairs), 12))
    made = trace(compiled, circuit, "logits", pairs, follow=9, depth=9, least=0.0)
    assert nx.is_arborescence(made.tree) and sorted(made.table["edge"]) == sorted(circuit)
    for parent, child in made.tree.edges:
        above = made.tree.nodes[parent]
        if parent:
            assert above["followed"] and made.tree.nodes[child]["reader"].startswith(above["writer"])
    assert made.text.splitlines()[1] == "└─ a3.h0->logits  100 %"
    assert set(made.readers) == {target for _, target in circuit.edges}
    short = trace(compiled, circuit, "logits", pairs, follow=0)
    assert short.table["edge"].tolist() == ["a3.h0->logits"] and not short.table["followed"].any()


def test_refused(induction) -> None:
    compiled, circuit, pairs = induction
    with pytest.raises(UnknownNameError, match="reader"):
        trace(compiled, circuit, "a1.h2", pairs)
    few = Circuit.from_edges(compiled.universe, ["input->a1.h2<v>", "a1.h2->logits"])
    with pytest.raises(ConfigurationError, match="no edge into m1"):
        trace(compiled, few, "m1", pairs)
    none = Circuit.from_edges(compiled.universe, [])
    with pytest.raises(ConfigurationError, match="the circuit has no edges, so there is nothing into m1"):
        trace(compiled, none, "m1", pairs)
    for wrong in ({"depth": 0}, {"follow": -1}, {"least": 2.0}):
        with pytest.raises(ConfigurationError):
            trace(compiled, circuit, "logits", pairs, **wrong)

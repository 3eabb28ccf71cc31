"""Minimality: edges that can go alone, and those of which one has to stay, in toys where both are known."""

from __future__ import annotations

import pytest

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError
from circuitgraph.models.gate_toys import gate_toy
from pruning.evaluation.minimality import measure_minimality
from pruning.tasks.gate_toys import gate_prompts


def test_an_edge_of_an_or_is_idle_alone_and_needed_where_the_other_is_gone() -> None:
    toy = gate_toy("nested")
    compiled, pairs = compile_model(toy, embeddings="joint", verify=False), gate_prompts(toy, 4)
    heads = [edge for head in range(4) for edge in (f"input->a0.h{head}<v>", f"a0.h{head}->m0")]
    circuit = Circuit.from_edges(compiled.universe, [*heads, "m0->logits", "input->logits"])
    found = measure_minimality(compiled, circuit, pairs, n_subsets=40, share=0.2).set_index("edge")
    assert len(found) == 10
    # By hand: the output is 2, an AND takes 1 off it and an OR nothing; nothing of `input` is read by the output.
    alone = {"a0.h0->m0": 1.0, "a0.h1->m0": 1.0, "a0.h2->m0": 0.0, "a0.h3->m0": 0.0, "m0->logits": 4.0}
    assert found.loc[list(alone), "alone"].to_dict() == alone
    # Without the OR's other edge it is off by 1, and by 4 where the AND is gone as well, off by 1 already.
    assert found.loc["a0.h2->m0", "most"] in (1.0, 3.0) and found.loc["a0.h3->m0", "most"] in (1.0, 3.0)
    assert found.loc["input->logits", "most"] == 0 and found.index[0] == "input->logits"
    by_itself = measure_minimality(compiled, circuit, pairs, n_subsets=0, n_edges=3)
    assert len(by_itself) == 3 and (by_itself["alone"] == by_itself["most"]).all()


def test_what_cannot_be_cut_is_refused() -> None:
    toy = gate_toy("and")
    compiled, pairs = compile_model(toy, embeddings="joint", verify=False), gate_prompts(toy, 2)
    with pytest.raises(ConfigurationError, match="no edges"):
        measure_minimality(compiled, Circuit.from_edges(compiled.universe, []), pairs)
    with pytest.raises(ConfigurationError, match="share is of the circuit's edges.*got 1"):
        measure_minimality(compiled, Circuit.from_edges(compiled.universe, ["input->logits"]), pairs, share=1)

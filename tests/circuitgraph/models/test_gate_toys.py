"""Toys of gates: what they say on every input, by the formula, and that their graph is the model."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import UnknownNameError
from circuitgraph.models.gate_toys import GATE_TOYS, gate_toy

FORMULA = {
    "and": lambda a, b: max(a + b - 1, 0),
    "or": lambda a, b: 1 - max(1 - a - b, 0),
    "adder": lambda a, b: a + 1.5 * b,
    "nested": lambda a, b, c, d: float(a and b) + float(c or d),
}


@pytest.mark.parametrize("kind", GATE_TOYS)
def test_every_input_in_any_order(kind: str) -> None:
    toy = gate_toy(kind)
    for states in product((0, 1), repeat=len(GATE_TOYS[kind])):
        words = [f"{'on' if state else 'off'}{head}" for head, state in enumerate(states, start=1)]
        for prompt in (["x", *words], [*reversed(words), "y", "z"]):
            ids = torch.tensor([toy.tokenizer.encode_tokens(prompt)])
            # Exactly, at every position but BOS: nothing of it is rounded.
            assert toy.model(ids).logits[0, 1:, 0].tolist() == [FORMULA[kind](*states)] * len(prompt)


def test_the_graph_is_the_model() -> None:
    compiled = compile_model(gate_toy("nested", dtype=torch.float64), embeddings="joint")  # checks parity
    assert set(GATE_TOYS["nested"]) < {compiled.universe.edge_name(edge) for edge in range(compiled.universe.n_edges)}
    with pytest.raises(UnknownNameError, match="gate toy 'xor'"):
        gate_toy("xor")

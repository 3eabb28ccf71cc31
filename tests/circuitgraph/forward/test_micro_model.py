"""What cutting an edge means, in numbers worked out by hand on `micro_model`.

The prompt is tokens 1, 0, 2, asked at its first two positions:

    position        0      1      2
    A               5      3      7
    B               1      2      3
    v = A + 10 B   15     23     37
    looks at     last  first

    position 0: head 37, C = 100 + 37 = 137, m0 = 2 · (5 + 137 − 120) + 1 = 45, logits (5 + 1 + 45, 137)
    position 1: head 15, C = 100 + 15 = 115, m0 = 2 · max(0, −2) + 1      =  1, logits (3 + 2 +  1, 115)

The corrupted prompt is tokens 0, 2, 1:

    A               3      7      5
    v              13     27     35
    position 0: looks at the first: head 13, C = 113, m0 = 2 · max(0, −4) + 1 =  1, logits (3 + 1 +  1, 113)
    position 1: looks at the last:  head 35, C = 135, m0 = 2 · 22 + 1         = 45, logits (7 + 2 + 45, 135)
"""

from __future__ import annotations

import pytest
import torch

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from tests.circuitgraph.forward.micro_model import micro_model

CLEAN, CORRUPTED = [1, 0, 2], [0, 2, 1]
FULL = ((51, 137), (6, 115))

# What is left of the logits at the two positions when one edge is cut, the writer saying 0 instead.
CUT_ZERO = {
    "tok->a0.h0<q>": ((7, 115), (6, 115)),  # q = −4000: both look first; C = 115, m0 = 2·0 + 1
    "pos->a0.h0<q>": FULL,  # q reads no B
    "tok->a0.h0<k>": FULL,  # k reads no A
    "pos->a0.h0<k>": ((27, 125), (22, 125)),  # k = 0: all alike, (15 + 23 + 37) / 3 = 25; m0 = 21 and 17
    "tok->a0.h0<v>": ((37, 130), (6, 110)),  # v = 10, 20, 30: heads 30 and 10; m0 = 31 and 1
    "pos->a0.h0<v>": ((7, 107), (6, 105)),  # v = 5, 3, 7: heads 7 and 5; m0 = 1 and 1
    "tok->m0": ((41, 137), (6, 115)),  # m0 = 2·(0 + 137 − 120) + 1 = 35; 2·max(0, −5) + 1 = 1
    "pos->m0": FULL,  # m0 reads no B
    "a0.h0->m0": ((7, 137), (6, 115)),  # m0 still sees the output bias: 2·max(0, 5 + 100 − 120) + 1 = 1
    "tok->logits": ((46, 137), (3, 115)),  # 0 + 1 + 45; 0 + 2 + 1
    "pos->logits": ((50, 137), (4, 115)),  # 5 + 0 + 45; 3 + 0 + 1
    "a0.h0->logits": ((51, 100), (6, 100)),  # the output bias stays
    "m0->logits": ((6, 137), (5, 115)),  # the MLP's bias goes with the MLP: 5 + 1; 3 + 2
}

# The same, the writer saying what it says on the corrupted prompt. Positions are the same in both.
CUT_COUNTERFACTUAL = {
    "tok->a0.h0<q>": ((7, 115), (46, 137)),  # A = 3 looks first, 15; A = 7 looks last, 37: m0 = 2·20 + 1
    "pos->a0.h0<q>": FULL,
    "tok->a0.h0<k>": FULL,
    "pos->a0.h0<k>": FULL,
    "tok->a0.h0<v>": ((47, 135), (6, 113)),  # v = 13, 27, 35: heads 35 and 13; m0 = 2·20 + 1 and 1
    "pos->a0.h0<v>": FULL,
    "tok->m0": ((47, 137), (10, 115)),  # m0 = 2·(3 + 137 − 120) + 1 = 41; 2·(7 + 115 − 120) + 1 = 5
    "pos->m0": FULL,
    "a0.h0->m0": ((7, 137), (42, 115)),  # m0 = 2·max(0, 5 + 113 − 120) + 1; 2·(3 + 135 − 120) + 1 = 37
    "tok->logits": ((49, 137), (10, 115)),  # 3 + 1 + 45; 7 + 2 + 1
    "pos->logits": FULL,
    "a0.h0->logits": ((51, 113), (6, 135)),
    "m0->logits": ((7, 137), (50, 115)),  # 5 + 1 + 1; 3 + 2 + 45
}


def prompt(tokens: list[int]) -> TokenBatch:
    return TokenBatch(
        input_ids=torch.tensor([tokens]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        predict_index=torch.tensor([0, 1]),
        predict_prompt=torch.tensor([0, 0]),
    )


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(micro_model(), embeddings="split")


def run(compiled: CompiledModel, gates: torch.Tensor, ablation: str) -> torch.Tensor:
    counterfactual = compiled.run_with_values(prompt(CORRUPTED))[1]
    values = compiled.ablation_values("zero") if ablation == "zero" else counterfactual
    return compiled.masked(gates, prompt(CLEAN), values).logits


def expect(logits: torch.Tensor, expected: object) -> None:
    # The only fraction in the model is a third, and 3 · 25/3 rounds.
    torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def ones(compiled: CompiledModel) -> torch.Tensor:
    return torch.ones(compiled.universe.n_edges, dtype=torch.float64)


def test_the_model_itself(compiled: CompiledModel) -> None:
    expect(compiled.model(prompt(CLEAN).input_ids).logits[0, :2], FULL)
    expect(compiled.model(prompt(CORRUPTED).input_ids).logits[0, :2], ((5, 113), (54, 135)))


def test_the_tables_name_every_edge(compiled: CompiledModel) -> None:
    names = {compiled.universe.edge_name(edge) for edge in range(compiled.universe.n_edges)}
    assert names == set(CUT_ZERO) == set(CUT_COUNTERFACTUAL)


@pytest.mark.parametrize("edge", CUT_ZERO)
def test_one_edge_cut(compiled: CompiledModel, edge: str) -> None:
    gates = ones(compiled)
    gates[compiled.universe.edge_index(*edge.split("->"))] = 0
    expect(run(compiled, gates, "zero"), CUT_ZERO[edge])
    expect(run(compiled, gates, "counterfactual"), CUT_COUNTERFACTUAL[edge])


def test_all_and_nothing(compiled: CompiledModel) -> None:
    expect(run(compiled, ones(compiled), "zero"), FULL)
    expect(run(compiled, ones(compiled), "counterfactual"), FULL)
    # Nothing but the attention's output bias is left; the corrupted run says the rest where it is the filler.
    expect(run(compiled, 0 * ones(compiled), "zero"), ((0, 100), (0, 100)))
    expect(run(compiled, 0 * ones(compiled), "counterfactual"), ((5, 113), (54, 135)))


def test_a_node_without_inputs_still_says_its_constant_under_zero_ablation(compiled: CompiledModel) -> None:
    """Only m0->logits is kept: m0 sees C = 100 from the bias, says 2 · max(0, 100 − 120) + 1 = 1."""
    gates = 0 * ones(compiled)
    gates[compiled.universe.edge_index("m0", "logits")] = 1
    expect(run(compiled, gates, "zero"), ((1, 100), (1, 100)))
    expect(run(compiled, gates, "counterfactual"), ((5, 113), (54, 135)))


def test_a_gate_between_mixes_and_its_gradient_is_the_difference(compiled: CompiledModel) -> None:
    """a0.h0->logits at 1/4: C = 100 + 37/4 + 13·3/4 = 119, and its slope is 37 − 13 = 24."""
    edge = compiled.universe.edge_index("a0.h0", "logits")
    gates = ones(compiled)
    gates[edge] = 0.25
    gates.requires_grad_()
    logits = run(compiled, gates, "counterfactual")
    expect(logits[0].detach(), (51, 119))
    logits[0, 1].backward()
    assert gates.grad is not None
    assert gates.grad[edge].item() == pytest.approx(24, abs=1e-12)
    assert gates.grad.count_nonzero() == 1


def test_gradients_pass_through_the_mlp(compiled: CompiledModel) -> None:
    """At position 0, A + B = 6 + 2 · (z · 5 + (1 − z) · 3 + C − 120) + 1: slopes 2·(5 − 3) and 2·(37 − 13)."""
    gates = ones(compiled).requires_grad_()
    values = compiled.run_with_values(prompt(CORRUPTED))[1]
    every = torch.ones(len(gates), dtype=torch.bool)
    compiled.masked(gates, prompt(CLEAN), values, wanted=every).logits[0, 0].backward()
    assert gates.grad is not None
    slope = {edge: gates.grad[compiled.universe.edge_index(*edge.split("->"))].item() for edge in CUT_ZERO}
    assert slope["tok->m0"] == pytest.approx(4, abs=1e-12)
    assert slope["a0.h0->m0"] == pytest.approx(48, abs=1e-12)
    # v at the last position falls from 37 to 35 with the corrupted token there: 2 · 2.
    assert slope["tok->a0.h0<v>"] == pytest.approx(4, abs=1e-12)
    assert slope["m0->logits"] == pytest.approx(45 - 1, abs=1e-12)
    assert slope["a0.h0->logits"] == 0  # A + B reads no C

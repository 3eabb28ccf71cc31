"""What an extracted circuit puts out, against the masked run."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.compile import CompiledModel
from tests.circuitgraph.extract.extract_cases import CONSTANT, Bench, circuit_of
from tests.circuitgraph.oracle_cases import CASES, ModelMakers, in_parallel

# Sums of a few dozen float64 terms in another order, through two layers of norms; 1e-14 is seen.
EXACT = 1e-11

SHARES = (0.0, 0.02, 0.1, 0.4, 0.8, 1.0)


@pytest.fixture(scope="module", params=[*CASES, "llama-gqa in parallel", "gpt2 in parallel"])
def compiled(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> CompiledModel:
    name, *parallel = request.param.split(" in ")
    found = ModelMakers(tiny_gpt2, tiny_llama).compile(name, dtype=torch.float64, n_layers=3)
    return in_parallel(found) if parallel else found


@pytest.mark.parametrize("ablation", CONSTANT)
def test_logits_equal_the_masked_run(compiled: CompiledModel, ablation: str) -> None:
    sides = ("none",) if ablation == "mean-positional" else ("left", "right", "none")
    for seed, share in enumerate(SHARES):
        bench = Bench(compiled, side=sides[seed % len(sides)], seed=seed)
        values = bench.values(ablation)
        circuit = circuit_of(compiled, share, seed, ablation)
        module = bench.extracted(circuit, values)
        wanted = bench.masked(circuit, values)
        with torch.no_grad():
            torch.testing.assert_close(bench.everywhere(module), wanted, atol=EXACT, rtol=EXACT)
            asked = module(bench.batch.input_ids, bench.batch.attention_mask, at=bench.batch.predict_index)
            torch.testing.assert_close(asked, wanted, atol=EXACT, rtol=EXACT)

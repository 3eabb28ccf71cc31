"""What an extracted circuit puts out, against the masked run and against the definition."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.extract import extract_circuit
from tests.circuitgraph.extract.extract_cases import CONSTANT, Bench, circuit_of
from tests.circuitgraph.forward.situations import BothWays, Situation
from tests.oracles import definition as oracle
from tests.oracles.cases import BATTERY, ModelMakers, in_parallel

# Sums of a few dozen float64 terms in another order, through a few layers of norms; 1e-14 is seen.
EXACT = 1e-11

SHARES = (0.0, 0.06, 0.3, 0.8)


@pytest.fixture(scope="module", params=BATTERY)
def compiled(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> CompiledModel:
    return ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64, n_layers=3)


@pytest.mark.parametrize("ablation", CONSTANT)
def test_logits_equal_the_masked_run(compiled: CompiledModel, ablation: str) -> None:
    expect_the_masked_run(compiled, ablation)


@pytest.mark.parametrize("ablation", CONSTANT)
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_parallel_blocks(case: str, ablation: str, tiny_gpt2, tiny_llama) -> None:
    makers = ModelMakers(tiny_gpt2, tiny_llama)
    expect_the_masked_run(in_parallel(makers.compile(case, dtype=torch.float64, n_layers=3)), ablation)


def expect_the_masked_run(compiled: CompiledModel, ablation: str) -> None:
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


def test_the_circuits_of_these_tests_have_something_of_everything(compiled: CompiledModel) -> None:
    bench = Bench(compiled)
    parts = {"heads": 0, "MLPs": 0, "constant": 0, "constant rows": 0, "projected rows": 0, "sums of all": 0}
    for seed, share in enumerate(SHARES):
        layout = bench.extracted(circuit_of(compiled, share, seed, "mean"), bench.values("mean")).layout
        parts["heads"] += len(layout.live_heads)
        parts["MLPs"] += len(layout.live_mlps)
        parts["constant"] += len(layout.folded)
        parts["sums of all"] += sum(read.all_but for read in layout.reads())
        for attention in (part.attention for part in layout.layers if part.attention):
            for rows in (attention.query, attention.key, attention.value):
                parts["projected rows"] += len(rows.reads)
                parts["constant rows"] += len(rows.readers) - len(rows.reads)
    # Under joint readers a head that sees a constant does so with its value too, and is one.
    if compiled.universe.qkv == "joint":
        assert parts.pop("constant rows") == 0
    assert all(parts.values()), parts


def test_the_full_circuit_is_the_model(compiled: CompiledModel) -> None:
    for side in ("left", "right"):
        bench = Bench(compiled, side=side)
        module = bench.extracted(circuit_of(compiled, 1.0, 0, "mean"), bench.values("mean"))
        batch = bench.batch
        with torch.no_grad():
            theirs = compiled.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
            ).logits.flatten(0, 1)[batch.predict_index]
            torch.testing.assert_close(bench.everywhere(module), theirs, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean-positional"])
@pytest.mark.parametrize("case", ["gpt2-split-embeddings", "llama-gqa", "tracr-both-ways"])
def test_logits_equal_the_definition(case: str, ablation: str, tiny_gpt2, tiny_llama) -> None:
    """The definition shares no code with the executor, so this holds whatever the executor does."""
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    side, lengths = ("none", (4, 4)) if ablation == "mean-positional" else ("left", (5, 3))
    for seed, share in enumerate((0.1, 0.6)):
        circuit = circuit_of(compiled, share, seed, ablation)
        both = BothWays(
            compiled, oracle.plain_model(compiled.model), Situation("ones", 0, 0, ablation, side, lengths, 2, seed)
        )
        batch = both.batches[0]
        module = extract_circuit(circuit, compiled, values=both.values(), verify=False)
        with torch.no_grad():
            ours = module(batch.input_ids, batch.attention_mask, at=batch.predict_index)
        wanted = both.definition(torch.from_numpy(circuit.mask).double())
        torch.testing.assert_close(ours, wanted, atol=EXACT, rtol=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["gpt2", "llama-gqa", "tracr-both-ways"])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_float32_rounds_no_worse_than_the_definition_does(case: str, ablation: str, tiny_gpt2, tiny_llama) -> None:
    """The definition in float64 is the truth; in float32 it tells how much rounding the model amplifies.

    The module adds the same terms in another order, so its error is of the same size: eight times the definition's
    own error, plus 32 roundings of the largest logit where that error happens to be small.
    """
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float32)
    for seed, share in enumerate((0.1, 0.7)):
        circuit = circuit_of(compiled, share, seed, ablation)
        situation = Situation("ones", 0, 0, ablation, "left", (6, 3), 2, seed)
        both = BothWays(compiled, oracle.plain_model(compiled.model), situation)
        narrow = BothWays(compiled, oracle.plain_model(compiled.model, torch.float32), situation)
        gates = torch.from_numpy(circuit.mask)
        truth = both.definition(gates.double())
        noise = (narrow.definition(gates.float()).double() - truth).abs().max()
        batch = both.batches[0]
        with torch.no_grad():
            ours = extract_circuit(circuit, compiled, values=both.values())(
                batch.input_ids, batch.attention_mask, at=batch.predict_index
            )
        assert ours.dtype == torch.float32
        allowed = 8 * noise + 32 * torch.finfo(torch.float32).eps * truth.abs().max()
        assert (ours.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_bfloat16_is_as_near_as_the_masked_run(case: str, tiny_gpt2, tiny_llama) -> None:
    wide = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float32)
    narrow = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.bfloat16)
    circuit = circuit_of(wide, 0.5, 1, "mean")
    bench, coarse = Bench(wide), Bench(narrow)
    truth = bench.masked(circuit, bench.values("mean")).double()
    values = coarse.values("mean")
    theirs = coarse.masked(circuit, values).double()
    with torch.no_grad():
        ours = coarse.everywhere(extract_circuit(circuit, narrow, values=values))
    assert ours.dtype == torch.bfloat16

    def error(logits: torch.Tensor) -> torch.Tensor:
        return (logits.double() - truth).square().mean().sqrt()

    # Root mean squares: both round every number to 8 bits, in another order.
    assert error(ours) <= 2 * error(theirs)


def test_what_padding_holds_does_not_matter(compiled: CompiledModel) -> None:
    bench = Bench(compiled)
    module = bench.extracted(circuit_of(compiled, 0.4, 3, "mean"), bench.values("mean"))
    batch = bench.batch
    other = torch.where(batch.attention_mask.bool(), batch.input_ids, 5)
    with torch.no_grad():
        assert torch.equal(bench.everywhere(module), bench.everywhere(module))
        before = module(batch.input_ids, batch.attention_mask, at=batch.predict_index)
        assert torch.equal(before, module(other, batch.attention_mask, at=batch.predict_index))


def test_a_shipped_program_runs_as_its_circuit() -> None:
    """`reverse`, only the edges that it must have: the right answers, from a fraction of the weights."""
    from circuitgraph import Circuit, compile_model, load_model
    from circuitgraph.tracr import ground_truth_edges

    loaded = load_model("tracr:reverse")
    compiled = compile_model(loaded, embeddings="split")
    circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
    small = extract_circuit(circuit, compiled)
    ids = torch.tensor([loaded.tokenizer.encode_tokens(["3", "1", "2", "2"])])
    with torch.no_grad():
        best = small(ids)[0, 1:].argmax(-1)
    assert [loaded.tokenizer.output_symbols[int(column)] for column in best] == ["2", "2", "1", "3"]
    assert small.n_parameters < 0.7 * small.origin.n_parameters

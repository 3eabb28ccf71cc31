"""What is kept, what runs and what becomes a constant, worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.extract import ExtractedCircuit, extract_circuit
from circuitgraph.extract.layout import ReadLayout
from circuitgraph.extract.parts import Read, Stream
from tests.circuitgraph.extract.extract_cases import Bench, circuit_of
from tests.oracles.cases import ModelMakers

# A tiny GPT-2: 2 layers of 3 heads of width 4, d_model 12, 29 tokens, 16 positions, MLPs of width 48.
D, D_HEAD, TABLES = 12, 4, (29 + 16) * 12
MLP = 12 * 48 + 48 + 48 * 12 + 12
NORM = 2 * D
PROJECTION = D * D_HEAD + D_HEAD


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2: Callable[..., nn.Module]) -> CompiledModel:
    return compile_model(tiny_gpt2(dtype=torch.float64), verify=False)


@pytest.fixture(scope="module")
def split(tiny_gpt2: Callable[..., nn.Module]) -> CompiledModel:
    return compile_model(tiny_gpt2(dtype=torch.float64), embeddings="split", verify=False)


def extract(compiled: CompiledModel, *edges: str, ablation: str = "mean") -> ExtractedCircuit:
    """Extract a few edges, and hold the result against the masked run."""
    bench = Bench(compiled, side="none")
    circuit, values = Circuit.from_edges(compiled.universe, edges, ablation=ablation), bench.values(ablation)
    assert len(circuit) == len(edges), "an edge dangles"
    module = bench.extracted(circuit, values)
    with torch.no_grad():
        torch.testing.assert_close(bench.everywhere(module), bench.masked(circuit, values), atol=1e-11, rtol=1e-11)
    return module


def test_one_head_that_reads_a_value_and_nothing_else(gpt2: CompiledModel) -> None:
    module = extract(gpt2, "input->a1.h2<v>", "a1.h2->logits")
    assert (module.live_heads, module.live_mlps, module.layout.folded) == (("a1.h2",), (), ())
    heads = module.layers[0].heads
    assert [read.layout.writers for read in heads.reads] == [("input",)]
    # Queries and keys see a constant: no weights, one vector each.
    assert heads.query.weight.shape == heads.key.weight.shape == (0, D, D_HEAD)
    assert heads.query.constant.shape == heads.key.constant.shape == (1, 1, 1, D_HEAD)
    assert heads.value.weight.shape == (1, D, D_HEAD)
    # Output head and token embedding are one, as in the model; the other norm is the final one.
    assert module.n_parameters == TABLES + NORM + PROJECTION + D_HEAD * D + NORM
    # What the value reader and the logits see besides, and the two constant projections.
    assert module.n_constants == 2 * D + 2 * D_HEAD


def test_a_head_whose_value_is_constant_is_a_constant(gpt2: CompiledModel) -> None:
    """Whatever it asks and finds, it says the same; and what only its queries read need not run."""
    module = extract(gpt2, "input->m0", "m0->a1.h0<q>", "input->a1.h0<k>", "a1.h0->logits", "input->logits")
    assert (module.live_heads, module.live_mlps, module.layout.folded) == ((), (), ("a1.h0",))
    assert len(module.layers) == 0
    assert module.n_parameters == TABLES + NORM
    assert module.n_constants == D


def test_constants_go_on_through_heads_and_mlps(gpt2: CompiledModel) -> None:
    edges = ("a0.h1->m0", "a0.h1->a1.h0<v>", "m0->a1.h0<v>", "a1.h0->m1", "m1->logits", "input->logits")
    module = extract(gpt2, *edges)
    assert module.layout.folded == ("a0.h1", "m0", "a1.h0", "m1")
    assert len(module.layers) == 0


def test_an_mlp_beside_a_constant_one(gpt2: CompiledModel) -> None:
    module = extract(gpt2, "input->m0", "m0->m1", "a0.h0->m1", "m1->logits", ablation="zero")
    assert (module.live_heads, module.live_mlps, module.layout.folded) == ((), ("m0", "m1"), ("a0.h0",))
    assert [layer.mlp.read.layout for layer in module.layers] == [
        ReadLayout(writers=("input",)),
        ReadLayout(writers=("m0",)),
    ]
    assert module.n_parameters == TABLES + 2 * (NORM + MLP) + NORM


def test_constants_by_position_do_not_fold_heads(gpt2: CompiledModel) -> None:
    """What a head gathers from values that differ by position depends on what it may see."""
    edges = ("a0.h1->logits", "m0->logits", "input->logits")
    assert extract(gpt2, *edges).layout.folded == ("a0.h1", "m0")
    module = extract(gpt2, *edges, ablation="mean-positional")
    assert (module.live_heads, module.layout.folded) == (("a0.h1",), ("m0",))
    heads = module.layers[0].heads
    assert len(heads.reads) == 0
    assert heads.value.constant.shape == (1, 1, 4, D_HEAD)
    assert isinstance(heads.norm, nn.Identity)


def test_nothing_kept_is_a_constant(gpt2: CompiledModel) -> None:
    module = extract(gpt2)
    assert (module.live_heads, module.live_mlps, module.layout.embeddings) == ((), (), ())
    logits = module(torch.zeros(2, 5, dtype=torch.int64))
    assert logits.shape == (2, 5, 29)
    assert (logits == logits[0, 0]).all()
    assert module.n_parameters == NORM + 29 * D
    assert module(torch.zeros(2, 5, dtype=torch.int64), at=torch.tensor([3, 9, 1])).shape == (3, 29)


@pytest.mark.parametrize(("kept", "table"), [("tok", 29), ("pos", 16)])
def test_an_embedding_that_nothing_reads_is_left_behind(split: CompiledModel, kept: str, table: int) -> None:
    module = extract(split, f"{kept}->m0", "m0->logits")
    assert list(module.embeddings) == [kept]
    assert module.n_parameters == table * D + NORM + MLP + NORM + (0 if kept == "tok" else 29 * D)


def test_readers_that_keep_the_same_share_one_read(gpt2: CompiledModel) -> None:
    into = [f"input->a0.h{head}<{role}>" for head in (0, 2) for role in "qkv"]
    module = extract(gpt2, *into, "a0.h0->logits", "a0.h2->m0", "m0->logits")
    assert len(module.layers[0].heads.reads) == 1
    assert module.layers[0].heads.query.weight.shape == (2, D, D_HEAD)


def test_a_reader_that_keeps_most_starts_from_the_sum_of_all(gpt2: CompiledModel) -> None:
    circuit = circuit_of(gpt2, 1.0, 0, "mean").mask
    universe = gpt2.universe
    circuit[universe.edge_index("a0.h1", "logits")] = False
    module = extract(gpt2, *Circuit.from_edges(universe, circuit, ablation="mean"))
    assert module.layout.logits == ReadLayout(writers=("a0.h1",), all_but=True)
    # Few edges: no sum is kept.
    few = extract(gpt2, "input->m0", "m0->m1", "input->m1", "m1->logits", "m0->logits", "input->logits")
    assert not any(read.all_but for read in few.layout.reads())


def test_grouped_heads_share_their_key_and_value_weights(tiny_gpt2, tiny_llama) -> None:
    """4 heads in 2 groups: heads 0, 1 and 2 need both groups' weights, once each, however many readers use them."""
    makers = ModelMakers(tiny_gpt2, tiny_llama)
    native = makers.compile("llama-gqa", dtype=torch.float64)
    edges = ["input->a0.kv0<v>", "input->a0.kv1<v>", "input->a0.kv0<k>", *(f"a0.h{h}->logits" for h in range(3))]
    heads = extract(native, *edges).layers[0].heads
    assert heads.value.layout.readers == ("a0.kv0<v>", "a0.kv1<v>")
    assert heads.value.layout.row_of_head == (0, 0, 1)
    assert (len(heads.value.weight), len(heads.key.weight), len(heads.query.weight)) == (2, 1, 0)
    per_query = makers.compile("llama-gqa-per-query", dtype=torch.float64)
    edges = [f"input->a0.h{h}<v>" for h in range(3)] + [f"a0.h{h}->logits" for h in range(3)]
    heads = extract(per_query, *edges).layers[0].heads
    assert heads.value.layout.readers == ("a0.h0<v>", "a0.h1<v>", "a0.h2<v>")
    assert len(heads.value.weight) == 2


@pytest.mark.parametrize("case", ["gpt2", "llama-gqa", "llama-gqa-joint", "llama-biases", "tracr-both-ways"])
def test_the_full_circuit_holds_every_parameter_once(case: str, tiny_gpt2, tiny_llama) -> None:
    """All but the attentions' output biases, which belong to no head and are part of the constants."""
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64)
    bench = Bench(compiled)
    module = bench.extracted(circuit_of(compiled, 1.0, 0, "mean"), bench.values("mean"))
    biases = [block.output_bias.numel() for block in compiled.bound.blocks if block.output_bias is not None]
    assert module.n_parameters + sum(biases) == module.origin.n_parameters
    assert module.origin.n_parameters == sum(p.numel() for p in compiled.model.parameters())


# -------------------------------------------------------------------- an ordinary module


@pytest.fixture
def module(gpt2: CompiledModel) -> ExtractedCircuit:
    bench = Bench(gpt2)
    return bench.extracted(circuit_of(gpt2, 0.5, 2, "mean"), bench.values("mean"))


def test_it_shares_nothing_with_the_model_and_leaves_it_as_it_was(tiny_gpt2) -> None:
    model = tiny_gpt2(dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    compiled = compile_model(model, verify=False)
    bench = Bench(compiled)
    module = bench.extracted(circuit_of(compiled, 0.6, 1, "mean"), bench.values("mean"))
    ids = bench.batch.input_ids
    logits = module(ids)
    logits.square().sum().backward()
    theirs = {weight.data_ptr() for weight in model.parameters()}
    assert not theirs & {tensor.data_ptr() for tensor in module.state_dict().values()}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        assert torch.equal(module(ids), logits)


def test_gradients_are_those_of_small_changes(gpt2: CompiledModel, module: ExtractedCircuit) -> None:
    """All weights moved along one direction: the slope of a sum of logits, against a central difference."""
    ids = Bench(gpt2).batch.input_ids
    generator = torch.Generator().manual_seed(1)
    weights = list(module.parameters())
    ways = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]

    def score() -> Tensor:
        return module(ids).sin().sum()

    score().backward()
    slope = sum(float((weight.grad * way).sum()) for weight, way in zip(weights, ways, strict=True))
    step = 1e-6
    found = []
    with torch.no_grad():
        for sign in (1, -2):
            for weight, way in zip(weights, ways, strict=True):
                weight += sign * step * way
            found.append(float(score()))
    assert slope == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-5)


def test_it_can_be_cast_copied_and_filled(gpt2: CompiledModel, module: ExtractedCircuit) -> None:
    ids = Bench(gpt2).batch.input_ids
    with torch.no_grad():
        wanted = module(ids)
        narrow = copy.deepcopy(module).to(torch.float32)
        assert narrow(ids).dtype == torch.float32
        torch.testing.assert_close(narrow(ids).double(), wanted, atol=1e-4, rtol=1e-4)
        other = copy.deepcopy(module)
        for tensor in other.state_dict().values():
            tensor.zero_()
        assert not torch.equal(other(ids), wanted)
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(ids), wanted)
        assert not module.training


def test_its_parts_can_be_hooked(gpt2: CompiledModel) -> None:
    module = extract(gpt2, "input->m0", "m0->logits", "input->a1.h1<v>", "a1.h1->logits")
    said: dict[str, Tensor] = {}
    parts = {"m0": module.layers[0].mlp, "a1": module.layers[1].heads}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, out, name=name: said.update({name: out}))
    ids = torch.tensor([[1, 2, 3]])
    logits = module(ids)
    assert (said["m0"].shape, said["a1"].shape) == ((1, 3, D), (1, 1, 3, D))
    # Cutting what the head says off by a hook leaves the circuit of the MLP, with the head's part missing.
    parts["a1"].register_forward_hook(lambda _, __, out: torch.zeros_like(out))
    without = module.unembedding.read.constant + said["m0"]
    torch.testing.assert_close(module(ids), module.unembedding.unembed(module.unembedding.norm(without)))
    assert not torch.allclose(module(ids), logits)


def test_it_says_what_it_is(gpt2: CompiledModel) -> None:
    module = extract(
        gpt2, "input->m0", "m0->logits", "a0.h0->logits", *(f"input->a1.h{h}<v>" for h in (1, 2)), "a1.h1->logits",
        "a1.h2->logits",
    )  # fmt: skip
    total = module.origin.n_parameters
    weights = f"{module.n_parameters:,} of {total:,} parameters ({100 * module.n_parameters / total:.1f} %)"
    assert repr(module).splitlines() == [
        f"ExtractedCircuit of 7 of {gpt2.universe.n_edges} edges of {gpt2.name} (mean ablation)",
        f"  {weights}, {module.n_constants} constants",
        "  embeddings: input",
        "  layer 0: MLP",
        "  layer 1: heads 1 2",
        "  constant: a0.h0",
    ]


def test_the_global_random_state_is_left_alone(gpt2: CompiledModel) -> None:
    before = torch.random.get_rng_state()
    extract_circuit(circuit_of(gpt2, 0.4, 2, "zero"), gpt2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_output_head_of_its_own_stays_its_own(tiny_llama) -> None:
    compiled = compile_model(tiny_llama(tie_word_embeddings=False), verify=False)
    bench = Bench(compiled)
    circuit, values = circuit_of(compiled, 1.0, 0, "mean"), bench.values("mean")
    module = bench.extracted(circuit, values)
    assert module.n_parameters == module.origin.n_parameters
    with torch.no_grad():
        torch.testing.assert_close(bench.everywhere(module), bench.masked(circuit, values), atol=1e-4, rtol=1e-4)


def test_long_sums_in_bfloat16_do_not_lose_what_they_add() -> None:
    """In 8 bits 256 + 1 is 256, so one by one 64 ones would come to nothing."""
    stream = Stream(keeps_total=True)
    for number in range(64):
        stream.write(f"m{number}", torch.ones(1, 1, 1, dtype=torch.bfloat16))
    constant = torch.full((1, 1, 1), 256.0, dtype=torch.bfloat16)
    for layout in (ReadLayout(writers=tuple(stream.said)), ReadLayout(writers=(), all_but=True)):
        read = Read(layout, n_columns=1, like=constant)
        read.constant = constant
        assert read(stream) == 320

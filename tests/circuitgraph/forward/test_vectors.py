"""Vectors that are added to a model: masked passes against the definition, plain runs against hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attribution import edge_products, positions_that_matter, writer_changes
from circuitgraph.forward.cuts import Cut, run_cuts
from circuitgraph.forward.full_run import full_run
from circuitgraph.forward.uncut import UncutRun
from circuitgraph.forward.vectors import Vector
from circuitgraph.graph.liveness import effective_edges
from tests.circuitgraph.extract.extract_cases import learnt_values
from tests.circuitgraph.forward.situations import Situation
from tests.oracles import definition as oracle
from tests.oracles.cases import ModelMakers, asked_places, in_parallel, pair_of_batches, prompt_rows

LENGTHS = [5, 3]
CASES = ("gpt2", "llama-gqa", "tracr-both-ways", "in-parallel")


def vectors_of(width: int) -> list[Vector]:
    """One before each of two layers, and one more; at one token, at asked ones, at all."""
    generator = torch.Generator().manual_seed(5)
    value = [torch.randn(width, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [
        Vector(name="late@1", value=value[0], at="asked"),
        Vector(name="v@0", value=value[1], at=-2),
        Vector(name="w@0", value=0.3 * value[2], at="all"),
    ]


def places_of(at: str | int, length: int, asked: list[int]) -> list[int]:
    """Where a vector is in a prompt without padding, worked out here."""
    return {"all": list(range(length)), "asked": asked}.get(at) or [at % length]  # type: ignore[arg-type, operator]


@pytest.fixture(scope="module", params=CASES)
def plain_model(request: pytest.FixtureRequest, tiny_gpt2: Callable[..., nn.Module], tiny_llama) -> CompiledModel:
    makers, parallel = ModelMakers(tiny_gpt2, tiny_llama), request.param == "in-parallel"
    compiled = makers.compile("gpt2" if parallel else request.param, dtype=torch.float64)
    return in_parallel(compiled) if parallel else compiled


@pytest.fixture(scope="module")
def steered(plain_model: CompiledModel) -> CompiledModel:
    return plain_model.with_vectors(vectors_of(plain_model.shape.d_model))


@pytest.fixture(scope="module")
def batches(plain_model: CompiledModel) -> tuple[TokenBatch, TokenBatch]:
    return pair_of_batches(lengths=LENGTHS, side="left", n_asked=2, n_tokens=n_tokens(plain_model), seed=1)


def n_tokens(compiled: CompiledModel) -> int:
    config: Any = compiled.model.config
    return config.vocab_size


def said_in(prompt: int, steered: CompiledModel, batch: TokenBatch) -> dict[str, Tensor]:
    """What each vector says in a prompt without padding."""
    asked = [place for of, place in asked_places(batch) if of == prompt]
    said = {}
    for vector in steered.vectors:
        said[vector.name] = torch.zeros(LENGTHS[prompt], len(vector.value), dtype=torch.float64)
        said[vector.name][places_of(vector.at, LENGTHS[prompt], asked)] = vector.value
    return said


def definition(steered: CompiledModel, plain: CompiledModel, batches, ablation: str, gates: Tensor) -> Tensor:
    clean, corrupted = batches
    model = oracle.plain_model(steered.model)
    if steered.shape.block_order == "parallel":
        assert steered.universe.block_order == "parallel"
    rows = []
    for prompt, (ids, others) in enumerate(zip(prompt_rows(clean), prompt_rows(corrupted), strict=True)):
        ablated = {name: torch.zeros((), dtype=torch.float64) for name in steered.universe.writers}
        if ablation == "counterfactual":
            ablated |= oracle.plain_run(model, plain.universe, others)[1]
        said = said_in(prompt, steered, clean)
        rows.append(oracle.run(model, steered.universe, gates, ids, ablated, said)[0])
    return torch.stack([rows[prompt][place] for prompt, place in asked_places(clean)])


def values_of(steered: CompiledModel, batches, ablation: str) -> AblationValues:
    if ablation == "counterfactual":
        return steered.run_with_values(batches[1], vectors=False)[1]
    return steered.ablation_values(ablation)


def gate_vector(n: int, kind: str = "mixture") -> Tensor:
    return Situation(kind, 0.4, 0.5, "counterfactual", "left", (5, 3), 2, 3).gate_vector(n)


def projected(run: Callable[[Tensor], Tensor], gates: Tensor) -> tuple[Tensor, Tensor]:
    gates = gates.clone().requires_grad_()
    logits = run(gates)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view(logits.shape)
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), gates)[0]


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_logits_and_gradients_are_the_definitions(plain_model, steered, batches, ablation: str) -> None:
    gates = gate_vector(steered.universe.n_edges)
    values, wanted = values_of(steered, batches, ablation), torch.ones(len(gates), dtype=torch.bool)
    ours = projected(lambda z: steered.masked(z, batches[0], values, wanted=wanted).logits, gates)
    theirs = projected(lambda z: definition(steered, plain_model, batches, ablation, z), gates)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-9, rtol=1e-9)
    assert (ours[1] - theirs[1]).abs().max() <= 1e-9 * theirs[1].abs().max().clamp(min=1)
    of_vectors = np.isin(steered.universe.writer_of_edge, steered.universe.vector_writers)
    assert (theirs[1][torch.from_numpy(of_vectors)].abs() > 1e-6).any()


def test_all_gates_1_are_the_model_with_vectors_and_all_0_the_other_prompts(plain_model, steered, batches) -> None:
    values = values_of(steered, batches, "counterfactual")
    gates = torch.ones(steered.universe.n_edges, dtype=torch.float64)
    clean, corrupted = batches
    for gate, want in ((1.0, steered.logits(clean)), (0.0, plain_model.logits(corrupted))):
        torch.testing.assert_close(steered.masked(gate * gates, clean, values).logits, want, atol=1e-10, rtol=1e-10)
    assert (steered.logits(clean) - plain_model.logits(clean)).abs().max() > 1e-3


def test_a_run_with_vectors_can_be_what_cut_edges_carry(steered, batches) -> None:
    clean, corrupted = batches
    want, values = steered.run_with_values(corrupted)
    gates = torch.zeros(steered.universe.n_edges, dtype=torch.float64)
    torch.testing.assert_close(steered.masked(gates, clean, values).logits, want, atol=1e-10, rtol=1e-10)
    again = steered.whole_values(values.only_said())
    torch.testing.assert_close(again.query[1], values.query[1], atol=1e-10, rtol=1e-10)
    mixed = gate_vector(len(gates))
    torch.testing.assert_close(
        steered.masked(mixed, clean, again).logits, steered.masked(mixed, clean, values).logits, atol=1e-10, rtol=1e-10
    )


def test_learnt_constants_take_their_gradient_beside_vectors(plain_model, steered, batches) -> None:
    """With the vectors' edges cut, the pass is that of the model without them, gradients of constants included."""
    universe, found = steered.universe, []
    of_vectors = torch.from_numpy(np.isin(universe.writer_of_edge, universe.vector_writers))
    gates = gate_vector(plain_model.universe.n_edges)
    wide = torch.zeros(universe.n_edges, dtype=torch.float64)
    wide[~of_vectors] = gates
    for model, own in ((plain_model, gates), (steered, wide)):
        values = learnt_values(plain_model, 3)
        values = values.changed(lambda value, _: value.detach().clone().requires_grad_())
        logits = model.masked(own, batches[0], values).logits
        found.append((logits, torch.autograd.grad(logits.sin().sum(), values.mlps[0])[0]))
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_plain_run_is_the_hooked_model(tiny_llama, tiny_gpt2, side: str) -> None:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("llama-gqa", dtype=torch.float64)
    batch, _ = pair_of_batches(lengths=LENGTHS, side=side, n_asked=2, n_tokens=29, seed=1)
    steered = compiled.with_vectors(vectors_of(compiled.shape.d_model))
    model: Any = compiled.model
    for prompt, ids in enumerate(prompt_rows(batch)):
        said = said_in(prompt, steered, batch)
        handles = [
            model.model.layers[vector.layer].register_forward_pre_hook(
                lambda module, args, more=said[vector.name]: (args[0] + more, *args[1:])
            )
            for vector in steered.vectors
        ]
        with torch.no_grad():
            want = compiled.model(ids[None]).logits[0]
        for handle in handles:
            handle.remove()
        asked = [place for of, place in asked_places(batch) if of == prompt]
        got = steered.logits(batch)[batch.predict_prompt == prompt]
        torch.testing.assert_close(got, want[asked], atol=1e-10, rtol=1e-10)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "v"}, r"v@12; got 'v'"),
        ({"name": "v@1\n"}, r"v@12; got 'v@1\\n'"),
        ({"value": torch.ones(3).to(torch.float8_e4m3fn)}, r"float16; got \[3\] torch.float8_e4m3fn"),
        ({"value": torch.ones(3).to_sparse()}, r"v@1: expected a tensor of numbers"),
        ({"value": torch.ones(3, dtype=torch.int64)}, r"got \[3\] torch.int64"),
        ({"at": True}, "at one by its place .* got True"),
        ({"at": -(10**30)}, "at one by its place .* got -1000"),
        ({"value": torch.ones(2, 2)}, r"\[d_model\].*; got \[2, 2\]"),
        ({"value": torch.tensor([1.0, torch.nan])}, "v@1: some of its 2 numbers are NaN"),
        ({"at": "last"}, "at one by its place .* got 'last'"),
    ],
)
def test_what_makes_no_vector_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Vector(**{"name": "v@1", "value": torch.ones(3), "at": 0, **change})


def test_a_vector_keeps_what_it_was_made_of() -> None:
    """Its digest says what a run was done with, so that nobody may change its numbers afterwards."""
    numbers = torch.ones(3, requires_grad=True)
    vector = Vector(name="v@1", value=numbers, at=-1)
    before = vector.digest
    with torch.no_grad():
        numbers.mul_(5)
    assert vector.digest == before == Vector(name="v@1", value=torch.ones(3), at=-1).digest
    assert not vector.value.requires_grad


def test_vectors_may_come_one_by_one(tiny_gpt2, tiny_llama) -> None:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64)
    value = torch.ones(compiled.shape.d_model)
    steered = compiled.with_vectors(Vector(name=f"{name}@0", value=value) for name in "vw")
    assert steered.universe.virtual == ("v@0", "w@0") and len(steered.vectors) == 2


def test_vectors_that_do_not_fit_the_model_are_refused(tiny_gpt2, tiny_llama) -> None:
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64)
    width = compiled.shape.d_model
    with pytest.raises(ConfigurationError, match=f"v@0 has 3 numbers; the residual stream of .* has {width}"):
        compiled.with_vectors([Vector(name="v@0", value=torch.ones(3))])
    with pytest.raises(ConfigurationError, match="v@2 is added before layer 2, and the model has layers 0 to 1"):
        compiled.with_vectors([Vector(name="v@2", value=torch.ones(width))])
    with pytest.raises(ConfigurationError, match="two virtual writers v@0"):
        compiled.with_vectors([Vector(name="v@0", value=torch.ones(width))] * 2)
    narrow = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float32)
    with pytest.raises(ConfigurationError, match=r"v@0 holds numbers that are too large for torch\.float32"):
        narrow.with_vectors([Vector(name="v@0", value=torch.full((width,), 1e300, dtype=torch.float64))])
    batch, _ = pair_of_batches(lengths=[5, 3], side="left", n_asked=1, n_tokens=29, seed=1)
    with pytest.raises(ConfigurationError, match="place 3, and prompt 1 of the batch has 3 tokens"):
        compiled.with_vectors([Vector(name="v@0", value=torch.ones(width), at=3)]).logits(batch)


def test_who_does_not_know_of_vectors_is_refused_and_not_left_without(steered) -> None:
    with pytest.raises(ConfigurationError, match=r"vectors are added to .*v@0, w@0, late@1.*with_vectors\(\[\]\)"):
        _ = steered.runnable
    assert steered.with_vectors([]).runnable.universe.virtual == ()


# ---------------------------------------------------------------- other passes


@pytest.mark.parametrize("kept", [None, 0.6])
def test_cuts_alone_are_masked_passes(steered, kept: float | None) -> None:
    """Of the model, and of a circuit, each edge of a vector cut alone."""
    universe = steered.universe
    clean, corrupted = pair_of_batches(lengths=[5, 5], side="left", n_asked=1, n_tokens=n_tokens(steered), seed=1)
    values = steered.run_with_values(corrupted, vectors=False)[1]
    rng = np.random.default_rng(2)
    mask = np.ones(universe.n_edges, dtype=bool) if kept is None else rng.random(universe.n_edges) < kept
    bound = steered.runnable_with_vectors.bound
    run = UncutRun(
        bound, steered.shape, universe, clean, values, kept=None if kept is None else mask, vectors=steered.vectors
    )
    gates = torch.from_numpy(mask).double()
    torch.testing.assert_close(run.logits, steered.masked(gates, clean, values).logits, atol=1e-9, rtol=1e-9)
    writers, readers = universe.endpoints(np.arange(universe.n_edges))
    live = effective_edges(universe, mask, "counterfactual")
    edges = np.flatnonzero(np.isin(writers, universe.vector_writers) & live)
    assert len(edges) > 10
    edges = rng.permutation(edges)[:12]
    got = run_cuts(run, [Cut(int(writers[edge]), int(readers[edge])) for edge in edges])
    for edge, logits in zip(edges, got, strict=True):
        without = gates.clone()
        without[edge] = 0
        want = steered.masked(without, clean, values).logits
        torch.testing.assert_close(logits, want, atol=1e-9, rtol=1e-9, msg=universe.edge_name(int(edge)))


@pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
def test_attribution_is_the_gradient_of_the_gates(steered, ablation: str) -> None:
    """The product of change and gradient at the full model is minus the gradient of its gate."""
    clean, corrupted = pair_of_batches(lengths=[5, 5], side="left", n_asked=1, n_tokens=n_tokens(steered), seed=1)
    counterfactual = ablation == "counterfactual"
    values = (
        steered.run_with_values(corrupted, vectors=False)[1] if counterfactual else steered.ablation_values(ablation)
    )
    model = steered.runnable_with_vectors
    run = full_run(model, clean)
    positions = positions_that_matter(model, clean, corrupted if counterfactual else None)
    torch.testing.assert_close(run.logits.detach(), steered.logits(clean), atol=1e-10, rtol=1e-10)
    changes = writer_changes(model, run, values, positions.reached)
    products = edge_products(model, run, run.logits.sin().sum(), changes, positions)
    gates = torch.ones(steered.universe.n_edges, dtype=torch.float64, requires_grad=True)
    wanted = torch.ones(len(gates), dtype=torch.bool)
    logits = steered.masked(gates, clean, values, wanted=wanted).logits
    (gradient,) = torch.autograd.grad(logits.sin().sum(), gates)
    torch.testing.assert_close(products, -gradient, atol=1e-9, rtol=1e-7)

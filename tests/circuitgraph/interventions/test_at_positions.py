"""Changes at some positions run: next to hooks on the model's own modules, padded on either side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitgraph.batch import TokenBatch
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.interventions.applied import intervene
from circuitgraph.interventions.intervention import Intervention
from circuitgraph.interventions.positions import PositionChange
from tests.oracles.cases import pair_of_batches
from tests.oracles.hooks import call

D_MODEL = 16
VECTOR = tuple(float(number) for number in np.linspace(-1, 1, D_MODEL))
LENGTHS = [6, 4, 5]


@pytest.fixture(scope="module")
def compiled(tiny_llama) -> CompiledModel:
    return compile_model(tiny_llama(dtype=torch.float64), verify=False)


def batch(side: str) -> TokenBatch:
    return pair_of_batches(lengths=LENGTHS, side=side, n_asked=2, n_tokens=29, seed=1)[0]


def at(side: str, *places: tuple[int, int]) -> torch.Tensor:
    """1 at some places, each a prompt and a position counted from its first token `[batch seq]`."""
    found = torch.zeros(3, 6, dtype=torch.float64)
    for prompt, position in places:
        found[prompt, position + (6 - LENGTHS[prompt] if side == "left" else 0)] = 1
    return found


def hooked(compiled: CompiledModel, tokens: TokenBatch, factors: dict, added: dict) -> torch.Tensor:
    """The model's own pass; what modules say multiplied by `[batch seq]`, or with `[batch seq d_model]` added."""
    model, d_head, hooks = compiled.model, compiled.shape.d_head, []
    modules = {"input": model.model.embed_tokens, "m0": model.model.layers[0].mlp, "m1": model.model.layers[1].mlp}

    def multiply(by):
        return lambda _module, _given, output: output * by[..., None]

    def scale_head(head, by):
        def change(_module, given):
            changed = given[0].clone()
            changed[..., head * d_head : (head + 1) * d_head] *= by[..., None]
            return (changed,)

        return change

    for name, by in factors.items():
        if name in modules:
            hooks.append(modules[name].register_forward_hook(multiply(by)))
        else:
            projection = model.model.layers[int(name[1])].self_attn.o_proj
            hooks.append(projection.register_forward_pre_hook(scale_head(int(name[4:]), by)))
    for name, vector in added.items():
        module = modules.get(name) or model.model.layers[int(name[1])].self_attn.o_proj
        hooks.append(module.register_forward_hook(lambda _module, _given, output, by=vector: output + by))
    try:
        return call(model, tokens)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_changes_are_hooks_at_those_positions(compiled: CompiledModel, side: str, strength: float) -> None:
    intervention = Intervention.from_positions(
        compiled.universe,
        [
            PositionChange(writer="a0.h1", positions="last", change=-1),
            PositionChange(writer="a1.h2", positions=[1, -2], change=0.7),
            PositionChange(writer="m0", positions="all but first", change=-0.4),
            PositionChange(writer="m0", positions=2, change=2.0, vector=VECTOR),
            PositionChange(writer="a0.h3", positions=-1, vector=VECTOR),
            PositionChange(writer="input", positions="first", change=0.3),
        ],
    )
    tokens = batch(side)
    ours = intervene(compiled, intervention, strength=strength).logits(tokens)
    every = [(prompt, place) for prompt, length in enumerate(LENGTHS) for place in range(length)]
    third = at(side, (0, 2), (1, 2), (2, 2))
    last = at(side, (0, 5), (1, 3), (2, 4))
    vector = torch.tensor(VECTOR, dtype=torch.float64)
    factors = {
        "a0.h1": 1 - strength * last,
        # Of four tokens 1 and -2 are 1 and 2; of five 1 and 3; of six 1 and 4.
        "a1.h2": 1 + 0.7 * strength * at(side, (0, 1), (0, 4), (1, 1), (1, 2), (2, 1), (2, 3)),
        "m0": 1 + strength * (2 * third - 0.4 * at(side, *[place for place in every if place[1]])),
        "input": 1 + 0.3 * strength * at(side, (0, 0), (1, 0), (2, 0)),
    }
    added = {name: strength * places[..., None] * vector for name, places in (("m0", third), ("a0.h3", last))}
    theirs = hooked(compiled, tokens, factors, added)
    assert (ours - theirs).abs().max() < 1e-9 < (ours - compiled.logits(tokens)).abs().max()


def test_asked_positions_are_those_that_are_asked(compiled: CompiledModel) -> None:
    tokens = batch("right")
    change = PositionChange(writer="m0", positions="asked", change=-1)
    ours = intervene(compiled, Intervention.from_positions(compiled.universe, [change])).logits(tokens)
    asked = torch.zeros(18, dtype=torch.float64)
    asked[tokens.predict_index] = 1
    assert (ours - hooked(compiled, tokens, {"m0": 1 - asked.reshape(3, 6)}, {})).abs().max() < 1e-9


def test_at_all_positions_it_is_the_change_of_all_edges_and_both_add_up(compiled: CompiledModel) -> None:
    tokens, universe = batch("left"), compiled.universe
    everywhere = Intervention.from_writers(universe, {"a0.h1": -1.5, "m1": 0.5})
    there = [PositionChange(writer=name, positions="all", change=by) for name, by in (("a0.h1", -1.5), ("m1", 0.5))]
    expected = intervene(compiled, everywhere).logits(tokens)
    assert torch.allclose(
        intervene(compiled, Intervention.from_positions(universe, there)).logits(tokens), expected, atol=1e-10
    )
    half = replace(Intervention.from_writers(universe, {"a0.h1": -1.0, "m1": 0.5}), at_positions=tuple(there[:1]))
    half = replace(half, at_positions=(replace(there[0], change=-0.5),))
    assert torch.allclose(intervene(compiled, half).logits(tokens), expected, atol=1e-10)


def test_split_embeddings_and_their_hooks(tiny_gpt2) -> None:
    """GPT-2's two embeddings, each a writer: `pos` is looked up once for all prompts."""
    compiled = compile_model(tiny_gpt2(dtype=torch.float64), embeddings="split", verify=False)
    tokens = pair_of_batches(lengths=[5, 5], side="none", n_asked=1, n_tokens=29, seed=2)[0]
    changes = [PositionChange(writer=name, positions=1, change=by) for name, by in (("tok", -0.5), ("pos", 2.0))]
    ours = intervene(compiled, Intervention.from_positions(compiled.universe, changes)).logits(tokens)
    there = torch.zeros(2, 5, 1, dtype=torch.float64)
    there[:, 1] = 1
    parts, model = compiled.model.transformer, compiled.model
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, by=by: output * (1 + by * there[: len(output)]))
        for module, by in ((parts.wte, -0.5), (parts.wpe, 2.0))
    ]
    try:
        theirs = call(model, tokens)
    finally:
        for hook in hooks:
            hook.remove()
    assert (ours - theirs).abs().max() < 1e-9


def test_what_cannot_be_done_is_refused(compiled: CompiledModel) -> None:
    tokens, universe = batch("left"), compiled.universe
    fifth = Intervention.from_positions(universe, [PositionChange(writer="m0", positions=[0, 4], change=1)])
    with pytest.raises(
        ConfigurationError, match=r"m0 is changed at position 4, and prompt 1 of the batch has 4 tokens"
    ):
        intervene(compiled, fifth).logits(tokens)
    with pytest.raises(ConfigurationError, match="run on the whole model"):
        intervene(compiled, fifth, circuit=Circuit.from_edges(universe, ["input->logits"], ablation="zero"))
    with pytest.raises(ConfigurationError, match="m0 at some positions alone, and the gate"):
        fifth.gates()
    short = Intervention.from_positions(universe, [PositionChange(writer="m0", positions=0, vector=(1.0, 2.0))])
    with pytest.raises(ConfigurationError, match="has 2 numbers; the model's residual stream has 16"):
        intervene(compiled, short)
    edge = replace(Intervention.from_edges(universe, ["m0->m1"]), at_positions=fifth.at_positions)
    with pytest.raises(ConfigurationError, match="some edges of m0 are changed apart from its others"):
        intervene(compiled, edge)
    with pytest.raises(ConfigurationError, match="strength must be a finite number"):
        intervene(compiled, fifth, strength=float("nan"))
    there = Intervention.from_positions(universe, [PositionChange(writer="m0", positions=0, change=20)])
    for large in (there, Intervention.from_writers(universe, {"m0": 20.0})):
        with pytest.raises(ConfigurationError, match=r"strength 1e\+308 times a change of 20 is too large"):
            intervene(compiled, large, strength=1e308)


@pytest.mark.parametrize("writer, span", [("m0", "start"), ("a0.h1", "end"), ("a1.h2", "end"), ("input", "start")])
def test_in_a_universe_with_spans_it_is_the_change_of_a_spans_edges(
    compiled: CompiledModel, writer: str, span: str
) -> None:
    """Two ways to the same thing: gates of a span in the masked pass, and a writer scaled at the span's tokens."""
    spanned = compiled.with_spans(["start", "end"], asked=["end"])
    tokens = pair_of_batches(lengths=[5, 5], side="none", n_asked=1, n_tokens=29, seed=3)[0]
    tokens = replace(
        tokens, span_ids=torch.tensor([[0, 0, 0, 1, 1]]).expand(2, 5), predict_index=torch.tensor([4, 9]),
        predict_prompt=torch.tensor([0, 1]),
    )  # fmt: skip
    gates = intervene(spanned, Intervention.from_writers(spanned.universe, {f"{writer}@{span}": -1.7})).logits(tokens)
    places = [0, 1, 2] if span == "start" else [-2, -1]
    change = PositionChange(writer=writer, positions=places, change=-1.7)
    ours = intervene(compiled, Intervention.from_positions(compiled.universe, [change])).logits(tokens)
    assert (ours - gates).abs().max() < 1e-9 < (ours - compiled.logits(tokens)).abs().max()

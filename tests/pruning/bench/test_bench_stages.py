"""Stages: which gates they start from, what the plain step computes, which circuit is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.graph.universe import Universe
from circuitgraph.models import LoadedModel
from pruning.bench.models import random_model
from pruning.bench.prompts import BenchPrompts, random_prompts
from pruning.bench.settings import BenchSettings
from pruning.bench.stages import (
    EvaluateStage,
    PlainStage,
    StepStage,
    Workbench,
    circuit_of,
    middle_alpha,
    plain_step,
    start_alpha,
)
from pruning.bench.trained import TrainedGates, save_trained
from pruning.frozen.runs import FrozenRuns
from tests.pruning.prompts.small_prompts import GlobalRandomState

UNIVERSES = (
    Universe(family="gpt2", n_layers=3, n_heads=4, n_kv_heads=4),
    Universe(family="llama", n_layers=5, n_heads=6, n_kv_heads=2),
    Universe(family="x", n_layers=2, n_heads=3, n_kv_heads=3, block_order="parallel", qkv="joint", embeddings="split"),
)


@pytest.fixture(scope="module")
def compiled(tiny_llama) -> CompiledModel:
    model = tiny_llama(n_layers=3)
    model.requires_grad_(False)
    return compile_model(model, verify=False)


@pytest.fixture(scope="module")
def prompts() -> BenchPrompts:
    return random_prompts(3, 6, d_vocab=29, seed=0)


@pytest.fixture(scope="module")
def frozen(compiled, prompts) -> FrozenRuns:
    return FrozenRuns(compiled, prompts.pairs, ablation="counterfactual")


def workbench_of(compiled: CompiledModel, **options: object) -> Workbench:
    loaded = LoadedModel(model=compiled.model, tokenizer=None, name="tiny", revision=None)
    return Workbench.of(BenchSettings(model="tiny", batch=3, seq=6, **options), loaded)  # type: ignore[arg-type]


def undecided(stage: StepStage) -> Tensor:
    """Which gates the next step will find undecided, drawn from a copy of its generator."""
    generator = torch.Generator()
    generator.set_state(stage.trainer.generator.get_state())
    sample = stage.trainer.gates.sample(generator)
    return ((sample.edges > 0) & (sample.edges < 1)).detach()


# ---------------------------------------------------------------- α


@pytest.mark.parametrize("universe", UNIVERSES)
@pytest.mark.parametrize("seed", range(3))
def test_start_has_one_gate_a_reader_half_open(universe, seed):
    noise = torch.rand(universe.n_edges, generator=torch.Generator().manual_seed(seed))
    log_alpha = start_alpha(universe, noise)
    _, readers = universe.endpoints(np.arange(universe.n_edges))
    moved = np.flatnonzero(log_alpha.numpy() != 10)
    assert readers[moved].tolist() == list(range(universe.n_readers)), "exactly one per reader"
    # Hard concrete by hand: z = σ((logit u + α) / τ)·1.2 − 0.1, which is one half where logit u = −α.
    stretched = torch.sigmoid((noise.double().logit() + log_alpha.double()) / (2 / 3)) * 1.2 - 0.1
    assert stretched[moved].numpy() == pytest.approx(0.5, abs=1e-5)
    for reader in range(universe.n_readers):
        own = np.flatnonzero(readers == reader)
        chosen = np.intersect1d(own, moved)
        assert abs(noise[chosen] - 0.5).item() == abs(noise[own] - 0.5).min().item(), "α as near 0 as can be"


@pytest.mark.parametrize("control", ["lagrangian", "budget"])
def test_every_reader_has_an_undecided_gate_in_every_turn_of_start(compiled, control):
    stage = workbench_of(compiled, control=control).stage("start")
    assert isinstance(stage, StepStage)
    _, readers = compiled.universe.endpoints(np.arange(compiled.universe.n_edges))
    for turn in range(6):
        stage.prepare(turn)
        open_gates = undecided(stage).numpy()
        assert set(readers[open_gates].tolist()) == set(range(compiled.universe.n_readers))
        assert open_gates.sum() < 1.2 * compiled.universe.n_readers, "and hardly any besides"
        told = stage.run()
        if control == "lagrangian":
            assert told == open_gates.sum()
        assert told >= compiled.universe.n_readers


def test_middle_is_normal_with_spread_two():
    log_alpha = middle_alpha(UNIVERSES[1], 3)
    n = len(log_alpha)
    assert n == UNIVERSES[1].n_edges and torch.equal(log_alpha, middle_alpha(UNIVERSES[1], 3))
    assert not torch.equal(log_alpha, middle_alpha(UNIVERSES[1], 4))
    assert float(log_alpha.mean()) == pytest.approx(0, abs=5 * 2 / n**0.5)
    assert float(log_alpha.std()) == pytest.approx(2, abs=5 * 2 / (2 * n) ** 0.5)


@pytest.mark.parametrize("control", ["lagrangian", "budget"])
def test_a_turn_starts_from_the_stages_alpha(compiled, frozen, control):
    wanted = torch.linspace(-4, 3, compiled.universe.n_edges)
    stage = StepStage(compiled, frozen, lambda noise: wanted, control=control)
    counts = []
    for turn in (0, 1, 0):
        stage.prepare(turn)
        assert torch.equal(stage.trainer.gates.log_alpha.detach(), wanted)
        counts.append(stage.run())
        after = stage.trainer.gates.log_alpha.detach()
        assert not torch.equal(after, wanted), "the optimiser has moved them"
        assert (after - wanted).abs().max() < 0.2, "and neither schedule nor budget shifts them far"
    assert counts[0] == counts[2], "the same turn draws the same gates"
    assert stage.trainer.recipe.control == control
    if control == "lagrangian":
        assert (stage.trainer.multipliers.detach() != 0).all(), "the multipliers are trained"


def test_the_global_random_state_stays(compiled, frozen):
    state = GlobalRandomState()
    stage = StepStage(compiled, frozen, lambda noise: middle_alpha(compiled.universe, 0))
    stage.prepare(0)
    stage.run()
    state.assert_untouched()


# ---------------------------------------------------------------- the plain step


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_plain_is_the_gradient_of_the_answers_loss_in_the_embeddings(tiny_gpt2, tiny_llama, prompts, family):
    make: Callable = {"gpt2": tiny_gpt2, "llama": tiny_llama}[family]
    model = make(dtype=torch.float64)
    model.requires_grad_(False)
    stage = PlainStage(model, prompts, torch.device("cpu"))
    found = plain_step(model, stage.batch, stage.asked)
    # The long way: hooks on the embeddings, logits everywhere, weights with gradient.
    other = make(dtype=torch.float64)
    kept: list[Tensor] = []
    other.get_input_embeddings().register_forward_hook(lambda module, given, said: kept.append(said) or said)
    ids = torch.from_numpy(np.stack(prompts.pairs.clean_ids))
    logits = other(ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
    answers = torch.from_numpy(np.concatenate(prompts.pairs.answer_ids))
    loss = -torch.log_softmax(logits, -1).gather(1, answers[:, None]).mean()
    (expected,) = torch.autograd.grad(loss, kept[0])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # the loss is taken in float32


def test_plain_takes_no_gradient_of_weights(compiled, monkeypatch):
    bench = workbench_of(compiled)
    stage = bench.stage("plain")
    asked: list[dict[str, object]] = []
    forward = type(bench.loaded.model).forward

    def spy(self, **given):
        asked.append(given)
        return forward(self, **given)

    monkeypatch.setattr(type(bench.loaded.model), "forward", spy)
    assert stage.run() == 0
    assert not any(weights.requires_grad for weights in bench.loaded.model.parameters())
    assert all(weights.grad is None for weights in bench.loaded.model.parameters())
    (given,) = asked
    assert given["logits_to_keep"].tolist() == [5] and given["use_cache"] is False
    assert set(given) == {"inputs_embeds", "logits_to_keep", "use_cache"}, "no mask: nothing is padded"


def test_forward_is_the_plain_models_without_gradients(compiled, monkeypatch):
    bench = workbench_of(compiled)
    seen: list[tuple[bool, dict[str, object]]] = []
    monkeypatch.setattr(
        type(bench.loaded.model), "forward", lambda self, **given: seen.append((torch.is_grad_enabled(), given))
    )
    assert bench.stage("forward").run() == 0
    ((gradients, given),) = seen
    assert not gradients and torch.is_grad_enabled()
    assert given["logits_to_keep"].tolist() == [5] and given["use_cache"] is False
    assert torch.equal(given["input_ids"], bench.stage("plain").batch.clean.input_ids)


def test_a_loaded_model_asks_for_no_gradients(tmp_path, tiny_llama):
    from pruning.bench.models import load
    from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

    tiny_llama().save_pretrained(tmp_path)
    word_tokenizer(["a b"]).save_pretrained(tmp_path)
    loaded = load(BenchSettings(model=str(tmp_path), dtype="bfloat16"))
    weights = list(loaded.model.parameters())
    assert weights and not any(one.requires_grad for one in weights)
    assert {one.dtype for one in weights} == {torch.bfloat16}


def test_a_random_model_is_seeded_and_leaves_the_random_state_alone():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=4, bos_token_id=0, eos_token_id=0,
        initializer_range=0.1,
    )  # fmt: skip
    state = GlobalRandomState()
    one, same, other = (random_model(GPT2LMHeadModel, config, seed=seed) for seed in (0, 0, 1))
    state.assert_untouched()
    weights = [model.transformer.wte.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert 0.08 < float(weights[0].std()) < 0.12
    assert not one.training and one.config._attn_implementation == "sdpa"


# ---------------------------------------------------------------- circuits


def trained(universe: Universe, tag: str) -> TrainedGates:
    log_alpha = torch.randn(universe.n_edges, generator=torch.Generator().manual_seed(1)) * 3
    return TrainedGates(log_alpha=log_alpha, file=Path("x"), comes_along=False, sha256="", tag=tag)


@pytest.mark.parametrize(("tag", "share"), [("98", 0.02), ("995", 0.005)])
def test_the_best_edges_are_evaluated(tag, share):
    from tests.benchmarks.made_gates import made_circuit

    model = compile_model(_wide(), verify=False)
    universe, n_edges = model.universe, model.universe.n_edges
    kept = made_circuit(universe, round(share * n_edges), seed=0)
    gates = TrainedGates(
        log_alpha=torch.from_numpy(np.where(kept, 1.0, -1.0).astype(np.float32)), file=Path("x"), comes_along=False,
        sha256="", tag=tag,
    )  # fmt: skip
    circuit = circuit_of(model, gates)
    assert (circuit.mask == kept).all(), "nothing of it dangles, so all of it is kept"
    dangling = circuit_of(model, trained(universe, tag))
    assert len(dangling) < round(share * n_edges), "of a random choice some dangles"


def _wide():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=4, n_head=8, n_embd=16, vocab_size=16, n_positions=8, bos_token_id=0, eos_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    return random_model(GPT2LMHeadModel, config, seed=0)


def test_evaluation_runs_the_circuit_without_gradients(compiled, frozen, monkeypatch):
    import pruning.bench.stages as stages
    from circuitgraph.circuits.circuit import Circuit

    seen: list[tuple[Tensor, Tensor]] = []
    score = stages.score_prompts
    monkeypatch.setattr(
        stages, "score_prompts", lambda logits, *rest: seen.append((logits, rest[0])) or score(logits, *rest)
    )
    full = Circuit.from_edges(compiled.universe, np.ones(compiled.universe.n_edges, dtype=bool))
    assert EvaluateStage(compiled, frozen, full).run() == 0
    ((logits, teacher),) = seen
    assert not logits.requires_grad
    torch.testing.assert_close(logits, teacher, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- files of trained gates


def test_stages_without_trained_gates_are_left_out(compiled, tmp_path):
    bench = workbench_of(compiled)
    assert bench.names == ["plain", "forward", "start", "middle"]
    assert set(bench.left_out) == {"trained_98", "evaluate_98", "trained_995", "evaluate_995"}
    assert "--trained-98 FILE" in bench.left_out["evaluate_98"]
    path = tmp_path / "gates.safetensors"
    log_alpha = torch.linspace(-5, 5, compiled.universe.n_edges)
    save_trained(path, log_alpha, {"recipe": "none"})
    bench = workbench_of(compiled, trained_995=str(path))
    assert bench.names == ["plain", "forward", "start", "middle", "trained_995", "evaluate_995"]
    stage = bench.stage("trained_995")
    assert isinstance(stage, StepStage)
    stage.prepare(0)
    torch.testing.assert_close(stage.trainer.gates.log_alpha.detach(), log_alpha, rtol=1e-3, atol=1e-3)  # float16
    assert isinstance(bench.stage("evaluate_995"), EvaluateStage)


def test_stages_share_frozen_runs_but_no_buffers(compiled):
    bench = workbench_of(compiled)
    start, middle = bench.stage("start"), bench.stage("middle")
    assert isinstance(start, StepStage) and isinstance(middle, StepStage)
    assert start.trainer.runner.frozen is middle.trainer.runner.frozen
    assert start.trainer.compiled._workspace is not middle.trainer.compiled._workspace
    assert start.trainer.compiled.bound is middle.trainer.compiled.bound is bench.compiled.bound, "packed once"
    start.prepare(0)
    start.run()
    assert bench.frozen.drawn.memory == 3 and bench.frozen.drawn.computed == 0, "the cache is warm"

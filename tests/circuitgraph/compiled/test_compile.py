"""`compile_model`: what it leaves alone, what it refuses, what it follows when the model changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

import circuitgraph.compiled.compile
from circuitgraph.architectures import family_of
from circuitgraph.architectures.family import BoundModel
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.identity import config_hash, weights_checksum
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, ParityError, UnsupportedModelError
from circuitgraph.graph.build import STRUCTURAL
from circuitgraph.graph.universe import Universe
from tests.circuitgraph.forward.situations import BothWays, Situation
from tests.oracles import definition as oracle
from tests.oracles.cases import ModelMakers, pair_of_batches
from tests.oracles.hooks import call

PLAIN = Situation("mixture", 0.4, 0.5, "counterfactual", "left", (5, 3), 2, 3)


@pytest.fixture(params=["gpt2", "llama-gqa", "tracr"])
def model(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> nn.Module:
    if request.param == "tracr":
        return ModelMakers(tiny_gpt2, tiny_llama).make("tracr", dtype=torch.float32, causal=False)
    return tiny_gpt2() if request.param == "gpt2" else tiny_llama(n_kv_heads=2)


def use(compiled: CompiledModel, *, backward: bool = True) -> torch.Tensor:
    """A masked pass, forward and backward, with undecided gates."""
    both = BothWays(compiled, oracle.plain_model(compiled.model), PLAIN)
    gates = both.gates.to(compiled.dtype).requires_grad_()
    logits = both.executor(gates)
    if backward:
        logits.sum().backward()
    return logits.detach()


# ---------------------------------------------------------------- the user's model


def snapshot(model: nn.Module) -> dict[str, object]:
    """Whatever a user could notice."""
    found: dict[str, object] = {}
    for name, module in model.named_modules():
        found[f"{name} mode"] = module.training
        found[f"{name} class"] = type(module)
        for key, value in vars(module).items():
            if key.endswith("_hooks"):
                found[f"{name} {key}"] = list(value)
            elif key not in ("_parameters", "_buffers", "_modules"):
                found[f"{name} {key}"] = value
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        found[f"{name} object"] = id(weight)
        found[f"{name} memory"] = weight.data_ptr()
        found[f"{name} bits"] = weight.detach().clone().numpy().tobytes()
        found[f"{name} requires_grad"] = weight.requires_grad
        found[f"{name} grad"] = weight.grad
    return found


def test_the_model_is_left_as_it_was(model: nn.Module) -> None:
    model.train()
    parts = list(model.modules())
    parts[3].eval()
    parameters = list(model.parameters())
    for parameter in parameters[::2]:
        parameter.requires_grad_(False)
    before, random_state = snapshot(model), torch.get_rng_state()
    compiled = compile_model(model)
    use(compiled)
    assert compiled.model is model
    assert snapshot(model) == before
    assert all(parameter.grad is None for parameter in parameters)
    assert any(parameter.requires_grad for parameter in parameters)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_no_weight_is_copied(model: nn.Module) -> None:
    compiled = compile_model(model, verify=False)
    memory = {weight.untyped_storage().data_ptr() for weight in [*model.parameters(), *model.buffers()]}
    for block in compiled.bound.blocks:
        for projection in (block.query, block.key, block.value):
            assert projection.matrix.untyped_storage().data_ptr() in memory
        assert block.output.untyped_storage().data_ptr() in memory
        for module in (block.mlp, block.mlp_norm.module, block.attention_norm.module):
            assert all(weight.untyped_storage().data_ptr() in memory for weight in module.parameters())


def test_a_model_in_training_mode_runs_without_its_dropout(tiny_gpt2) -> None:
    model = tiny_gpt2()
    quiet = use(compile_model(model, verify=False), backward=False)
    assert model.config.resid_pdrop > 0
    torch.testing.assert_close(use(compile_model(model.train(), verify=False), backward=False), quiet)


# ---------------------------------------------------------------- a model that changes later


def check_now(compiled: CompiledModel) -> None:
    """The compiled model means what the model is now, not what it was when it was compiled."""
    both = BothWays(compiled, oracle.plain_model(compiled.model), PLAIN)
    ours = both.executor(both.gates.to(compiled.dtype))
    # Norms and rotary angles of the float64 Llama pass through float32; so does everything in float32.
    torch.testing.assert_close(ours.double(), both.definition(both.gates), atol=2e-5, rtol=2e-5)


def test_weights_trained_in_place_are_followed(model: nn.Module) -> None:
    compiled = compile_model(model)
    before = use(compiled)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    batch, _ = pair_of_batches(lengths=[5, 3], side="left", n_asked=2, n_tokens=model.config.vocab_size, seed=0)
    model(batch.input_ids).logits.square().mean().backward()
    optimiser.step()
    check_now(compiled)
    assert (use(compiled) - before).abs().max() > 1e-3


def test_replaced_weights_are_followed(model: nn.Module) -> None:
    compiled = compile_model(model)
    before = use(compiled)
    state = {name: 1.5 * weight for name, weight in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    check_now(compiled)
    assert (use(compiled) - before).abs().max() > 1e-3


def test_a_cast_model_is_followed(model: nn.Module) -> None:
    compiled = compile_model(model)
    assert compiled.dtype == use(compiled).dtype == torch.float32
    model.double()
    assert compiled.dtype == use(compiled).dtype == torch.float64
    check_now(compiled)
    model.float()
    assert use(compiled).dtype == torch.float32
    check_now(compiled)


# ---------------------------------------------------------------- the parity gate


def _wrong_scale(bound: BoundModel) -> BoundModel:
    blocks = tuple(
        replace(block, attention=replace(block.attention, scale=1.05 * block.attention.scale)) for block in bound.blocks
    )
    return replace(bound, blocks=blocks)


def _keys_for_values(bound: BoundModel) -> BoundModel:
    blocks = tuple(replace(block, key=block.value, value=block.key) for block in bound.blocks)
    return replace(bound, blocks=blocks)


def _no_output_bias(bound: BoundModel) -> BoundModel:
    return replace(bound, blocks=tuple(replace(block, raw_output_bias=None) for block in bound.blocks))


def _norms_swapped(bound: BoundModel) -> BoundModel:
    blocks = tuple(
        replace(block, attention_norm=block.mlp_norm, mlp_norm=block.attention_norm) for block in bound.blocks
    )
    return replace(bound, blocks=blocks)


def _blocks_swapped(bound: BoundModel) -> BoundModel:
    return replace(bound, blocks=bound.blocks[::-1])


@pytest.mark.parametrize("damage", [_wrong_scale, _keys_for_values, _no_output_bias, _norms_swapped, _blocks_swapped])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_family_file_that_does_not_fit_is_caught(
    tiny_gpt2, dtype: torch.dtype, damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_of("gpt2")
    broken = replace(family, bind=lambda model: damage(family.bind(model)))
    monkeypatch.setattr(circuitgraph.compiled.compile, "family_of", lambda _: broken)
    model = tiny_gpt2(dtype=dtype)
    with pytest.raises(ParityError, match=r"all gates 1.*differs from the model by"):
        compile_model(model)
    compile_model(model, verify=False)


# ---------------------------------------------------------------- the graph


def test_the_graph_says_what_it_was_made_from(model: nn.Module) -> None:
    compiled = compile_model(model)
    graph = compiled.graph
    assert graph.graph["universe"] == compiled.universe.to_dict()
    assert Universe.from_dict(graph.graph["universe"]) == compiled.universe
    assert graph.graph["config_hash"] == compiled.config_hash == config_hash(model.config)
    assert graph.graph["model"] == type(model).__name__
    masks = {
        (source, target): data["mask"] for source, target, data in graph.edges(data=True) if data["kind"] != STRUCTURAL
    }
    assert masks == {
        tuple(compiled.universe.edge_name(edge).split("->")): edge for edge in range(compiled.universe.n_edges)
    }


def test_each_graph_is_the_users_own(model: nn.Module) -> None:
    compiled = compile_model(model, verify=False)
    edited = compiled.graph
    edited.remove_edge("m0", "logits")
    assert compiled.graph.has_edge("m0", "logits")
    again = compiled.with_graph(edited)
    assert (again.gate_map.n_removed, compiled.gate_map.n_removed) == (1, 0)
    assert again.model is compiled.model


def test_the_config_hash_is_of_the_computation(tiny_gpt2) -> None:
    config = tiny_gpt2().config
    same, other = GPT2Config.from_dict(config.to_dict()), GPT2Config.from_dict(config.to_dict())
    same._name_or_path = "elsewhere"
    other.layer_norm_epsilon = 1e-3
    assert config_hash(same) == config_hash(config) != config_hash(other)


# ---------------------------------------------------------------- refusals


def tiny_config(**fields: object) -> GPT2Config:
    return GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=8, **fields)


@pytest.fixture(autouse=True)
def _same_random_state():
    with torch.random.fork_rng(devices=[]):
        yield


def test_an_unknown_architecture_is_named() -> None:
    config = MambaConfig(num_hidden_layers=1, hidden_size=8, vocab_size=11)
    with pytest.raises(UnsupportedModelError, match="mamba.*gpt2.*llama"):
        compile_model(MambaForCausalLM(config))


def test_a_model_without_its_head_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"GPT2LMHeadModel.*got GPT2Model"):
        compile_model(GPT2Model(tiny_config()))


@pytest.mark.parametrize(
    ("field", "value"), [("reorder_and_upcast_attn", True), ("add_cross_attention", True), ("attn_logit_softcap", 30.0)]
)
def test_config_fields_of_gpt2_that_are_not_understood_are_named(field: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{field}={value!r}"):
        compile_model(GPT2LMHeadModel(tiny_config(**{field: value})))


@pytest.mark.parametrize(
    ("field", "value"),
    [("pretraining_tp", 2), ("sliding_window", 4), ("layer_types", ["sliding_attention"] * 2)],
)
def test_config_fields_of_llama_that_are_not_understood_are_named(tiny_llama, field: str, value: object) -> None:
    model: LlamaForCausalLM = tiny_llama()
    model.config = LlamaConfig.from_dict({**model.config.to_dict(), field: value})
    with pytest.raises(UnsupportedModelError, match=field):
        compile_model(model)


def test_choices_that_do_not_fit_are_refused(tiny_gpt2, tiny_llama) -> None:
    with pytest.raises(ConfigurationError, match="learned position"):
        compile_model(tiny_llama(), embeddings="split")
    with pytest.raises(ConfigurationError, match="kv_heads='per_query'"):
        compile_model(tiny_llama(n_kv_heads=2), qkv="joint")
    for choice, value in (("embeddings", "apart"), ("kv_heads", "grouped"), ("qkv", "fused")):
        with pytest.raises(ConfigurationError, match=rf"{choice} must be one of .*{value}"):
            compile_model(tiny_gpt2(), **{choice: value})


def test_logits_are_the_models(model: nn.Module) -> None:
    compiled = compile_model(model)
    batch, _ = pair_of_batches(lengths=[5, 3], side="left", n_asked=2, n_tokens=model.config.vocab_size, seed=0)
    torch.testing.assert_close(compiled.logits(batch), call(model, batch), atol=1e-5, rtol=1e-5)


def test_checkpoints_in_memory_are_told_apart(tiny_gpt2) -> None:
    one, same, other = tiny_gpt2(seed=0), tiny_gpt2(seed=0), tiny_gpt2(seed=1)
    first, second = compile_model(one, verify=False), compile_model(same, verify=False)
    assert first.identity == second.identity
    assert first.identity != {**first.identity, **compile_model(other, verify=False).identity}
    before = first.identity
    with torch.no_grad():
        one.transformer.h[0].mlp.c_fc.bias[3] += 1e-4
    assert first.identity["weights"] != before["weights"]
    assert {**first.identity, "weights": 0} == {**before, "weights": 0}
    assert graph_identity(first) == first.identity


def graph_identity(compiled: CompiledModel) -> dict[str, object]:
    return {name: compiled.graph.graph[name] for name in compiled.identity}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_checksum_meets_every_weight_and_where_it_is(dtype) -> None:
    values = torch.arange(1.0, 12.0).to(dtype)

    def checksum(weights: torch.Tensor) -> str:
        layer = torch.nn.Module()
        layer.register_parameter("w", torch.nn.Parameter(weights))
        return weights_checksum(layer)

    plain = checksum(values)
    for place in range(len(values)):
        changed = values.clone()
        changed[place] += 0.5
        assert checksum(changed) != plain
    assert checksum(values.flip(0)) != plain
    assert checksum(values.reshape(1, -1)) != plain
    # Views that begin or step anywhere hold the same weights.
    assert checksum(torch.cat([values[:1], values])[1:]) == plain
    assert checksum(torch.stack([values, values], dim=1)[:, 0]) == plain

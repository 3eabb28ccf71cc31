"""What ablated writers say: counterfactual, mean, mean per position, zero."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.plan.fixed import FixedPlan
from tests.oracles.cases import BATTERY, ModelMakers, pair_of_batches
from tests.oracles.hooks import call, landmarks, said_by


@pytest.fixture(scope="module", params=BATTERY)
def compiled(request: pytest.FixtureRequest, tiny_gpt2, tiny_llama) -> CompiledModel:
    return ModelMakers(tiny_gpt2, tiny_llama).compile(request.param, dtype=torch.float64)


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2, tiny_llama) -> CompiledModel:
    return ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64)


def batches(compiled: CompiledModel, side: str = "left") -> tuple[TokenBatch, TokenBatch]:
    lengths = [4, 4, 4] if side == "none" else [5, 2, 3]
    n_tokens = compiled.model.config.vocab_size
    return pair_of_batches(lengths=lengths, side=side, n_asked=1, n_tokens=n_tokens, seed=6)


def named(compiled: CompiledModel, values: AblationValues) -> dict[str, Tensor]:
    """Each writer's vector in the residual stream."""
    marks, universe = landmarks(compiled.model), compiled.universe
    found = dict(zip(["tok", "pos"], values.embeddings, strict=False))
    for layer in range(universe.n_layers):
        for head in range(universe.n_heads):
            found[f"a{layer}.h{head}"] = values.heads[layer][head] @ marks.output_rows(layer, head).detach()
        found[f"m{layer}"] = values.mlps[layer]
    return found


def expect(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_a_run_keeps_what_every_writer_said(compiled: CompiledModel) -> None:
    batch, _ = batches(compiled)
    logits, values = compiled.run_with_values(batch)
    expect(logits, call(compiled.model, batch).detach())
    real = batch.attention_mask.bool()
    for writer, said in named(compiled, values).items():
        theirs = said_by(compiled.model, writer, batch).detach().expand_as(said)
        expect(said[real], theirs[real])


def test_attention_is_the_sum_of_its_heads_and_its_bias(compiled: CompiledModel) -> None:
    _, values = compiled.run_with_values(batches(compiled)[0])
    said = named(compiled, values)
    for layer in range(compiled.universe.n_layers):
        heads = torch.stack([said[f"a{layer}.h{head}"] for head in range(compiled.universe.n_heads)]).sum(0)
        bias = getattr(landmarks(compiled.model).output(layer), "bias", None)
        expect(values.attention[layer], heads if bias is None else heads + bias.detach())


@pytest.mark.parametrize("side", ["left", "right"])
def test_means_are_over_real_tokens_of_all_batches(compiled: CompiledModel, side: str) -> None:
    first, second = batches(compiled, side)
    third, _ = batches(compiled, "none")  # another shape
    data = [first, second, third]
    means = named(compiled, compiled.ablation_values("mean", iter(data)))
    for writer, mean in means.items():
        said = [
            said_by(compiled.model, writer, batch)
            .detach()
            .expand(*batch.input_ids.shape, -1)[batch.attention_mask.bool()]
            for batch in data
        ]
        assert mean.shape[:-1] == (1, 1)
        expect(mean[0, 0], torch.cat(said).mean(0))


def test_means_per_position(compiled: CompiledModel) -> None:
    data = batches(compiled, "none")
    means = named(compiled, compiled.ablation_values("mean-positional", data))
    for writer, mean in means.items():
        said = [said_by(compiled.model, writer, batch).detach().expand(*batch.input_ids.shape, -1) for batch in data]
        expect(mean[0], torch.cat(said).mean(0))


def test_zero_leaves_the_output_biases(compiled: CompiledModel) -> None:
    values = compiled.ablation_values("zero")
    assert not any(said.any() for said in named(compiled, values).values())
    for layer, attention in enumerate(values.attention):
        bias = getattr(landmarks(compiled.model).output(layer), "bias", None)
        expect(attention[0, 0], torch.zeros_like(attention[0, 0]) if bias is None else bias.detach())


def test_means_are_summed_in_float64(tiny_gpt2, tiny_llama) -> None:
    """In bfloat16 a sum of 300 alike vectors stops growing long before it is 300 times one of them."""
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.bfloat16)
    batch = TokenBatch(
        input_ids=torch.full((300, 1), 3),
        attention_mask=torch.ones(300, 1, dtype=torch.long),
        predict_index=torch.tensor([0]),
        predict_prompt=torch.tensor([0]),
    )
    means = compiled.ablation_values("mean", [batch])
    _, one = compiled.run_with_values(
        replace(batch, input_ids=batch.input_ids[:1], attention_mask=batch.attention_mask[:1])
    )
    for name in ("embeddings", "heads", "attention", "mlps"):
        for mean, said in zip(getattr(means, name), getattr(one, name), strict=True):
            assert mean.dtype == torch.bfloat16
            # The same prompt in a batch of another size may round its last bit differently.
            torch.testing.assert_close(mean, said, atol=1e-2, rtol=1e-2)


def test_means_per_position_refuse_unequal_lengths(gpt2: CompiledModel) -> None:
    with pytest.raises(ConfigurationError, match="prompts of one length"):
        gpt2.ablation_values("mean-positional", batches(gpt2, "left"))
    short = pair_of_batches(lengths=[3], side="none", n_asked=1, n_tokens=29, seed=0)[0]
    with pytest.raises(ConfigurationError, match="prompts of one length"):
        gpt2.ablation_values("mean-positional", [batches(gpt2, "none")[0], short])


def test_means_need_data(gpt2: CompiledModel) -> None:
    for ablation in ("mean", "mean-positional"):
        with pytest.raises(ConfigurationError, match="at least one prompt"):
            gpt2.ablation_values(ablation)


def test_an_unknown_ablation_is_named(gpt2: CompiledModel) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        gpt2.ablation_values("meen")


def all_tensors(values: AblationValues) -> list[Tensor]:
    found: list[Tensor] = []
    for field in fields(values):
        value = getattr(values, field.name)
        if not isinstance(value, str):
            found += [value] if isinstance(value, Tensor) else list(value or ())
    return found


def test_select_and_join_are_rows_of_a_batch(compiled: CompiledModel) -> None:
    """The cache keeps values a prompt; the parts put together again are the whole."""
    batch, _ = batches(compiled)
    _, values = compiled.run_with_values(batch)
    parts = [values.select(torch.tensor([row])) for row in range(3)]
    again = AblationValues.join(parts)
    for whole, joined in zip(all_tensors(values), all_tensors(again), strict=True):
        assert torch.equal(whole, joined)
    turned = values.select(torch.tensor([2, 0, 1]))
    for whole, mixed in zip(all_tensors(values), all_tensors(turned), strict=True):
        batch_axis = max(whole.ndim - 3, 0)  # of the tokens it is the first
        assert torch.equal(whole.index_select(batch_axis, torch.tensor([2, 0, 1])), mixed)


def test_select_of_constants_leaves_them(gpt2: CompiledModel) -> None:
    values = gpt2.ablation_values("zero")
    for whole, part in zip(all_tensors(values), all_tensors(values.select(torch.tensor([5, 1]))), strict=True):
        assert torch.equal(whole, part)


def test_bytes_are_counted(gpt2: CompiledModel) -> None:
    _, values = gpt2.run_with_values(batches(gpt2)[0])
    # 3 prompts of 5 tokens, width 12, 8 bytes: 2 embeddings, in each of 2 layers heads, attention and MLP, and the
    # heads' queries, keys and values; and a token's number and whether it is one.
    assert values.n_bytes == 3 * 5 * 8 * (12 * (2 + 2 * 6) + 2)


def test_values_know_their_kind(gpt2: CompiledModel) -> None:
    batch, _ = batches(gpt2, "none")
    run = gpt2.run_with_values(batch)[1]
    assert (run.ablation, run.per_prompt) == ("counterfactual", True)
    for ablation in ("zero", "mean", "mean-positional"):
        values = gpt2.ablation_values(ablation, [batch])
        assert (values.ablation, values.per_prompt) == (ablation, False)
        assert values.select(torch.tensor([0])).ablation == values.only_said().ablation == ablation
    with pytest.raises(UnknownNameError, match="did you mean 'counterfactual'"):
        replace(run, ablation="counterfactuals")
    with pytest.raises(ConfigurationError, match="kind 'mean' are the same for every prompt"):
        replace(run, ablation="mean")
    with pytest.raises(ConfigurationError, match="of one kind to join; got counterfactual, zero"):
        AblationValues.join([run, gpt2.ablation_values("zero")])


def test_constants_filled_in_again_have_no_run(gpt2: CompiledModel) -> None:
    means = gpt2.ablation_values("mean", batches(gpt2))
    again = gpt2.whole_values(means.only_said())
    assert not again.query and not again.key and not again.value
    for whole, filled in zip(means.attention, again.attention, strict=True):
        expect(whole, filled)


def refused(compiled: CompiledModel, batch: TokenBatch, values: AblationValues, said: str) -> None:
    gates = torch.ones(compiled.universe.n_edges, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match=said):
        compiled.masked(gates, batch, values)


def test_values_of_other_prompts_are_refused(gpt2: CompiledModel) -> None:
    """Of fewer prompts, of longer ones, padded elsewhere; constants per position of another length, or padded."""
    clean, corrupted = batches(gpt2)
    values = gpt2.run_with_values(corrupted)[1]
    refused(gpt2, clean, values.select(torch.tensor([0, 1])), "a run on 2 prompts of 5 tokens, the batch has 3 prompts")
    longer = pair_of_batches(lengths=[6, 2, 3], side="left", n_asked=1, n_tokens=29, seed=6)[1]
    refused(gpt2, clean, gpt2.run_with_values(longer)[1], "3 prompts of 6 tokens, the batch has 3 prompts of 5 tokens")
    refused(gpt2, batches(gpt2, "right")[0], values, "prompt 1 of the batch has tokens where")
    refused(gpt2, clean, replace(values, input_ids=None, attention_mask=None).select(torch.tensor([0, 1])), "2 prompts")
    positional = gpt2.ablation_values("mean-positional", [batches(gpt2, "none")[0]])
    refused(gpt2, clean, positional, "for 4 tokens, the batch has 5; 'mean' ablation fits")
    padded = pair_of_batches(lengths=[4, 3], side="left", n_asked=1, n_tokens=29, seed=6)[0]
    refused(gpt2, padded, positional, "one value per position, counted from the first token")


def test_values_of_another_model_are_refused(gpt2: CompiledModel, tiny_gpt2, tiny_llama) -> None:
    makers, (clean, corrupted) = ModelMakers(tiny_gpt2, tiny_llama), batches(gpt2)

    def values(**sizes: object) -> AblationValues:
        model = tiny_gpt2(**{"dtype": torch.float64, **sizes})
        return CompiledModel.run_with_values(compile_model(model, verify=False), corrupted)[1]

    refused(gpt2, clean, values(dtype=torch.float32), "expected number format torch.float64, as the model has")
    refused(gpt2, clean, values(n_heads=2), "expected width 12, as the model has; got 8")
    refused(gpt2, clean, values(n_layers=3), "they have 3 layers, the model has 2")
    refused(gpt2, clean, values(n_heads=4, d_head=3), r"layer 0's heads have the sizes \(4, 3\), expected \(3, 4\)")
    llama = makers.compile("llama-gqa", dtype=torch.float64)
    refused(llama, clean, gpt2.run_with_values(corrupted)[1], r"2 embedding\(s\), the model has 1")
    on_meta = replace(values(), embeddings=tuple(value.to("meta") for value in values().embeddings))
    refused(gpt2, clean, on_meta, "expected device cpu, as the model has; got meta")


def test_a_plan_for_another_ablation_is_refused(gpt2: CompiledModel) -> None:
    n_edges, clean = gpt2.universe.n_edges, batches(gpt2, "none")[0]
    plan = FixedPlan.of(gpt2.universe, np.ones(n_edges, dtype=bool), ablation="counterfactual")
    gates = torch.ones(n_edges, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="plan is for counterfactual ablation, the values are of kind 'zero'"):
        gpt2.masked_by_plan(gates, clean, gpt2.ablation_values("zero"), plan)

"""Patched runs, next to a model whose own attention function and modules were changed for the test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AttentionInterface

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.patched_run import Patch, patched_run
from circuitgraph.forward.patterns import attention_patterns
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[6, 6, 6], n_asked=(2,))
LAYER, HEAD = 1, 2


@pytest.fixture(scope="module")
def compiled(tiny_llama) -> CompiledModel:
    return compile_model(tiny_llama(dtype=torch.float64), verify=False)


def batches():
    batch = PROMPTS.batch(np.arange(3))
    return batch.clean, batch.corrupted


def pattern_of(compiled: CompiledModel, batch) -> torch.Tensor:
    ran = compiled.run_with_values(batch)[1]
    return attention_patterns(compiled.runnable, ran, batch, LAYER)[HEAD]


def models_own(compiled: CompiledModel, batch, pattern: torch.Tensor) -> torch.Tensor:
    """The model's own modules, with an attention function that puts a pattern in place of one head's."""

    def attend(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
        scores = query @ key.transpose(-1, -2) * scaling
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        shares = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        if module.layer_idx == LAYER:
            shares = torch.cat([shares[:, :HEAD], pattern[:, None], shares[:, HEAD + 1 :]], 1)
        return (shares @ value).transpose(1, 2), shares

    AttentionInterface.register("patched_for_test", attend)
    model, before = compiled.model, compiled.model.config._attn_implementation
    model.config._attn_implementation = "patched_for_test"
    try:
        with torch.no_grad():
            logits = model(input_ids=batch.input_ids).logits
    finally:
        model.config._attn_implementation = before
    return logits.flatten(0, 1)[batch.predict_index]


def test_a_pattern_of_other_prompts_is_that_of_the_models_own_attention(compiled: CompiledModel) -> None:
    clean, corrupted = batches()
    other = 1.7 * pattern_of(compiled, corrupted)
    ours = patched_run(compiled.runnable, clean, Patch(patterns={f"a{LAYER}.h{HEAD}": other}))
    assert (ours - models_own(compiled, clean, other)).abs().max() < 1e-9
    assert (ours - compiled.logits(clean)).abs().max() > 1e-6


def test_a_heads_own_pattern_changes_nothing(compiled: CompiledModel) -> None:
    clean, _ = batches()
    own = pattern_of(compiled, clean)
    ours = patched_run(compiled.runnable, clean, Patch(patterns={f"a{LAYER}.h{HEAD}": own}))
    assert torch.allclose(ours, compiled.logits(clean), atol=1e-10)


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_added_is_added_to_what_the_module_says(compiled: CompiledModel, whole: bool) -> None:
    clean, _ = batches()
    generator = torch.Generator().manual_seed(0)
    size = (3, 6, 16) if whole else (16,)
    vectors = {
        name: torch.randn(size, generator=generator, dtype=torch.float64) for name in ("input", "a0.h1", "m0", "m1")
    }
    model, hooks = compiled.model, []
    for module, name in (
        (model.model.embed_tokens, "input"), (model.model.layers[0].self_attn.o_proj, "a0.h1"),
        (model.model.layers[0].mlp, "m0"), (model.model.layers[1].mlp, "m1"),
    ):  # fmt: skip
        hooks.append(module.register_forward_hook(lambda _m, _i, output, by=vectors[name]: output + by))
    try:
        with torch.no_grad():
            theirs = model(input_ids=clean.input_ids).logits.flatten(0, 1)[clean.predict_index]
    finally:
        for hook in hooks:
            hook.remove()
    ours = patched_run(compiled.runnable, clean, Patch(added=vectors))
    assert (ours - theirs).abs().max() < 1e-9 < (ours - compiled.logits(clean)).abs().max()


def test_it_is_differentiable_in_what_is_given(compiled: CompiledModel) -> None:
    clean, _ = batches()
    vector = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    pattern = pattern_of(compiled, clean).requires_grad_()
    torch.autograd.gradcheck(
        lambda v, p: patched_run(compiled.runnable, clean, Patch(added={"m0": v}, patterns={"a1.h2": p})).sum(),
        (vector, pattern), atol=1e-5,
    )  # fmt: skip


def test_what_does_not_fit_is_refused(compiled: CompiledModel) -> None:
    clean, _ = batches()
    with pytest.raises(UnknownNameError, match="unknown head 'm0'"):
        patched_run(compiled.runnable, clean, Patch(patterns={"m0": torch.zeros(3, 6, 6)}))
    with pytest.raises(ConfigurationError, match=r"the pattern of a0.h0 has to be \[batch seq seq\], here \[3, 6, 6\]"):
        patched_run(compiled.runnable, clean, Patch(patterns={"a0.h0": torch.zeros(3, 5, 5)}))
    with pytest.raises(UnknownNameError, match="unknown writer 'a0.h9'"):
        patched_run(compiled.runnable, clean, Patch(added={"a0.h9": torch.zeros(16)}))
    with pytest.raises(ConfigurationError, match=r"added to m0 has to be \[16\]"):
        patched_run(compiled.runnable, clean, Patch(added={"m0": torch.zeros(17)}))

"""A model's sizes from its config: those of the model itself, and of its runs."""

from __future__ import annotations

import pytest
from transformers import MambaConfig

from circuitgraph import compile_model, model_sizes
from circuitgraph.errors import ConfigurationError, UnknownNameError, UnsupportedModelError
from circuitgraph.memory.estimate import estimate_memory
from circuitgraph.memory.plan import plan_memory


@pytest.mark.parametrize("choices", [{}, {"embeddings": "split", "qkv": "joint"}])
def test_the_sizes_are_those_of_the_compiled_model(tiny_gpt2, choices) -> None:
    model = tiny_gpt2()
    compiled, sizes = compile_model(model, verify=False, **choices), model_sizes(model.config, **choices)
    assert (sizes.shape, sizes.universe) == (compiled.shape, compiled.universe)
    assert sizes.n_parameters == sum(weights.numel() for weights in model.parameters())


def test_a_config_alone_in_a_folder_will_do(tiny_gpt2, tmp_path) -> None:
    config = tiny_gpt2().config
    config.save_pretrained(tmp_path)
    assert model_sizes(str(tmp_path)) == model_sizes(config)


def test_an_estimate_and_a_plan_hand_every_setting_on(tiny_gpt2) -> None:
    sizes = model_sizes(tiny_gpt2().config)
    settings = {
        "seq": 7, "dtype": "bfloat16", "n_asked": 2, "n_prompts": 9, "cache_bytes": 12_345, "ablation": "zero",
    }  # fmt: skip

    def plain(prompts: int, again: bool, cache_bytes: int = 12_345):
        about = {"n_parameters": sizes.n_parameters, "batch_size": prompts, "recompute": again}
        return estimate_memory(sizes.shape, sizes.universe, **about, **settings | {"cache_bytes": cache_bytes})

    assert sizes.estimate(4, recompute=True, **settings) == plain(4, True) != sizes.estimate(4)
    for limit, given in ((None, {}), (plain(3, False).total, {}), (None, {"micro_batch": 2, "recompute": True})):
        expected = plan_memory(plain, batch_size=64, seq=7, limit_bytes=limit, cache_bytes=12_345, **given)
        assert sizes.plan(64, limit_bytes=limit, **settings, **given) == expected


def test_what_is_not_understood_is_refused(tiny_gpt2) -> None:
    with pytest.raises(UnsupportedModelError, match="'mamba' is not supported"):
        model_sizes(MambaConfig())
    changed = tiny_gpt2().config
    changed.scale_attn_by_inverse_layer_idx = True
    changed.made_up = 3
    with pytest.raises(UnsupportedModelError):
        model_sizes(changed)
    with pytest.raises(ConfigurationError, match="embeddings='split' needs"):
        model_sizes("smollm2-135m", embeddings="split")
    with pytest.raises(UnknownNameError, match="unknown dtype 'int3'"):
        model_sizes(tiny_gpt2().config).estimate(1, dtype="int3")

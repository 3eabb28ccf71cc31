"""What may be compiled: a model as its config describes it, and nothing that was put around it since.

Each model here computes something else than the graph of its weights would, and the plain run in each test says so
where it is a run; or it is no model, or none that is whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from circuitgraph.architectures import intact
from circuitgraph.architectures.given import check_given
from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import CircuitGraphError, ConfigurationError, ModelWarning, ParityError, UnsupportedModelError
from circuitgraph.models import LoadedModel, load_model
from tests.pruning.prompts.tiny_tokenizers import word_tokenizer

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def refused(model: object, *words: str, verify: bool = False) -> str:
    """The message with which a model is refused; it names what is meant, and is the user's to mend."""
    with pytest.raises(CircuitGraphError) as caught:
        compile_model(model, verify=verify)  # pyright: ignore[reportArgumentType]
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- hooks and methods


def double(module: nn.Module, *rest: object) -> object:
    return 2 * rest[-1]  # type: ignore[operator]


def double_input(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(2 * each for each in given)


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "forward hook": lambda module: module.register_forward_hook(double),
    "forward hook, double": lambda module: module.register_forward_hook(double, with_kwargs=True),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(double_input),
    "backward hook": lambda module: module.register_full_backward_hook(double),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(double),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_are_named(tiny_llama, hook: str) -> None:
    model = tiny_llama()
    before = logits(model)
    handle = HOOKS[hook](model.model.layers[1].mlp)
    assert "backward" in hook or (logits(model) - before).abs().max() > 0.1
    said = refused(model, "model.layers.1.mlp", f"has a {hook.partition(',')[0]}", "double", "handle.remove()")
    assert refused(model, verify=True) == said
    handle.remove()  # type: ignore[attr-defined]
    compile_model(model, verify=False)


def test_hooks_of_every_module_are_named(tiny_gpt2) -> None:
    model = tiny_gpt2()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        refused(model, "every module of this process", "<lambda>")
    finally:
        handle.remove()
    compile_model(model, verify=False)


def test_what_transformers_hooks_by_itself_is_no_change(tiny_llama) -> None:
    """Asking for hidden states hooks the layers for good, and so do trainable adapters the embeddings."""
    model = tiny_llama()
    model(IDS, output_hidden_states=True)
    model.enable_input_require_grads()
    model.model.gradient_checkpointing = True
    assert any(module._forward_hooks for module in model.modules())
    compile_model(model.train())


def test_a_method_set_on_a_module_is_named(tiny_gpt2) -> None:
    model = tiny_gpt2()
    mlp = model.transformer.h[1].mlp
    mlp.forward = lambda x: 0 * x
    refused(model, "transformer.h.1.mlp has a method of its own, forward", "del module.forward")
    del mlp.forward
    model.generate = lambda *_: None  # not called by a forward pass
    compile_model(model, verify=False)


def test_a_method_of_its_own_class_is_no_change(tiny_llama) -> None:
    """Set back where it was, as some tools and transformers 5.0 leave it; dropout of the user's mode does not run."""
    model = tiny_llama()
    expected = logits(model)
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.forward = layer.forward
        layer.self_attn.forward = layer.self_attn.forward
        layer.self_attn.attention_dropout = 0.9
    compiled = compile_model(model.train())
    batch = TokenBatch(
        input_ids=IDS,
        attention_mask=torch.ones_like(IDS),
        predict_index=torch.arange(5),
        predict_prompt=torch.zeros(5, dtype=torch.long),
    )
    torch.testing.assert_close(compiled.logits(batch), expected[0], atol=1e-5, rtol=1e-5)
    model.model.layers[0].mlp.forward = model.model.layers[1].mlp.forward  # another's is
    refused(model, "model.layers.0.mlp has a method of its own, forward")


def test_a_class_patched_from_outside_is_named(tiny_llama, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", lambda self, x: x)
    refused(model, "model.layers.0.mlp", "forward method of LlamaMLP", __name__)


def test_an_attention_of_ones_own_is_named(tiny_llama) -> None:
    from transformers import AttentionInterface

    def mine(*given: object, **others: object) -> object:
        raise NotImplementedError

    AttentionInterface.register("mine", mine)
    try:
        model = tiny_llama()
        model.config._attn_implementation = "mine"
        refused(model, "attention, 'mine'", "attn_implementation='sdpa'")
    finally:
        AttentionInterface._global_mapping.pop("mine")


# ---------------------------------------------------------------- modules and weights


class Adapter(nn.Module):
    """A low-rank change beside a projection, as adapters are."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.down, self.up = base, nn.Linear(base.in_features, 1), nn.Linear(1, base.out_features)
        self.weight, self.bias, self.out_features = base.weight, base.bias, base.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def wrap(model: LlamaForCausalLM) -> None:
    attention = model.model.layers[0].self_attn
    with torch.random.fork_rng(devices=[]):
        attention.q_proj = Adapter(attention.q_proj).to(model.dtype)


def cut_by_a_mask(model: LlamaForCausalLM) -> None:
    prune.l1_unstructured(model.model.layers[0].mlp.up_proj, "weight", 0.5)


def parametrise(model: LlamaForCausalLM) -> None:
    parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)


def replace_norm(model: LlamaForCausalLM) -> None:
    model.model.norm = nn.LayerNorm(16)


def replace_head(model: LlamaForCausalLM) -> None:
    model.lm_head = nn.Linear(16, 29)


def add_layer(model: LlamaForCausalLM) -> None:
    model.model.layers.append(model.model.layers[0])


def drop_layer(model: LlamaForCausalLM) -> None:
    del model.model.layers[1]


def add_norm_of_queries(model: LlamaForCausalLM) -> None:
    model.model.layers[1].self_attn.q_norm = nn.LayerNorm(4)


def widen(model: LlamaForCausalLM) -> None:
    model.model.layers[0].mlp.up_proj = nn.Linear(16, 50, bias=False)


def add_bias(model: LlamaForCausalLM) -> None:
    model.model.layers[0].self_attn.q_proj.bias = nn.Parameter(torch.ones(16))


def add_buffer(model: LlamaForCausalLM) -> None:
    model.model.layers[0].mlp.register_buffer("shift", torch.ones(16))


def rescale(model: LlamaForCausalLM) -> None:
    model.model.layers[1].self_attn.scaling *= 2


def another_epsilon(model: LlamaForCausalLM) -> None:
    model.model.norm.variance_epsilon = 0.1


def share_a_layer(model: LlamaForCausalLM) -> None:
    model.model.layers[1] = model.model.layers[0]


CHANGES: dict[Callable[[LlamaForCausalLM], None], tuple[str, ...]] = {
    wrap: ("model.layers.0.self_attn.q_proj", "test_intact.Adapter", "Linear"),
    cut_by_a_mask: ("model.layers.0.mlp.up_proj.weight is pruned by a mask", "prune.remove(module, name)"),
    parametrise: ("model.layers.0.mlp.up_proj is parametrised (weight)", "remove_parametrizations"),
    replace_norm: ("model.norm", "LayerNorm", "LlamaRMSNorm"),
    replace_head: ("lm_head", "weight bias", "no place"),
    add_layer: ("model.layers", "no place for, 2 (LlamaDecoderLayer)"),
    drop_layer: ("model.layers lacks its module 1",),
    add_norm_of_queries: ("model.layers.1.self_attn", "no place for, q_norm (LayerNorm)"),
    widen: ("model.layers.0.mlp.up_proj", "[50, 16]", "[48, 16]"),
    add_bias: ("model.layers.0.self_attn.q_proj", "weight bias", "no place"),
    add_buffer: ("model.layers.0.mlp", "buffer shift", "no place"),
    rescale: ("model.layers.1.self_attn: scaling is 1.0", "makes it 0.5"),
    another_epsilon: ("model.norm: variance_epsilon is 0.1",),
    share_a_layer: ("model.layers.1.self_attn: layer_idx is 0",),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_its_config_does_not_describe_is_refused(tiny_llama, change, dtype: torch.dtype) -> None:
    model = tiny_llama(dtype=dtype)
    change(model)
    refused(model.to(dtype), *CHANGES[change])


def test_adapters_are_to_be_merged_first(tiny_gpt2) -> None:
    model = tiny_gpt2()
    for block in model.transformer.h:
        block.mlp.lora_A = nn.Linear(12, 2, bias=False)
    said = refused(model, "transformer.h.0.mlp", "lora_A", "model.merge_and_unload()")
    assert said.count("Merge adapters") == 1


def test_many_changes_are_counted(tiny_gpt2) -> None:
    model = tiny_gpt2(n_layers=6)
    for block in model.transformer.h:
        block.mlp.register_forward_hook(double)
    refused(model, "transformer.h.3.mlp", "and 2 more")


def test_what_a_user_may_do_is_compiled(tiny_gpt2, tiny_llama) -> None:
    """Embeddings resized, the head untied, a padding token, dropout, layers that share weights, `module.compile()`."""
    model = tiny_llama()
    model.resize_token_embeddings(31, mean_resizing=False)
    model.config.pad_token_id = 31  # one past the end, as tokenizers with an added token have it
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    model.model.layers[0]._compiled_call_impl = lambda *_: pytest.fail("what module.compile() made was called")
    compile_model(model)
    other = tiny_gpt2()
    other.lm_head.weight = nn.Parameter(other.lm_head.weight * 2)
    other.transformer.drop.p = 0.9
    compile_model(other.train().requires_grad_(False))


@pytest.mark.parametrize("chosen", ["eager", "sdpa", "flex_attention"])
def test_every_attention_of_transformers_has_the_same_graph(tiny_llama, chosen: str) -> None:
    model = tiny_llama()
    model.config._attn_implementation = chosen
    compile_model(model, verify=chosen != "flex_attention")


def test_torchs_own_counters_change_no_number(tiny_gpt2) -> None:
    """They hang hooks on every module of the process while they count."""
    model = tiny_gpt2()
    before = compile_model(model, verify=False)
    with FlopCounterMode(display=False) as counted:
        compile_model(model)
        assert before.bound is not None
    assert counted.get_total_flops() > 0


def test_no_global_state_moves(tiny_gpt2) -> None:
    intact._TWINS.clear()
    before = torch.get_rng_state()
    compile_model(tiny_gpt2(), verify=False)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- weights that are no plain numbers


def test_weights_of_two_formats_are_named(tiny_llama) -> None:
    model = tiny_llama()
    model.model.layers[1].bfloat16()
    refused(model, "several number formats", "float32 (model.embed_tokens.weight)", "bfloat16 (model.layers.1.")


def test_experts_in_float64_are_run_one_by_one(tmp_path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = {"num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1}
    with torch.random.fork_rng(devices=[]):
        model = MixtralForCausalLM(MixtralConfig(vocab_size=29, max_position_embeddings=16, **sizes, **experts)).eval()
    model.save_pretrained(tmp_path)
    word_tokenizer(["a b"]).save_pretrained(tmp_path)
    model.double()
    with pytest.raises(RuntimeError, match="Double"):
        logits(model)
    refused(model, "its experts run by grouped_mm, which takes no float64", "set_experts_implementation('eager')")
    model.set_experts_implementation("eager")
    loaded = load_model(str(tmp_path), dtype="float64")
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-12, rtol=1e-12)
    assert compile_model(loaded).dtype == compile_model(model).dtype == torch.float64


def test_weights_on_two_devices_or_none_are_named(tiny_llama) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(tiny_llama().config)
    refused(model, "are not in memory (meta device), such as model.embed_tokens.weight", "device_map")
    model = tiny_llama()
    model.model.layers[1].mlp.to("meta")
    refused(model, "3 of its weights are not in memory", "model.layers.1.mlp.gate_proj.weight")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda weight: weight.to_sparse_csr(), "torch.sparse_csr"),
        (lambda weight: weight.to(torch.float8_e4m3fn), "float8"),
        (lambda weight: weight.to(torch.int8), "int8"),
        (lambda weight: weight.to(torch.complex64), "complex64"),
    ],
    ids=["sparse", "float8", "int8", "complex"],
)
def test_weights_of_other_kinds_are_named(tiny_llama, make, words: str) -> None:
    model = tiny_llama()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's sparse tensors are in beta
        weight = nn.Parameter(make(model.model.layers[0].mlp.up_proj.weight.detach()), requires_grad=False)
    model.model.layers[0].mlp.up_proj.weight = weight
    refused(model, words, "model.layers.0.mlp.up_proj.weight")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_weights_that_are_no_numbers_are_named(tiny_llama, tied: bool) -> None:
    model = tiny_llama(tie_word_embeddings=tied, vocab_size=2000)
    with torch.no_grad():
        model.model.embed_tokens.weight[[5, 7]] = torch.nan
    with pytest.warns(ModelWarning, match=r"2 of the 2000 rows of model\.embed_tokens\.weight are not finite \(5, 7\)"):
        compile_model(model)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1)
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.inf
    assert "model.layers.1.mlp.up_proj.weight" in refused(model, "1 of its 2", verify=True)


def test_numbers_too_large_for_their_format_are_told_apart(tiny_llama) -> None:
    model = tiny_llama(dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(60000)
    with pytest.raises(ParityError, match=r"no numbers in float16.*wider number format"):
        compile_model(model)


def test_weights_of_inference_mode_are_named(tiny_llama) -> None:
    """No gradient goes through them: what is made without gradients has no such trouble."""
    with torch.inference_mode():
        model = tiny_llama()
    refused(model, "20 of its weights are of torch.inference_mode()", "model.embed_tokens.weight", "torch.no_grad()")
    with torch.inference_mode(), pytest.raises(UnsupportedModelError, match="inference_mode"):
        compile_model(model)
    with torch.no_grad():
        compile_model(tiny_llama())


# ---------------------------------------------------------------- no model at all


def test_what_is_no_model_is_named(tiny_llama) -> None:
    model = tiny_llama()
    for given, words in (
        ("smollm2-135m", "compile_model(load_model('smollm2-135m'))"),
        (None, "got None"),
        (LlamaForCausalLM, "the class LlamaForCausalLM"),
        (model.state_dict(), "OrderedDict"),
        (compile_model(model, verify=False), "a compiled model"),
        (LoadedModel(model="gpt2", tokenizer=None, name="tuned"), "load_model('gpt2')"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            # The tests' checks of types would refuse most of these before `compile_model` does.
            compile_model(given) if isinstance(given, LoadedModel) else check_given(given)
        assert words in str(caught.value)


def test_wrappers_are_named(tiny_llama) -> None:
    model = tiny_llama()
    refused(nn.DataParallel(model), "DataParallel", "`model.module`")
    optimised = type("OptimizedModule", (nn.Module,), {"_orig_mod": model})  # torch.compile itself takes seconds
    refused(optimised(), "OptimizedModule", "`model._orig_mod`")
    refused(nn.Sequential(model), "Sequential", "no config")
    adapted = type("PeftModelForCausalLM", (nn.Module,), {"__module__": "peft.peft_model", "config": model.config})
    refused(adapted(), "PeftModelForCausalLM", "model = model.merge_and_unload()")


def test_a_tokenizer_is_named() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ConfigurationError, match=r"the tokenizer .*LoadedModel\(model=model"):
        check_given(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_a_subclass_is_another_model(tiny_llama) -> None:
    mine = type("LlamaForCausalLM", (LlamaForCausalLM,), {"__module__": "elsewhere"})
    with torch.random.fork_rng(devices=[]):
        model = mine(tiny_llama().config)
    refused(model, "LlamaForCausalLM", "elsewhere")


def test_a_quantised_model_is_named(tiny_llama) -> None:
    model = tiny_llama()
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(UnsupportedModelError, match=r"quantised \(bitsandbytes\)"):
        compile_model(model)

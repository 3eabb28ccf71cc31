"""Tiny models and random batches on which the executor is compared with the oracles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, MistralRotaryEmbedding

from circuitgraph.architectures.intact import STAND_INS
from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.universe import Universe
from circuitgraph.tracr import TracrConfig, TracrModel
from tests.circuitgraph.graph.universes import universes

MakeModel = Callable[..., nn.Module]

# name -> (family, how the model is made, choices of the universe)
CASES: dict[str, tuple[str, dict[str, int], dict[str, str]]] = {
    "gpt2": ("gpt2", {}, {}),
    "gpt2-split-embeddings": ("gpt2", {}, {"embeddings": "split"}),
    "gpt2-joint-qkv": ("gpt2", {}, {"qkv": "joint"}),
    "llama-mha": ("llama", {"n_kv_heads": 4}, {}),
    "llama-gqa": ("llama", {"n_kv_heads": 2}, {}),
    "llama-gqa-per-query": ("llama", {"n_kv_heads": 2}, {"kv_heads": "per_query"}),
    "llama-gqa-joint": ("llama", {"n_kv_heads": 2}, {"kv_heads": "per_query", "qkv": "joint"}),
    "llama-mqa": ("llama", {"n_kv_heads": 1}, {}),
    "llama-biases": ("llama-biases", {"n_kv_heads": 2}, {}),
    "mistral": ("mistral", {"n_kv_heads": 2}, {}),
    "tracr-both-ways": ("tracr", {"causal": False}, {"embeddings": "split"}),
    "tracr-causal": ("tracr", {"causal": True}, {}),
}

_QUICK = ("gpt2", "llama-gqa")
BATTERY = [pytest.param(case, marks=() if case in _QUICK else pytest.mark.slow) for case in CASES]
"""All cases, for a battery of tests; `make test-fast` runs two of them."""

FAMILIES = ("gpt2", "llama", "mistral", "tracr")


class UncastRotary(nn.Module):
    """Llama's rotary embedding without its detour through float32."""

    def __init__(self, d_head: int, theta: float) -> None:
        super().__init__()
        self.register_buffer("steps", theta ** -(torch.arange(0, d_head, 2, dtype=torch.float64) / d_head))

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angle = position_ids[..., None].double() * self.steps
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


class UncastMistralRotary(UncastRotary):
    """The same of Mistral's."""


class UncastMistralRMSNorm(nn.Module):
    """Mistral's norm without its cast to float32."""

    def __init__(self, norm: MistralRMSNorm):
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


STAND_INS[UncastRotary] = LlamaRotaryEmbedding
STAND_INS[UncastMistralRotary] = MistralRotaryEmbedding
STAND_INS[UncastMistralRMSNorm] = MistralRMSNorm
WINDOW = 3
"""Shorter than most prompts of the tests, which would not see a window otherwise."""


def as_mistral(model: LlamaForCausalLM, *, window: int | None = WINDOW, **settings: object) -> MistralForCausalLM:
    """A Mistral with a Llama's weights; with a window it is another function.

    Args:
        model: A Llama without biases.
        window: How many positions a query sees.
        settings: More of its config.
    """
    names = MistralConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version", "dtype"}
    values = {name: value for name, value in model.config.to_dict().items() if name in names}
    with torch.random.fork_rng(devices=[]):
        made = MistralForCausalLM(MistralConfig(**values | {"sliding_window": window} | settings))
    dtype = model.lm_head.weight.dtype
    made = made.to(dtype).eval()
    made.load_state_dict(model.state_dict())
    if dtype == torch.float64:
        for module in list(made.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, MistralRMSNorm):
                    setattr(module, name, UncastMistralRMSNorm(child))
        made.model.rotary_emb = UncastMistralRotary(made.config.head_dim, 10000.0)
    return made


def give_biases(model: nn.Module, seed: int) -> None:
    """Give every linear map of a Llama's blocks a random bias, as `attention_bias` and `mlp_bias` do."""
    generator = torch.Generator().manual_seed(seed)
    for block in model.model.layers:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                noise = 0.2 * torch.randn(module.out_features, generator=generator, dtype=torch.float64)
                module.bias = nn.Parameter(noise.to(module.weight.dtype))
    model.config.attention_bias = model.config.mlp_bias = True


def random_tracr(*, causal: bool, dtype: torch.dtype, n_layers: int = 2, n_heads: int = 3, seed: int = 0) -> TracrModel:
    """A Tracr-shaped model with random weights; two heads or more are together wider than its stream."""
    model = TracrModel(
        TracrConfig(
            program="random", n_layers=n_layers, n_heads=n_heads, d_head=5, d_model=8, d_mlp=12, n_positions=16,
            d_out=6, output="categorical", tokens=tuple("abcdefghij"), bos_token="a", pad_token="b",
            output_symbols=tuple("uvwxyz"), residual_labels=tuple("ABCDEFGH"), causal=causal,
        )
    ).to(dtype)  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.2 * noise)
    return model


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A tiny model by its graph.

    Attributes:
        family: A family of `CASES`.
        universe: All that its graph depends on; parallel blocks are made of sequential ones by `in_parallel`.
        causal: Whether its attention is; only Tracr's may be otherwise.
        seed: Of its weights.
    """

    family: str
    universe: Universe
    causal: bool
    seed: int

    @property
    def sizes(self) -> dict[str, int]:
        """How it is made."""
        universe = self.universe
        sizes = {"n_layers": universe.n_layers, "n_heads": universe.n_heads, "seed": self.seed}
        if self.family == "tracr":
            return {**sizes, "causal": self.causal}
        return sizes if self.family == "gpt2" else {**sizes, "n_kv_heads": universe.n_kv_heads}


@st.composite
def small_models(draw: st.DrawFn, family: str) -> SmallModel:
    """Any layers, heads, groups of heads and choices that one of `FAMILIES` has."""
    universe = replace(draw(universes()), family=family, head_scale="own", virtual=())
    if family in ("llama", "mistral"):
        universe = replace(universe, embeddings="joint")
        family = draw(st.sampled_from(["llama", "llama-biases"])) if family == "llama" else family
    else:
        universe = replace(universe, n_kv_heads=universe.n_heads)
    return SmallModel(
        family=family,
        universe=universe,
        causal=draw(st.booleans()) if family == "tracr" else True,
        seed=draw(st.integers(0, 10_000)),
    )


@dataclass(frozen=True)
class ModelMakers:
    """The two fixtures of `tests/conftest.py`, handed on."""

    gpt2: MakeModel
    llama: MakeModel

    def make(self, family: str, *, dtype: torch.dtype, **sizes: int) -> nn.Module:
        """A model of a family of `CASES`; in float64 nothing in it passes through float32."""
        if family == "gpt2":
            return self.gpt2(dtype=dtype, **sizes)
        if family == "tracr":
            return random_tracr(dtype=dtype, **sizes)
        model = self.llama(dtype=dtype, **sizes)
        if family == "mistral":
            return as_mistral(model)
        if family == "llama-biases":
            give_biases(model, seed=7)
        if dtype == torch.float64:
            model.model.rotary_emb = UncastRotary(model.config.head_dim, 10000.0)
        return model

    def compile(self, case: str, *, dtype: torch.dtype, **sizes: int) -> CompiledModel:
        """Compile a case of `CASES` without the parity gate, which has tests of its own."""
        family, defaults, choices = CASES[case]
        return compile_model(self.make(family, dtype=dtype, **{**defaults, **sizes}), verify=False, **choices)

    def compile_small(self, small: SmallModel) -> CompiledModel:
        """Compile a drawn model in float64."""
        universe = small.universe
        compiled = compile_model(
            self.make(small.family, dtype=torch.float64, **small.sizes), verify=False,
            embeddings=universe.embeddings, kv_heads=universe.kv_heads, qkv=universe.qkv,
        )  # fmt: skip
        if universe.block_order == "parallel":
            compiled = in_parallel(compiled)
        assert compiled.universe == universe
        return compiled


def in_parallel(compiled: CompiledModel) -> CompiledModel:
    """The same weights with MLPs that do not read their own layer's heads, as in GPT-J: another model."""
    universe = replace(compiled.universe, block_order="parallel")
    shape = replace(compiled.shape, block_order="parallel")
    return replace(compiled, shape=shape, universe=universe, gate_map=GateMap.identity(universe))


def prompt_rows(batch: TokenBatch) -> list[Tensor]:
    """The real tokens of every prompt, without padding."""
    return [ids[real.bool()] for ids, real in zip(batch.input_ids, batch.attention_mask, strict=True)]


def asked_places(batch: TokenBatch) -> list[tuple[int, int]]:
    """Asked positions as pairs of a prompt and a place among its real tokens."""
    seq = batch.input_ids.shape[1]
    found = []
    for flat in batch.predict_index.tolist():
        prompt, column = divmod(flat, seq)
        found.append((prompt, int(batch.attention_mask[prompt, :column].sum())))
    return found


def pair_of_batches(
    *, lengths: list[int], side: str, n_asked: int, n_tokens: int, seed: int
) -> tuple[TokenBatch, TokenBatch]:
    """A clean and a corrupted batch of equal shape, padding and asked positions, with none to all tokens shared.

    Args:
        lengths: Real tokens per prompt.
        side: Where padding lies.
        n_asked: Asked positions a prompt, at random among its real tokens (at most all of them).
        n_tokens: Size of the vocabulary.
        seed: Of the tokens and the asked positions.
    """
    generator = torch.Generator().manual_seed(seed)
    seq = max(lengths)
    real = torch.zeros(len(lengths), seq, dtype=torch.long)
    index, prompts = [], []
    for prompt, length in enumerate(lengths):
        first = seq - length if side == "left" else 0
        real[prompt, first : first + length] = 1
        places = torch.randperm(length, generator=generator)[:n_asked].sort().values
        index += [prompt * seq + first + int(place) for place in places]
        prompts += [prompt] * len(places)

    def batch(ids: torch.Tensor) -> TokenBatch:
        return TokenBatch(
            input_ids=ids,
            attention_mask=real,
            predict_index=torch.tensor(index),
            predict_prompt=torch.tensor(prompts),
        )

    clean, other = (torch.randint(0, n_tokens, real.shape, generator=generator) for _ in range(2))
    # From all tokens drawn anew to all of them shared: what is shared need not be computed.
    share = float(torch.tensor([0.0, 0.5, 0.8, 1.0])[torch.randint(0, 4, (1,), generator=generator)])
    shared = torch.rand(real.shape, generator=generator) < share
    return batch(clean), batch(torch.where(shared, clean, other))

"""What a family tells the battery about itself: one `Case`, a tiny random model with every understood field in use.

Nothing here or in `families.py` is taken from `circuitgraph`: sizes, landmarks and fields are written out, and
`transformers` makes the models.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.forward.engine.choose import engine_for
from tests.oracles.landmarks import Landmarks, Names

VOCAB, WIDTH, INNER, LAYERS, HEADS, GROUPS = 61, 24, 40, 3, 6, 3
"""Of the models of nearly all cases; `GROUPS` key-value heads are neither 1 nor all."""
SIZES = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "max_position_embeddings": 64,
}  # fmt: skip
OF_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
"""What families call the number of heads."""
WINDOW = 3
"""Shorter than the prompts, which would not see a window otherwise."""


@dataclass(frozen=True)
class Toggle:
    """Another value of a config field, and what else has to be set for it to matter.

    Attributes:
        value: The other value.
        beside: Fields that are set before and after.
        after: Fields that have to change with it.
    """

    value: object
    beside: Mapping[str, object] = field(default_factory=dict)
    after: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A family's tiny model, or one of its kinds.

    Attributes:
        family: What the family is called in `circuitgraph`.
        kind: What sets this model apart from the family's first; empty for the first.
        config: The class of its config.
        loads: What makes its model of one.
        settings: Fields of the config, over `SIZES`.
        sizes: What stands instead of `SIZES`.
        names: Where its modules are.
        groups: The field with the number of key-value heads; None where a family has no groups.
        one_group: Whether it always has one key-value head.
        n_heads: How many query heads a layer has.
        parallel: Whether an MLP reads what its own layer's attention reads.
        shared_scale: Whether the heads of a layer share a scale.
        gain: The mean of the weights of norms: 0 where a model keeps them as differences from 1.
        exact: How near float64 runs come, relative to the spread of the logits; 1e-11 is seen where next to nothing is
            left of what a norm scales up.
        toggles: For every understood field that `settings` or `sizes` may have: other values, for parity and logits.
        harmless: Fields that change no logit, in this family alone.
        refused: Understood at one value only: another one.
    """

    family: str
    kind: str = ""
    config: type[PretrainedConfig]
    loads: Any = AutoModelForCausalLM
    settings: Mapping[str, object] = field(default_factory=dict)
    sizes: Mapping[str, object] = field(default_factory=lambda: SIZES)
    names: Names
    groups: str | None = "num_key_value_heads"
    one_group: bool = False
    n_heads: int = HEADS
    parallel: bool = False
    shared_scale: bool = False
    gain: float = 1.0
    exact: float = 1e-9
    toggles: Mapping[str, object] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    refused: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The family, and the kind."""
        return f"{self.family}-{self.kind}" if self.kind else self.family

    def changed(self, **settings: object) -> Case:
        """The same with other settings."""
        return replace(self, settings={**self.settings, **settings})

    def with_groups(self, n_kv_heads: int) -> Case:
        """The same with so many key-value heads."""
        return self if self.groups is None else self.changed(**{self.groups: n_kv_heads})

    def make_config(self) -> PretrainedConfig:
        """Its config; tokens with a meaning do not change a number."""
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        # A copy: configs of some families write into the settings of their rotary embeddings.
        return self.config(**copy.deepcopy({**self.sizes, **tokens, **self.settings}))

    def make(self, *, attention: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Its model; weights of one name and shape are the same in all models.

        Args:
            attention: `eager` or `sdpa`; None takes what `transformers` takes.
            dtype: Number format.
        """
        given = {} if attention is None else {"attn_implementation": attention}
        if dtype == torch.float64 and "num_experts_per_tok" in self.settings:
            given["experts_implementation"] = "eager"  # the grouped products of torch are not for float64
        with torch.random.fork_rng(devices=[]):
            model = self.loads.from_config(self.make_config(), **given)
        model = model.to(dtype).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                noise = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                is_gain = parameter.ndim == 1 and name.endswith("weight")
                parameter.copy_(noise + self.gain if is_gain else noise)
        return model

    def landmarks(self, model: nn.Module) -> Landmarks:
        """Where its modules are."""
        config: Any = model.config
        settings = {**self.sizes, **self.settings}
        n_heads = next(settings[name] for name in OF_HEADS if name in settings)
        width = settings.get("hidden_size") or settings.get("n_embd") or settings["d_model"]
        groups = n_heads if self.groups is None else getattr(config, self.groups)
        groups = 1 if self.one_group else groups
        d_head = settings.get("head_dim") or width // n_heads  # type: ignore[operator]
        return self.names.find(model, d_head=d_head, n_heads=n_heads, n_kv_heads=groups)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Made:
    """A case's model, compiled, and where its modules are."""

    case: Case
    compiled: CompiledModel

    @property
    def model(self) -> nn.Module:
        return self.compiled.model

    @property
    def marks(self) -> Landmarks:
        return self.case.landmarks(self.model)

    @property
    def n_edges(self) -> int:
        return self.compiled.universe.n_edges


def compiled_case(case: Case, *, attention: str | None = None, dtype: torch.dtype = torch.float32) -> Made:
    """Compile a case without the parity gate, which has tests of its own."""
    engine_for(torch.device("cpu"), dtype)  # tried when first asked for; not within `uncast`, which it would not stand
    return Made(case, compile_model(case.make(attention=attention, dtype=dtype), verify=False))


@cache
def made(case: str, dtype: torch.dtype = torch.float32) -> Made:
    """The compiled model of a case, as `transformers` runs it by default; made once."""
    from tests.circuitgraph.architectures.battery.families import CASES

    return compiled_case(CASES[case], dtype=dtype)


def exact(case: str) -> Made:
    """The same in float64; runs of it belong into `tests.oracles.uncast.uncast`."""
    return made(case, torch.float64)


def prompts(*, side: str = "left", seed: int = 0) -> tuple[TokenBatch, TokenBatch]:
    """Prompts and their counterfactuals, all longer than `WINDOW`; every real token is asked.

    The first two tokens are shared.

    Args:
        side: Where padding lies: `left`, `right` or `none`.
        seed: Of the tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    real = torch.ones(3, 8, dtype=torch.int64)
    if side != "none":
        real[1, slice(0, 2) if side == "left" else slice(-2, None)] = 0
    index = real.flatten().nonzero()[:, 0]

    def batch(ids: Tensor) -> TokenBatch:
        return TokenBatch(input_ids=ids, attention_mask=real, predict_index=index, predict_prompt=index // 8)

    clean, other = (torch.randint(3, VOCAB, real.shape, generator=generator) for _ in range(2))
    other[:, :2] = clean[:, :2]
    other[1, :4] = clean[1, :4]
    return batch(clean), batch(other)


def gates_of(n_edges: int, *, cut: float, seed: int = 0, between: bool = False) -> Tensor:
    """Gates of which a share is 0.

    Args:
        n_edges: How many.
        cut: The share.
        seed: Of what is cut.
        between: Whether half of the others lie between 0 and 1; else all are 1.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = (torch.rand(n_edges, generator=generator) >= cut).float()
    if not between:
        return kept
    inner = torch.rand(n_edges, generator=generator)
    return torch.where(torch.rand(n_edges, generator=generator) < 0.5, kept, kept * inner)


def differs_by(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, over the spread of the expected numbers, which may be none."""
    return float(((ours - theirs).abs().max() / theirs.std().clamp(min=1e-3)).detach())

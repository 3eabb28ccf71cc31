"""What a model family has to declare: its sizes, where its weights are, and which config it understands.

`compile_model` asks a `Family` for a `ModelShape` (from the config alone) and for a `BoundModel`: views of
the model's own weights and modules, in the form in which the forward pass uses them. Nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitgraph.errors import UnsupportedModelError

# Fields of any Hugging Face config that do not change what a forward pass computes.
_HARMLESS = frozenset(
    """_name_or_path architectures bos_token_id chunk_size_feed_forward decoder_start_token_id dtype eos_token_id
    finetuning_task forced_bos_token_id forced_eos_token_id id2label initializer_range keys_to_ignore_at_inference
    label2id model_type output_attentions output_hidden_states pad_token_id prefix problem_type return_dict
    sep_token_id task_specific_params tie_word_embeddings tokenizer_class torch_dtype transformers_version use_cache
    is_llama_config rope_interleaved transformers.js_config _attn_implementation _experts_implementation
    unk_token_id cls_token_id mask_token_id
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model.

    Attributes:
        n_layers: Number of blocks.
        n_heads: Query heads a layer.
        n_kv_heads: Key-value heads a layer.
        d_model: Width of the residual stream.
        d_head: Width of a head.
        d_mlp: Inner width of an MLP.
        d_vocab: Tokens, or numbers, put out at each position.
        n_positions: Longest sequence, or None where nothing limits it.
        learned_positions: Whether there are position embeddings, a writer of their own under `embeddings="split"`.
        block_order: `sequential` or `parallel`.
        causal: Whether a position sees only earlier ones.
        mlp_saved: How many tensors of the MLP's inner width autograd keeps, for the memory estimate.
        mlp_saved_narrow: The same in number formats narrower than float32, if it is another number there.
        mlp_matrices: How many matrices an MLP has.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_positions: int | None
    learned_positions: bool
    block_order: str = "sequential"
    causal: bool = True
    mlp_saved: int = 4
    mlp_saved_narrow: int | None = None
    mlp_matrices: int = 2

    def mlp_saved_in(self, n_bytes: int) -> int:
        """`mlp_saved` in numbers of so many bytes."""
        return self.mlp_saved_narrow or self.mlp_saved if n_bytes < 4 else self.mlp_saved


@dataclass(frozen=True)
class Projection:
    """A linear map from the residual stream to heads.

    Attributes:
        matrix: Weights; a head's columns stand together.
        bias: Bias, or None.
        n_heads: How many heads it serves.
    """

    matrix: Float[Tensor, "d_model head_times_d_head"]
    bias: Float[Tensor, " head_times_d_head"] | None
    n_heads: int

    @property
    def per_head(self) -> Float[Tensor, "head d_model d_head"]:
        """The weights a head, as a view."""
        return self.matrix.unflatten(1, (self.n_heads, -1)).permute(1, 0, 2)

    @property
    def bias_per_head(self) -> Float[Tensor, "head d_head"] | None:
        """The bias a head, as a view."""
        return None if self.bias is None else self.bias.unflatten(0, (self.n_heads, -1))


@dataclass(frozen=True, kw_only=True)
class BoundBlock:
    """One layer's own weights and modules.

    Attributes:
        attention_norm: Norm before the attention.
        query: Query projection.
        key: Key projection.
        value: Value projection.
        output: Weights from the heads back to the residual stream; a head's rows stand together.
        output_bias: Its bias, which belongs to no head and is never ablated.
        scale: Factor on the attention scores.
        mlp_norm: Norm before the MLP.
        mlp: The MLP.
    """

    attention_norm: nn.Module
    query: Projection
    key: Projection
    value: Projection
    output: Float[Tensor, "head_times_d_head d_model"]
    output_bias: Float[Tensor, " d_model"] | None
    scale: float
    mlp_norm: nn.Module
    mlp: nn.Module


Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class BoundModel:
    """A model's own weights and modules, in the form in which the forward pass uses them.

    Attributes:
        embed: Token and position ids to what each embedding writer says: `(tokens,)` or `(tokens, positions)`.
        blocks: The layers.
        final_norm: Norm before the logits.
        unembed: The output head.
        rotary: Position ids to the rotary embedding's cosines and sines, or None.
        rotate: Applies them to queries and keys `[head batch seq d_head]`.
    """

    embed: Callable[[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]], tuple[Tensor, ...]]
    blocks: tuple[BoundBlock, ...]
    final_norm: nn.Module
    unembed: nn.Module
    rotary: Callable[[Tensor, Int[Tensor, "batch seq"]], Rotary] | None = None
    rotate: Callable[[Tensor, Tensor, Rotary], tuple[Tensor, Tensor]] | None = None


def any_ids(config: Any, real: Int[Tensor, "batch seq"], generator: torch.Generator) -> Int[Tensor, "batch seq"]:
    """Draw any tokens of the vocabulary."""
    return torch.randint(0, int(config.vocab_size), real.shape, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family.

    Attributes:
        name: The family's name in a universe.
        model_classes: Class names of the models that can be bound.
        shape: Sizes from a config.
        bind: Views of a model's weights and modules. It is given a frozen view (see `frozen_view`).
        understood: Config fields that `shape` and `bind` honour, or that the model's own modules do.
        required: Config fields that are understood at one value only.
        harmless: Config fields that do not change a forward pass in evaluation mode.
        random_ids: Prompts for the parity gate, from a config and the mask of real tokens.
    """

    name: str
    model_classes: frozenset[str]
    shape: Callable[[Any], ModelShape]
    bind: Callable[[Any], BoundModel]
    understood: frozenset[str]
    required: Mapping[str, object]
    harmless: frozenset[str]
    random_ids: Callable[[Any, Int[Tensor, "batch seq"], torch.Generator], Int[Tensor, "batch seq"]] = any_ids

    def check_config(self, config: Any) -> None:
        """Refuse a config with a field that is not understood.

        Args:
            config: A Hugging Face config.

        Raises:
            UnsupportedModelError: A field is not understood and not at its default.
        """
        values = config.to_dict()
        for field, wanted in self.required.items():
            if field in values and values[field] != wanted:
                raise UnsupportedModelError(
                    f"{self.name}: config field {field}={values[field]!r} is not supported; only {wanted!r} is"
                )
        known = self.understood | self.harmless | _HARMLESS | set(self.required)
        unknown = {field: value for field, value in values.items() if field not in known and value is not None}
        # A config that is fully known need not have defaults; Tracr's has none.
        defaults = type(config)().to_dict() if unknown else {}
        for field, value in unknown.items():
            if field in defaults and defaults[field] == value:
                continue
            raise UnsupportedModelError(
                f"{self.name}: config field {field}={value!r} is not understood, so the compiled graph could be "
                "wrong; load a model without it, or teach it to "
                f"circuitgraph/architectures/{self.name}.py"
            )


def frozen_view(module: nn.Module) -> nn.Module:
    """A second module tree over the same weights, in evaluation mode and without gradients.

    The original keeps its mode, hooks and `requires_grad`; no weight is copied, so in-place changes of the
    weights (further training, loading a state dict) are seen.

    Args:
        module: Any module.

    Returns:
        A module that shares every weight and buffer.
    """
    view = module.__class__.__new__(module.__class__)
    view.__dict__ = dict(module.__dict__)
    view.__dict__["_parameters"] = {
        name: None if weight is None else nn.Parameter(weight.detach(), requires_grad=False)
        for name, weight in module._parameters.items()
    }
    view.__dict__["_buffers"] = dict(module._buffers)
    view.__dict__["_modules"] = {
        name: None if child is None else frozen_view(child) for name, child in module._modules.items()
    }
    for hooks in [name for name in view.__dict__ if name.endswith("_hooks")]:
        view.__dict__[hooks] = type(view.__dict__[hooks])()
    view.__dict__["training"] = False
    if "_compiled_call_impl" in view.__dict__:  # of `module.compile()`, bound to the original
        view.__dict__["_compiled_call_impl"] = None
    return view


def no_norm() -> nn.Module:
    """The norm of a model that has none."""
    return nn.Identity()

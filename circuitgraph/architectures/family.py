"""What a model family has to declare: its sizes, where its weights are, and which config it understands.

`compile_model` asks a `Family` for a `ModelShape` (from the config alone) and for a `BoundModel`: views of
the model's own weights and modules, in the form in which the forward pass uses them. Nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.config_fields import Field, says_nothing, wrong_values
from circuitgraph.architectures.given import quantisation
from circuitgraph.architectures.norm import Norm
from circuitgraph.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model.

    Attributes:
        n_layers: Number of blocks.
        n_heads: Query heads per layer.
        n_kv_heads: Key-value heads per layer.
        d_model: Width of the residual stream.
        d_head: Width of a head.
        d_mlp: Inner width of an MLP.
        d_vocab: Tokens, or numbers, put out at each position.
        n_positions: Longest sequence that the model was made for, or None where nothing limits it.
        learned_positions: Whether there are position embeddings, a writer of their own under `embeddings="split"`.
        tabled_positions: Whether positions beyond `n_positions` are unknown though none is learned.
        block_order: `sequential` or `parallel`.
        causal: Whether a position sees only earlier ones.
        head_scale: `shared` where a norm stands behind the heads, or over queries or keys of all of them together.
        normed_together: Whether queries or keys of all heads of a layer are normed together.
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
    tabled_positions: bool = False
    block_order: str = "sequential"
    causal: bool = True
    head_scale: str = "own"
    normed_together: bool = False
    mlp_saved: int = 4
    mlp_saved_narrow: int | None = None
    mlp_matrices: int = 2

    @property
    def longest_prompt(self) -> int | None:
        """The longest prompt in tokens that can run: rotary models run longer ones than they were made for."""
        return self.n_positions if self.learned_positions or self.tabled_positions else None

    def mlp_saved_in(self, n_bytes: int) -> int:
        """`mlp_saved` in numbers of so many bytes."""
        return self.mlp_saved_narrow or self.mlp_saved if n_bytes < 4 else self.mlp_saved


@dataclass(frozen=True)
class Projection:
    """A linear map from the residual stream to heads.

    Attributes:
        weights: Each head's, as a view of the model's; one axis of heads, or two where the heads of a group stand
            together and groups apart.
        biases: Each head's, or None.
    """

    weights: Float[Tensor, "*head d_model d_head"]
    biases: Float[Tensor, "*head d_head"] | None

    @classmethod
    def of(
        cls,
        matrix: Float[Tensor, "d_model head_times_d_head"],
        bias: Float[Tensor, " head_times_d_head"] | None,
        n_heads: int,
    ) -> Projection:
        """The projection of a matrix in which a head's columns stand together.

        Args:
            matrix: The weights.
            bias: Its bias, or None.
            n_heads: How many heads it serves.
        """
        biases = None if bias is None else bias.unflatten(0, (n_heads, -1))
        return cls(matrix.unflatten(1, (n_heads, -1)).permute(1, 0, 2), biases)

    @property
    def n_heads(self) -> int:
        """How many heads it serves."""
        return math.prod(self.weights.shape[:-2])

    @property
    def per_head(self) -> Float[Tensor, "head d_model d_head"]:
        """Each head's weights: a view, or a copy where no view is to be had."""
        return self.weights.flatten(0, -3)

    @property
    def bias_per_head(self) -> Float[Tensor, "head d_head"] | None:
        """Each head's bias, likewise."""
        return None if self.biases is None else self.biases.flatten(0, -2)

    @property
    def matrix(self) -> Float[Tensor, "d_model head_times_d_head"]:
        """The weights, a head's columns together: a view, or a copy where a model keeps them otherwise."""
        return self.per_head.permute(1, 0, 2).flatten(1)

    @property
    def bias(self) -> Float[Tensor, " head_times_d_head"] | None:
        """The biases in the same order."""
        return None if self.bias_per_head is None else self.bias_per_head.flatten()


@dataclass(frozen=True, kw_only=True)
class BoundBlock:
    """One layer's own weights and modules.

    Attributes:
        attention_norm: Norm before the attention.
        query: Query projection.
        key: Key projection.
        value: Value projection.
        raw_output: Weights from the heads back to the residual stream; a head's rows stand together.
        raw_output_bias: Its bias, or None.
        attention: How its heads attend.
        mlp_norm: Norm before the MLP.
        mlp: The MLP, with all that stands between what it reads, normed, and the residual stream.
        output_factor: What `raw_output` and `output_bias` are multiplied with.
        heads_norm: RMS norm between the sum of the heads and the residual stream, whose scale all heads of the layer
            share; None where there is none.

    Raises:
        UnsupportedModelError: A norm behind the heads that is no RMS norm, or with an output bias before it.
    """

    attention_norm: Norm
    query: Projection
    key: Projection
    value: Projection
    raw_output: Float[Tensor, "head_times_d_head d_model"]
    attention: Attention
    mlp_norm: Norm
    mlp: nn.Module
    raw_output_bias: Float[Tensor, " d_model"] | None = None
    output_factor: float = 1.0
    heads_norm: Norm | None = None

    def __post_init__(self) -> None:
        if self.heads_norm is not None and (self.heads_norm.kind != "rms" or self.raw_output_bias is not None):
            raise UnsupportedModelError(
                "a norm behind the heads has to be an RMS norm, and the output projection before it without a bias: "
                "heads would not add up otherwise"
            )

    @property
    def output(self) -> Float[Tensor, "head_times_d_head d_model"]:
        """From what heads gather, scaled by `settled`, to what they write; a head's rows stand together."""
        weight = self.raw_output
        if self.heads_norm is not None and self.heads_norm.factor is not None:
            weight = weight * self.heads_norm.factor
        return weight if self.output_factor == 1 else weight * self.output_factor

    @property
    def output_bias(self) -> Float[Tensor, " d_model"] | None:
        """What the attention adds beside its heads; it belongs to no head and is never ablated."""
        bias = self.raw_output_bias
        return bias if bias is None or self.output_factor == 1 else bias * self.output_factor

    def settled(self, mixed: Float[Tensor, "head *row d_head"]) -> Float[Tensor, "head *row d_head"]:
        """What heads gather, over the scale that they share behind a norm.

        With g the norm's weights, `norm(Σ_h a_h W_h) = Σ_h (a_h / s) (W_h · g)` and s the root mean square of the sum:
        scaled by it, heads are writers that add up.

        Args:
            mixed: What heads gather; of all the layer's heads where there is a norm behind them.
        """
        if self.heads_norm is None:
            return mixed
        return mixed * self.heads_norm.inverse_scale(mixed.movedim(0, -2).flatten(-2) @ self.raw_output)


Rotary = tuple[Tensor, Tensor]
Rotaries = tuple[Rotary, ...]


@dataclass(frozen=True, kw_only=True)
class BoundModel:
    """A model's own weights and modules, in the form in which the forward pass uses them.

    Attributes:
        embed: Token and position ids to what each embedding writer says: `(tokens,)` or `(tokens, positions)`.
        blocks: The layers.
        final_norm: Norm before the logits.
        unembed: The output head.
        rotaries: Position ids to each rotary embedding's cosines and sines `[batch seq rotated]`; a layer says which of
            them it takes.
    """

    embed: Callable[[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]], tuple[Tensor, ...]]
    blocks: tuple[BoundBlock, ...]
    final_norm: Norm
    unembed: nn.Module
    rotaries: tuple[nn.Module, ...] = ()


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
        fields: What the values of understood fields have to be.
        contradictions: What in a config's fields does not fit together, in words.
        random_ids: Prompts for the parity gate, from a config and the mask of real tokens.
        fills_masks: Whether a model puts out the token that a mask stands for, at the mask, and not the next one.
    """

    name: str
    model_classes: frozenset[str]
    shape: Callable[[Any], ModelShape]
    bind: Callable[[Any], BoundModel]
    understood: frozenset[str]
    required: Mapping[str, object]
    harmless: frozenset[str]
    fields: Mapping[str, Field] = field(default_factory=dict)
    contradictions: Callable[[Mapping[str, Any]], Iterator[str]] = lambda values: iter(())
    random_ids: Callable[[Any, Int[Tensor, "batch seq"], torch.Generator], Int[Tensor, "batch seq"]] = any_ids
    fills_masks: bool = False

    @property
    def auto_class(self) -> str:
        """The class of `transformers` that loads its models."""
        return "AutoModelForMaskedLM" if self.fills_masks else "AutoModelForCausalLM"

    def check_config(self, config: Any) -> None:
        """Refuse a config with a value that makes no model, or a field that is not understood.

        Args:
            config: A Hugging Face config.

        Raises:
            UnsupportedModelError: Names all fields that have values of the wrong kind, contradict each other, are
                understood at another value only, or are not understood and not at their defaults.
        """
        # A config that is fully known need not have defaults; Tracr's has none.
        self._check(config.to_dict(), of="its config", defaults=lambda: type(config)().to_dict())

    def check_values(self, values: Mapping[str, Any], *, of: str) -> None:
        """The same of a config's fields as they stand in its file.

        Args:
            values: The fields.
            of: Whose, for the message.

        Raises:
            UnsupportedModelError: Names all of them.
        """

        def defaults() -> Mapping[str, Any]:
            from transformers import CONFIG_MAPPING

            return CONFIG_MAPPING[self.name]().to_dict()

        self._check(values, of=of, defaults=defaults)

    def _check(self, values: Mapping[str, Any], *, of: str, defaults: Callable[[], Mapping[str, Any]]) -> None:
        method = quantisation(dict(values))
        if method is not None:
            raise UnsupportedModelError(
                f"{self.name}: {of} says that the weights are quantised ({method}); load a model that is not"
            )
        found = [*wrong_values(self.fields, values)]
        found += self.contradictions(values) if not found else ()
        for name, wanted in self.required.items():
            if name in values and values[name] not in (wanted, None):
                found.append(f"{name}={values[name]!r} is not supported; only {wanted!r} is")
        found += self._not_understood(values, defaults)
        if found:
            raise UnsupportedModelError(f"{self.name}: {of}: {'; '.join(found)}")

    def _not_understood(self, values: Mapping[str, Any], defaults: Callable[[], Mapping[str, Any]]) -> Iterator[str]:
        """Fields that are not understood and not at their defaults, in one sentence."""
        known = self.understood | self.harmless | set(self.required)
        unknown = {name: value for name, value in values.items() if name not in known and not says_nothing(name, value)}
        usual = defaults() if unknown else {}
        found = [
            f"{name}={value!r}" + (f" (by default {usual[name]!r})" if name in usual else "")
            for name, value in unknown.items()
            if name not in usual or usual[name] != value
        ]
        if found:
            fields, are, they = ("fields", "are", "them") if len(found) > 1 else ("field", "is", "it")
            yield (
                f"config {fields} {', '.join(found)} {are} not understood, so the compiled graph could be "
                f"wrong. If the model does not depend on {they}, take {they} out of the config; else teach {they} to "
                f"the family's file in circuitgraph/architectures"
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
    for name, held in [*vars(view).items()]:
        if getattr(held, "__self__", None) is module:  # a method, bound to the original
            del view.__dict__[name]
    if "_compiled_call_impl" in view.__dict__:  # of `module.compile()`, bound to the original
        view.__dict__["_compiled_call_impl"] = None
    return view

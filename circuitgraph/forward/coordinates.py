"""Coordinates of writers: a gate for every value dimension of a head and every neuron of an MLP.

What a writer says is a sum over its coordinates: a head's over what it gathered `[d_head]`, an MLP's over its inner
activations `[d_mlp]`, each times a row of the last map; a norm or a factor behind an MLP is that of the sum that is
left. A coordinate with gate c says

    c · (what it is in this run) + (1 − c) · (what it is where the writer is ablated),

so that gates of 1 leave the pass as it is, whatever edges are cut. The bias of an MLP's last map belongs to no
coordinate and stays.

What a neuron is where its MLP is ablated: 0 under zero ablation; under counterfactual ablation what it is in that run,
made again from the residual stream there; under mean ablation its mean, which `mean_inner` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.around import Times
from circuitgraph.architectures.family import BoundModel, ModelShape
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError, UnsupportedModelError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attention_mask
from circuitgraph.forward.backward_rules import PLAIN_MLPS
from circuitgraph.forward.engine.mlps.frozen_linear import FrozenLinear
from circuitgraph.forward.reference import attention_output, embed


@dataclass(frozen=True, kw_only=True, eq=False)
class CoordinateGates:
    """Gates of coordinates, by layer; a layer that is not there has all its gates at 1.

    Attributes:
        heads: `[n_heads d_head]`, of a layer's heads.
        mlps: `[d_mlp]`, of its MLP's neurons.
        inner: What neurons are under mean ablation `[d_mlp]`, by layer; see `mean_inner`.
    """

    heads: Mapping[int, Tensor] = field(default_factory=dict)
    mlps: Mapping[int, Tensor] = field(default_factory=dict)
    inner: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def learn(self) -> bool:
        """Whether a gradient is wanted in any of them."""
        return any(gates.requires_grad for of in (self.heads, self.mlps) for gates in of.values())

    def check(self, bound: BoundModel, shape: ModelShape, values: AblationValues) -> None:
        """Refuse gates of other sizes, MLPs of unknown kinds, and ablations that do not say what neurons are.

        Args:
            bound: The model's weights.
            shape: Its sizes.
            values: Outputs of ablated writers.

        Raises:
            ConfigurationError: Gates of another size or layer, means of neurons that are missing, or learnt constants.
            UnsupportedModelError: An MLP whose neurons are not known.
        """
        for layer, gates in self.heads.items():
            _check_size(f"coordinates of layer {layer}'s heads", gates, (shape.n_heads, shape.d_head), layer, shape)
        for layer, gates in self.mlps.items():
            _check_size(f"coordinates of m{layer}", gates, (neurons_of(bound.blocks[layer].mlp),), layer, shape)
            if values.ablation == "mean" and layer not in self.inner:
                raise ConfigurationError(
                    f"coordinates of m{layer} under mean ablation need the means of its neurons: give "
                    "inner=mean_inner(…)"
                )
        if self.mlps and values.ablation in ("optimal", "mean-positional"):
            raise ConfigurationError(
                f"values of kind {values.ablation!r} say nothing of an MLP's neurons, so that these cannot be ablated "
                "to them; use zero, mean or counterfactual ablation, or coordinates of heads alone"
            )

    def mlp_output(
        self, layer: int, mlp: nn.Module, normed: Tensor, ablated: Tensor | None
    ) -> Float[Tensor, "*row d_model"]:
        """What an MLP says with its neurons gated.

        Args:
            layer: Its layer.
            mlp: The MLP, as a family binds it.
            normed: What it reads, after the norm.
            ablated: What it reads where it is ablated, after the norm, at the same rows; None under zero and mean.
        """
        gates, inner = self.mlps[layer], inner_of(mlp, normed)
        kept = inner * gates.to(inner)
        if ablated is not None:
            kept = kept + (1 - gates.to(inner)) * inner_of(mlp, ablated).detach()
        elif layer in self.inner:
            kept = kept + (1 - gates.to(inner)) * self.inner[layer].to(inner)
        return _behind(mlp)(last_map(mlp)(kept))


def _check_size(what: str, gates: Tensor, size: tuple[int, ...], layer: int, shape: ModelShape) -> None:
    if not 0 <= layer < shape.n_layers:
        raise ConfigurationError(f"{what}: the model has layers 0 to {shape.n_layers - 1}")
    if tuple(gates.shape) != size:
        raise ConfigurationError(f"{what}: expected one gate for each, {list(size)}; got {list(gates.shape)}")


# -------------------------------------------------------------------- inside an MLP


def _core(mlp: nn.Module) -> nn.Module:
    """An MLP without the norm or the factor between its last map and the residual stream."""
    if isinstance(mlp, Times):
        return mlp.own
    return mlp[0] if isinstance(mlp, nn.Sequential) else mlp


def _behind(mlp: nn.Module) -> Callable[[Tensor], Tensor]:
    """What stands between an MLP's last map and the residual stream."""
    if isinstance(mlp, Times):
        return lambda said: said * mlp.factor
    return mlp[1:] if isinstance(mlp, nn.Sequential) else lambda said: said


def _parts(mlp: nn.Module) -> tuple[dict[str, Any], tuple[str, str, str] | None]:
    """An MLP's modules by name, and which are its first map, activation and last map where it has no gate."""
    mlp = _core(mlp)
    if isinstance(mlp, GatedMLP):
        own: Any = mlp.own
        return dict(own.named_children()), None
    parts = dict(mlp.named_children())
    names = next((names for names in PLAIN_MLPS if set(names) <= set(parts)), None)
    if names is None:
        raise UnsupportedModelError(f"the neurons of MLPs of the kind {type(mlp).__name__} are not known")
    return parts, names


def inner_of(mlp: nn.Module, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_mlp"]:
    """An MLP's neurons: what goes into its last map.

    Args:
        mlp: The MLP, as a family binds it.
        x: What it reads, after the norm.

    Raises:
        UnsupportedModelError: An MLP whose neurons are not known.
    """
    parts, names = _parts(mlp)
    if names is None:
        return parts["act_fn"](parts["gate_proj"](x)) * parts["up_proj"](x)
    return parts[names[1]](parts[names[0]](x))


def last_map(mlp: nn.Module) -> nn.Module:
    """An MLP's last map, with its bias.

    Args:
        mlp: The MLP, as a family binds it.
    """
    parts, names = _parts(mlp)
    return parts["down_proj" if names is None else names[2]]


def neurons_of(mlp: nn.Module) -> int:
    """How many neurons an MLP has.

    Args:
        mlp: The MLP, as a family binds it.
    """
    last: Any = last_map(mlp)
    if isinstance(last, FrozenLinear):
        return int(last.matrix.shape[1])
    return int(last.weight.shape[1] if isinstance(last, nn.Linear) else last.weight.shape[0])


@torch.no_grad()
def mean_inner(
    bound: BoundModel, shape: ModelShape, batches: Iterable[TokenBatch], layers: Iterable[int]
) -> dict[int, Float[Tensor, " d_mlp"]]:
    """The mean of every neuron over a data set's real tokens, in the untouched model.

    Args:
        bound: The model's weights.
        shape: Its sizes.
        batches: The data set.
        layers: Whose MLPs.

    Returns:
        Means by layer, in float64.

    Raises:
        ConfigurationError: No data.
        UnsupportedModelError: An MLP whose neurons are not known.
    """
    wanted = set(layers)
    sums: dict[int, Tensor] = {}
    count = 0
    for batch in batches:
        mask = attention_mask(batch.attention_mask, shape.causal, padded=batch.padded)
        embeddings = embed(bound, batch)
        residual = sum(embeddings[1:], embeddings[0])
        rotaries, real = rotaries_of(bound.rotaries, residual, batch), batch.attention_mask.bool()
        count += int(real.sum())
        for layer, block in enumerate(bound.blocks):
            after = residual + attention_output(block, shape, residual, mask, rotaries)
            normed = block.mlp_norm(after if shape.block_order == "sequential" else residual)
            if layer in wanted:
                said = inner_of(block.mlp, normed)[real].double().sum(0)
                sums[layer] = said + sums.get(layer, 0)
            residual = after + block.mlp(normed)
    if not count:
        raise ConfigurationError("the means of neurons need at least one prompt to average over; got none")
    return {layer: total / count for layer, total in sums.items()}

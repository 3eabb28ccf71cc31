"""What each writer adds to the logits by itself: the final norm and the output head as one linear map.

The logits are the output head of a normed sum. With the scale s that the norm had in this very run, the norm is linear
in what it reads, and so the logits are a sum over writers (the *unembedding lens*):

    logits = U(s · (Σ_w y_w − mean) ∘ g + b) = Σ_w U₀ (s · (y_w − mean(y_w)) ∘ g) + the rest,

with U₀ the output head without its bias. The rest is what no writer says: biases of attention layers, of the norm and
of the head. It is exact for layer norms, RMS norms and none, in every family but encoders, whose output head stands
behind an activation: those are refused. Where a family caps its logits softly the
parts add up to the logits before the cap.

What a writer does to the logits through later heads and MLPs is no part of this.

References:
    nostalgebraist 2020, interpreting GPT: the logit lens; Elhage et al. 2021, A mathematical framework for transformer
    circuits (direct paths).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitgraph.architectures.around import BehindMap, Logits
from circuitgraph.architectures.family import BoundModel
from circuitgraph.architectures.norm import Norm
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.pass_plan import Runnable


@dataclass(frozen=True, kw_only=True, eq=False)
class Lens:
    """The final norm, with the scales that it had in one run, and the output head.

    Attributes:
        norm: The final norm.
        scale: What it multiplied each asked row with `[asked 1]`.
        unembed: The output head.
        width: That of the residual stream.
    """

    norm: Norm
    scale: Float[Tensor, "asked 1"]
    unembed: nn.Module
    width: int

    @classmethod
    def of(cls, bound: BoundModel, residual: Float[Tensor, "asked d_model"]) -> Lens:
        """The lens of a run.

        Args:
            bound: The model's weights.
            residual: What the final norm read at the asked positions.

        Raises:
            UnsupportedModelError: The output head stands behind an activation, so that nothing adds up.
        """
        if isinstance(bound.unembed, BehindMap):
            raise UnsupportedModelError(
                "what each writer adds to the logits is not defined for this model: between the final norm and its "
                "output head stands a map with an activation"
            )
        norm = bound.final_norm
        centred = residual - residual.mean(-1, keepdim=True) if norm.kind == "layer" else residual
        scale = torch.ones_like(residual[:, :1]) if norm.kind == "none" else norm.inverse_scale(centred)
        return cls(norm=norm, scale=scale, unembed=bound.unembed, width=residual.shape[-1])

    def normed(self, said: Float[Tensor, "*writer asked d_model"]) -> Float[Tensor, "*writer asked d_model"]:
        """Parts of what the norm read, as its output has them; without the norm's bias.

        Args:
            said: What writers say at the asked positions.
        """
        if self.norm.kind == "layer":
            said = said - said.mean(-1, keepdim=True)
        said = said * self.scale
        return said if self.norm.factor is None else said * self.norm.factor

    def logits(self, said: Float[Tensor, "*writer asked d_model"]) -> Float[Tensor, "*writer asked d_vocab"]:
        """What parts add to the logits, before a cap where there is one.

        Args:
            said: What writers say at the asked positions.
        """
        normed = self.normed(said)
        return before_cap(self.unembed, normed) - before_cap(self.unembed, torch.zeros_like(normed[..., :1, :]))

    @property
    def constant(self) -> Float[Tensor, " d_vocab"]:
        """What the biases of the norm and of the output head add."""
        bias = self.norm.bias
        return before_cap(self.unembed, self.scale.new_zeros(1, self.width) if bias is None else bias[None])[0]


def before_cap(unembed: nn.Module, normed: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_vocab"]:
    """Logits before they are capped softly; the logits themselves where they are not.

    Args:
        unembed: The output head.
        normed: What it reads.
    """
    if not isinstance(unembed, Logits):
        return unembed(normed)
    logits = unembed.own(normed)
    return logits if unembed.factor == 1 else logits * unembed.factor


@torch.no_grad()
def said_at_asked(model: Runnable, said: AblationValues, batch: TokenBatch) -> Float[Tensor, "writer asked d_model"]:
    """What every writer adds to the residual stream at the asked positions, in the order of the universe's writers.

    Args:
        model: The model.
        said: Every writer's output in a run on the batch, of `reference_run`.
        batch: The prompts.

    Returns:
        One row more than there are writers: the last is the biases of the attention layers, which are no writer's.
    """
    at, universe, shape = batch.predict_index, model.universe, model.shape
    embeddings = [value.expand(*batch.input_ids.shape, -1).flatten(0, 1)[at] for value in said.embeddings]
    if universe.embeddings == "joint":
        embeddings = [sum(embeddings[1:], embeddings[0])]
    rows, biases = [*embeddings], torch.zeros_like(embeddings[0])
    for layer, block in enumerate(model.bound.blocks):
        mixed = said.heads[layer].flatten(1, 2)[:, at]
        rows += torch.bmm(mixed, block.output.unflatten(0, (shape.n_heads, -1))).unbind(0)
        rows.append(said.mlps[layer].flatten(0, 1)[at])
        if block.output_bias is not None:
            biases = biases + block.output_bias
    return torch.stack([*rows, biases])

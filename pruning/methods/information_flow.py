"""Information flow routes: how near what a writer says is to what its reader sees. One run, no gradient, no ablation.

For a reader that sees x (the whole residual stream, before the norm) and a writer that says y, at one position,

    proximity(w, r) = max(0, ‖x‖₁ − ‖x − y‖₁),      score(w → r) = proximity(w, r) / Σ_{w'} proximity(w', r),

the mean over a prompt's positions, then over prompts. What reaches a reader is shared out among its writers, so the
scores of a reader add up to 1, or to less where at some positions no writer is near.

This is the version of EAP-IG's code; Ferrando and Voita weigh attention token by token and cut at a threshold. Where
this differs from that code: `input` is the whole of the embeddings, so that with learned positions the writers add
up to the stream but for the output biases of attention, which are no writer's; where all proximities are 0 the scores
are 0, not 0/0; no weights are folded (TransformerLens centres writers and moves biases, which changes L1 norms). All
readers of an attention layer see one stream, so that a writer's edges into them have one score. Circuits are grown from
the logits in the published evaluation, not cut from the top.

References:
    Ferrando, Voita 2024, Information Flow Routes: Automatically Interpreting Language Models at Scale
    (arXiv 2403.00824).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.forward.attribution import writer_changes
from circuitgraph.forward.plan.positions import Positions
from circuitgraph.forward.vectors import sums_by_layer
from pruning.execution.probe import Probe
from pruning.methods.answers import refuse_any
from pruning.methods.method import RANKING_ABLATIONS
from pruning.prompts.encoding import EncodedPairs

Share = Callable[[Tensor, Tensor], Tensor]
"""What writers `[writer position d_model]` have of what a reader sees `[position d_model]`: `[writer position]`."""
_NUMBERS = 1 << 24
"""Numbers of an intermediate result, so that writers are compared a few at a time."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What methods have in common that look at what is said in the full model, and compare nothing.

    Attributes:
        name: Each method's own.
    """

    name: ClassVar[str]
    ablations = RANKING_ABLATIONS
    direction = "none"

    def default_objective(self, pairs: EncodedPairs, of_task: str | None) -> None:
        """None: nothing is compared.

        Args:
            pairs: Not looked at.
            of_task: Not looked at.
        """

    def require(self, objective: str) -> None:
        """Refuse any objective.

        Args:
            objective: Its name.

        Raises:
            ConfigurationError: Always.
        """
        refuse_any(self.name, objective)


@dataclass(frozen=True, kw_only=True)
class _Shares(Observed):
    """What both methods have in common: one forward pass, and a share that each writer has of what a reader sees."""

    cost: ClassVar[str] = "1 forward"

    def share(self, said: Float[Tensor, "writer position d_model"], seen: Float[Tensor, "position d_model"]) -> Tensor:
        """What writers have of what a reader sees `[writer position]`.

        Args:
            said: What writers say.
            seen: What the reader sees.
        """
        raise NotImplementedError

    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model and the prompts.
            seed: Not used: nothing is random.

        Returns:
            One number per edge, not negative.
        """
        return probe.mean(lambda batch: shares(probe, batch, self.share))


@dataclass(frozen=True, kw_only=True)
class InformationFlow(_Shares):
    """Information flow routes (Ferrando and Voita 2024); it has no settings.

    Examples:
        >>> InformationFlow().direction
        'none'
    """

    name: ClassVar[str] = "information-flow"
    summary: ClassVar[str] = "how near what a writer says is to what its reader sees, in the full model"
    source: ClassVar[str] = "Ferrando, Voita 2024, Information Flow Routes; as in the code of EAP-IG"
    estimates = "share of what the reader sees that is near what the writer says"

    def share(self, said: Float[Tensor, "writer position d_model"], seen: Float[Tensor, "position d_model"]) -> Tensor:
        """The proximities, see `proximity`."""
        return proximity(said, seen)


@dataclass(frozen=True, kw_only=True)
class ActivationMagnitude(_Shares):
    """How large what a writer says is, next to what its reader sees; a baseline of ours without settings.

    Examples:
        >>> ActivationMagnitude().name
        'activation-magnitude'
    """

    name: ClassVar[str] = "activation-magnitude"
    summary: ClassVar[str] = "size of what a writer says over that of what its reader sees; a baseline"
    source: ClassVar[str] = "a baseline of ours"
    estimates = "L2 norm of what the writer says over that of what the reader sees, mean over tokens"

    def share(self, said: Float[Tensor, "writer position d_model"], seen: Float[Tensor, "position d_model"]) -> Tensor:
        """The norms, see `magnitude`."""
        return magnitude(said, seen)


def proximity(said: Float[Tensor, "writer position d_model"], seen: Float[Tensor, "position d_model"]) -> Tensor:
    """Proximities, as shares of their sum over writers.

    Args:
        said: What writers say.
        seen: What a reader sees.

    Returns:
        `[writer position]`; 0 where all are 0.

    Examples:
        >>> said = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]], [[0.0, -2.0]]])
        >>> proximity(said, said.sum(0)).tolist()  # x = (3, -1); near by 3, 0 (-1 in truth) and 0 (0 in truth)
        [[1.0], [0.0], [0.0]]
    """
    whole = seen.abs().sum(-1)
    few = max(1, _NUMBERS // max(1, seen.numel()))
    away = torch.cat([(part - seen).abs().sum(-1) for part in said.split(few)])
    near = (whole - away).clamp(min=0)
    total = near.sum(0)
    return near / total.masked_fill(total == 0, 1)


def magnitude(said: Float[Tensor, "writer position d_model"], seen: Float[Tensor, "position d_model"]) -> Tensor:
    """L2 norms, over that of what the reader sees.

    Args:
        said: What writers say.
        seen: What a reader sees.

    Returns:
        `[writer position]`; 0 where nothing is seen.
    """
    whole = seen.norm(dim=-1)
    return said.norm(dim=-1) / whole.masked_fill(whole == 0, torch.inf)


@torch.no_grad()
def shares(probe: Probe, batch: PairBatch, share: Share) -> Float[Tensor, " edge"]:
    """What writers have of what readers see, as means over a prompt's positions, summed over prompts.

    Args:
        probe: The model.
        batch: Prompts of one length, without padding.
        share: What is had.
    """
    compiled, tokens = probe.compiled, batch.clean
    universe, shape = compiled.universe, tuple(tokens.input_ids.shape)
    values, zeros = compiled.run_with_values(tokens)[1], compiled.ablation_values("zero")
    positions = Positions(np.arange(tokens.input_ids.numel()), (shape[0], shape[1]), tokens.input_ids.device)
    said = writer_changes(probe.runnable, zeros, values, positions)
    residual = positions.of(sum(values.embeddings[1:], values.embeddings[0]))
    after, found = residual, []
    added = sums_by_layer(compiled.vectors, values.vectors)
    for block in universe.blocks:
        if block.kind == "attention" and block.layer in added:
            residual = after = residual + positions.of(added[block.layer])
        seen = after if block.kind == "mlp" and universe.block_order == "sequential" else residual
        own = share(said[: block.n_writers], seen.to(said.dtype)).sum(-1) / shape[1]
        found.append(own.expand(block.n_readers, -1).flatten())
        if block.kind == "attention":
            after = residual + positions.of(values.attention[block.layer])
        elif block.kind == "mlp":
            residual = after = after + positions.of(values.mlps[block.layer])
    return torch.cat(found)

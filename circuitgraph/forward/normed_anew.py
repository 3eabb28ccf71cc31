"""A circuit run with norms behind the heads taken anew by each reader: a slow way, for comparing.

Where a norm N stands between a layer's heads and the residual stream (Gemma 2 and 3, OLMo 2 and 3), a masked pass lets
the heads share the scale of the run, so that they add up (`BoundBlock.settled`). EAP-IG's evaluation does something
else, and published numbers are made by it: a reader adds up the heads of each earlier layer as it keeps them, before
the norm, and norms its own sum:

    x_r = Σ_w [z y_w + (1 − z) ỹ_w] + Σ_layers N_l(Σ_h [z y_h + (1 − z) ỹ_h]),

w over embeddings and MLPs, y_h what head h says before the norm, in this very run. It takes a norm for each reader and
earlier layer. With all gates 1, or all 0, both ways are the model's own runs. Norms over the queries of all heads keep
the scale that they have in this run, as in that evaluation.

References:
    EAP-IG's released code: github.com/hannamw/EAP-IG, `src/eap/evaluate.py`, where a model has norms behind its heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, Projection
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.attention import attend, attention_mask, prepared, rotary_for, windowed
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.forward.reference import embed, to_query_heads
from circuitgraph.graph.block import Block

Said = list[Tensor]
"""What every writer says `[batch seq d_model]`, in the universe's order; heads before the norm behind them."""

SHARED, ANEW = HEAD_SCALES = ("shared", "anew")
"""Whose scale heads behind a norm have: one of the run that they share, or one for each reader."""


def require_norms(model: Runnable, ablation: str) -> None:
    """Refuse what norms taken anew make no sense of.

    Args:
        model: The model.
        ablation: What cut edges carry.

    Raises:
        ConfigurationError: No norm stands behind heads; or cut edges carry means or constants, which are those of heads
            behind the norm.
    """
    if all(block.heads_norm is None for block in model.bound.blocks):
        raise ConfigurationError(
            f"head_scale='anew' is for norms behind heads, and {model.universe.family} models have none; leave it out"
        )
    if ablation not in ("counterfactual", "zero"):
        raise ConfigurationError(
            f"head_scale='anew' takes counterfactual or zero ablation; got {ablation!r}, whose values are those of "
            "heads behind the norm"
        )


@torch.no_grad()
def said_before_norms(model: Runnable, batch: TokenBatch) -> Said:
    """What every writer says in the full model; heads before the norm behind them.

    Args:
        model: The model.
        batch: Prompts.
    """
    return _Run(model, batch, None, None).said


@torch.no_grad()
def run_normed_anew(
    model: Runnable, gates: Float[Tensor, " edge"], batch: TokenBatch, ablated: Said | None
) -> Float[Tensor, "asked d_vocab"]:
    """Run a circuit, with every reader norming what it keeps of a layer's heads.

    Args:
        model: The model.
        gates: One for each edge; 1 keeps it.
        batch: Prompts.
        ablated: What cut edges carry, of `said_before_norms`; None for zeros.

    Returns:
        Logits at the asked positions.
    """
    return _Run(model, batch, gates, ablated).logits


class _Run:
    """One run, block by block."""

    def __init__(self, model: Runnable, batch: TokenBatch, gates: Tensor | None, ablated: Said | None) -> None:
        self.bound, self.shape, self.universe = model.bound, model.shape, model.universe
        self.gates = None if gates is None else gates.detach().cpu().numpy()
        self.ablated = ablated
        embeddings = embed(self.bound, batch)
        self.said: Said = (
            list(embeddings) if self.universe.embeddings == "split" else [sum(embeddings[1:], embeddings[0])]
        )
        self.mask = attention_mask(batch.attention_mask, self.shape.causal, padded=batch.padded)
        self.rotaries = rotaries_of(self.bound.rotaries, embeddings[0], batch)
        for block in self.universe.blocks[:-1]:
            own, seen = self.bound.blocks[block.layer], self._seen(block)
            self.said += self._heads(own, seen) if block.kind == "attention" else [own.mlp(own.mlp_norm(seen[0]))]
        asked = self._seen(self.universe.blocks[-1])[0].flatten(0, 1)[batch.predict_index]
        self.logits = self.bound.unembed(self.bound.final_norm(asked))

    # ---------------------------------------------------------------- what readers see

    def _seen(self, block: Block) -> Float[Tensor, "reader batch seq d_model"]:
        """What each reader of a block sees; once for all of them in the full model."""
        coefficients = np.ones((1, block.n_writers)) if self.gates is None else block.matrix(self.gates)
        like = self.said[0]
        z = torch.from_numpy(coefficients.astype(np.float64)).to(like.device, like.dtype)
        parts = [writer for writer in range(block.n_writers) if self.universe.writer_kinds[writer] != "head"]
        seen = self._mixed(z, parts)
        for earlier in self.universe.blocks:
            if earlier.kind != "attention" or earlier.written.stop > block.n_writers:
                continue
            own = self.bound.blocks[earlier.layer]
            heads = self._mixed(z, range(earlier.written.start, earlier.written.stop))
            heads = heads if own.heads_norm is None else own.heads_norm(heads)
            seen = seen + (heads if own.output_factor == 1 else heads * own.output_factor)
            if own.output_bias is not None:
                seen = seen + own.output_bias
        return seen

    def _mixed(self, z: Float[Tensor, "reader writer"], writers: Sequence[int]) -> Tensor:
        """The sum of some writers as each reader keeps them `[reader batch seq d_model]`."""
        total = self.said[0].new_zeros(len(z), *self.said[0].shape)
        for writer in writers:
            kept = z[:, writer, None, None, None]
            total += kept * self.said[writer]
            if self.ablated is not None:
                total += (1 - kept) * self.ablated[writer]
        return total

    # ---------------------------------------------------------------- heads

    def _heads(self, own: BoundBlock, seen: Tensor) -> Said:
        """What a layer's heads say before the norm behind them, from what its readers see."""
        n_heads, n_kv = self.universe.n_heads, self.universe.n_kv_readers
        ports = [seen] * 3  # one reader for all three, or the full model's only one
        if len(seen) > 1 and n_kv:
            ports = list(seen.split([n_heads, n_kv, n_kv]))
        attention, rotary = own.attention, rotary_for(own.attention, self.rotaries)
        made = []
        for kind, (port, projection) in enumerate(zip(ports, (own.query, own.key, own.value), strict=True)):
            n_readers = len(port) if len(port) > 1 else projection.n_heads
            weights = np.arange(n_readers) // (n_readers // projection.n_heads)
            projected = _by_reader(own.attention_norm(port), projection, weights)
            made.append(prepared(attention, kind, projected, rotary, heads=weights))
        query, key, value = made
        key, value = to_query_heads(key, n_heads), to_query_heads(value, n_heads)
        mask = windowed(self.mask, attention, query.shape[2], query.device)
        mixed = attend(query, key, value, mask, causal=self.shape.causal, attention=attention)
        output = own.raw_output.unflatten(0, (n_heads, -1))
        return list(torch.einsum("hbsk,hkd->hbsd", mixed, output))


def _by_reader(
    normed: Float[Tensor, "#reader batch seq d_model"], projection: Projection, which: np.ndarray
) -> Float[Tensor, "reader batch seq d_head"]:
    """Each reader's normed input through the weights of its own head."""
    heads = torch.from_numpy(which).to(normed.device)
    projected = torch.einsum("rbsd,rdk->rbsk", normed.expand(len(which), -1, -1, -1), projection.per_head[heads])
    if projection.bias_per_head is not None:
        projected = projected + projection.bias_per_head[heads][:, None, None]
    return projected

"""The model with whole writers ablated: what every reader no longer gets, none sees.

Where all edges out of a writer are cut and no others, all readers of a block see the same residual stream, so that no
gates are needed: it is the plain run in which some heads and MLPs say what they say when they are ablated. A search
that goes through the writers from the last layer to the first (`pruning.methods.greedy_nodes`) runs such models again
and again:

1. what lies before the layer that is looked at is the full model, run once and kept, residual stream by layer;
2. what its heads gather is taken once for the layer;
3. behind it, attention layers without a head that is left, and MLPs that are gone, are constants and do not run;
4. behind the last head that is left, only the asked positions are run.

Prompts are of one length, without padding. Plain torch, without gradients; the values are those of
`CompiledModel.masked` with these edges cut, but for rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.architectures.family import BoundModel, ModelShape
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attention_mask
from circuitgraph.forward.reference import attended, embed, heads_output


class WithoutWriters:
    """A batch of prompts in the full model, and in it without some of its heads and MLPs.

    Args:
        bound: The model's weights.
        shape: The model's sizes.
        batch: Prompts of one length, without padding.
        values: Outputs of ablated writers.

    Attributes:
        full: The full model's logits `[asked d_vocab]`.

    Raises:
        ConfigurationError: Prompts with padding.
    """

    @torch.no_grad()
    def __init__(self, bound: BoundModel, shape: ModelShape, batch: TokenBatch, values: AblationValues) -> None:
        if batch.padded:
            raise ConfigurationError("whole writers are ablated on prompts of one length; these are padded")
        self.bound, self.shape, self.batch = bound, shape, batch
        self._heads, self._attention, self._mlps = tuple(values.heads), tuple(values.attention), tuple(values.mlps)
        self._mask = attention_mask(batch.attention_mask, shape.causal, padded=False)
        embeddings = embed(bound, batch)
        residual = sum(embeddings[1:], embeddings[0])
        self._rotaries = rotaries_of(bound.rotaries, residual, batch)
        self._before: list[Tensor] = []
        self._gathered: tuple[int, Tensor] | None = None
        none = np.zeros((shape.n_layers, shape.n_heads + 1), dtype=bool)
        self.full = self._run(0, residual, none, keep=True)

    @torch.no_grad()
    def logits(self, gone: Bool[np.ndarray, "layer part"], *, first: int = 0) -> Float[Tensor, "asked d_vocab"]:
        """Logits at the asked positions without some writers.

        Args:
            gone: Which heads of each layer are ablated, and, in the last column, its MLP.
            first: A layer before which none is: what lies there is not run again.
        """
        assert not gone[:first].any()
        return self._run(first, self._before[first], gone, keep=False)

    def _run(self, first: int, residual: Tensor, gone: np.ndarray, *, keep: bool) -> Tensor:
        """Run all layers from one on."""
        last = max((layer for layer in range(len(gone)) if not gone[layer, :-1].all()), default=-1)
        everywhere = True
        for layer in range(first, self.shape.n_layers):
            if keep:
                self._before.append(residual)
            elif everywhere and layer > last:
                residual, everywhere = self._asked(residual), False
            block = self.bound.blocks[layer]
            output = self._heads_say(layer, first, residual, gone[layer, :-1])
            before, output = (residual, output) if everywhere else (residual, self._asked(output))
            if everywhere and layer == last and not keep:
                before, output, everywhere = self._asked(before), self._asked(output), False
            after = before + output
            if gone[layer, -1]:
                mlp = self._mlps[layer] if everywhere else self._asked(self._mlps[layer])
            else:
                mlp = block.mlp(block.mlp_norm(after if self.shape.block_order == "sequential" else before))
            residual = after + mlp
        asked = self._asked(residual) if everywhere else residual
        return self.bound.unembed(self.bound.final_norm(asked[0]))

    def _heads_say(self, layer: int, first: int, residual: Tensor, gone: np.ndarray) -> Tensor:
        """What a layer's heads add, some of them ablated."""
        if gone.all():
            return self._attention[layer]
        block = self.bound.blocks[layer]
        if layer == first and self._gathered is not None and self._gathered[0] == layer:
            mixed = self._gathered[1]
        else:
            mixed, _ = attended(block, self.shape, residual, self._mask, self._rotaries)
            if layer == first:
                self._gathered = (layer, mixed)
        if gone.any():
            cut = torch.from_numpy(gone).to(mixed.device)[:, None, None, None]
            mixed = torch.where(cut, self._heads[layer], mixed)
        return heads_output(block, mixed)

    def _asked(self, value: Tensor) -> Tensor:
        """A value of all positions, or the same for all, at the asked ones alone `[1 asked d_model]`."""
        n_prompts, n_seq = self.batch.input_ids.shape
        whole = value.expand(n_prompts, n_seq, value.shape[-1])
        return whole.flatten(0, 1)[self.batch.predict_index][None]

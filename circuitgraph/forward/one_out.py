"""The full model with one writer out: many writers of a layer in one batch, each replaced on prompts of its own.

What lies before a writer is as it was, so the model runs once, and its residual stream is kept before every layer.
A sample is a prompt and a writer that says something else there: it begins at the writer's layer and runs to the
logits, with autograd in what is said instead. It is the masked pass with every edge out of that writer cut, for many
writers at once; unlike it, only for single writers of the full model.

In the last layer only the asked positions are read, so only they go through its MLP.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.forward.reference import attention_output, reference_run

EMBEDDINGS = -1
"""The layer of writers that are embeddings."""


class OneOutRun:
    """A run of the full model, from which single writers can be taken out.

    Args:
        model: The model.
        batch: Prompts of one length, without padding, each asked at as many positions.

    Attributes:
        logits: The full model's `[asked d_vocab]`.
        said: What every writer says.

    Raises:
        ConfigurationError: Padding, or prompts that are asked at different numbers of positions.
    """

    def __init__(self, model: Runnable, batch: TokenBatch) -> None:
        self.model, self.batch = model, batch
        n_prompts, self.seq = batch.input_ids.shape
        if batch.padded or len(batch.predict_index) % n_prompts:
            raise ConfigurationError(
                "single writers are taken out of prompts of one length, all asked at as many positions; got others. "
                "Group them by length first"
            )
        self.asked = (batch.predict_index % self.seq).view(n_prompts, -1)
        self.logits, said = reference_run(model.bound, model.shape, batch)
        assert said is not None
        self.said: AblationValues = said
        with torch.no_grad():
            residual = sum(said.embeddings[1:], said.embeddings[0])
            self._before = [residual]
            for attention, mlp in zip(said.attention, said.mlps, strict=True):
                self._before.append(self._before[-1] + attention + mlp)

    def layer_of(self, writer: int) -> int:
        """The layer at which a writer's samples begin; `EMBEDDINGS` for an embedding.

        Args:
            writer: Its index in the universe.
        """
        return int(self.model.universe.writer_layers[writer])

    def without(
        self,
        writers: Int[Tensor, " sample"],
        prompts: Int[Tensor, " sample"],
        instead: Float[Tensor, "sample seq_or_one width"],
    ) -> Float[Tensor, "sample asked d_vocab"]:
        """The logits of samples in each of which one writer says something else.

        Args:
            writers: Its index in the universe, all of one layer and kind.
            prompts: The row of the sample's prompt in the batch.
            instead: What it says: `d_model` numbers of an embedding or an MLP, `d_head` of a head, before the output
                projection; at every position, or one for all.

        Returns:
            Logits at each sample's asked positions.
        """
        universe, shape, bound = self.model.universe, self.model.shape, self.model.bound
        layer, kind = self.layer_of(int(writers[0])), str(universe.writer_kinds[int(writers[0])])
        if kind == "embedding":
            return self._from(
                0, self._before[0][prompts] + (instead - self._embedding(int(writers[0]))[prompts]), prompts
            )
        before, attention = self._before[layer][prompts], self.said.attention[layer][prompts]
        if kind == "mlp":
            return self._from(layer + 1, before + attention + instead.expand(-1, self.seq, -1), prompts)
        heads = writers - (universe.n_embeddings + layer * (shape.n_heads + 1))
        changed = instead - self.said.heads[layer][heads, prompts]
        output = bound.blocks[layer].output.unflatten(0, (shape.n_heads, -1))[heads]
        after = before + attention + torch.bmm(changed, output)
        if shape.block_order != "sequential":  # the layer's MLP reads beside its heads
            return self._from(layer + 1, after + self.said.mlps[layer][prompts], prompts)
        return self._through_mlp(layer, after, after, prompts)

    def _embedding(self, writer: int) -> Tensor:
        said = self.said.embeddings
        return sum(said[1:], said[0]) if self.model.universe.embeddings == "joint" else said[writer]

    def _from(self, layer: int, residual: Tensor, prompts: Tensor) -> Tensor:
        """Run layers from one on, and the logits."""
        bound, shape = self.model.bound, self.model.shape
        if layer == len(bound.blocks):
            return bound.unembed(bound.final_norm(self._at_asked(residual, prompts)))
        rotaries = rotaries_of(bound.rotaries, residual, self._tokens(prompts))
        after = residual + attention_output(bound.blocks[layer], shape, residual, None, rotaries)
        reads = after if shape.block_order == "sequential" else residual
        return self._through_mlp(layer, after, reads, prompts)

    def _through_mlp(self, layer: int, after: Tensor, reads: Tensor, prompts: Tensor) -> Tensor:
        """Run a layer's MLP, in the last layer at the asked positions alone, and all that follows."""
        bound, block = self.model.bound, self.model.bound.blocks[layer]
        if layer < len(bound.blocks) - 1:
            return self._from(layer + 1, after + block.mlp(block.mlp_norm(reads)), prompts)
        after, reads = self._at_asked(after, prompts), self._at_asked(reads, prompts)
        return bound.unembed(bound.final_norm(after + block.mlp(block.mlp_norm(reads))))

    def _at_asked(self, residual: Tensor, prompts: Tensor) -> Tensor:
        at = self.asked[prompts]
        return residual.gather(1, at[..., None].expand(-1, -1, residual.shape[-1]))

    def _tokens(self, prompts: Tensor) -> TokenBatch:
        batch = self.batch
        return TokenBatch(
            input_ids=batch.input_ids[prompts], attention_mask=batch.attention_mask[prompts],
            predict_index=batch.predict_index[:0], predict_prompt=batch.predict_prompt[:0],
        )  # fmt: skip

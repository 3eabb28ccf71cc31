"""A plain run in which some heads attend as told, and what some writers say is scaled, or has vectors added to it.

For what gates cannot express: an attention pattern taken from another prompt (or made up), alone or as a multiple,
steering vectors, and writers that are turned up or down at some positions alone. Everything after a patched place
follows from it. The run is differentiable in what is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, Rotaries
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.attention import attention_mask
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.forward.reference import attended, embed, heads_output
from circuitgraph.graph.virtual import require_no_vectors


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """What is done to a plain run.

    Attributes:
        patterns: For heads, by name: the shares of every position that each position takes the head's values from,
            `[batch seq seq]` as of `circuitgraph.forward.patterns`; rows need not add up to 1.
        scaled: For writers, by name: what they write is multiplied by it, `[batch seq]`. An output bias of attention
            belongs to no head and stays; where heads share a norm's scale, it is that of the heads as they are.
        added: For writers, by name: what is added to what they write, `[d_model]` at all positions, or
            `[batch seq d_model]`. With an embedding's name it is added to the embeddings.
    """

    patterns: Mapping[str, Tensor] = field(default_factory=dict)
    scaled: Mapping[str, Tensor] = field(default_factory=dict)
    added: Mapping[str, Tensor] = field(default_factory=dict)


def patched_run(model: Runnable, batch: TokenBatch, patch: Patch) -> Float[Tensor, "asked d_vocab"]:
    """Run the model with a patch.

    Args:
        model: The model; `CompiledModel.runnable`.
        batch: Prompts.
        patch: What is done to it.

    Returns:
        The logits at the asked positions.

    Raises:
        UnknownNameError: No such head or writer.
        ConfigurationError: A pattern, a factor or a vector of another size; or a model that vectors are added to, which
            would be left out.

    Examples:
        >>> import torch
        >>> from circuitgraph import compile_model, load_model
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> ids = torch.tensor([[0, 1, 2, 3]])
        >>> batch = TokenBatch(
        ...     input_ids=ids, attention_mask=torch.ones_like(ids), predict_index=torch.tensor([3]),
        ...     predict_prompt=torch.tensor([0]),
        ... )
        >>> nothing = {"m0": torch.zeros(compiled.shape.d_model)}
        >>> torch.allclose(patched_run(compiled.runnable, batch, Patch(added=nothing)), compiled.logits(batch))
        True
    """
    return _Run(model, batch, patch).logits()


class _Run:
    """What all layers of one run have in common."""

    def __init__(self, model: Runnable, batch: TokenBatch, patch: Patch) -> None:
        require_no_vectors(model.universe.virtual, "patched runs")
        self.bound, self.shape, self.universe = model.bound, model.shape, model.universe
        self.batch, self.patch = batch, patch
        self.mask = attention_mask(batch.attention_mask, self.shape.causal, padded=batch.padded)
        self._check()

    def _check(self) -> None:
        n_prompts, n_tokens = self.batch.input_ids.shape
        kinds = dict(zip(self.universe.writers, self.universe.writer_kinds.tolist(), strict=True))
        for name, pattern in self.patch.patterns.items():
            if kinds.get(name) != "head":
                raise UnknownNameError.of("head", name, [one for one, kind in kinds.items() if kind == "head"])
            if tuple(pattern.shape) != (n_prompts, n_tokens, n_tokens):
                raise ConfigurationError(
                    f"the pattern of {name} has to be [batch seq seq], here {[n_prompts, n_tokens, n_tokens]}; got "
                    f"{list(pattern.shape)}. It can be taken from prompts of the same length alone"
                )
        for name in (*self.patch.scaled, *self.patch.added):
            if name not in kinds:
                raise UnknownNameError.of("writer", name, kinds)
        for name, factor in self.patch.scaled.items():
            if tuple(factor.shape) != (n_prompts, n_tokens):
                raise ConfigurationError(
                    f"what {name} is multiplied by has to be [batch seq], here {[n_prompts, n_tokens]}; got "
                    f"{list(factor.shape)}"
                )
        for name, vector in self.patch.added.items():
            d_model = self.shape.d_model
            if tuple(vector.shape) not in ((d_model,), (n_prompts, n_tokens, d_model)):
                raise ConfigurationError(
                    f"what is added to {name} has to be [{d_model}], or {[n_prompts, n_tokens, d_model]}; got "
                    f"{list(vector.shape)}"
                )

    def logits(self) -> Tensor:
        embedded = embed(self.bound, self.batch)
        names = self.universe.writers[: self.universe.n_embeddings]
        if len(names) < len(embedded):
            embedded = (sum(embedded[1:], embedded[0]),)
        said = [self._said(name, part) for name, part in zip(names, embedded, strict=True)]
        residual = sum(said[1:], said[0])
        rotaries = rotaries_of(self.bound.rotaries, residual, self.batch)
        for layer, block in enumerate(self.bound.blocks):
            after = residual + self._attention(layer, block, residual, rotaries)
            seen = after if self.shape.block_order == "sequential" else residual
            residual = after + self._said(f"m{layer}", block.mlp(block.mlp_norm(seen)))
        asked = residual.flatten(0, 1)[self.batch.predict_index]
        return self.bound.unembed(self.bound.final_norm(asked))

    def _attention(self, layer: int, block: BoundBlock, residual: Tensor, rotaries: Rotaries) -> Tensor:
        """What the layer's heads write."""
        names = {head: f"a{layer}.h{head}" for head in range(self.shape.n_heads)}
        given = {head: self.patch.patterns.get(name) for head, name in names.items()}
        patterns = {head: one.to(residual) for head, one in given.items() if one is not None}
        mixed = attended(block, self.shape, residual, self.mask, rotaries, patterns)[0]
        factors = {head: self.patch.scaled[name] for head, name in names.items() if name in self.patch.scaled}
        if factors:
            mixed = torch.stack([self._scaled(factors.get(head), part) for head, part in enumerate(mixed)])
        said = heads_output(block, mixed)
        for name in names.values():
            said = said + self._added(name, said)
        return said

    def _said(self, name: str, says: Tensor) -> Tensor:
        """What an embedding or an MLP says when it is patched."""
        return self._scaled(self.patch.scaled.get(name), says) + self._added(name, says)

    @staticmethod
    def _scaled(factor: Tensor | None, says: Tensor) -> Tensor:
        return says if factor is None else says * factor.to(says)[..., None]

    def _added(self, name: str, like: Tensor) -> Tensor | float:
        """What is added to a writer; nothing by default."""
        vector = self.patch.added.get(name)
        return 0.0 if vector is None else vector.to(like)

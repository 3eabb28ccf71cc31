"""A plain run in which some heads attend as told, and vectors are added to what some writers say.

For what gates cannot express: an attention pattern taken from another prompt (or made up), alone or as a multiple, and
steering vectors. Everything after a patched place follows from it. The run is differentiable in what is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, Rotaries
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.attention import attention_mask
from circuitgraph.forward.masked import Runnable
from circuitgraph.forward.reference import attended, embed, heads_output


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """What is done to a plain run.

    Attributes:
        patterns: For heads, by name: the shares of every position that each position takes the head's values from,
            `[batch seq seq]` as of `circuitgraph.forward.patterns`; rows need not add up to 1.
        added: For writers, by name: what is added to what they write, `[d_model]` at all positions, or
            `[batch seq d_model]`. With an embedding's name it is added to the embeddings.
    """

    patterns: Mapping[str, Tensor] = field(default_factory=dict)
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
        ConfigurationError: A pattern or a vector of another size.

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
        for name, vector in self.patch.added.items():
            if name not in kinds:
                raise UnknownNameError.of("writer", name, kinds)
            d_model = self.shape.d_model
            if tuple(vector.shape) not in ((d_model,), (n_prompts, n_tokens, d_model)):
                raise ConfigurationError(
                    f"what is added to {name} has to be [{d_model}], or {[n_prompts, n_tokens, d_model]}; got "
                    f"{list(vector.shape)}"
                )

    def logits(self) -> Tensor:
        embedded = embed(self.bound, self.batch)
        residual = sum(embedded[1:], embedded[0])
        rotaries = rotaries_of(self.bound.rotaries, residual, self.batch)
        for name in self.universe.writers[: self.universe.n_embeddings]:
            residual = residual + self._added(name, residual)
        for layer, block in enumerate(self.bound.blocks):
            after = residual + self._attention(layer, block, residual, rotaries)
            seen = after if self.shape.block_order == "sequential" else residual
            mlp = block.mlp(block.mlp_norm(seen))
            residual = after + mlp + self._added(f"m{layer}", mlp)
        asked = residual.flatten(0, 1)[self.batch.predict_index]
        return self.bound.unembed(self.bound.final_norm(asked))

    def _attention(self, layer: int, block: BoundBlock, residual: Tensor, rotaries: Rotaries) -> Tensor:
        """What the layer's heads write."""
        names = {head: f"a{layer}.h{head}" for head in range(self.shape.n_heads)}
        given = {head: self.patch.patterns.get(name) for head, name in names.items()}
        patterns = {head: one.to(residual) for head, one in given.items() if one is not None}
        said = heads_output(block, attended(block, self.shape, residual, self.mask, rotaries, patterns)[0])
        for name in names.values():
            said = said + self._added(name, said)
        return said

    def _added(self, name: str, like: Tensor) -> Tensor | float:
        """What is added to a writer; nothing by default."""
        vector = self.patch.added.get(name)
        return 0.0 if vector is None else vector.to(like)

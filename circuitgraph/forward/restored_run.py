"""Runs that begin with other embeddings, and in which some parts say what they said on the clean prompt.

The model runs once as it is. A *sample* is a prompt with other embeddings at some positions and a restoration: a kind
of part, layers and positions at which that part says again what it said in the clean run. Everything after it follows.

What is before the first changed position is as in the clean run, where a model looks back alone: only later positions
run, and look back at the clean run's keys and values. Samples with the same embeddings share what comes before the
first layer of their restoration:

1. One row of the batch has nothing restored, and runs through all layers.
2. At each layer, samples whose restoration begins there join as copies of that row.

With embeddings of their own, samples run from the first layer on. The run is differentiable in the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.architectures.family import BoundBlock, Rotaries
from circuitgraph.architectures.rotary import rotaries_of
from circuitgraph.batch import TokenBatch
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.attention import attend, prepared, rotary_for, windowed
from circuitgraph.forward.pass_plan import Runnable
from circuitgraph.forward.reference import heads_output, project, reference_run, to_query_heads
from circuitgraph.graph.virtual import require_no_vectors

ATTENTION, MLP, RESIDUAL = KINDS = ("attention", "mlp", "residual")


@dataclass(frozen=True, kw_only=True, eq=False)
class Restoration:
    """Parts that say what they said in the clean run.

    Attributes:
        kind: `attention`, what all heads of a layer add, with the output's bias; `mlp`; or `residual`, the residual
            stream behind the layer.
        layers: In these layers; none, and nothing is restored.
        places: At these positions of each prompt.

    Raises:
        UnknownNameError: No such kind.
    """

    kind: str
    layers: range
    places: Bool[Tensor, "prompt seq"]

    def __post_init__(self) -> None:
        """Refuse a kind that there is not."""
        if self.kind not in KINDS:
            raise UnknownNameError.of("kind of restoration", self.kind, KINDS)


class RestoredRun:
    """A run of the full model, to which others with other embeddings are restored in part.

    Args:
        model: The model.
        batch: Prompts of one length, without padding, each asked at as many positions.
        start: The first position at which embeddings may change; 0 where a model looks ahead.

    Attributes:
        clean: The full model's logits `[asked d_vocab]`.
        embedded: What the first layer reads in that run, from `start` on, `[prompt seq d_model]`: the sum of all
            embeddings.
        tokens: The embeddings of the tokens alone `[prompt seq d_model]`, without those of positions where these are
            learned.

    Raises:
        ConfigurationError: Padding, prompts that are asked at different numbers of positions or before `start`, a start
            in a model that looks ahead, or a model that vectors are added to.
    """

    def __init__(self, model: Runnable, batch: TokenBatch, *, start: int = 0) -> None:
        require_no_vectors(model.universe.virtual, "restored runs")
        n_prompts, self.seq = batch.input_ids.shape
        if batch.padded or len(batch.predict_index) % n_prompts:
            raise ConfigurationError(
                "parts are restored in prompts of one length, all asked at as many positions; got others. Group them "
                "by length first"
            )
        asked = (batch.predict_index % self.seq).view(n_prompts, -1) - start
        if start and (not model.shape.causal or bool((asked < 0).any())):
            raise ConfigurationError(
                f"embeddings change from position {start} on, and positions before it are asked, or look ahead; "
                "begin at 0"
            )
        self.model, self.batch, self.start, self.asked = model, batch, start, asked
        self.clean, said = reference_run(model.bound, model.shape, batch)
        assert said is not None
        self._keep(said)

    @torch.no_grad()
    def _keep(self, said: AblationValues) -> None:
        """Keep what is restored, and what is looked back at, and nothing else."""
        start, behind = self.start, sum(said.embeddings[1:], said.embeddings[0])
        self.embedded: Tensor = behind[:, start:].clone()
        self.tokens: Tensor = said.embeddings[0][:, start:].clone()
        self._clean: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        for attention, mlp in zip(said.attention, said.mlps, strict=True):
            behind = behind + attention + mlp
            for kind, value in ((ATTENTION, attention), (MLP, mlp), (RESIDUAL, behind)):
                self._clean[kind].append(value[:, start:].clone())
        self._before = [
            (key[:, :, :start].clone(), value[:, :, :start].clone())
            for key, value in zip(said.key, said.value, strict=True)
        ]
        alone = TokenBatch(
            input_ids=self.batch.input_ids[:1], attention_mask=self.batch.attention_mask[:1],
            predict_index=self.batch.predict_index[:0], predict_prompt=self.batch.predict_prompt[:0],
        )  # fmt: skip
        self._rotaries: Rotaries = rotaries_of(self.model.bound.rotaries, said.embeddings[0][:1], alone)

    def logits(
        self, embedded: Float[Tensor, "#sample prompt seq_from_start d_model"], restorations: Sequence[Restoration]
    ) -> Float[Tensor, "sample prompt asked d_vocab"]:
        """The logits of all prompts, with each of some restorations.

        Args:
            embedded: What the first layer reads instead, from `start` on; one for all, or one a restoration.
            restorations: What is restored, at least one.

        Returns:
            Logits at each prompt's asked positions.

        Raises:
            ConfigurationError: Embeddings of another size, or layers or positions that there are not.
        """
        self._check(embedded, restorations)
        shared = len(embedded) == 1
        first = [one.layers[0] if shared and len(one.layers) else 0 for one in restorations]
        order = sorted(range(len(restorations)), key=lambda place: first[place])
        inside: list[int] = []
        residual = embedded if shared else embedded[order]
        if not shared:
            inside = order
        for layer in range(len(self.model.bound.blocks)):
            if shared:
                joining = [place for place in order if first[place] == layer]
                residual = torch.cat([residual, residual[:1].expand(len(joining), -1, -1, -1)])
                inside = inside + joining
            rows = [None] * shared + [restorations[place] for place in inside]
            residual = self._layer(layer, residual, rows)
        back = torch.tensor([shared + inside.index(place) for place in range(len(restorations))])
        return self._unembedded(residual[back.to(residual.device)])

    def _layer(self, layer: int, residual: Tensor, rows: Sequence[Restoration | None]) -> Tensor:
        """The residual stream `[row prompt seq d_model]` behind a layer."""
        block, n_rows = self.model.bound.blocks[layer], len(residual)
        read = residual.flatten(0, 1)
        attention = self._attention(layer, block, read).unflatten(0, (n_rows, -1))
        after = residual + self._restored(attention, ATTENTION, layer, rows)
        seen = after if self.model.shape.block_order == "sequential" else residual
        says = block.mlp(block.mlp_norm(seen.flatten(0, 1))).unflatten(0, (n_rows, -1))
        after = after + self._restored(says, MLP, layer, rows)
        return self._restored(after, RESIDUAL, layer, rows)

    def _restored(self, says: Tensor, kind: str, layer: int, rows: Sequence[Restoration | None]) -> Tensor:
        """What a part says, at restored positions what it said in the clean run."""
        wanted = [row is not None and row.kind == kind and layer in row.layers for row in rows]
        if not any(wanted):
            return says
        clean = self._clean[kind][layer]
        nowhere = torch.zeros(clean.shape[:2], dtype=torch.bool, device=clean.device)
        places = [
            row.places[:, self.start :].to(clean.device) if yes and row is not None else nowhere
            for row, yes in zip(rows, wanted, strict=True)
        ]
        return torch.where(torch.stack(places)[..., None], clean[None], says)

    def _attention(self, layer: int, block: BoundBlock, read: Tensor) -> Tensor:
        """What a layer's attention adds at positions from the start on, `[row_and_prompt seq d_model]`."""
        shape, how, start = self.model.shape, block.attention, self.start
        x = block.attention_norm(read)
        query, key, value = (project(x, one) for one in (block.query, block.key, block.value))
        if start:
            key, value = (
                torch.cat([before.repeat(1, len(read) // before.shape[1], 1, 1), own], 2)
                for before, own in zip(self._before[layer], (key, value), strict=True)
            )
        whole = rotary_for(how, self._rotaries)
        late = None if whole is None else (whole[0][:, start:], whole[1][:, start:])
        query, key, value = prepared(how, 0, query, late), prepared(how, 1, key, whole), prepared(how, 2, value, whole)
        key, value = to_query_heads(key, shape.n_heads), to_query_heads(value, shape.n_heads)
        mask = None
        if start:
            mask = torch.ones(self.seq, self.seq, dtype=torch.bool, device=read.device).tril()[None, None, start:]
        mask = windowed(mask, how, self.seq, read.device, at=start)
        return heads_output(block, block.settled(attend(query, key, value, mask, causal=shape.causal, attention=how)))

    def _unembedded(self, residual: Tensor) -> Tensor:
        bound = self.model.bound
        at = self.asked[None, :, :, None].expand(len(residual), -1, -1, residual.shape[-1])
        return bound.unembed(bound.final_norm(residual.gather(2, at)))

    def _check(self, embedded: Tensor, restorations: Sequence[Restoration]) -> None:
        n_prompts, n_layers = len(self.batch.input_ids), len(self.model.bound.blocks)
        sizes = [(n, *self.embedded.shape) for n in {1, len(restorations)}]
        if not restorations or tuple(embedded.shape) not in sizes:
            raise ConfigurationError(
                f"expected embeddings {list(self.embedded.shape)} of all prompts, for all {len(restorations)} "
                f"restorations or for each, and a restoration at least; got {list(embedded.shape)}"
            )
        for one in restorations:
            if len(one.layers) and not 0 <= one.layers[0] <= one.layers[-1] < n_layers:
                raise ConfigurationError(f"layers to restore lie within 0 to {n_layers - 1}; got {one.layers}")
            if tuple(one.places.shape) != (n_prompts, self.seq):
                raise ConfigurationError(
                    f"positions to restore have to be [prompt seq], here {[n_prompts, self.seq]}; got "
                    f"{list(one.places.shape)}"
                )

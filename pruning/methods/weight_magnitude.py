"""How large the weights between a writer and a reader are. No prompt is run.

With `W_w [inner d_model]` the last matrix of a writer and `W_r [d_model inner]` the first of a reader, through the
weights of the reader's norm,

    score(w → r) = ‖W_w · diag(norm) · W_r‖_F.

W_w is a head's part of the output projection, an MLP's second matrix, or the embedding matrix (tokens and positions
one below the other where they are one writer); W_r a head's query, key or value matrix, an MLP's first matrices side by
side, or the output head. Where the norm takes off the mean, so do the columns of W_r. A matrix that is longer than it
is wide is taken by the R of its QR decomposition, which has the same products.

A baseline of ours, after the composition scores of Elhage et al. 2021, which divide by the norms of both factors.

References:
    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.family import BoundModel, Projection
from circuitgraph.architectures.norm import Norm
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.backward_rules import PLAIN_MLPS
from circuitgraph.graph.block import Block
from pruning.execution.probe import Probe
from pruning.methods.information_flow import Observed


@dataclass(frozen=True, kw_only=True)
class WeightMagnitude(Observed):
    """Size of the weights between writer and reader; a baseline of ours without settings.

    Examples:
        >>> WeightMagnitude().cost
        'none'
    """

    name: ClassVar[str] = "weight-magnitude"
    summary: ClassVar[str] = "size of the product of the writer's last and the reader's first weights; a baseline"
    source: ClassVar[str] = "a baseline of ours, after Elhage et al. 2021"
    cost: ClassVar[str] = "none"
    estimates = "Frobenius norm of the product of the writer's and the reader's weights"

    def require_model(self, compiled: CompiledModel) -> None:
        """Refuse MLPs of a kind whose matrices are not known.

        Args:
            compiled: The model.

        Raises:
            UnsupportedModelError: It has some.
            ConfigurationError: Vectors are added to the model.
        """
        compiled.require_no_vectors()  # they are no weights
        for block in compiled.bound_as_given.blocks:
            _mlp_matrices(block.mlp)

    @torch.no_grad()
    def score(self, probe: Probe, *, seed: int = 0) -> Float[np.ndarray, " edge"]:
        """Score every edge.

        Args:
            probe: The model.
            seed: Not used: nothing is random.

        Returns:
            One number per edge, not negative.

        Raises:
            UnsupportedModelError: MLPs of a kind whose matrices are not known.
        """
        compiled = probe.compiled
        bound, universe = compiled.bound_as_given, compiled.universe
        writers = list(_writers(compiled, bound))
        found = []
        for block in universe.blocks:
            readers = [_short(matrix.T).T for matrix in _readers(compiled, bound, block)]
            widths = [matrix.shape[1] for matrix in readers]
            joined = torch.cat(readers, 1)
            columns = torch.stack([(writer @ joined).pow(2).sum(0) for writer in writers[: block.n_writers]])
            found.append(torch.stack([part.sum(1) for part in columns.split(widths, 1)]).sqrt().flatten())
        return torch.cat(found).double().cpu().numpy()


def _short(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "rank column"]:
    """A matrix with no more rows than columns that has the same product with its own transpose."""
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    return torch.linalg.qr(matrix, mode="r").R if matrix.shape[0] > matrix.shape[1] else matrix


def _writers(compiled: CompiledModel, bound: BoundModel) -> Iterator[Tensor]:
    """The last matrix of every writer `[inner d_model]`."""
    embeddings = _embedding_matrices(compiled, bound)
    joint = compiled.universe.embeddings == "joint"
    yield from map(_short, [torch.cat(embeddings)] if joint else embeddings)
    for block in bound.blocks:
        yield from map(_short, block.output.unflatten(0, (compiled.shape.n_heads, -1)))
        yield _short(_mlp_matrices(block.mlp)[1])


def _embedding_matrices(compiled: CompiledModel, bound: BoundModel) -> list[Tensor]:
    config: Any = compiled.model.config
    tokens = torch.arange(int(config.vocab_size), device=compiled.device)[None]
    found = [bound.embed(tokens, torch.zeros_like(tokens))[0][0]]
    if compiled.shape.learned_positions:
        assert compiled.shape.n_positions is not None
        positions = torch.arange(compiled.shape.n_positions, device=compiled.device)[None]
        found.append(bound.embed(torch.zeros_like(positions), positions)[1][0])
    return found


def _readers(compiled: CompiledModel, bound: BoundModel, block: Block) -> list[Tensor]:
    """The first matrix of every reader of a block, through the norm's weights `[d_model inner]`."""
    if block.kind == "logits":
        unembed: Any = bound.unembed
        return [_normed(bound.final_norm, unembed.weight.T)]
    own = bound.blocks[block.layer]
    if block.kind == "mlp":
        return [_normed(own.mlp_norm, _mlp_matrices(own.mlp)[0])]
    universe = compiled.universe
    n_kv = universe.n_kv_readers or universe.n_heads
    parts = [
        _per_reader(own.attention_norm, projection, n_readers)
        for projection, n_readers in ((own.query, universe.n_heads), (own.key, n_kv), (own.value, n_kv))
    ]
    if universe.n_kv_readers:
        return [matrix for part in parts for matrix in part]
    return [torch.cat(of_head, 1) for of_head in zip(*parts, strict=True)]


def _per_reader(norm: Norm, projection: Projection, n_readers: int) -> list[Tensor]:
    heads = _normed(norm, projection.matrix).unflatten(1, (projection.n_heads, -1)).permute(1, 0, 2)
    return list(heads.repeat_interleave(n_readers // projection.n_heads, 0))


def _normed(norm: Norm, matrix: Float[Tensor, "d_model inner"]) -> Float[Tensor, "d_model inner"]:
    matrix = matrix if norm.factor is None else matrix * norm.factor[:, None]
    return matrix - matrix.mean(0) if norm.kind == "layer" else matrix


def _mlp_matrices(mlp: nn.Module) -> tuple[Tensor, Tensor]:
    """An MLP's first matrices side by side `[d_model inner]`, and its second `[inner d_model]`."""
    parts: dict[str, nn.Module] = dict(mlp.named_children())
    if isinstance(mlp, GatedMLP):
        own: Any = mlp.own
        return torch.cat([_matrix(own.gate_proj), _matrix(own.up_proj)], 1), _matrix(own.down_proj)
    for first, _, second in PLAIN_MLPS:
        if {first, second} <= set(parts):
            return _matrix(parts[first]), _matrix(parts[second])
    raise UnsupportedModelError(f"weight-magnitude does not know the matrices of MLPs of the kind {type(mlp).__name__}")


def _matrix(linear: Any) -> Tensor:
    """A linear map's weights, from what it is given to what it says."""
    return linear.weight.T if isinstance(linear, nn.Linear) else linear.weight

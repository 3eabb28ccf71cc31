# ruff: noqa: D102 - the attributes are described in the class that is meant
"""Reads of a stream by the CPU's kernels: mix and norm in one, and on the way back the gates' gradients as well."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitgraph.forward.engine.choose import cpu_kernels
from circuitgraph.forward.engine.norms import norm_parts, norms_here
from circuitgraph.forward.engine.plain import CPU_DOTS_BELOW, dense_matrix, dot_pairs
from circuitgraph.forward.plan.plan import BlockPlan, StreamPlan
from circuitgraph.forward.stream.tape import Tape


@runtime_checkable
class Sums(Protocol):
    """What a read takes of a stream, as `circuitgraph.forward.stream.stream.Stream` is one."""

    running_gradient: Tensor | None

    @property
    def coefficients(self) -> Tensor: ...
    @property
    def wanted(self) -> np.ndarray: ...
    @property
    def complement(self) -> np.ndarray: ...
    @property
    def deltas(self) -> Tensor: ...
    @property
    def width(self) -> int: ...
    @property
    def plan(self) -> StreamPlan: ...
    @property
    def tape(self) -> Tape: ...
    def sum_before(self, block: BlockPlan) -> Tensor | None: ...


class FusedReads:
    """The reads of one stream.

    Args:
        stream: The stream, whose coefficients are chosen.
        kernels: From `cpu_kernels`.
    """

    def __init__(self, stream: Sums, kernels: ModuleType) -> None:
        self._kernels = kernels  # not the stream, which has this: its buffers are free as soon as it is
        coefficients = stream.coefficients.numpy()
        self._coefficients = kernels.Entries.of(coefficients, coefficients.dtype)
        self._wanted = kernels.Entries.of(stream.wanted, coefficients.dtype)
        self._edges = stream.plan.edges[stream.wanted]

    @staticmethod
    def of(stream: Sums) -> FusedReads | None:
        """Those of a stream; None where the kernels are not to be had.

        Args:
            stream: The stream.
        """
        kernels = cpu_kernels(stream.deltas)
        return None if kernels is None else FusedReads(stream, kernels)

    def take(self, stream: Sums, norm: nn.Module) -> bool:
        """Whether a block is read here: its norm is one that the kernels know.

        Args:
            stream: The stream.
            norm: The readers'.
        """
        return norms_here(norm, stream.deltas)

    def read(
        self,
        stream: Sums,
        block: BlockPlan,
        ablated: Tensor,
        norm: nn.Module,
        out: Float[Tensor, "reader cell d_model"],
    ) -> Any:
        """What the block's readers see, normed.

        Args:
            stream: The stream.
            block: The readers.
            ablated: The ablated residual stream, broadcastable to `[cell d_model]`.
            norm: Their norm.
            out: Where it goes.

        Returns:
            What `pull` asks for.
        """
        return self._kernels.reads.norm_mixed(self._mixed(stream, block, ablated), self._norm(norm), out)

    def pull(
        self,
        stream: Sums,
        block: BlockPlan,
        ablated: Tensor,
        norm: nn.Module,
        moments: Any,
        gradients: Float[Tensor, "reader cell d_model"],
    ) -> None:
        """Take gradients through the norm where they lie, and from there those of gates and running sum.

        Args:
            stream: The stream.
            block: The readers.
            ablated: The ablated residual stream, broadcastable to `[cell d_model]`.
            norm: Their norm.
            moments: From `read`.
            gradients: Of the normed rows; overwritten with those of what the readers saw.
        """
        rows = block.rows
        mixed, wanted = self._mixed(stream, block, ablated), self._wanted.rows(rows)
        among = stream.wanted[rows, : block.n_slots]
        gathers = np.count_nonzero(among) < CPU_DOTS_BELOW * among.size
        asked = wanted if gathers else self._kernels.Entries.none(len(gradients))
        if mixed.running is not None and stream.running_gradient is None:
            stream.running_gradient = torch.zeros_like(gradients[0])
        dots = self._kernels.reads.pull_mixed(
            gradients, mixed, self._norm(norm), moments, asked, stream.running_gradient
        )
        if not gathers:
            dots = dot_pairs(gradients, mixed.deltas, among).numpy()
        stream.tape.gradient.numpy()[self._edges[wanted.starts[0] : wanted.starts[-1]]] = dots

    def _mixed(self, stream: Sums, block: BlockPlan, ablated: Tensor) -> Any:
        rows = block.rows
        takes_running = stream.complement[rows]
        return self._kernels.reads.Mixed(
            base=ablated.expand(-1, stream.width), takes_running=takes_running,
            running=stream.sum_before(block) if takes_running.any() else None,
            entries=self._coefficients.rows(rows),
            matrix=dense_matrix(stream.coefficients[rows, : block.n_slots].numpy()),
            deltas=stream.deltas[: block.n_slots],
        )  # fmt: skip

    def _norm(self, norm: nn.Module) -> Any:
        parts = norm_parts(norm)
        assert parts is not None
        weight, bias, epsilon = parts
        return self._kernels.reads.Norm(weight=weight, bias=bias, epsilon=epsilon, centred=bias is not None)

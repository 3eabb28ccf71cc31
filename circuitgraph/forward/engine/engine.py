"""What an engine does: the sums of a masked pass, on one kind of device.

A stream (`circuitgraph.forward.stream`) decides when something is computed and where it lies; an engine, how. There
are three, chosen once for a device and a number format by `circuitgraph.forward.engine.choose.engine_for`:

- `plain`: torch's operators, the readable definition, for any device and format;
- `cpu`: kernels in Numba, for float32 and float64 on a CPU;
- `cuda`: kernels in Triton.

Another one is a file that fulfils `Engine`, and a line in `engine_for`; the tests of all engines are one battery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuitgraph.architectures.norm import Norm
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """What some readers see: a base, for some of them the running sum, and deltas with coefficients.

    Attributes:
        base: The ablated residual stream, one row where it is the same at every position.
        running: The sum of all deltas that the readers see; None where no reader takes it.
        takes_running: Which readers take it, on the host.
        coefficients: Of the deltas.
        deltas: Writers' outputs less their ablation values.
    """

    base: Float[Tensor, "position_or_one d_model"]
    running: Float[Tensor, "position d_model"] | None
    takes_running: Bool[np.ndarray, " reader"]
    coefficients: Coefficients
    deltas: Float[Tensor, "slot position d_model"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What a norm's way back needs of each row, where an engine keeps it.

    Attributes:
        means: Each row's mean.
        scales: One over the root of each row's mean square.
    """

    means: Tensor
    scales: Tensor


@runtime_checkable
class Engine(Protocol):
    """How the sums of a masked pass are computed. All tensors lie on one device; rows of 3 axes are contiguous."""

    @property
    def name(self) -> str:
        """`plain`, `cpu` or `cuda`."""
        ...

    def mix(
        self,
        out: Float[Tensor, "to position width"],
        base: Tensor | None,
        coefficients: Coefficients,
        rows: Float[Tensor, "source position width"],
    ) -> None:
        """`out = base + coefficients @ rows`.

        Args:
            out: Where it goes; not among `rows`.
            base: What is added to: `out` itself, `[position width]`, `[1 width]` the same for all, or None for 0.
            coefficients: `[to source]`.
            rows: The rows to mix.
        """
        ...

    def dots(
        self, left: Float[Tensor, "left position width"], right: Float[Tensor, "right position width"], pairs: Pairs
    ) -> Float[Tensor, " pair"]:
        """Dot products of rows, positions and widths in one; in the order of the pairs, in float32 or wider.

        Args:
            left: Rows.
            right: Rows.
            pairs: Which products.
        """
        ...

    def read(
        self,
        sums: Sums,
        norm: Norm,
        out: Float[Tensor, "reader position d_model"],
        room: Float[Tensor, "reader position d_model"],
    ) -> Moments | None:
        """What readers see, normed.

        Args:
            sums: What they see.
            norm: Their norm.
            out: Where it goes; may be `room`.
            room: May be written to.

        Returns:
            What `pull` takes.
        """
        ...

    def pull(
        self,
        sums: Sums,
        norm: Norm,
        moments: Moments | None,
        gradients: Float[Tensor, "reader position d_model"],
        pairs: Pairs,
        running: Float[Tensor, "position d_model"] | None,
        room: Float[Tensor, "reader position d_model"],
    ) -> Float[Tensor, " pair"]:
        """The way back of `read`: take gradients through the norm where they lie, and from there those of the gates.

        Args:
            sums: What the readers saw.
            norm: Their norm.
            moments: From `read`.
            gradients: Of the normed rows; overwritten with those of what the readers saw.
            pairs: Readers and deltas whose gates' gradients are wanted.
            running: In float32 at least; the gradients of readers that take the running sum are added to it.
            room: May be written to; not where the gradients are.

        Returns:
            The gradients of the wanted gates, in the order of the pairs.
        """
        ...

    def project(
        self,
        out: Float[Tensor, "row position taken"],
        x: Float[Tensor, "row position given"],
        weights: Float[Tensor, "head given taken"],
        heads: np.ndarray,
    ) -> None:
        """`out[i] = x[i] @ weights[heads[i]]`, without autograd and without keeping copies of weights.

        Args:
            out: Where the products go.
            x: What is multiplied.
            weights: Every head's weights; a view of the model's.
            heads: Whose weights each row takes.
        """
        ...

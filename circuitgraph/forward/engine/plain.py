"""The plain engine: torch's operators, on any device and in any number format. It defines what the others compute.

Most gates are exactly 0 or 1, so coefficients are matrices whose zeros are many. There are two ways to mix and to take
dots, chosen by the share of non-zeros alone, so that the same gates take the same way and give the same bits: by the
rows that a row names, where they are few, and by a product of everything.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rms_norm import blocks
from circuitgraph.forward.engine.coefficients import Coefficients, Pairs
from circuitgraph.forward.engine.engine import Moments, Sums
from circuitgraph.forward.engine.rows import run_of
from circuitgraph.transfer import to_device

GATHER_BELOW = 0.2
"""Below this share of non-zeros, rows that are named are gathered."""


class PlainEngine:
    """Sums by torch's operators; see `circuitgraph.forward.engine.engine.Engine`."""

    name = "plain"

    def mix(
        self,
        out: Float[Tensor, "to position width"],
        base: Tensor | None,
        coefficients: Coefficients,
        rows: Float[Tensor, "source position width"],
    ) -> None:
        """`out = base + coefficients @ rows`."""
        lay(out, base)
        into, given, present = out.flatten(1), rows.flatten(1), coefficients.present
        if np.count_nonzero(present) >= GATHER_BELOW * present.size:
            into.addmm_(coefficients.matrix, given)
            return
        for to in np.flatnonzero(present.any(1)).tolist():
            sources = to_device(np.flatnonzero(present[to]), out.device)
            factors = coefficients.matrix[to : to + 1].index_select(1, sources)
            into[to : to + 1].addmm_(factors, given.index_select(0, sources))

    def dots(
        self, left: Float[Tensor, "left position width"], right: Float[Tensor, "right position width"], pairs: Pairs
    ) -> Float[Tensor, " pair"]:
        """Dot products of rows."""
        ours, theirs = left.flatten(1), right.flatten(1)
        if pairs.share >= GATHER_BELOW:
            return (ours @ theirs.T).flatten().index_select(0, to_device(np.flatnonzero(pairs.wanted), left.device))
        found = [left.new_zeros(0)]
        for row in np.flatnonzero(pairs.wanted.any(1)).tolist():
            named = to_device(np.flatnonzero(pairs.wanted[row]), left.device)
            found.append((theirs.index_select(0, named) @ ours[row, :, None])[:, 0])
        return torch.cat(found)

    def read(
        self,
        sums: Sums,
        norm: Norm,
        out: Float[Tensor, "reader position d_model"],
        room: Float[Tensor, "reader position d_model"],
    ) -> Moments | None:
        """What readers see, normed."""
        self.see(sums, room)
        return self.norm_rows(norm, room, out)

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
        """The way back of `read`; what readers saw is not kept but mixed once more."""
        self.see(sums, room)
        self.norm_rows_back(norm, room, moments, gradients)
        if running is not None and sums.takes_running.any():
            taking = gradients
            if not sums.takes_running.all():
                taking = gradients.index_select(0, to_device(np.flatnonzero(sums.takes_running), gradients.device))
            running += taking.sum(0, dtype=running.dtype)
        return self.dots(gradients, sums.deltas, pairs)

    def project(
        self,
        out: Float[Tensor, "row position taken"],
        x: Float[Tensor, "row position given"],
        weights: Float[Tensor, "head given taken"],
        heads: np.ndarray,
    ) -> None:
        """`out[i] = x[i] @ weights[heads[i]]`: neighbouring heads in one product, others one by one."""
        run = run_of(heads)
        if run is not None:
            torch.bmm(x, weights[run], out=out)
            return
        for row, head in enumerate(heads.tolist()):
            torch.mm(x[row], weights[head], out=out[row])

    # ------------------------------------------------------------ within a read

    def see(self, sums: Sums, out: Float[Tensor, "reader position d_model"]) -> None:
        """What readers see, before the norm.

        Args:
            sums: What they see.
            out: Where it goes.
        """
        takes = sums.takes_running
        if sums.running is None or not takes.any():
            self.mix(out, sums.base, sums.coefficients, sums.deltas)
            return
        full = (sums.base + sums.running).to(sums.base.dtype)
        if takes.all():
            self.mix(out, full, sums.coefficients, sums.deltas)
            return
        out.copy_(sums.base)
        whose = to_device(np.flatnonzero(takes), out.device)
        out.index_copy_(0, whose, full.expand(len(whose), *out.shape[1:]))
        self.mix(out, out, sums.coefficients, sums.deltas)

    def norm_rows(
        self, norm: Norm, x: Float[Tensor, "reader position d_model"], out: Float[Tensor, "reader position d_model"]
    ) -> Moments | None:
        """Norm rows by the model's own module, so many at a time as stay in a CPU's cache.

        Args:
            norm: The norm.
            x: The rows.
            out: Where they go; may be `x`.

        Returns:
            What `norm_rows_back` takes.
        """
        if norm.kind == "none":
            out.copy_(x)
            return None
        with torch.no_grad():
            for given, normed in blocks(x.flatten(0, -2), out.view(-1, out.shape[-1])):
                normed.copy_(norm(given))
        return None

    def norm_rows_back(
        self,
        norm: Norm,
        x: Float[Tensor, "reader position d_model"],
        moments: Moments | None,
        gradients: Float[Tensor, "reader position d_model"],
    ) -> None:
        """Take gradients of normed rows to those of the rows, where they lie, by autograd through the module.

        Args:
            norm: The norm.
            x: The rows.
            moments: From `norm_rows`.
            gradients: Overwritten.
        """
        del moments
        if norm.kind == "none":
            return
        for given, back in blocks(x.flatten(0, -2), gradients.view(-1, gradients.shape[-1])):
            with torch.enable_grad():
                leaf = given.detach().requires_grad_()
                (found,) = torch.autograd.grad(norm(leaf), leaf, back)
            back.copy_(found)


def lay(out: Float[Tensor, "to position width"], base: Tensor | None) -> None:
    """Lay down what is added to.

    Args:
        out: Where.
        base: As of `Engine.mix`.
    """
    if base is None:
        out.zero_()
    elif base is not out:
        out.copy_(base)

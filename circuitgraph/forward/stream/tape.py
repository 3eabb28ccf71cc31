"""What the streams of one masked pass share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from circuitgraph.forward.stream.base import Base
from circuitgraph.forward.stream.workspace import Workspace


class Tape:
    """What the streams of one pass share.

    Args:
        gates: All gates `[edge]`; 1 keeps an edge.
        gates_host: The same on the host, float64.
        wanted: Booleans `[edge]` on the host: gates whose gradient is wanted.
        workspace: Where large buffers are kept between steps.
        goes_back: Whether a backward pass may follow.
        fixed: Whether `gates_host` only marks which gates may be open, and the gates themselves are read on the device:
            then nothing that runs depends on their values, and every reader takes the direct sum.
        base: The ablated residual stream, where it takes a gradient; else None.
    """

    def __init__(
        self,
        gates: Tensor,
        gates_host: np.ndarray,
        wanted: np.ndarray,
        workspace: Workspace,
        *,
        goes_back: bool = True,
        fixed: bool = False,
        base: Base | None = None,
    ) -> None:
        self.gates, self.gates_host, self.wanted = gates, gates_host, wanted
        self.goes_back, self.fixed, self.base = goes_back, fixed, base
        self.finished = False
        self.workspace = workspace if workspace.hand_to(self) else Workspace()
        self.gradient = torch.zeros_like(gates)

    def check_unfinished(self) -> None:
        """Refuse a second way back, for the first has written over what it would need."""
        if self.finished:
            raise RuntimeError("a masked pass can be taken backward once; run the masked pass again")

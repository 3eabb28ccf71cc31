"""Products of each head's rows with that head's own weights, for some of a layer's heads.

The weights of chosen heads are never copied to be kept for the backward pass, which would make a sparse step hold
a second copy of most of the model. Three ways, by the choice of heads and the device alone:

1. neighbouring heads (all of them, most often): one batched product with a slice of the weights;
2. others, on a CPU: a product a head, with a view of its weights, which is also faster than gathering them first;
3. others, elsewhere: weights are gathered, and gathered again on the way back, since a launch a head would not pay.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.transfer import to_device


def pick(values: Tensor, rows: np.ndarray) -> Tensor:
    """Some rows of a tensor; the tensor itself where these are all of its rows in order.

    Args:
        values: `[row …]`.
        rows: Which.
    """
    if len(rows) == len(values) and bool((rows == np.arange(len(values))).all()):
        return values
    return values.index_select(0, to_device(rows, values.device))


def run_of(heads: np.ndarray) -> slice | None:
    """Neighbouring heads as a slice, or None.

    Examples:
        >>> run_of(np.array([3, 4, 5])), run_of(np.array([3, 5]))
        (slice(3, 6, None), None)
    """
    if not len(heads):
        return None
    first, last = int(heads[0]), int(heads[-1])
    # The ends tell most choices apart.
    if last - first + 1 != len(heads) or not (heads[1:] - heads[:-1] == 1).all():
        return None
    return slice(first, last + 1)


def multiply_into(
    out: Float[Tensor, "row cell taken"],
    x: Float[Tensor, "row cell given"],
    weights: Float[Tensor, "head given taken"],
    heads: np.ndarray,
) -> None:
    """`out[i] = x[i] @ weights[heads[i]]`, without autograd.

    Args:
        out: Where the products go.
        x: What is multiplied.
        weights: Every head's weights; a view of the model's.
        heads: Whose weights each row takes.
    """
    run = run_of(heads)
    if run is not None:
        torch.bmm(x, weights[run], out=out)
    elif x.device.type == "cpu":
        for row, head in enumerate(heads.tolist()):
            torch.mm(x[row], weights[head], out=out[row])
    else:
        torch.bmm(x, weights.index_select(0, to_device(heads, x.device)), out=out)

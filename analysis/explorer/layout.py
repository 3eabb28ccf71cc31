"""Where the explorer's nodes stand: computed here from layers and heads, so that no layout runs in the browser.

Every node has a place along the computation (its layer) and one across it (its head). A head stands at the same
place whatever else is drawn, so that two circuits can be laid over one another. MLPs have a lane of their own
below the heads, and the group of a shared key and value stands just before its heads. The page turns the
whole by a quarter where it is taller than wide.
"""

from __future__ import annotations

from dataclasses import dataclass

from circuitgraph.graph.node_names import node_kind, node_layer
from circuitgraph.graph.universe import Universe

# Of the picture with the layers from left to right; about that of a slide.
_ASPECT = 1.6
_MIN_ALONG, _MAX_ALONG = 100.0, 220.0
_MIN_ACROSS, _MAX_ACROSS = 80.0, 160.0
FIRST_LAYER = 1.5
"""Where the first layer stands, in layers from the embeddings: far enough that no curve starts where it ends."""

_MLP_LANES_BELOW = 1.0
_GROUP_BEFORE = 0.4
_VECTOR_BEFORE = 0.5
_MLP_AFTER = 0.5


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Distances in the units of the page.

    Attributes:
        along: From one layer to the next.
        across: From one head to the next.
    """

    along: float
    across: float


def choose_gaps(universe: Universe) -> Gaps:
    """Distances that give the picture the proportions of a slide, as far as nodes still fit.

    Args:
        universe: The universe.

    Returns:
        The gaps.

    Examples:
        >>> gaps = choose_gaps(Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12))
        >>> gaps.along, gaps.across
        (119.0, 80.0)
    """
    n_along, n_across = universe.n_layers + 2, universe.n_heads + 1
    along, across = _MIN_ALONG, _MIN_ACROSS
    if n_along * along > _ASPECT * n_across * across:
        across = min(n_along * along / _ASPECT / n_across, _MAX_ACROSS)
    else:
        along = min(_ASPECT * n_across * across / n_along, _MAX_ALONG)
    return Gaps(along=round(along, 0), across=round(across, 0))


def place_node(universe: Universe, name: str, gaps: Gaps) -> tuple[float, float]:
    """Where a node stands.

    Args:
        universe: The universe.
        name: A writer, `logits`, or a group such as `a3.kv1`.
        gaps: From `choose_gaps`.

    Returns:
        Its place along the computation and across it.

    Examples:
        >>> universe = Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2)
        >>> gaps = Gaps(along=100, across=50)
        >>> [place_node(universe, name, gaps) for name in ("input", "a1.h3", "a1.kv1", "m1", "logits")]
        [(0.0, 75.0), (250.0, 150.0), (210.0, 100.0), (300.0, 200.0), (400.0, 75.0)]
    """
    along, across = _rank(universe, name), _lane(universe, name)
    return round(along * gaps.along, 1), round(across * gaps.across, 1)


def _rank(universe: Universe, name: str) -> float:
    layer = node_layer(name)
    if layer is None:
        return 0.0 if name != "logits" else universe.n_layers + 2.0
    kind = node_kind(name)
    shift = (
        _MLP_AFTER
        if kind == "mlp"
        else -_VECTOR_BEFORE
        if kind == "vector"
        else -_GROUP_BEFORE
        if ".kv" in name
        else 0.0
    )
    return layer + FIRST_LAYER + shift


def _lane(universe: Universe, name: str) -> float:
    last = universe.n_heads - 1
    kind = node_kind(name)
    if kind == "mlp":
        return last + _MLP_LANES_BELOW
    if kind == "head":
        number = int(name.rpartition(".")[2].lstrip("hkv"))
        size = universe.group_size
        # On a lane, so that the corridors between lanes are free.
        return float(number * size + (size - 1) // 2 if ".kv" in name else number)
    if kind == "vector":
        # Above the heads' lanes, one beside the other.
        return -1.0 - universe.virtual.index(name)
    if name in ("tok", "pos"):
        # Clear of one another even where there is but one head.
        return last / 2 + (-1 if name == "tok" else 1) * max(0.7, last / 6)
    return last / 2

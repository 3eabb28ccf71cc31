"""What makes a universe: the choices that there are, and which fields go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.errors import ConfigurationError
from circuitgraph.graph.virtual import ordered_virtual

if TYPE_CHECKING:
    from circuitgraph.graph.universe import Universe

MOST_EDGES = 500_000_000
"""Three times those of Llama 3.1 405B; one gate each takes 2 GB."""
MOST_NODES = 2_000_000
"""Writers and readers, which all have names."""

CHOICES = {
    "block_order": ("sequential", "parallel"),
    "embeddings": ("joint", "split"),
    "kv_heads": ("native", "per_query"),
    "qkv": ("split", "joint"),
    "head_scale": ("own", "shared"),
}


def check_universe(universe: Universe) -> None:
    """Refuse fields that make no universe, and put virtual writers in the order in which they write.

    Args:
        universe: What was asked for.

    Raises:
        ConfigurationError: A field has a value that makes no universe.
    """
    for name, valid in CHOICES.items():
        if getattr(universe, name) not in valid:
            raise ConfigurationError(
                f"universe: {name} must be one of {', '.join(valid)}; got {getattr(universe, name)!r}"
            )
    for name in ("n_layers", "n_heads", "n_kv_heads"):
        value = getattr(universe, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigurationError(f"universe: {name} must be a whole number of at least 1; got {value!r}")
    object.__setattr__(universe, "virtual", ordered_virtual(universe.virtual, universe.n_layers))
    if universe.n_edges > MOST_EDGES or universe.n_writers + universe.n_readers > MOST_NODES:
        raise ConfigurationError(
            f"universe: n_layers ({universe.n_layers:,}) and n_heads ({universe.n_heads:,}) make "
            f"{universe.n_edges:,} edges between {universe.n_writers + universe.n_readers:,} places; expected at most "
            f"{MOST_EDGES:,} and {MOST_NODES:,}, some times those of the largest models. Are these the sizes that "
            "were meant?"
        )
    if universe.n_heads % universe.n_kv_heads:
        raise ConfigurationError(
            f"universe: n_heads ({universe.n_heads}) must be a multiple of n_kv_heads ({universe.n_kv_heads})"
        )
    if universe.qkv == "joint" and universe.grouped:
        raise ConfigurationError(
            "qkv='joint' has one reader per query head, but keys and values are shared by groups of "
            f"{universe.group_size} query heads; add kv_heads='per_query'"
        )

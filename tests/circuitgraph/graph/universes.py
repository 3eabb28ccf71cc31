"""Small universes of every kind, for hypothesis."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from circuitgraph.graph.universe import Universe

# The same cases in every run, and no deadline: other processes may be busy.
STEADY = settings(deadline=None, derandomize=True, database=None)


def virtual_writers(n_layers: int) -> st.SearchStrategy[tuple[str, ...]]:
    """Up to two vectors, in half of all cases none."""
    names = [f"{name}@{layer}" for name in ("v", "task_2") for layer in range(n_layers)]
    some = [(one,) for one in names] + [(one, two) for one in names for two in names if one != two]
    return st.sampled_from([()] * len(some) + some)


@st.composite
def universes(draw: st.DrawFn, max_layers: int = 3) -> Universe:
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * draw(st.integers(1, 3))
    kv_heads = draw(st.sampled_from(["native", "per_query"]))
    n_layers = draw(st.integers(1, max_layers))
    virtual = draw(virtual_writers(n_layers))
    can_join = kv_heads == "per_query" or n_kv_heads == n_heads
    # Type checks look at one item of a tuple at random, which hypothesis does not allow in a strategy.
    state = random.getstate()
    made = Universe(
        family="test",
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        block_order=draw(st.sampled_from(["sequential", "parallel"])),
        embeddings=draw(st.sampled_from(["joint", "split"])),
        kv_heads=kv_heads,
        qkv=draw(st.sampled_from(["split", "joint"])) if can_join else "split",
        head_scale=draw(st.sampled_from(["own", "shared"])),
        virtual=virtual,
    )
    random.setstate(state)
    return made


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A universe and some of its edges, kept at random."""

    universe: Universe
    seed: int
    density: float

    @property
    def mask(self) -> np.ndarray:
        return np.random.default_rng(self.seed).random(self.universe.n_edges) < self.density


def kept_edges() -> st.SearchStrategy[Kept]:
    densities = st.sampled_from([0.0, 0.03, 0.1, 0.3, 0.7, 1.0])
    return st.builds(Kept, universe=universes(), seed=st.integers(0, 2**32 - 1), density=densities)

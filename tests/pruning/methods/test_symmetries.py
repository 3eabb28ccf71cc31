"""Scores and circuits belong to the function of a model, not to the basis that its weights are written in.

A head's values may be written in any basis (W_V → M W_V, W_O → W_O M⁻¹), its queries and keys in any that leaves their
products (without rotary positions any invertible one, with them rotations and sizes of each rotated plane), and heads
may change places. None of these changes what any head says, so nothing that is measured may change but names.

References:
    Geometry of Lightning Self-Attention (arXiv 2408.17221), for the maps that leave attention as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from pruning.evaluation.masks import evaluate_masks
from pruning.runs.rank import rank_edges
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5, 4], wrong=True)
SEEDS = st.integers(0, 2**32 - 1)
N_HEADS, N_KV_HEADS, D_HEAD = 4, 2, 4
METHODS: dict[str, dict[str, object]] = {
    "eap": {}, "eap-ig": {"steps": 2}, "exact": {}, "gate-gradients": {"batches": 2, "levels": (0.5,)},
    "acdc": {"threshold": 0.05}, "information-flow": {}, "activation-magnitude": {},
}  # fmt: skip
"""With settings that make them quick."""


@pytest.fixture(scope="module")
def makers(tiny_gpt2, tiny_llama) -> dict[str, Callable[[], nn.Module]]:
    return {
        "gpt2": lambda: tiny_gpt2(n_heads=N_HEADS, d_head=D_HEAD, dtype=torch.float64),
        "llama": lambda: tiny_llama(n_heads=N_HEADS, n_kv_heads=N_KV_HEADS, d_head=D_HEAD, dtype=torch.float64),
    }


def measured(model: nn.Module) -> tuple[CompiledModel, dict[str, np.ndarray]]:
    """Scores by several methods, and the KL of one circuit by its edges' names."""
    compiled = compile_model(model, verify=False)
    found = {name: rank_edges(compiled, PROMPTS, name, how).values for name, how in METHODS.items()}
    found["denoising"] = rank_edges(compiled, PROMPTS, "exact", direction="denoising", objective="kl").values
    return compiled, found


@cache
def _as_it_was(family: str, make: Callable[[], nn.Module]) -> tuple[CompiledModel, dict[str, np.ndarray]]:
    return measured(make())


def same(family: str, make: Callable[[], nn.Module], changed: nn.Module, heads: list[np.ndarray] | None = None) -> None:
    """Compare with the model as it was; `heads` says by layer which of its heads each head now is."""
    before, expected = _as_it_was(family, make)
    after, found = measured(changed)
    for batch in (PROMPTS.batch([0]), PROMPTS.batch([1])):
        assert torch.allclose(after.logits(batch.clean), before.logits(batch.clean), rtol=1e-9, atol=1e-10)
    universe = before.universe
    places = np.arange(universe.n_edges)
    if heads is not None:
        was = [
            universe.edge_index(*(_renamed(end, heads) for end in universe.edge_name(e).split("->"))) for e in places
        ]
        places = np.array(was)
        assert sorted(places.tolist()) == list(range(universe.n_edges))
    for name, values in expected.items():
        if name == "acdc" and heads is not None:
            continue  # it tries edges in the order of their numbers
        np.testing.assert_allclose(found[name], values[places], rtol=1e-6, atol=1e-9, err_msg=name)
    kept = np.random.default_rng(0).random(universe.n_edges) < 0.7
    (one,), (other,) = (
        [evaluate_masks(compiled, {"c": mask}, PROMPTS, ablation="counterfactual", intervals=False)["c"]["kl"]]
        for compiled, mask in ((before, kept), (after, kept[places]))
    )
    assert other == pytest.approx(one, rel=1e-7) and one > 1e-3


def _renamed(node: str, heads: list[np.ndarray]) -> str:
    """The name in the model as it was of a node of the changed one."""
    if not node.startswith("a"):
        return node
    module, _, part = node.partition(".")
    name, _, port = part.partition("<")
    port = f"<{port}" if port else ""
    of_layer = heads[int(module[1:])]
    if name.startswith("kv"):
        group = len(of_layer) // N_KV_HEADS
        return f"{module}.kv{int(of_layer[int(name[2:]) * group]) // group}{port}"
    return f"{module}.h{int(of_layer[int(name[1:])])}{port}"


def invertible(rng: np.random.Generator, n: int) -> Tensor:
    """A random basis, whose sizes differ by a factor of e² at most."""
    turns = [np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2)]
    return torch.from_numpy(turns[0] @ np.diag(np.exp(rng.uniform(-1, 1, n))) @ turns[1])


def planes(rng: np.random.Generator) -> Tensor:
    """A rotation and a size for each plane (i, i + d/2) that rotary positions turn."""
    found = torch.zeros(D_HEAD, D_HEAD, dtype=torch.float64)
    for i, (angle, size) in enumerate(
        zip(rng.uniform(0, 6, D_HEAD // 2), np.exp(rng.uniform(-1, 1, D_HEAD // 2)), strict=True)
    ):
        j = i + D_HEAD // 2
        cos, sin = size * np.cos(angle), size * np.sin(angle)
        found[i, i], found[i, j], found[j, i], found[j, j] = cos, -sin, sin, cos
    return found


class Parts:
    """A layer's maps: into heads `[head, d_head, d_model]`, with biases, and out of them `[head, d_model, d_head]`."""

    def __init__(self, family: str, layer: nn.Module) -> None:
        self.family = family
        self.attention = layer.attn if family == "gpt2" else layer.self_attn

    def read(self) -> dict[str, Tensor]:
        """Queries, keys, values with their biases as one more column, and outputs."""
        if self.family == "gpt2":
            into = torch.cat([self.attention.c_attn.weight, self.attention.c_attn.bias[None]]).T
            q, k, v = into.detach().clone().chunk(3)
            out = self.attention.c_proj.weight.detach().clone().T
        else:
            names = ("q_proj", "k_proj", "v_proj", "o_proj")
            q, k, v, out = (getattr(self.attention, name).weight.detach().clone() for name in names)
        split = {"q": q, "k": k, "v": v}
        found = {name: each.unflatten(0, (-1, D_HEAD)) for name, each in split.items()}
        return {**found, "o": out.unflatten(1, (-1, D_HEAD)).transpose(0, 1)}

    @torch.no_grad()
    def write(self, parts: dict[str, Tensor]) -> None:
        flat = {name: parts[name].flatten(0, 1) for name in "qkv"}
        out = parts["o"].transpose(0, 1).flatten(1)
        if self.family == "gpt2":
            into = torch.cat(list(flat.values())).T
            self.attention.c_attn.weight.copy_(into[:-1])
            self.attention.c_attn.bias.copy_(into[-1])
            self.attention.c_proj.weight.copy_(out.T)
            return
        for name, value in zip(("q_proj", "k_proj", "v_proj", "o_proj"), (*flat.values(), out), strict=True):
            getattr(self.attention, name).weight.copy_(value)


def layers(family: str, model: nn.Module) -> list[Parts]:
    found = model.transformer.h if family == "gpt2" else model.model.layers
    return [Parts(family, layer) for layer in found]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=2, deadline=None)
@given(seed=SEEDS)
def test_any_basis_of_values(makers, family: str, seed: int) -> None:
    rng, model = np.random.default_rng(seed), makers[family]()
    for parts in layers(family, model):
        now = parts.read()
        group = len(now["o"]) // len(now["v"])
        bases = [invertible(rng, D_HEAD) for _ in now["v"]]
        now["v"] = torch.stack([basis @ value for basis, value in zip(bases, now["v"], strict=True)])
        now["o"] = torch.stack([out @ torch.linalg.inv(bases[head // group]) for head, out in enumerate(now["o"])])
        parts.write(now)
    same(family, makers[family], model)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=2, deadline=None)
@given(seed=SEEDS)
def test_queries_and_keys_whose_products_stay(makers, family: str, seed: int) -> None:
    rng, model = np.random.default_rng(seed), makers[family]()
    for parts in layers(family, model):
        now = parts.read()
        group = len(now["q"]) // len(now["k"])
        bases = [invertible(rng, D_HEAD) if family == "gpt2" else planes(rng) for _ in now["k"]]
        now["k"] = torch.stack([basis @ key for basis, key in zip(bases, now["k"], strict=True)])
        now["q"] = torch.stack([torch.linalg.inv(bases[head // group]).T @ q for head, q in enumerate(now["q"])])
        parts.write(now)
    same(family, makers[family], model)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=2, deadline=None)
@given(seed=SEEDS)
def test_heads_that_change_places_change_names_alone(makers, family: str, seed: int) -> None:
    rng, model, heads = np.random.default_rng(seed), makers[family](), []
    for parts in layers(family, model):
        now = parts.read()
        n_groups = len(now["k"])
        groups = rng.permutation(n_groups)
        size = N_HEADS // n_groups
        order = np.concatenate([group * size + rng.permutation(size) for group in groups])
        now |= {"q": now["q"][order], "o": now["o"][order], "k": now["k"][groups], "v": now["v"][groups]}
        parts.write(now)
        heads.append(order)
    same(family, makers[family], model, heads)


@pytest.mark.slow
def test_a_basis_of_keys_alone_is_seen(makers) -> None:
    """What does change the function changes scores: the comparison can fail."""
    model = makers["llama"]()
    for parts in layers("llama", model):
        parts.write({**parts.read(), "k": 2 * parts.read()["k"]})
    with pytest.raises(AssertionError):
        same("llama", makers["llama"], model)

"""Heads by importance: the gradient of a gate per writer by differences, and edges by their less important end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.graph.universe import Universe
from pruning.execution.probe import Probe
from pruning.methods.gate_gradients import GatePath
from pruning.methods.head_importance import HeadImportance, edges_by_heads, writer_importance
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[4, 4, 4], n_asked=(1, 2))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_writers_importance_is_the_slope_of_its_gate_by_differences(tiny_gpt2, tiny_llama, family: str) -> None:
    model = {"gpt2": tiny_gpt2, "llama": tiny_llama}[family](dtype=torch.float64)
    compiled = compile_model(model, verify=False)
    universe, levels, step = compiled.universe, (0.3, 0.8), 1e-4
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="kl", batch_size=1)
    found = writer_importance(probe.runner, GatePath(levels=levels, batches=3, batch_size=1))
    writers, _ = universe.endpoints(np.arange(universe.n_edges))

    def kl(gates: np.ndarray, prompt: int) -> float:
        batch = probe.frozen.batch(np.array([prompt]))
        ran = compiled.masked(torch.tensor(gates), batch.pairs.clean, batch.values).logits.log_softmax(-1)
        teacher = batch.teacher_logits.log_softmax(-1)
        return float((teacher.exp() * (teacher - ran)).sum(-1).mean())

    expected = np.zeros(universe.n_writers)
    for level in levels:
        sizes = np.zeros(universe.n_writers)
        for writer in range(universe.n_writers):
            change = step * (writers == writer)
            for prompt in range(3):
                rise = kl(level + change, prompt) - kl(level - change, prompt)
                sizes[writer] += abs(rise) / (2 * step) / 3
        expected += sizes / sizes.mean() / len(levels)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


UNIVERSES = [
    Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2),
    Universe(family="gpt2", n_layers=2, n_heads=2, n_kv_heads=2, qkv="joint", embeddings="split"),
    Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2),
    Universe(family="llama", n_layers=2, n_heads=4, n_kv_heads=2, kv_heads="per_query"),
    Universe(family="neox", n_layers=2, n_heads=2, n_kv_heads=2, block_order="parallel"),
]


@pytest.mark.parametrize("universe", UNIVERSES, ids=lambda u: f"{u.family}-{u.kv_heads}-{u.qkv}-{u.block_order}")
def test_an_edge_has_the_importance_of_its_less_important_end(universe: Universe) -> None:
    rng = np.random.default_rng(0)
    importance = dict(zip(universe.writers, rng.uniform(1, 2, universe.n_writers), strict=True))
    heads = {name: value for name, value in importance.items() if ".h" in name}
    most = max(heads.values())

    def of_reader(name: str) -> float:
        head, bracket, _ = name.partition("<")
        if not bracket:
            return most
        if ".kv" in head:
            layer, group = head.split(".kv")
            return max(heads[f"{layer}.h{2 * int(group) + one}"] for one in range(2))
        return heads[head]

    scores = edges_by_heads(universe, np.array(list(importance.values())))
    for edge in range(universe.n_edges):
        source, target = universe.edge_name(edge).split("->")
        assert scores[edge] == min(heads.get(source, most), of_reader(target)), universe.edge_name(edge)


def test_the_strongest_edges_are_those_among_the_most_important_heads(tiny_gpt2) -> None:
    compiled = compile_model(tiny_gpt2(), verify=False)
    probe = Probe(compiled=compiled, pairs=PROMPTS, objective="kl")
    method = HeadImportance(batches=1)
    scores, universe = method.score(probe), compiled.universe
    importance = writer_importance(probe.runner, method)
    of_head = {n: value for n, value in zip(universe.writers, importance, strict=True) if ".h" in n}
    best = sorted(of_head, key=lambda name: -of_head[name])[:3]

    def inside(edge: int) -> bool:
        ends = (end.partition("<")[0] for end in universe.edge_name(edge).split("->"))
        return all(end in best or ".h" not in end for end in ends)

    among = {edge for edge in range(universe.n_edges) if inside(edge)}
    assert 0 < len(among) < universe.n_edges
    strongest = np.argsort(-scores, kind="stable")[: len(among)]
    assert set(strongest.tolist()) == among

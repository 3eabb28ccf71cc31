"""Whole writers ablated by a plain run: the masked pass with all edges out of them cut, for random sets of writers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.without_writers import WithoutWriters
from tests.circuitgraph.architectures.battery.case import exact
from tests.oracles.cases import BATTERY, ModelMakers
from tests.oracles.uncast import uncast
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[5, 5, 5], n_asked=(1, 2), n_tokens=5)


def gates_without(compiled: CompiledModel, gone: np.ndarray) -> torch.Tensor:
    """Gates of 0 on every edge out of a writer that is gone."""
    universe = compiled.universe
    names = {f"a{layer}.h{head}" for layer, head in zip(*np.nonzero(gone[:, :-1]), strict=True)}
    names |= {f"m{layer}" for layer in np.flatnonzero(gone[:, -1])}
    writers = np.array(universe.writers)[universe.endpoints(np.arange(universe.n_edges))[0]]
    return torch.from_numpy(~np.isin(writers, list(names))).to(compiled.dtype)


def check(compiled: CompiledModel, ablation: str, seed: int = 0) -> None:
    batch, rng = PROMPTS.batch(np.arange(3)), np.random.default_rng(seed)
    if ablation == "counterfactual":
        values = compiled.run_with_values(batch.corrupted)[1]
    else:
        values = compiled.ablation_values(ablation, iter([batch.clean]))
    runs = WithoutWriters(compiled.bound, compiled.shape, batch.clean, values)
    torch.testing.assert_close(runs.full, compiled.logits(batch.clean))
    n_layers, n_parts = compiled.shape.n_layers, compiled.shape.n_heads + 1
    for first in range(n_layers):
        for share in (0.3, 0.7, 1.0):
            gone = rng.random((n_layers, n_parts)) < share
            gone[:first] = False
            gone[-1, :-1] |= share > 0.5  # no head is left in the last layer: only asked positions are run there
            with torch.no_grad():
                theirs = compiled.masked(gates_without(compiled, gone), batch.clean, values).logits
            torch.testing.assert_close(runs.logits(gone, first=first), theirs)


@pytest.mark.parametrize("case", BATTERY)
def test_it_is_the_masked_pass_with_all_edges_out_of_them_cut(tiny_gpt2, tiny_llama, case):
    check(ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64), "counterfactual")


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean-positional"])
def test_constants_of_all_kinds(tiny_gpt2, tiny_llama, ablation):
    check(ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64), ablation)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "modernbert", "olmo2"])
def test_families_of_other_layers(family):
    with uncast():
        check(exact(family).compiled, "zero")


def test_padded_prompts_are_refused(tiny_gpt2, tiny_llama):
    compiled = ModelMakers(tiny_gpt2, tiny_llama).compile("gpt2", dtype=torch.float64)
    batch = random_prompts(lengths=[4, 5]).batch(np.arange(2)).clean
    with pytest.raises(ConfigurationError, match="padded"):
        WithoutWriters(compiled.bound, compiled.shape, batch, compiled.ablation_values("zero"))

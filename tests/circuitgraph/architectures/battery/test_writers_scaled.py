"""Writers scaled at all positions in a plain run are the masked pass with the same gates on all their edges."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.forward.patched_run import Patch, patched_run
from tests.circuitgraph.architectures.battery.case import exact, prompts
from tests.circuitgraph.architectures.battery.families import LONG_ONES
from tests.oracles.uncast import uncast


@pytest.mark.parametrize("case", LONG_ONES)
def test_scaled_writers_are_gates_on_all_their_edges(case: str) -> None:
    own, (batch, _) = exact(case), prompts()
    compiled, universe = own.compiled, own.compiled.universe
    generator = torch.Generator().manual_seed(3)
    factors = 1 + torch.randn(universe.n_writers, generator=generator, dtype=torch.float64)
    factors[2::3] = 1
    gates = factors[torch.from_numpy(universe.writer_of_edge)]
    shape = batch.input_ids.shape
    scaled = {name: factor.expand(shape) for name, factor in zip(universe.writers, factors, strict=True) if factor != 1}
    with uncast(), torch.no_grad():
        theirs = compiled.masked(gates, batch, compiled.ablation_values("zero")).logits
        ours = patched_run(compiled.runnable, batch, Patch(scaled=scaled))
        assert float((ours - theirs).abs().max()) < 1e-8 < float((ours - compiled.logits(batch)).abs().max())

"""A part that says again what it said in the clean run is a patched run with the difference added to that part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circuitgraph.forward.patched_run import Patch, patched_run
from circuitgraph.forward.reference import residual_before
from circuitgraph.forward.restored_run import Restoration, RestoredRun
from tests.circuitgraph.architectures.battery.case import exact, prompts
from tests.circuitgraph.architectures.battery.families import LONG_ONES
from tests.oracles.uncast import uncast


@pytest.mark.parametrize("case", LONG_ONES)
def test_a_restored_part_is_the_difference_added(case: str) -> None:
    compiled = exact(case).compiled
    clean, other = (late(batch) for batch in prompts(side="none"))
    start = 2 if compiled.shape.causal else 0  # two tokens are shared
    places = torch.rand(clean.input_ids.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    with uncast(), torch.no_grad():
        said, corrupted = (compiled.run_with_values(batch)[1] for batch in (clean, other))
        found, layers = [], range(compiled.shape.n_layers)
        for layer in layers:
            behind = (residual_before(values, layer + 1) for values in (said, corrupted))
            differences = {
                ("attention", f"a{layer}.h0"): said.attention[layer] - corrupted.attention[layer],
                ("mlp", f"m{layer}"): said.mlps[layer] - corrupted.mlps[layer],
                ("residual", f"m{layer}"): next(behind) - next(behind),
            }
            for (kind, writer), difference in differences.items():
                added = {writer: difference * places[..., None]}
                one = Restoration(kind=kind, layers=range(layer, layer + 1), places=places)
                found.append((one, patched_run(compiled.runnable, other, Patch(added=added))))
        run = RestoredRun(compiled.runnable, clean, start=start)
        embedded = residual_before(corrupted, 0)[:, start:]
        nothing = Restoration(kind="mlp", layers=range(0), places=places)
        restorations = [one for one, _ in found[::-1]] + [nothing]
        ours = run.logits(embedded[None], restorations)
        alone = run.logits(embedded[None].repeat(len(restorations), 1, 1, 1), restorations)
        theirs = torch.stack([logits for _, logits in found[::-1]] + [compiled.logits(other)])
    assert float((ours.flatten(1, 2) - theirs).abs().max()) < 1e-8
    assert float((alone - ours).abs().max()) < 1e-8
    moved = (ours[:-1] - ours[-1]).abs().amax((1, 2, 3))
    assert int((moved > 1e-3).sum()) > 2 * len(layers)


def late(batch):
    """The same, asked at three late positions."""
    n, seq = batch.input_ids.shape
    at = torch.tensor([4, 5, 7])
    index = (torch.arange(n)[:, None] * seq + at).flatten()
    return replace(batch, predict_index=index, predict_prompt=torch.arange(n).repeat_interleave(len(at)))

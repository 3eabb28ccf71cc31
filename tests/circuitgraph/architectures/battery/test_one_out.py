"""One writer out of the full model is the masked pass with all of that writer's edges cut, gradients included."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.constants import constants_of_values, named_constants, values_of_constants
from circuitgraph.forward.one_out import OneOutRun
from tests.circuitgraph.architectures.battery.case import exact, prompts
from tests.circuitgraph.architectures.battery.families import LONG_ONES
from tests.oracles.uncast import uncast


@pytest.mark.parametrize("case", LONG_ONES)
def test_one_writer_out_is_a_masked_run(case: str) -> None:
    own, (batch, _) = exact(case), prompts(side="none")
    compiled, universe = own.compiled, own.compiled.universe
    model = compiled.runnable
    rows = torch.arange(len(batch.input_ids))
    with uncast():
        generator = torch.Generator().manual_seed(1)
        means = constants_of_values(model, compiled.ablation_values("mean", [batch]))
        numbers = means + 0.3 * torch.randn(means.shape, generator=generator, dtype=means.dtype)
        run = OneOutRun(model, batch)
        assert float((run.logits - compiled.logits(batch)).abs().max()) < 1e-9
        writers, _ = universe.endpoints(torch.arange(own.n_edges).numpy())
        moved = 0
        for writer, name in list(enumerate(universe.writers))[::3]:
            gates = torch.from_numpy(writers != writer).double()
            learnt = numbers.clone().requires_grad_()
            theirs = compiled.masked(gates, batch, values_of_constants(model, learnt)).logits
            weight = torch.randn(theirs.shape, generator=generator, dtype=theirs.dtype)
            (of_all,) = torch.autograd.grad((theirs * weight).sum(), learnt)
            constant = named_constants(model, numbers)[name].clone().requires_grad_()
            instead = constant.expand(len(rows), 1, -1)
            ours = run.without(torch.full_like(rows, writer), rows, instead).flatten(0, 1)
            (gradient,) = torch.autograd.grad((ours * weight).sum(), constant)
            ours, theirs = ours.detach(), theirs.detach()
            assert float((ours - theirs).abs().max()) < 1e-8, name
            expected = named_constants(model, of_all)[name]
            assert float((gradient - expected).abs().max()) < 1e-7 * (1 + float(expected.abs().max())), name
            moved += float((ours - run.logits).abs().max()) > 1e-3
        assert moved > 3


def test_samples_of_several_writers_and_prompts_are_those_one_by_one() -> None:
    own, (batch, _) = exact("llama"), prompts(side="none")
    with uncast(), torch.no_grad():
        run = OneOutRun(own.compiled.runnable, batch)
        first = own.compiled.universe.n_embeddings + 7  # layer 1
        writers, rows = torch.tensor([first, first + 2, first + 2, first + 5]), torch.tensor([2, 0, 1, 1])
        said = torch.stack([run.said.heads[1][int(w) - first, (int(r) + 1) % 3] for w, r in zip(writers, rows)])  # noqa: B905
        together = run.without(writers, rows, said)
        for place in range(4):
            one = slice(place, place + 1)
            alone = run.without(writers[one], rows[one], said[one])
            assert torch.allclose(alone[0], together[place], atol=1e-10)


def test_padding_is_refused() -> None:
    own, (batch, _) = exact("llama"), prompts(side="left")
    with pytest.raises(ConfigurationError, match="one length"):
        OneOutRun(own.compiled.runnable, batch)

"""Norms behind heads that every reader takes anew, against hooks on the untouched model that do so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.normed_anew import require_norms, run_normed_anew, said_before_norms
from tests.circuitgraph.architectures.battery.case import Made, differs_by, exact, gates_of, prompts
from tests.circuitgraph.architectures.battery.families import CASES
from tests.oracles.hooks import call, change, hooked, listen
from tests.oracles.uncast import uncast

BEHIND = [name for name, own in CASES.items() if own.names.heads_norm is not None]
pytestmark = pytest.mark.slow


def by_hooks(own: Made, gates: Tensor, batch, ablated: dict[str, Tensor] | None) -> Tensor:
    """Each reader's input made anew: embeddings and MLPs mixed, and of every earlier layer the norm of mixed heads.

    Of the untouched model, in one run: what writers say is caught on the way, before it is read.
    """
    universe, marks = own.compiled.universe, own.marks
    said: dict[str, Tensor] = {}
    offsets = universe.reader_offsets.tolist()

    def catch(name: str):
        def hook(module, inputs, output):
            said[name] = output

        return hook

    def catch_heads(layer: int):
        def hook(module, inputs):
            for head, gathered in enumerate(inputs[0].split(marks.d_head, -1)):
                said[f"a{layer}.h{head}"] = gathered @ marks.output_rows(layer, head)

        return hook

    def mixed(name: str, gate: Tensor) -> Tensor:
        return gate * said[name] + (0 if ablated is None else (1 - gate) * ablated[name])

    def sees(first: int, n_writers: int):
        def seen(x: Tensor) -> Tensor:
            edges = dict(zip(universe.writers[:n_writers], gates[first : first + n_writers], strict=True))
            total = torch.zeros_like(next(iter(said.values())))
            for layer in range(universe.n_layers):
                heads = [name for name in edges if name.startswith(f"a{layer}.")]
                if heads:
                    together = torch.stack([mixed(name, edges.pop(name)) for name in heads]).sum(0)
                    total = total + marks.heads_norm(layer).forward(together)  # `forward` calls no hooks
            return total + torch.stack([mixed(name, gate) for name, gate in edges.items()]).sum(0)

        return seen

    readers = {
        reader: sees(first, after - first)
        for reader, first, after in zip(universe.readers, offsets, offsets[1:], strict=False)
    }
    handles = listen(marks, ["input"], said)
    for layer in range(universe.n_layers):
        handles.append(marks.output(layer).register_forward_pre_hook(catch_heads(layer)))
        handles.append(marks.mlp_output(layer).register_forward_hook(catch(f"m{layer}")))
    with hooked(handles + change(marks, readers)):
        logits = call(own.model, batch)
    by_hooks.said = dict(said)  # what was caught, for the run that gives ablated values
    return logits


@pytest.mark.parametrize("case", BEHIND)
@pytest.mark.parametrize("side", ["left", "none"])
def test_each_reader_norms_what_it_keeps(case: str, side: str) -> None:
    own, (clean, other) = exact(case), prompts(side=side)
    model, real = own.compiled.runnable, clean.attention_mask.bool()
    with uncast(), torch.no_grad():
        everything = torch.ones(own.n_edges, dtype=torch.float64)
        by_hooks(own, everything, other, None)
        theirs = by_hooks.said
        ours = said_before_norms(model, other)
        for name, said in zip(own.compiled.universe.writers, ours, strict=True):
            assert differs_by(said[real], theirs[name][real]) < 1e-9, name
        values = own.compiled.run_with_values(other)[1]
        for cut, between in ((0.0, False), (0.3, False), (0.8, True), (1.0, False)):
            gates = gates_of(own.n_edges, cut=cut, between=between).double()
            found = run_normed_anew(model, gates, clean, ours)
            assert differs_by(found, by_hooks(own, gates, clean, theirs)) < own.case.exact
            shared = own.compiled.masked(gates, clean, values).logits
            # The same where all is kept or cut, and another thing in between.
            same = differs_by(found, shared)
            assert same < own.case.exact if cut in (0.0, 1.0) else same > 1e-3, (cut, same)
        gates = gates_of(own.n_edges, cut=0.3, seed=2).double()
        zero = run_normed_anew(model, gates, clean, None)
        assert differs_by(zero, by_hooks(own, gates, clean, None)) < own.case.exact


@pytest.mark.parametrize("case", ["llama", "gpt2", "granite", "falcon", "modernbert"])
def test_without_norms_behind_heads_it_is_the_masked_pass(case: str) -> None:
    own, (clean, other) = exact(case), prompts(side="left")
    model, gates = own.compiled.runnable, gates_of(own.n_edges, cut=0.4, between=True).double()
    with uncast(), torch.no_grad():
        found = run_normed_anew(model, gates, clean, said_before_norms(model, other))
        values = own.compiled.run_with_values(other)[1]
        assert differs_by(found, own.compiled.masked(gates, clean, values).logits) < own.case.exact
    with pytest.raises(ConfigurationError, match=f"norms behind heads, and {own.case.family} models have none"):
        require_norms(model, "zero")


def test_means_are_those_of_heads_behind_the_norm() -> None:
    with pytest.raises(ConfigurationError, match="counterfactual or zero ablation; got 'mean'"):
        require_norms(exact("gemma2").compiled.runnable, "mean")

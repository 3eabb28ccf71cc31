"""Restored runs, next to hooks on the plain model: windows of several layers, and gradients."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.restored_run import Restoration, RestoredRun
from tests.pruning.prompts.small_prompts import random_prompts

PROMPTS = random_prompts(lengths=[7, 7, 7], n_asked=(1,))
START = 2


@pytest.fixture(scope="module")
def compiled(tiny_llama):
    return compile_model(tiny_llama(dtype=torch.float64, n_layers=4), verify=False)


def batch():
    return PROMPTS.batch(np.arange(3)).clean


def changed(compiled, seed: int = 1) -> torch.Tensor:
    """Other embeddings from `START` on."""
    own = compiled.model.model.embed_tokens(batch().input_ids).detach()[:, START:]
    return own + torch.randn(own.shape, generator=torch.Generator().manual_seed(seed), dtype=own.dtype)


def by_hooks(model, kind: str, layers: range, places: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """The plain model with hooks: one run that listens, one that restores."""
    said: dict[int, torch.Tensor] = {}
    modules = {"attention": lambda layer: layer.self_attn, "mlp": lambda layer: layer.mlp, "residual": lambda one: one}

    def output(value):
        return value[0] if isinstance(value, tuple) else value

    def listen(place):
        return lambda _m, _i, value: said.__setitem__(place, output(value).detach())

    def restore(place):
        def hook(_m, _i, value):
            new = torch.where(places[..., None], said[place], output(value))
            return (new, *value[1:]) if isinstance(value, tuple) else new

        return hook

    def other(_m, _i, value):
        return torch.cat([value[:, :START], embedded], 1)

    ids = batch().input_ids
    for make, extra in ((listen, []), (restore, [(model.model.embed_tokens, other)])):
        with contextlib.ExitStack() as stack:
            parts = [(modules[kind](model.model.layers[place]), make(place)) for place in layers] + extra
            for module, hook in parts:
                stack.callback(module.register_forward_hook(hook).remove)
            logits = model(input_ids=ids, use_cache=False).logits[:, -1]
    return logits


@pytest.mark.parametrize("kind", ["attention", "mlp", "residual"])
def test_windows_are_those_of_hooks(compiled, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    embedded = changed(compiled)
    restorations = [
        Restoration(kind=kind, layers=layers, places=torch.rand(3, 7, generator=generator) < 0.5)
        for layers in (range(1, 4), range(4), range(2, 3), range(1), range(3, 4), range(0))
    ]
    run = RestoredRun(compiled.runnable, batch(), start=START)
    with torch.no_grad():
        ours = run.logits(embedded[None], restorations)[:, :, 0]
        theirs = [by_hooks(compiled.model, kind, one.layers, one.places, embedded) for one in restorations]
    assert float((ours - torch.stack(theirs)).abs().max()) < 1e-10
    assert float((ours[:-1] - ours[-1]).abs().amax((1, 2)).min()) > 1e-4  # each of them restores something


def test_all_restored_is_the_clean_run(compiled) -> None:
    everywhere = torch.ones(3, 7, dtype=torch.bool)
    run = RestoredRun(compiled.runnable, batch(), start=START)
    one = Restoration(kind="residual", layers=range(1), places=everywhere)
    with torch.no_grad():
        ours = run.logits(changed(compiled)[None], [one])[0, :, 0]
    assert float((ours - run.clean).abs().max()) < 1e-12
    assert float((run.clean - compiled.logits(batch())).abs().max()) < 1e-12


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_in_the_embeddings_are_those_of_hooks(compiled, shared: bool) -> None:
    places = torch.zeros(3, 7, dtype=torch.bool)
    places[:, 4] = True
    windows = [("mlp", range(1, 3)), ("attention", range(2)), ("mlp", range(0))]
    restorations = [Restoration(kind=kind, layers=layers, places=places) for kind, layers in windows]
    size = 1 if shared else len(windows)
    given = torch.stack([changed(compiled, seed) for seed in range(size)]).requires_grad_()
    ours = RestoredRun(compiled.runnable, batch(), start=START).logits(given, restorations)[:, :, 0]
    theirs = torch.stack(
        [
            by_hooks(compiled.model, kind, layers, places, given[0 if shared else place])
            for place, (kind, layers) in enumerate(windows)
        ]
    )
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5), dtype=ours.dtype)
    mine, other = (torch.autograd.grad((logits * weights).sum(), given)[0] for logits in (ours, theirs))
    assert float((mine - other).abs().max()) < 1e-10 < float(other.abs().max())


def test_what_does_not_fit_is_refused(compiled) -> None:
    places = torch.ones(3, 7, dtype=torch.bool)
    run = RestoredRun(compiled.runnable, batch(), start=START)
    with pytest.raises(UnknownNameError, match="unknown kind of restoration 'head'"):
        Restoration(kind="head", layers=range(1), places=places)
    one = Restoration(kind="mlp", layers=range(3, 5), places=places)
    with pytest.raises(ConfigurationError, match=r"layers to restore lie within 0 to 3; got range\(3, 5\)"):
        run.logits(run.embedded[None], [one])
    short = Restoration(kind="mlp", layers=range(1), places=places[:, 1:])
    with pytest.raises(ConfigurationError, match=r"have to be \[prompt seq\], here \[3, 7\]"):
        run.logits(run.embedded[None], [short])
    with pytest.raises(ConfigurationError, match="a restoration at least"):
        run.logits(run.embedded[None], [])
    with pytest.raises(ConfigurationError, match="one length"):
        RestoredRun(compiled.runnable, random_prompts(lengths=[5, 6]).batch([0, 1]).clean)
    with pytest.raises(ConfigurationError, match="from position 7 on"):
        RestoredRun(compiled.runnable, batch(), start=7)

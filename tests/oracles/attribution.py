"""Edge attribution by hooks on an untouched model: activation differences times gradients, one edge at a time.

A run keeps what every writer says and, for every reader, its norm's input and the gradient where its own output leaves
the norm and projection; the gradient in what that reader alone sees is found by going back through those two once more.
Slow and plain; no code shared with `circuitgraph/forward`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from circuitgraph.graph.universe import Universe
from tests.oracles.hooks import Landmarks, hooked, landmarks

Handles = list[torch.utils.hooks.RemovableHandle]


@dataclass(frozen=True)
class HookedRun:
    """One run of one prompt.

    Attributes:
        said: What every writer says `[1 seq d_model]`.
        tokens: What the token embedding says.
        gradients: The loss's gradient in what each reader sees `[1 seq d_model]`; empty where no loss was given.
        logits: `[seq d_vocab]`.
    """

    said: dict[str, Tensor]
    tokens: Tensor
    gradients: dict[str, Tensor]
    logits: Tensor


def run_with_hooks(
    model: nn.Module,
    universe: Universe,
    ids: Tensor,
    loss: Callable[[Tensor], Tensor] | None = None,
    instead: Mapping[str, Tensor] | None = None,
) -> HookedRun:
    """Run one prompt.

    Args:
        model: A plain Hugging Face model.
        universe: Names its writers and readers.
        ids: Token ids `[1 seq]`.
        loss: Of the logits `[seq d_vocab]`.
        instead: What a place says instead: `tok` (the token embedding), `m0` (an MLP), `a0` (what all heads of a layer
            gathered, before the output projection, `[1 seq n_heads·d_head]`).
    """
    marks, instead = landmarks(model), dict(instead or {})
    heard: dict[str, Tensor] = {}
    with hooked(_writer_hooks(marks, universe, heard, instead) + _reader_hooks(marks, universe, heard)):
        logits = model(ids).logits[0]
    said = {name: value.detach() for name, value in _said(marks, universe, heard).items()}
    gradients = {} if loss is None else _gradients(marks, universe, heard, loss(logits))
    return HookedRun(said=said, tokens=heard["tok"].detach(), gradients=gradients, logits=logits.detach())


def _writer_hooks(
    marks: Landmarks, universe: Universe, heard: dict[str, Tensor], instead: dict[str, Tensor]
) -> Handles:
    def output(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: object, said: Tensor) -> Tensor:
            heard[name] = instead.get(name, said)
            return heard[name]

        return hook

    def gathered(name: str) -> Callable:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            heard[name] = instead.get(name, inputs[0])
            return (heard[name],)

        return hook

    handles = [module.register_forward_hook(output(name)) for name, module in marks.embeddings.items()]
    for layer in range(universe.n_layers):
        handles.append(marks.output(layer).register_forward_pre_hook(gathered(f"a{layer}")))
        handles.append(marks.mlp(layer).register_forward_hook(output(f"m{layer}")))
    return handles


def _said(marks: Landmarks, universe: Universe, heard: dict[str, Tensor]) -> dict[str, Tensor]:
    said = {"input": sum(heard[name] for name in marks.embeddings)}
    for writer in universe.writers[1:]:
        if writer.startswith("m"):
            said[writer] = heard[writer]
            continue
        layer, head = map(int, re.findall(r"\d+", writer))
        columns = slice(head * marks.d_head, (head + 1) * marks.d_head)
        said[writer] = heard[f"a{layer}"][..., columns] @ marks.output_rows(layer, head)
    return said


def _reader_hooks(marks: Landmarks, universe: Universe, heard: dict[str, Tensor]) -> Handles:
    def keep(name: str, module: nn.Module) -> Handles:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            heard[f"into {name}"], heard[f"out of {name}"] = inputs[0], output

        return [module.register_forward_hook(hook)]

    handles = keep("last norm", marks.last)
    for layer in range(universe.n_layers):
        for name, norm in zip(("attention", "mlp"), marks.norms(layer), strict=True):
            handles += keep(f"{name} norm {layer}", norm)
        for port in "qkv":
            handles += keep(f"{port} {layer}", marks.port(layer, port, 0).linear)
    return handles


def _gradients(marks: Landmarks, universe: Universe, heard: dict[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
    names = [name for name in heard if name.startswith("out of")]
    found = torch.autograd.grad(loss, [heard[name] for name in names], allow_unused=True)
    back = {
        name.removeprefix("out of "): torch.zeros_like(heard[name]) if gradient is None else gradient
        for name, gradient in zip(names, found, strict=True)
    }

    def through(module: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(module(x), x, gradient)[0]

    gradients = {}
    for reader in universe.readers:
        layer, *head = [int(number) for number in re.findall(r"\d+", reader)] or [0]
        if reader == "logits":
            gradients[reader] = through(marks.last.forward, heard["into last norm"], back["last norm"])
        elif not head:
            # What leaves the norm goes into the MLP alone.
            norm = marks.norms(layer)[1]
            gradients[reader] = through(norm.forward, heard[f"into mlp norm {layer}"], back[f"mlp norm {layer}"])
        else:
            port, norm = reader.split("<")[1][0], marks.norms(layer)[0]
            place, whole = marks.port(layer, port, head[0]), back[f"{port} {layer}"]
            alone = torch.zeros_like(whole)
            alone[..., place.columns] = whole[..., place.columns]
            gradients[reader] = through(
                lambda x, linear=place.linear, norm=norm: linear.forward(norm.forward(x)),
                heard[f"into attention norm {layer}"],
                alone,
            )
    return gradients


def products(universe: Universe, changes: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> np.ndarray:
    """`⟨Δ_w, gradient_r⟩` edge by edge `[edge]`."""
    found = np.zeros(universe.n_edges)
    for edge, (w, r) in enumerate(zip(*universe.endpoints(np.arange(universe.n_edges)), strict=True)):
        found[edge] = float((changes[universe.writers[w]] * gradients[universe.readers[r]]).sum())
    return found


def minus(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The difference, writer by writer."""
    return {writer: a[writer] - b[writer] for writer in a}

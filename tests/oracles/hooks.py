"""Any edges cut in an untouched model, with plain forward hooks: slow, one reader after the other, no shared code.

The model runs as it is. Whatever it does, its residual stream x is the sum of what writers said in this very run (and
of biases). At each reader some of whose edges are cut, x is replaced by `x − Σ_w (1 − z_w) (y_w − ỹ_w)`: y is what a
writer said, ỹ its ablation value. A query, key or value reader is one head's: the layer's norm and projection are run
again on what that reader sees, and only that head's columns of the projection's output are replaced. Nothing before
the reader knows about it, everything after it does. Autograd goes through all of it, so that gates get gradients.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from circuitgraph.batch import TokenBatch
from circuitgraph.graph.universe import Universe
from tests.oracles.landmarks import Landmarks, landmarks

Handles = list[torch.utils.hooks.RemovableHandle]
Said = dict[str, Tensor]
Sees = Callable[[Tensor], Tensor]
"""From the residual stream `[batch seq d_model]` to what one reader sees of it."""


@contextmanager
def hooked(handles: Handles) -> Iterator[None]:
    """Remove hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def call(model: nn.Module, batch: TokenBatch, *, gradients: bool = False) -> Tensor:
    """The model's logits at the asked positions."""
    given: dict[str, Tensor] = {"attention_mask": batch.attention_mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        given["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    with torch.set_grad_enabled(gradients):
        logits = model(batch.input_ids, **given).logits
    return logits.flatten(0, 1)[batch.predict_index]


# ---------------------------------------------------------------- writers


def listen(marks: Landmarks, writers: Iterable[str], said: Said) -> Handles:
    """Hooks that put what writers say into `said` as the model runs `[batch seq d_model]`."""
    handles: Handles = []
    layers: dict[int, list[str]] = {}
    for writer in writers:
        if writer == "input" and marks.first is not None:
            handles.append(marks.first.register_forward_pre_hook(_enters(said), with_kwargs=True))
        elif writer in ("input", "tok", "pos"):
            wanted = marks.embeddings.values() if writer == "input" else [marks.embeddings[writer]]
            handles += [module.register_forward_hook(_adds(said, writer)) for module in wanted]
        elif writer.startswith("m"):
            layer = int(writer[1:])
            module = marks.mlp(layer) if marks.mlp_output is None else marks.mlp_output(layer)
            handles.append(module.register_forward_hook(_leaves(said, writer, marks.factor)))
        else:
            layers.setdefault(int(writer[1:].split(".")[0]), []).append(writer)
    for layer, heads in layers.items():
        handles.append(marks.output(layer).register_forward_pre_hook(_heads(marks, layer, heads, said)))
    return handles


def _enters(said: Said) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        said["input"] = inputs[0] if inputs else named["hidden_states"]

    return hook


def _adds(said: Said, writer: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        # Position embeddings may come with a batch axis of 1.
        said[writer] = output + said[writer] if writer in said else output

    return hook


def _leaves(said: Said, writer: str, factor: float) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
        # Routed MLPs give what their router said beside it; some families take prompts as one long row.
        value = (output[0] if isinstance(output, tuple) else output) * factor
        said[writer] = value.reshape(said["input"].shape) if "input" in said else value

    return hook


def _heads(marks: Landmarks, layer: int, writers: list[str], said: Said) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        every = marks.of_heads(layer, inputs[0])
        said.update({writer: every[int(writer.split("h")[1])] for writer in writers})

    return hook


def said_by(model: nn.Module, writer: str, batch: TokenBatch) -> Tensor:
    """What a writer says when the untouched model runs `[batch seq d_model]`."""
    said: Said = {}
    with hooked(listen(landmarks(model), [writer], said)):
        call(model, batch)
    return said[writer]


def all_said(model: nn.Module, universe: Universe, batch: TokenBatch, marks: Landmarks | None = None) -> Said:
    """What every writer says when the untouched model runs `[batch seq d_model]`."""
    said: Said = {}
    with hooked(listen(marks or landmarks(model), universe.writers, said)):
        call(model, batch)
    return {writer: value.detach() for writer, value in said.items()}


# ---------------------------------------------------------------- readers


def change(marks: Landmarks, readers: Mapping[str, Sees]) -> Handles:
    """Hooks that have readers see something else of the residual stream."""
    handles: Handles = []
    layers: dict[int, dict[str, Sees]] = {}
    for reader, sees in readers.items():
        layer = 0 if reader == "logits" else int(reader[1:].split(".")[0])
        if reader == "logits":
            handles.append(marks.last.register_forward_pre_hook(_instead(sees)))
        elif reader.startswith("a"):
            layers.setdefault(layer, {})[reader] = sees
        elif marks.norms(layer)[0] is not marks.norms(layer)[1]:
            # In front of the MLP's own listener, if the norm is the MLP itself.
            handles.append(marks.norms(layer)[1].register_forward_pre_hook(_instead(sees)))
        else:
            handles += _behind_shared_norm(marks, layer, sees)
    for layer, ports in layers.items():
        handles += _change_ports(marks, layer, ports)
    return handles


def _instead(sees: Sees) -> Callable[..., tuple[Any, ...]]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (sees(inputs[0]), *inputs[1:])

    return hook


def _stream(norm: nn.Module, stream: Said) -> Handles:
    """A hook that puts what enters a norm into `stream`."""
    return [norm.register_forward_pre_hook(lambda _module, inputs: stream.update(x=inputs[0]))]


def _behind_shared_norm(marks: Landmarks, layer: int, sees: Sees) -> Handles:
    norm, stream = marks.norms(layer)[0], {}

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        # `forward` itself calls no hooks.
        return (norm.forward(sees(stream["x"])), *inputs[1:])

    return [*_stream(norm, stream), marks.mlp(layer).register_forward_pre_hook(hook)]


def _change_ports(marks: Landmarks, layer: int, readers: Mapping[str, Sees]) -> Handles:
    norm, stream = marks.norms(layer)[0], {}
    handles = [] if isinstance(norm, nn.Identity) else _stream(norm, stream)
    by_linear: dict[nn.Module, list[tuple[slice, Sees]]] = {}
    for reader, sees in readers.items():
        head = int(re.findall(r"\d+", reader)[1])
        for port in reader.split("<")[1].rstrip(">"):
            place = marks.port(layer, port, head)
            by_linear.setdefault(place.linear, []).append((place.columns, sees))

    def replace_columns(places: list[tuple[slice, Sees]]) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = stream.get("x", inputs[0])
            again = module.forward(norm.forward(torch.stack([sees(x) for _, sees in places])))
            output = output.clone()
            for row, (columns, _) in zip(again, places, strict=True):
                output[..., columns] = row[..., columns].view_as(output[..., columns])
            return output

        return hook

    return handles + [linear.register_forward_hook(replace_columns(places)) for linear, places in by_linear.items()]


# ---------------------------------------------------------------- cuts


def cut_edge(
    model: nn.Module, writer: str, reader: str, batch: TokenBatch, ablated: Tensor, gate: float = 0.0
) -> Tensor:
    """Run the model with one edge gated.

    Args:
        model: The model.
        writer: Its source, `input`, `tok`, `pos`, `a0.h1` or `m0`.
        reader: Its target, `a1.h0<q>`, `a1.kv0<k>`, `a1.h2<qkv>`, `m1` or `logits`.
        batch: Prompts.
        ablated: What the writer says when it is ablated, broadcastable to `[batch seq d_model]`.
        gate: The edge's gate.

    Returns:
        Logits at the asked positions.
    """
    marks, said = landmarks(model), {}

    def sees(x: Tensor) -> Tensor:
        return x - (1 - gate) * (said[writer] - ablated)

    with hooked(listen(marks, [writer], said) + change(marks, {reader: sees})):
        return call(model, batch)


def run_gated(
    model: nn.Module,
    universe: Universe,
    gates: Tensor,
    batch: TokenBatch,
    ablated: Mapping[str, Tensor],
    marks: Landmarks | None = None,
) -> Tensor:
    """Run the model with every edge gated.

    Args:
        model: The model.
        universe: Names its writers and readers, and says which reader sees which writers.
        gates: One for each edge, or for each edge at each position `[batch seq edge]`; with autograd if it asks for it.
        batch: Prompts.
        ablated: What each writer says when it is ablated, broadcastable to `[batch seq d_model]`.
        marks: The model's landmarks; None for those of `landmarks`.

    Returns:
        Logits at the asked positions.
    """
    marks, said = marks or landmarks(model), {}

    def sees(first: int, n_writers: int) -> Sees:
        def seen(x: Tensor) -> Tensor:
            cut = (1 - gates[..., first : first + n_writers]).to(x.dtype)
            writers = universe.writers[:n_writers]
            whole = said[universe.writers[0]].shape[:-1] if x.ndim == 2 else x.shape[:-1]
            changes = torch.stack([(said[name] - ablated[name]).expand(*whole, x.shape[-1]) for name in writers])
            if cut.ndim == 3:
                return x - torch.einsum("bsw,wbsd->bsd", cut, changes)
            return x - torch.tensordot(cut, changes, 1).reshape(x.shape)

        return seen

    offsets = universe.reader_offsets.tolist()
    readers = {
        reader: sees(first, after - first)
        for reader, first, after in zip(universe.readers, offsets, offsets[1:], strict=False)
    }
    with hooked(listen(marks, universe.writers, said) + change(marks, readers)):
        return call(model, batch, gradients=gates.requires_grad)


def with_a_key_and_value_head_for_each_query(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function without grouping: keys and values repeated, so that each can be cut for one head."""
    model = copy.deepcopy(model)
    size, times = model.config.head_dim, model.config.num_attention_heads // model.config.num_key_value_heads
    for layer in model.model.layers:
        layer.self_attn.num_key_value_groups = 1
        for linear in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            heads = linear.weight.detach().unflatten(0, (-1, size))
            linear.weight = nn.Parameter(heads.repeat_interleave(times, 0).flatten(0, 1))
            if linear.bias is not None:
                bias = linear.bias.detach().unflatten(0, (-1, size))
                linear.bias = nn.Parameter(bias.repeat_interleave(times, 0).flatten())
            linear.out_features *= times
    return model

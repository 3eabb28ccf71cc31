"""Whether a model is the one that its config describes, and nothing beside it: the one place that knows.

A compiled graph uses weights and modules by themselves. What was put around them since (hooks, adapters,
parametrisations, a method set on one module) would not run, and the parity gate could not see it where it leaves such
things out on both sides. So every module is compared with a twin that `transformers` builds from the same config
without memory for its weights: its class, its weights and buffers with their shapes, its settings. It takes some
30 ms for a model of 1.5 billion parameters.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from circuitgraph.errors import UnsupportedModelError

STAND_INS: dict[type[nn.Module], type[nn.Module]] = {}
"""Classes of modules that compute what others do, and may stand where those are expected."""

_OWN = ("transformers", "torch", "circuitgraph")  # packages whose modules are the models' own
_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
# What transformers itself hangs on a model's modules, and torch's own counters of FLOPs and memory on all modules; it
# changes no number.
_HARMLESS_HOOKS = {
    ("torch.utils.module_tracker", "_fw_pre_hook"),
    ("torch.utils.module_tracker", "_fw_post_hook"),
    ("transformers.utils.output_capturing", "output_capturing_hook"),
    ("transformers.modeling_utils", "make_inputs_require_grads"),
}
# Methods that a forward pass does not call.
_UNUSED_METHODS = frozenset("generate prepare_inputs_for_generation to cuda cpu train eval save_pretrained".split())
# Settings that say nothing about a forward pass in evaluation mode.
_UNUSED_SETTINGS = frozenset(
    """training gradient_checkpointing name_or_path loss_type max_seq_len_cached padding_idx vocab_size inplace p
    in_features out_features num_embeddings embedding_dim nf nx""".split()  # sizes are those of the weights
)
_MOST_NAMED = 4


@dataclass(frozen=True)
class _Part:
    """One module of the twin: its class, shapes by name, settings by name, and the names of what is inside."""

    kind: type[nn.Module]
    weights: Mapping[str, tuple[int, ...]]
    buffers: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, object]
    children: frozenset[str]


_TWINS: dict[tuple[type, str], dict[str, _Part]] = {}
_TWINS_KEPT = 16


def check_intact(model: nn.Module, *, family: str) -> None:
    """Refuse a model that is not what its config describes.

    Args:
        model: A model of a class that the family binds, with its config.
        family: The family's name, for the message.

    Raises:
        UnsupportedModelError: Hooks, a method set on one module, modules of other classes, weights that the config has
            no place for or that are missing, settings that differ from the config's; weights of several number
            formats, on several devices, not in memory, sparse or otherwise not plain. The first few are named.
    """
    found = list(_weights_apart(model)) or [*_global_hooks(), *_attention(model), *_differences(model)]
    if not found:
        return
    named = "; ".join(what for what, _ in found[:_MOST_NAMED])
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    to_do = " ".join(dict.fromkeys(advice for _, advice in found if advice))
    raise UnsupportedModelError(
        f"{family}: the model is not the one that its config describes, so the compiled graph would be of another "
        f"model: {named}{more}. {to_do}"
    )


_Finding = tuple[str, str]  # what differs, what to do about it
_REMOVE_HOOK = (
    "Hooks are not part of the compiled graph: take them off first (`handle.remove()`), or put what they do into the "
    "weights."
)
_MERGE = "Merge adapters into the weights first: model = model.merge_and_unload()."
_AS_LOADED = (
    "Compile the model as AutoModelForCausalLM.from_pretrained loads it, with what was changed written into its "
    "config and weights."
)


# ---------------------------------------------------------------- weights


def _weights_apart(model: nn.Module) -> Iterator[_Finding]:
    """Weights that are not plain numbers of one format on one device."""
    weights = dict(model.named_parameters())
    if not weights:
        yield "it has no weights", _AS_LOADED
        return
    away = [name for name, weight in weights.items() if weight.is_meta]
    if away:
        yield (
            f"{len(away)} of its weights are not in memory (meta device), such as {away[0]}",
            "Load it whole: without device_map, offloading or low-memory options, then model.to(device).",
        )
        return
    yield from _several("devices", {name: str(weight.device) for name, weight in weights.items()}, "model.to(device)")
    formats = {name: str(weight.dtype).removeprefix("torch.") for name, weight in weights.items()}
    yield from _several("number formats", formats, "model.to(torch.float32), or another format")
    if float64_fails_in_experts(model):
        yield (
            "its experts run by grouped_mm, which takes no float64",
            "model.set_experts_implementation('eager'), or load it in float32.",
        )
    of_inference = [name for name, weight in weights.items() if weight.is_inference()]
    if of_inference:
        yield (
            f"{len(of_inference)} of its weights are of torch.inference_mode(), such as {of_inference[0]}",
            "Make or load the model outside of torch.inference_mode(), or inside of torch.no_grad().",
        )
    for name, weight in weights.items():
        if weight.layout != torch.strided or type(weight.data) is not Tensor:
            kind = str(weight.layout) if weight.layout != torch.strided else type(weight.data).__name__
            yield f"{name} is no plain tensor but {kind}", "Load the model with dense, unquantised weights."
        elif not weight.dtype.is_floating_point or weight.element_size() == 1:
            yield f"{name} is of {weight.dtype}", "Load it in float32, float64, bfloat16 or float16."


def float64_fails_in_experts(model: nn.Module) -> bool:
    """Whether a model has experts in float64 that torch multiplies in one call, which it does in narrower formats only.

    Args:
        model: Any model.
    """
    config = getattr(model, "config", None)
    if getattr(config, "_experts_implementation", None) != "grouped_mm" or not hasattr(config, "num_experts_per_tok"):
        return False
    return any(weight.dtype == torch.float64 for weight in model.parameters())


def _several(what: str, values: Mapping[str, str], fix: str) -> Iterator[_Finding]:
    """A finding where a model's weights do not agree: the first weight of each value."""
    first: dict[str, str] = {}
    for name, value in values.items():
        first.setdefault(value, name)
    if len(first) > 1:
        where = ", ".join(f"{value} ({name})" for value, name in first.items())
        yield f"its weights are of several {what}: {where}", f"Bring all to one: {fix}."


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of weights with a NaN or an infinity, in the model's order.

    Args:
        model: Any module.
    """
    # A sum is finite only where all its terms are; terms that overflow together are looked at one by one.
    return [
        name
        for name, weight in model.named_parameters()
        if not weight.detach().sum(dtype=torch.float32).isfinite() and not weight.detach().isfinite().all()
    ]


# ---------------------------------------------------------------- hooks and methods


def _name_of(function: Any) -> str:
    """A function's name as its author wrote it."""
    if isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__qualname__)


def _global_hooks() -> Iterator[_Finding]:
    """Hooks of every module of the process."""
    for store, what in _HOOKS.items():
        for hook in getattr(torch_module, f"_global{store}", {}).values():
            if _is_harmless(hook):
                continue
            yield f"every module of this process has a {what}, {_name_of(hook)}", _REMOVE_HOOK


def _is_harmless(hook: object) -> bool:
    """Whether a hook is known to change no number."""
    return (getattr(hook, "__module__", ""), _name_of(hook).rpartition(".")[2]) in _HARMLESS_HOOKS


def _hooks(path: str, module: nn.Module) -> Iterator[_Finding]:
    for store, what in _HOOKS.items():
        for hook in getattr(module, store).values():
            if not _is_harmless(hook):
                # Masks of torch.nn.utils.prune are told by the weights that they add.
                is_mask = type(hook).__module__ == "torch.nn.utils.prune"
                yield f"{path} has a {what}, {_name_of(hook)}", "" if is_mask else _REMOVE_HOOK


def _methods(path: str, module: nn.Module) -> Iterator[_Finding]:
    """Methods set on one module."""
    kind = type(module)
    for name, held in vars(module).items():
        usual = getattr(kind, name, None)
        # A method of its own class set where it was before is none: transformers 5.0 leaves such ones behind.
        same = getattr(held, "__func__", None) is usual and getattr(held, "__self__", None) is module
        if callable(usual) and not same and name not in _UNUSED_METHODS:
            if "_hf_hook" in vars(module):
                advice = "Load it whole: without device_map and offloading, then model.to(device)."
            else:
                advice = f"A method set on a module is not compiled: `del module.{name}`."
            yield f"{path} has a method of its own, {name}", advice


def _origin(path: str, kind: type[nn.Module]) -> Iterator[_Finding]:
    """A class, or its forward method, of another package."""
    for what, part in (("the class itself", kind), ("its forward method", kind.forward)):
        origin = getattr(part, "__module__", None) or ""
        if origin.partition(".")[0] not in _OWN:
            yield f"{path}: {what} of {kind.__name__} is of {origin}, not of transformers", _AS_LOADED
            return


def _attention(model: nn.Module) -> Iterator[_Finding]:
    """An attention function of the user's own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config: Any = model.config
    chosen = getattr(config, "_attn_implementation", None)
    function = ALL_ATTENTION_FUNCTIONS.get(chosen) if isinstance(chosen, str) else None
    origin = getattr(function, "__module__", None) or ""
    if function is not None and origin.partition(".")[0] not in _OWN:
        yield (
            f"its attention, {chosen!r}, is computed by {origin}.{_name_of(function)}",
            "Load it with attn_implementation='sdpa' or 'eager'.",
        )


# ---------------------------------------------------------------- the twin


def _named(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules with their paths, shared ones as often as they occur."""
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _named(child, f"{path}.{name}" if path else name)


def _settings(module: nn.Module) -> dict[str, object]:
    """A module's own numbers, flags and texts, without those that change no number."""
    return {
        name: value
        for name, value in vars(module).items()
        if (
            isinstance(value, bool | int | float | str)
            or value is None
            and type(module).__module__.startswith("torch.")
        )
        and not name.startswith("_")
        and name not in _UNUSED_SETTINGS
        and "dropout" not in name
    }


def _shapes(tensors: Mapping[str, Tensor | None]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}


def _twin(model: nn.Module) -> dict[str, _Part]:
    """The modules of the model that `transformers` builds from the same config, by path.

    Raises:
        UnsupportedModelError: It cannot build one.
    """
    config: Any = model.config
    key = (type(model), json.dumps(config.to_dict(), sort_keys=True, default=str))
    if key not in _TWINS:
        plain = copy.deepcopy(config)
        if hasattr(plain, "pad_token_id"):  # a Hugging Face config; neither of the two changes a number
            plain.pad_token_id, plain._attn_implementation = None, "eager"
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                twin = type(model)(plain)
        except Exception as error:
            raise UnsupportedModelError(
                f"{type(model).__name__} cannot be built from the model's config ({type(error).__name__}: {error}); "
                "expected the config that the model was made with"
            ) from error
        if len(_TWINS) >= _TWINS_KEPT:
            _TWINS.clear()
        _TWINS[key] = {
            path: _Part(
                kind=type(module),
                weights=_shapes(module._parameters),
                buffers=_shapes(module._buffers),
                settings=_settings(module),
                children=frozenset(name for name, child in module._modules.items() if child is not None),
            )
            for path, module in _named(twin)
        }
    return _TWINS[key]


def _differences(model: nn.Module) -> Iterator[_Finding]:
    """How the model differs from its twin, in the order of its modules."""
    twin = _twin(model)
    unlike: list[str] = []  # modules of another class: what is inside them is no news
    seen: set[type] = set()
    for path, module in _named(model):
        if any(path == other or path.startswith(f"{other}.") for other in unlike):
            continue
        part = twin[path]
        stands_in = STAND_INS.get(type(module)) is part.kind
        name = path or type(model).__name__
        yield from _hooks(name, module)
        if type(module) is not part.kind and not stands_in:
            unlike.append(path)
            yield _class(name, module, part)
            continue
        yield from _methods(name, module)
        if type(module) not in seen and not stands_in:
            yield from _origin(name, type(module))
        seen.add(type(module))
        yield from _names(name, module, part, stands_in=stands_in)
        unlike += [f"{path}.{child}".lstrip(".") for child in module._modules if child not in part.children]
        if stands_in:
            continue
        for setting, wanted in part.settings.items():
            got = vars(module).get(setting, wanted)
            if got != wanted:
                yield f"{name}: {setting} is {got!r}, its config makes it {wanted!r}", _AS_LOADED


def _class(path: str, module: nn.Module, part: _Part) -> _Finding:
    """A module of another class."""
    kind = type(module)
    if kind.__module__ == "torch.nn.utils.parametrize":
        weight = ", ".join(getattr(module, "parametrizations", {}))
        return (
            f"{path} is parametrised ({weight})",
            "Write the weights in: torch.nn.utils.parametrize.remove_parametrizations(module, name).",
        )
    advice = _MERGE if kind.__module__.partition(".")[0] == "peft" or "lora" in kind.__name__.lower() else _AS_LOADED
    got = f"{kind.__module__}.{kind.__qualname__}"
    return f"{path} is of the class {got}; its config makes it {part.kind.__name__}", advice


def _names(path: str, module: nn.Module, part: _Part, *, stands_in: bool) -> Iterator[_Finding]:
    """Weights, buffers and modules that are too many, missing, or of another shape."""
    kinds = [("weight", _shapes(module._parameters), part.weights)]
    if not stands_in:
        kinds.append(("buffer", _shapes(module._buffers), part.buffers))
    pruned = [name.removesuffix("_orig") for name in module._parameters if name.endswith("_orig")]
    for name in pruned:
        if f"{name}_mask" in module._buffers:
            yield (
                f"{path}.{name} is pruned by a mask",
                "Make it so for good: torch.nn.utils.prune.remove(module, name).",
            )
            return
    for what, got, wanted in kinds:
        for name in [*got, *(name for name in wanted if name not in got)]:
            if got.get(name) != wanted.get(name):
                yield f"{path}: {what} {name}: {_against(got.get(name), wanted.get(name))}", _AS_LOADED
    children = {name for name, child in module._modules.items() if child is not None}
    for name in sorted(children - part.children):
        kind = type(module._modules[name])
        advice = _MERGE if "lora" in name.lower() or kind.__module__.startswith("peft") else _AS_LOADED
        yield f"{path} has a module that its config has no place for, {name} ({kind.__name__})", advice
    for name in sorted(part.children - children):
        yield f"{path} lacks its module {name}", _AS_LOADED


def _against(got: tuple[int, ...] | None, wanted: tuple[int, ...] | None) -> str:
    if wanted is None:
        return "its config has no place for it"
    return "it is missing" if got is None else f"of shape {list(got)}; its config makes it {list(wanted)}"

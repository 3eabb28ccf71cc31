"""Dictionaries in SAELens's layout: a folder with `cfg.json` and `sae_weights.safetensors`.

Only the config and the safetensors are read; nothing is unpickled, and SAELens is not needed. What is not understood is
refused by name: another architecture, activations that are normed or reshaped, tensors that are not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitgraph.dictionaries.dictionary import JUMPRELU, STANDARD, TOPK, Dictionary
from circuitgraph.errors import CircuitFormatError, ConfigurationError
from circuitgraph.files.strict_json import parse_strictly

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_HOOK = re.compile(r"^blocks\.(?P<layer>0|[1-9]\d*)\.hook_resid_(?P<where>pre|post)$")
_TENSORS = {"W_enc", "b_enc", "W_dec", "b_dec"}
_USUAL: dict[str, tuple[object, ...]] = {
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", None),
    "rescale_acts_by_decoder_norm": (False, None),
    "finetuning_scaling_factor": (False, None),
    "hook_head_index": (None,),
}
"""Settings that change what is encoded, with the values under which they do not."""


def load_dictionary(folder: str | Path) -> Dictionary:
    """Read a dictionary.

    Args:
        folder: With `cfg.json` and `sae_weights.safetensors`, as `SAE.save_model` of SAELens writes them.

    Raises:
        CircuitFormatError: A file is missing or cannot be read, or says something that is not understood.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config = parse_strictly((folder / CONFIG).read_text(encoding="utf-8"), constants=True)
    except (OSError, ValueError) as error:
        raise CircuitFormatError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CircuitFormatError(f"{folder / CONFIG}: expected an object; got {type(config).__name__}")
    settings = {**config, **(config["meta"] if isinstance(config.get("meta"), dict) else {})}
    kind, k = _kind(folder, settings)
    _check_settings(folder, settings)
    layer = _layer(folder, settings.get("hook_name"))
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CircuitFormatError(f"{folder / WEIGHTS} cannot be read as safetensors: {error}") from error
    expected = _TENSORS | ({"threshold"} if kind == JUMPRELU else set())
    if set(tensors) != expected:
        raise CircuitFormatError(
            f"{folder / WEIGHTS}: expected the tensors {', '.join(sorted(expected))} of architecture {kind!r}; got "
            f"{', '.join(sorted(tensors)) or 'none'}"
        )
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise CircuitFormatError(f"{folder / WEIGHTS}: {name} holds numbers that are not finite")
    try:
        return Dictionary(
            kind=kind, encoder=tensors["W_enc"], encoder_bias=tensors["b_enc"], decoder=tensors["W_dec"],
            decoder_bias=tensors["b_dec"], centred=bool(settings.get("apply_b_dec_to_input", True)), layer=layer,
            threshold=tensors.get("threshold"), k=k, name=str(folder),
        )  # fmt: skip
    except ConfigurationError as error:
        raise CircuitFormatError(str(error)) from error


def _kind(folder: Path, settings: Mapping[str, Any]) -> tuple[str, int | None]:
    """The architecture, and the k of `topk`; in older files the activation says whether it is that."""
    kind = settings.get("architecture", STANDARD)
    activation = settings.get("activation_fn_str", settings.get("activation_fn", "relu"))
    if kind == STANDARD and activation == TOPK:
        kind = TOPK
    if kind not in (STANDARD, JUMPRELU, TOPK):
        raise CircuitFormatError(
            f"{folder / CONFIG}: architecture is {kind!r}; known are {STANDARD}, {JUMPRELU} and {TOPK}"
        )
    if activation not in ("relu", TOPK) or (activation == TOPK) > (kind == TOPK):
        raise CircuitFormatError(f"{folder / CONFIG}: activation_fn is {activation!r}; known is relu")
    if kind != TOPK:
        return kind, None
    more = settings.get("activation_fn_kwargs")
    k = settings.get("k", more.get("k") if isinstance(more, dict) else None)
    if not isinstance(k, int) or isinstance(k, bool):
        raise CircuitFormatError(f"{folder / CONFIG}: topk needs a whole number k; got {k!r}")
    return kind, k


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    for name, usual in _USUAL.items():
        if name in settings and settings[name] not in usual:
            raise CircuitFormatError(
                f"{folder / CONFIG}: {name} is {settings[name]!r}, which is not understood; known is {usual[0]!r}"
            )


def _layer(folder: Path, hook: object) -> int:
    """The layer before which the residual stream is read."""
    match = _HOOK.match(hook) if isinstance(hook, str) else None
    if match is None:
        raise CircuitFormatError(
            f"{folder / CONFIG}: hook_name is {hook!r}; known are dictionaries of the residual stream, "
            "blocks.LAYER.hook_resid_pre and blocks.LAYER.hook_resid_post"
        )
    return int(match["layer"]) + (match["where"] == "post")

"""Dictionaries in SAELens's layout: a folder with `cfg.json` and `sae_weights.safetensors`.

Only the config and the safetensors are read; nothing is unpickled, and SAELens is not needed. What is not understood is
refused by name: another architecture, activations that are normed or reshaped, tensors that are not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitgraph.dictionaries.dictionary import JUMPRELU, STANDARD, TOPK, Dictionary
from circuitgraph.errors import CircuitFormatError, ConfigurationError
from circuitgraph.files.strict_json import parse_strictly

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_HOOK = re.compile(r"blocks\.(?P<layer>0|[1-9][0-9]{0,8})\.hook_resid_(?P<where>pre|post)")
_TENSORS = {"W_enc", "b_enc", "W_dec", "b_dec"}
_ONES = "scaling_factor"
"""A tensor that versions of SAELens wrote for a while though nothing was scaled."""
_OLDER = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Names that settings had before, and those that they have."""
_NESTED = ("metadata", "meta")
"""Where SAELens 6 keeps what it says of the model; before, it stood beside the rest."""
_USUAL: dict[str, tuple[object, ...]] = {
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", None),
    "finetuning_scaling_factor": (False, None),
    "hook_head_index": (None,),
}
"""Settings that change what is encoded, with the values under which they do not."""
_FORMATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_CENTRED_STREAM = "center_writing_weights"
_HARMLESS = frozenset({
    "fold_ln", "center_unembed", "fold_value_biases", "refactor_factored_attn_matrices", "dtype", "torch_dtype",
    "device", "n_devices", "move_to_device", "trust_remote_code", "default_padding_side", "default_prepend_bos",
})  # fmt: skip
"""Ways in which the model was loaded that change no number of its residual stream."""


def load_dictionary(folder: str | Path, *, less_mean: bool | None = None) -> Dictionary:
    """Read a dictionary.

    Args:
        folder: With `cfg.json` and `sae_weights.safetensors`, as `SAE.save_model` of SAELens writes them.
        less_mean: Whether it was trained on a model with centred writing weights, whose residual stream has a mean of 0
            at every token; None goes by the file (`model_from_pretrained_kwargs`), which older ones leave to SAELens's
            own list.

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
    settings = _settings(config)
    try:
        kind, k = _kind(settings)
        _check_settings(settings)
        layer, mean_off = _layer(settings), _mean_off(settings)
        centred, rescaled = (
            _flag(settings, name, usual)
            for name, usual in (("apply_b_dec_to_input", True), ("rescale_acts_by_decoder_norm", False))
        )
        if rescaled and kind != TOPK:
            raise ConfigurationError(f"rescale_acts_by_decoder_norm is known of {TOPK} alone; got it of {kind}")
    except ConfigurationError as error:
        raise CircuitFormatError(f"{folder / CONFIG}: {error}") from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CircuitFormatError(f"{folder / WEIGHTS} cannot be read as safetensors: {error}") from error
    try:
        _check_tensors(tensors, settings, kind)
        if rescaled:
            _fold_lengths(tensors)
        return Dictionary(
            kind=kind, encoder=tensors["W_enc"], encoder_bias=tensors["b_enc"], decoder=tensors["W_dec"],
            decoder_bias=tensors["b_dec"], centred=centred, layer=layer, threshold=tensors.get("threshold"), k=k,
            less_mean=mean_off if less_mean is None else less_mean, name=str(folder),
        )  # fmt: skip
    except ConfigurationError as error:
        raise CircuitFormatError(f"{folder / WEIGHTS}: {error}") from error


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings under the names that they have now; what stands beside the rest wins over what is nested."""
    nested = [config[name] for name in _NESTED if isinstance(config.get(name), dict)]
    found: dict[str, Any] = {}
    for one in (*nested, config):
        found |= {_OLDER.get(name, name): value for name, value in one.items() if name not in _NESTED}
    return found


def _flag(settings: Mapping[str, Any], name: str, usual: bool) -> bool:
    value = settings.get(name, usual)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} has to be true or false; got {value!r}")
    return value


def _kind(settings: Mapping[str, Any]) -> tuple[str, int | None]:
    """The architecture, and the k of `topk`; in older files the activation says whether it is that."""
    kind = settings.get("architecture", STANDARD)
    activation = settings.get("activation_fn", "relu")
    if kind == STANDARD and activation == TOPK:
        kind = TOPK
    if kind not in (STANDARD, JUMPRELU, TOPK):
        raise ConfigurationError(f"architecture is {kind!r}; known are {STANDARD}, {JUMPRELU} and {TOPK}")
    if activation not in ("relu", TOPK) or (activation == TOPK) > (kind == TOPK):
        raise ConfigurationError(f"activation_fn is {activation!r}; known is relu")
    if kind != TOPK:
        return kind, None
    more = settings.get("activation_fn_kwargs")
    k = settings.get("k", more.get("k") if isinstance(more, dict) else None)
    if not isinstance(k, int) or isinstance(k, bool):
        raise ConfigurationError(f"topk needs a whole number k; got {k!r}")
    return kind, k


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name, usual in _USUAL.items():
        if name in settings and settings[name] not in usual:
            raise ConfigurationError(f"{name} is {settings[name]!r}, which is not understood; known is {usual[0]!r}")


def _layer(settings: Mapping[str, Any]) -> int:
    """The layer before which the residual stream is read."""
    hook, told = settings.get("hook_name"), settings.get("hook_layer")
    match = _HOOK.fullmatch(hook) if isinstance(hook, str) else None
    if match is None:
        raise ConfigurationError(
            f"hook_name is {hook!r}; known are dictionaries of the residual stream, blocks.LAYER.hook_resid_pre and "
            "blocks.LAYER.hook_resid_post"
        )
    if told is not None and told != int(match["layer"]):
        raise ConfigurationError(f"hook_name is {hook!r}, and hook_layer is {told!r}; make them agree")
    return int(match["layer"]) + (match["where"] == "post")


def _mean_off(settings: Mapping[str, Any]) -> bool:
    """Whether the model was loaded with centred writing weights."""
    how = settings.get("model_from_pretrained_kwargs") or {}
    if not isinstance(how, dict):
        raise ConfigurationError(f"model_from_pretrained_kwargs has to be an object; got {type(how).__name__}")
    unknown = sorted(set(how) - _HARMLESS - {_CENTRED_STREAM})
    if unknown:
        raise ConfigurationError(
            f"model_from_pretrained_kwargs has {', '.join(unknown)}, which is not understood: it may be of another "
            "residual stream than the model's"
        )
    return _flag(how, _CENTRED_STREAM, False)


def _check_tensors(tensors: dict[str, Tensor], settings: Mapping[str, Any], kind: str) -> None:
    """Refuse tensors that are none of this architecture's, of other sizes than the config's, or not finite."""
    ones = tensors.get(_ONES)
    if ones is not None and bool((ones == 1).all()):
        del tensors[_ONES]
    expected = _TENSORS | ({"threshold"} if kind == JUMPRELU else set())
    if set(tensors) != expected:
        raise ConfigurationError(
            f"expected the tensors {', '.join(sorted(expected))} of architecture {kind!r}; got "
            f"{', '.join(sorted(tensors)) or 'none'}"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in _FORMATS or not bool(tensor.isfinite().all()):
            raise ConfigurationError(f"{name} holds numbers that are not finite, or none at all ({tensor.dtype})")
    told = [settings.get(name) for name in ("d_sae", "d_in")]
    got = list(tensors["W_dec"].shape)
    if any(size is not None and size != own for size, own in zip(told, got, strict=False)):
        raise ConfigurationError(f"W_dec is {got}, and {CONFIG} says d_sae {told[0]!r} and d_in {told[1]!r}")


def _fold_lengths(tensors: dict[str, Tensor]) -> None:
    """Scale latents so that their rows of the decoder have a length of 1.

    Of a dictionary whose activations are ranked, and given, times these lengths (`rescale_acts_by_decoder_norm`): what
    is left needs no rescaling, and has the same activations.
    """
    lengths = tensors["W_dec"].norm(dim=-1).clamp(min=1e-8)
    tensors["W_dec"] = tensors["W_dec"] / lengths[:, None]
    tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * lengths, tensors["b_enc"] * lengths

"""What the values of a config's fields have to be, and which fields say nothing about a forward pass.

A family declares a `Field` for each field that it understands; all that do not fit are told in one error.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Fields of any Hugging Face config that do not change what a forward pass computes: names, tokens, what is put out
# beside the logits, settings of training, settings of `generate` that older files carry.
HARMLESS = frozenset(
    """_name_or_path architectures bos_token_id chunk_size_feed_forward decoder_start_token_id dtype eos_token_id
    finetuning_task forced_bos_token_id forced_eos_token_id id2label initializer_range keys_to_ignore_at_inference
    label2id model_type output_attentions output_hidden_states pad_token_id prefix problem_type return_dict
    sep_token_id task_specific_params tie_word_embeddings tokenizer_class torch_dtype transformers_version use_cache
    is_llama_config rope_interleaved transformers.js_config _attn_implementation _experts_implementation
    unk_token_id cls_token_id mask_token_id _attn_implementation_autoset _attn_implementation_internal
    torchscript use_bfloat16 tf_legacy_loss gradient_checkpointing output_past _commit_hash _flash_attn_2_enabled
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate remove_invalid_values exponential_decay_length_penalty
    suppress_tokens begin_suppress_tokens""".split()
)
# Parts that some models have. A config that says it has none says nothing else.
_PARTS = frozenset(
    """is_decoder is_encoder_decoder tie_encoder_decoder add_cross_attention cross_attention_hidden_size pruned_heads
    sliding_window use_sliding_window attn_logit_softcap attn_logit_softcapping final_logit_softcapping alibi use_alibi
    qk_norm use_qk_norm qk_layernorm clip_qkv num_experts num_local_experts quantization_config""".split()
)


def says_nothing(name: str, value: object) -> bool:
    """Whether a field, at that value, changes nothing in any model in evaluation mode.

    Examples:
        >>> says_nothing("use_sliding_window", False), says_nothing("use_sliding_window", True)
        (True, False)
    """
    return value is None or name in HARMLESS or name.endswith(("dropout", "pdrop")) or (name in _PARTS and not value)


@dataclass(frozen=True)
class Field:
    """What a field's value has to be.

    Attributes:
        expected: In words.
        fits: Whether a value is.
        or_null: Whether it may be left open.
    """

    expected: str
    fits: Callable[[Any], bool]
    or_null: bool = False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(*, or_null: bool = False) -> Field:
    """A whole number of at least 1."""
    return Field(
        "a whole number of at least 1",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
        or_null,
    )


def number(least: float = 0.0, *, or_null: bool = False) -> Field:
    """A number not below another."""
    return Field(f"a number of at least {least:g}", lambda value: _is_number(value) and value >= least, or_null)


def flag() -> Field:
    """True or false."""
    return Field("true or false", lambda value: isinstance(value, bool))


def types_of_layers() -> Field:
    """A type a layer, of those whose attention is understood."""
    known = ("full_attention", "sliding_attention")
    return Field(
        f"a list of {' and '.join(known)}, one a layer",
        lambda value: isinstance(value, list | tuple) and all(each in known for each in value),
        or_null=True,
    )


_ACTIVATIONS = frozenset(
    "gelu gelu_fast gelu_new gelu_pytorch_tanh quick_gelu relu relu6 sigmoid silu swish tanh".split()
)


def activation() -> Field:
    """The name of an activation function of `transformers`."""

    def known(value: object) -> bool:
        if isinstance(value, str) and value in _ACTIVATIONS:  # without the import, which takes as long as that of torch
            return True
        from transformers.activations import ACT2FN

        return isinstance(value, str) and value in ACT2FN

    return Field("an activation of transformers, such as silu, gelu or gelu_new", known)


def wrong_values(fields: Mapping[str, Field], values: Mapping[str, object]) -> Iterator[str]:
    """Say which values do not fit.

    Args:
        fields: What they have to be.
        values: A config's fields; those that are not there have defaults.

    Examples:
        >>> list(wrong_values({"n_layer": whole()}, {"n_layer": "12"}))
        ["n_layer='12': expected a whole number of at least 1"]
    """
    for name, field in fields.items():
        if name not in values or (field.or_null and values[name] is None):
            continue
        if not field.fits(values[name]):
            yield f"{name}={values[name]!r}: expected {field.expected}" + (" or null" if field.or_null else "")


def not_a_multiple(values: Mapping[str, object], whole_of: str, part: str) -> Iterator[str]:
    """Say where one size is no multiple of another.

    Args:
        values: A config's fields.
        whole_of: The field that has to be a multiple.
        part: Of this one.
    """
    size, of = values.get(whole_of), values.get(part)
    if isinstance(size, int) and isinstance(of, int) and of > 0 and size % of:
        yield f"{whole_of}={size}: expected a multiple of {part}={of}"


# ---------------------------------------------------------------- rotary embeddings

_LENGTH = "original_max_position_embeddings"
# The settings of each kind of rotary embedding: needed ones, and others.
_ROPE: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, {_LENGTH}),
    "yarn": (
        {"factor"},
        {_LENGTH, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
    "longrope": ({"short_factor", "long_factor"}, {_LENGTH, "attention_factor", "factor"}),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor"}, {_LENGTH}),
}


def wrong_rope(values: Mapping[str, Any], *, partial: bool = False) -> Iterator[str]:
    """Say what in the settings of a rotary embedding does not fit together.

    `transformers` takes one of two settings that contradict each other, and ignores those that a kind does not use.

    Args:
        values: A config's fields, as in its file or as of `to_dict`.
        partial: Whether only a share of a head's dimensions may be turned.

    Examples:
        >>> list(wrong_rope({"rope_scaling": {"factor": 2.0}}))
        ['rope_scaling: factor=2.0 is not used by rope_type default: name a rope_type, or leave it out']
    """
    given: dict[str, Any] = {
        name: values[name] for name in ("rope_parameters", "rope_scaling") if values.get(name) is not None
    }
    for name, settings in given.items():
        if not isinstance(settings, Mapping):
            yield f"{name}={settings!r}: expected an object with rope_type and its settings, or null"
            return
    if len(given) == 2 and given["rope_parameters"] != given["rope_scaling"]:
        yield "rope_parameters and rope_scaling differ: expected one of them"
        return
    theta, factor = values.get("rope_theta"), values.get("partial_rotary_factor")
    yield from _wrong_theta("rope_theta", theta)
    yield from _wrong_share("partial_rotary_factor", factor, partial=partial)
    for name, settings in list(given.items())[:1]:
        yield from _wrong_settings(name, settings, theta, partial=partial)


def _wrong_theta(name: str, theta: object) -> Iterator[str]:
    if theta is not None and not (_is_number(theta) and theta > 0):  # type: ignore[operator]
        yield f"{name}={theta!r}: expected a number above 0"


def _wrong_share(name: str, share: object, *, partial: bool) -> Iterator[str]:
    if not partial and share not in (None, 1):
        yield f"{name}={share!r}: expected 1, every dimension of a head is turned"
    elif share is not None and not (_is_number(share) and 0 <= share <= 1):  # type: ignore[operator]
        yield f"{name}={share!r}: expected a number from 0 to 1"


def _wrong_settings(name: str, settings: Mapping[str, Any], theta: object, *, partial: bool) -> Iterator[str]:
    kinds = {key: settings[key] for key in ("rope_type", "type") if settings.get(key) is not None}
    if len(set(map(str, kinds.values()))) == 2:
        yield f"{name}: rope_type={kinds['rope_type']!r} and type={kinds['type']!r} contradict each other"
        return
    kind = next(iter(kinds.values()), "default")
    if not isinstance(kind, str) or kind not in _ROPE:
        near = difflib.get_close_matches(str(kind), _ROPE, n=1)
        yield f"{name}: rope_type={kind!r}: expected one of {', '.join(_ROPE)}" + (
            f"; did you mean {near[0]!r}?" if near else ""
        )
        return
    inner = settings.get("rope_theta")
    yield from _wrong_theta(f"{name}: rope_theta", inner)
    if theta is not None and inner is not None and theta != inner:
        yield f"rope_theta={theta!r} and {name}: rope_theta={inner!r} contradict each other"
    yield from _wrong_share(f"{name}: partial_rotary_factor", settings.get("partial_rotary_factor"), partial=partial)
    needed, others = _ROPE[kind]
    for key in sorted(needed - {key for key in settings if settings[key] is not None}):
        yield f"{name}: rope_type {kind} needs {key}"
    known = needed | others | {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    for key, value in settings.items():
        if key not in known and value is not None:
            yield f"{name}: {key}={value!r} is not used by rope_type {kind}: name a rope_type, or leave it out"
    yield from _wrong_numbers(name, settings, known)


def _wrong_numbers(name: str, settings: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    for key, least in (("factor", 1.0), ("low_freq_factor", 0.0), ("high_freq_factor", 0.0), ("attention_factor", 0.0)):
        if key in known and settings.get(key) is not None:
            for said in wrong_values({key: number(least)}, settings):
                yield f"{name}: {said}"
    if settings.get(_LENGTH) is not None and _LENGTH in known:
        for said in wrong_values({_LENGTH: whole()}, settings):
            yield f"{name}: {said}"
    low, high = settings.get("low_freq_factor"), settings.get("high_freq_factor")
    if _is_number(low) and _is_number(high) and "low_freq_factor" in known and low >= high:  # type: ignore[operator]
        yield f"{name}: high_freq_factor={high!r}: expected more than low_freq_factor={low!r}"

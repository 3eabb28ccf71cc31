"""Weights that a model's files have and its config has no place for.

`transformers` leaves them out with a line in its log, and what runs is another model. Only a few are known to change
nothing: buffers that it makes anew from the config, and heads beside the language model's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from circuitgraph.errors import ModelNotFoundError, ModelWarning

# `transformers` leaves GPT-2's `attn.bias` out of its report, and all that has this in its name. That is no loss for
# `attn.c_attn.bias`: it has a place in every layer, so where it has none there are others of that layer without one.
_HARMLESS = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|attn\.(masked_bias|bias)|self_attn\.bias|position_ids)$"
    r"|^(v_head|value_head|score|classifier|multiple_choice_head)\."
)
# What such weights mostly mean.
_MEANINGS = (
    (r"lora_|\.base_layer\.|adapter", "adapters: merge them first, model = model.merge_and_unload(), and save that"),
    (r"self_attn\.[qkvo]_proj\.bias$", "biases: its config.json should say attention_bias: true"),
    (r"mlp\..*_proj\.bias$", "biases: its config.json should say mlp_bias: true"),
    (r"_scale(_inv)?$|absmax|qweight|qzeros|quant", "a quantised model: load one that is not"),
    (r"[qk]_norm\.", "norms on queries and keys: another architecture than its config.json says"),
)


def check_unexpected(name: str, unexpected: Sequence[str], *, n_layers: int | None = None) -> None:
    """Refuse weights that were left out; of those that change nothing, warn by name.

    Args:
        name: The model, as the user gave it.
        unexpected: Names of weights in its files that found no place.
        n_layers: How many layers its config has, if it says so.

    Raises:
        ModelNotFoundError: Weights are left out that may change the numbers.
    """
    harmless = [key for key in unexpected if _HARMLESS.search(key)]
    others = [key for key in unexpected if not _HARMLESS.search(key)]
    if others:
        meaning = _meaning(others, n_layers)
        raise ModelNotFoundError(
            f"model {name!r}: its files hold {len(others)} weights that its config.json has no place for, such as "
            f"{', '.join(others[:3])}; left out, they would leave another model"
            + (f". They look like {meaning}" if meaning else "")
            + ". If they are meant to be left out, load the model with AutoModelForCausalLM.from_pretrained and hand "
            "it over as LoadedModel(model=model, tokenizer=tokenizer, name=…)"
        )
    if harmless:
        more = f" and {len(harmless) - 3} more" if len(harmless) > 3 else ""
        warnings.warn(
            f"model {name!r}: left out of its files: {', '.join(harmless[:3])}{more}; they change no logits",
            ModelWarning,
            stacklevel=2,
        )


def _meaning(keys: Sequence[str], n_layers: int | None) -> str:
    layers = [int(match[1]) for key in keys if (match := re.search(r"(?:^|\.)(?:h|layers)\.(\d+)\.", key))]
    if n_layers is not None and layers and max(layers) >= n_layers:
        return f"layers up to number {max(layers)}, where its config.json has {n_layers} layers"
    for pattern, meaning in _MEANINGS:
        if any(re.search(pattern, key) for key in keys):
            return meaning
    return ""


def check_adapters(name: str, folder: Path) -> None:
    """Refuse a folder with adapters beside a model's weights, which would not be loaded.

    Args:
        name: The model, as the user gave it.
        folder: Where it lies.

    Raises:
        ModelNotFoundError: There are adapters.
    """
    found = sorted(path.name for path in folder.glob("adapter_*") if path.suffix in (".json", ".safetensors", ".bin"))
    if found:
        raise ModelNotFoundError(
            f"model folder {name!r} has adapters ({', '.join(found)}), which would be left out. Merge them first: "
            "model = peft.AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload(); "
            "model.save_pretrained(another_folder)"
        )

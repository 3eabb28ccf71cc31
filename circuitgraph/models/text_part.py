"""The decoder inside a checkpoint of images and text, where it stands alone: a model of its own over the same weights.

A prompt without images goes through the decoder alone, so its text part is a model like any other of its family, and is
what is loaded of such a checkpoint. Qwen2-VL's decoders are Qwen 2: their three kinds of positions are one and the same
in text. Checkpoints whose decoder reads text otherwise than a language model (PaliGemma reads prompts both ways) are no
such ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from circuitgraph.architectures import supported_model_types
from circuitgraph.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_DECODERS = {
    **dict.fromkeys(
        "gemma3 internvl llava llava_next mistral3 qwen2_5_vl qwen2_vl".split(), "model.language_model"
    ),
    **dict.fromkeys("idefics3 smolvlm".split(), "model.text_model"),
}  # fmt: skip
"""Where a model of each type keeps its decoder; its output head is `lm_head`."""
_QUANTISED = "quantization_config"  # said of the whole
_SAME_AS = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"}
AUTO_CLASS = "AutoModelForImageTextToText"
"""The class of `transformers` that loads such checkpoints whole."""


def has_text_part(model_type: object) -> bool:
    """Whether models of a type hold a decoder that stands alone.

    Args:
        model_type: Of a config.

    Examples:
        >>> has_text_part("llava"), has_text_part("llama")
        (True, False)
    """
    return isinstance(model_type, str) and model_type in _DECODERS


def text_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the text part as they stand in a config's file; all fields of one without such a part.

    Args:
        values: The fields of the file.
    """
    inner = values.get("text_config")
    if not has_text_part(values.get("model_type")) or not isinstance(inner, Mapping):
        return values
    return {**inner, _QUANTISED: values[_QUANTISED]} if values.get(_QUANTISED) else inner


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the text part; a config without such a part as it is.

    Args:
        config: Of the whole model.

    Raises:
        UnsupportedModelError: The decoder inside is of a type that is not supported.
    """
    from transformers import CONFIG_MAPPING

    whole: Any = config
    if not has_text_part(whole.model_type):
        return config
    inner = whole.text_config
    kind = _SAME_AS.get(inner.model_type, inner.model_type)
    if kind not in supported_model_types():
        raise UnsupportedModelError(
            f"{whole.model_type}: its text part is of model type {inner.model_type!r}, which is not supported; "
            f"supported: {', '.join(supported_model_types())}"
        )
    if kind != inner.model_type:
        values = {name: value for name, value in inner.to_dict().items() if name != "model_type"}
        rope = {name: value for name, value in values["rope_parameters"].items() if name != "mrope_section"}
        if rope.get("rope_type") == "mrope":
            rope["rope_type"] = "default"
        inner = CONFIG_MAPPING[kind].from_dict({**values, "rope_parameters": rope})
    inner.tie_word_embeddings = whole.tie_word_embeddings
    inner._commit_hash = getattr(whole, "_commit_hash", None)
    inner.name_or_path = whole.name_or_path
    return inner


def text_model(whole: PreTrainedModel) -> PreTrainedModel:
    """The text part of a loaded model, over its weights; a model without such a part as it is.

    Args:
        whole: The model, as `AUTO_CLASS` loads it.

    Raises:
        UnsupportedModelError: The decoder inside is of a type that is not supported.
    """
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = whole
    if not has_text_part(loaded.config.model_type):
        return whole
    decoder = attrgetter(_DECODERS[loaded.config.model_type])(loaded)
    config: Any = text_config(loaded.config)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        text: Any = AutoModelForCausalLM.from_config(config)
    if type(text.model) is type(decoder):
        text.model = decoder
    else:
        text.model.load_state_dict(decoder.state_dict(), assign=True)
        text.model.rotary_emb = type(text.model.rotary_emb)(config=config)  # its buffers are in no state
    text.lm_head = loaded.lm_head
    text.config = text.model.config
    return text.eval()

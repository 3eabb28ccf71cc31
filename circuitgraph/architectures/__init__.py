"""Model families: one small declarative file each, found by `model_type`."""

from __future__ import annotations

import difflib
import importlib

from circuitgraph.architectures.family import Family, ModelShape
from circuitgraph.errors import UnsupportedModelError

_SHARED = {
    "gemma2": "gemma:GEMMA2", "gemma3_text": "gemma:GEMMA3", "olmo2": "olmo:OLMO2", "olmo3": "olmo:OLMO3",
    "cohere2": "cohere:COHERE2", "olmoe": "mixtral:OLMOE", "qwen3_moe": "mixtral:QWEN3_MOE",
}  # fmt: skip
"""Families that share a file with others, and their names there; all others are the `FAMILY` of a file of their own."""
_ALONE = """bloom codegen cohere exaone4 falcon gemma gpt2 gpt_neo gpt_neox gpt_oss gptj granite llama mistral mixtral
modernbert mpt olmo opt phi phi3 qwen2 qwen3 smollm3 stablelm starcoder2 tracr""".split()
PLACES = {name: f"{name}:FAMILY" for name in _ALONE} | _SHARED
"""Where each family is declared: a file here, and a name in it."""

_ON_THE_STREAM = (
    "its norms stand on the residual stream itself, so that no reader sees a sum of writers; modernbert is an encoder "
    "whose norms do not"
)
_WITHOUT_QUERIES = "it has layers without queries and keys"
_TWO_STREAMS = "its decoder reads an encoder's stream beside its own"
_WHY_NOT = {
    **dict.fromkeys("albert bert camembert deberta-v2 distilbert electra roberta xlm-roberta".split(), _ON_THE_STREAM),
    **dict.fromkeys("falcon_mamba jamba lfm2 mamba mamba2 qwen3_next rwkv".split(), _WITHOUT_QUERIES),
    "paligemma": "it reads prompts both ways, up to the answer",
    **dict.fromkeys(
        "gemma3 idefics3 internvl llava llava_next mistral3 qwen2_5_vl qwen2_vl smolvlm".split(),
        "it is of images and text; load_model loads its text part alone",
    ),
    **dict.fromkeys("bart marian mbart mt5 pegasus t5 whisper".split(), _TWO_STREAMS),
}
"""Why some that are asked for are not understood."""

__all__ = ["Family", "ModelShape", "family_of", "supported_model_types"]


def supported_model_types() -> list[str]:
    """The `model_type` values that can be compiled."""
    return sorted(PLACES)


def family_of(model_type: str) -> Family:
    """Look a family up.

    Args:
        model_type: `config.model_type` of a model.

    Returns:
        The family's description.

    Raises:
        UnsupportedModelError: No family understands it.
    """
    if model_type not in PLACES:
        near = difflib.get_close_matches(model_type, PLACES, n=1)
        raise UnsupportedModelError(
            f"model type {model_type!r} is not supported"
            + (f" ({_WHY_NOT[model_type]})" if model_type in _WHY_NOT else "")
            + f"; supported: {', '.join(supported_model_types())}"
            + (f" (the nearest name is {near[0]!r})" if near else "")
            + ". docs/developers/add-an-architecture.md says how to add a family."
        )
    file, _, name = PLACES[model_type].partition(":")
    return getattr(importlib.import_module(f"circuitgraph.architectures.{file}"), name)

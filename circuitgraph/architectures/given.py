"""What was handed over to be compiled: a sentence for each thing that is no model, or a model in a wrapper."""

from __future__ import annotations

from typing import Any

from torch import nn

from circuitgraph.errors import ConfigurationError, UnsupportedModelError

_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "DeepSpeedEngine": "module",
}
"""Classes that hold a model, and the attribute where it is."""

_TAKES = "expected a model, as load_model or AutoModelForCausalLM.from_pretrained gives it"


def check_given(model: Any) -> None:
    """Refuse what is no model of its own.

    Args:
        model: What was handed over.

    Raises:
        ConfigurationError: Something else than a model, such as a name, a class or a tokenizer.
        UnsupportedModelError: A model in a wrapper, with adapters beside its weights, or quantised.
    """
    kind = type(model).__name__
    if isinstance(model, str):
        raise ConfigurationError(f"{_TAKES}; got the text {model!r}: compile_model(load_model({model!r}))")
    if model is None:
        raise ConfigurationError(f"{_TAKES}; got None")
    if isinstance(model, type):
        raise ConfigurationError(f"{_TAKES}; got the class {model.__name__}: make a model of it first")
    if kind == "CompiledModel":
        raise ConfigurationError(f"{_TAKES}; got a compiled model, which has its own in `.model`")
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"{_TAKES}; got {_what(model)}")
    if kind in _WRAPPERS and hasattr(model, _WRAPPERS[kind]):
        raise UnsupportedModelError(
            f"{_TAKES}; got {kind} around one: hand over the model inside, `model.{_WRAPPERS[kind]}`"
        )
    if type(model).__module__.partition(".")[0] == "peft":
        raise UnsupportedModelError(
            f"{_TAKES}; got {kind}, a model with adapters beside its weights. Merge them first: "
            "model = model.merge_and_unload()"
        )
    if not hasattr(model, "config") or not hasattr(model.config, "model_type"):
        raise UnsupportedModelError(f"{_TAKES}; got {_what(model)}, which has no config with a model_type")
    method = quantisation(model.config)
    if method is not None or getattr(model, "is_quantized", False):
        raise UnsupportedModelError(
            f"the model is quantised ({method or 'by a quantizer of transformers'}): its weights are not numbers "
            "that edges can be made of. Load it without quantisation, in float32, bfloat16 or float16"
        )


def quantisation(config: Any) -> str | None:
    """How a config says its weights are quantised; None where they are not.

    Args:
        config: A Hugging Face config, or its fields.
    """
    if isinstance(config, dict):
        settings = config.get("quantization_config")
    else:
        settings = getattr(config, "quantization_config", None)
    if not settings:
        return None
    if not isinstance(settings, dict):
        settings = vars(settings)
    return str(settings.get("quant_method") or "by an unnamed method")


def _what(model: Any) -> str:
    """Something by its class, with what to do where that is known."""
    kind = type(model)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if any(base.__name__ == "PreTrainedTokenizerBase" for base in kind.__mro__):
        return f"the tokenizer {name}: LoadedModel(model=model, tokenizer=tokenizer, name=…) takes both"
    if any(base.__name__ == "Pipeline" for base in kind.__mro__):
        return f"the pipeline {name}: its model is `pipeline.model`"
    return name

"""Model families: one small declarative file each, found by `model_type`."""

from __future__ import annotations

from circuitgraph.architectures.family import Family, ModelShape
from circuitgraph.errors import UnsupportedModelError

_MODULES = {"gpt2": "gpt2", "llama": "llama", "mistral": "mistral", "tracr": "tracr"}

__all__ = ["Family", "ModelShape", "family_of", "supported_model_types"]


def supported_model_types() -> list[str]:
    """The `model_type` values that can be compiled."""
    return sorted(_MODULES)


def family_of(model_type: str) -> Family:
    """Look a family up.

    Args:
        model_type: `config.model_type` of a model.

    Returns:
        The family's description.

    Raises:
        UnsupportedModelError: No family understands it.
    """
    import importlib

    if model_type not in _MODULES:
        raise UnsupportedModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(supported_model_types())}. "
            "docs/developers/add-an-architecture.md says how to add a family."
        )
    module = importlib.import_module(f"circuitgraph.architectures.{_MODULES[model_type]}")
    return module.FAMILY

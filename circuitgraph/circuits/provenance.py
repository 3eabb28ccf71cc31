"""Where a circuit came from, as JSON values: checked when they come in, and read as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitgraph.errors import ConfigurationError
from circuitgraph.files.strict_json import refuse_deep

# Written by the circuit itself, whatever the provenance that came in says.
OWN_FIELDS = ("ablation", "sparsity")


def provenance_text(provenance: Mapping[str, object]) -> str:
    """A provenance as JSON text, without what the circuit says itself.

    Args:
        provenance: JSON values; numpy's are converted, NaN and infinity become null.

    Raises:
        ConfigurationError: Something in it is no JSON value (the message says where), or it is nested too deeply.

    Examples:
        >>> provenance_text({"seed": np.int64(3), "kl": float("nan"), "ablation": "zero"})
        '{"seed": 3, "kl": null}'
    """
    stored = {name: value for name, value in provenance.items() if name not in OWN_FIELDS}
    try:
        refuse_deep(stored)
    except ValueError as error:
        raise ConfigurationError(f"provenance: {error}") from None
    return json.dumps(_json_value(stored, "provenance"), allow_nan=False)


def _json_value(value: object, where: str) -> object:
    """Plain JSON values, with numpy's converted and what is not finite as null."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ConfigurationError(f"{where}: keys must be text; got {name!r}")
        return {str(name): _json_value(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ConfigurationError(f"{where}: expected JSON values; got {type(value).__name__}, convert it first")


def name_in(provenance: Mapping[str, Any], field: str) -> str | None:
    """A provenance field as text, whether it is a name or an object with one.

    Examples:
        >>> name_in({"recipe": {"name": "quick", "steps": 300}}, "recipe")
        'quick'
    """
    value = provenance.get(field)
    if isinstance(value, Mapping):
        value = value.get("name")
    return None if value is None else str(value)

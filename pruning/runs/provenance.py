"""Where results came from: the model, and what it was made with."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any

import torch

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from pruning.runs.versions import library_versions


def model_provenance(compiled: CompiledModel) -> dict[str, Any]:
    """Which model it was, in which number format, and how its graph was edited.

    Args:
        compiled: The model.
    """
    dtype = str(compiled.dtype).removeprefix("torch.")
    return {**compiled.identity, "dtype": dtype, "edits": compiled.gate_map.edits}


def made_with(compiled: CompiledModel) -> dict[str, Any]:
    """The tokenizer, the versions of what is installed, and what it ran on.

    Args:
        compiled: The model.
    """
    return {
        "tokenizer": type(compiled.tokenizer).__name__,
        "versions": library_versions(),
        "hardware": hardware(compiled.device),
    }


def hardware(device: torch.device) -> dict[str, str | int]:
    """What it ran on."""
    found: dict[str, str | int] = {"device": str(device), "threads": torch.get_num_threads()}
    found["cpu"] = platform.processor() or platform.machine()
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def first_difference(circuit: Circuit, wanted: Mapping[str, Any]) -> str | None:
    """The first setting in which a kept circuit is not what would be trained now.

    Args:
        circuit: The circuit of an earlier run.
        wanted: Settings by their name in a circuit's provenance.

    Returns:
        What differs, with both values, or None.
    """
    known = circuit.provenance
    for name, value in wanted.items():
        plain, found = json.loads(json.dumps(value)), known.get(name)
        if found == plain or (name == "weights" and found is None):  # circuits of before weights were told
            continue
        if isinstance(plain, dict) and isinstance(found, dict):
            name, found, plain = next(
                (f"{name}.{key}", found.get(key), plain.get(key))
                for key in {**plain, **found}
                if found.get(key) != plain.get(key)
            )
        return f"{name} is {found!r} there and would be {plain!r} now"
    return None

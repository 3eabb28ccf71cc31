"""Learnt constants on disk: beside the circuit that they were learnt for, in a file named by the circuit's hash.

`optimal-<first 16 digits of Circuit.digest>.safetensors` holds one tensor per writer, by its name (`input`, `a3.h7`,
`m3`), `[d_model]`, or `[d_head]` of a head, before the output projection. Its metadata has `format_version` and
`about`, JSON that says which model, which prompts and how they were learnt. They are read back to the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CircuitFormatError, ConfigurationError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.constants import (
    constants_of_names,
    constants_of_values,
    named_constants,
    values_of_constants,
)

FORMAT_VERSION = "1"
_DIGITS = 16


def constants_file(circuit: Circuit) -> str:
    """The name of the file that holds a circuit's constants.

    Args:
        circuit: The circuit.
    """
    return f"optimal-{circuit.digest[:_DIGITS]}.safetensors"


def constants_bytes(compiled: CompiledModel, values: AblationValues, about: Mapping[str, Any] | None = None) -> bytes:
    """Constants as a file's content.

    Args:
        compiled: The model.
        values: Constants of kind `optimal`, as `pruning.learn_constants` gives them.
        about: Where they came from, as JSON values; which model it was is added.

    Raises:
        ConfigurationError: Values of another kind or another model.
    """
    from safetensors.torch import save

    if values.ablation != "optimal":
        raise ConfigurationError(
            f"only constants that were learnt are kept in a file of their own; got values of kind {values.ablation!r}"
        )
    model = compiled.runnable
    named = named_constants(model, constants_of_values(model, values))
    told = json.dumps({**compiled.identity, **(about or {})}, allow_nan=False, sort_keys=True)
    metadata = {"format_version": FORMAT_VERSION, "about": told}
    return save({name: part.cpu().contiguous() for name, part in named.items()}, metadata=metadata)


def save_constants(
    compiled: CompiledModel, values: AblationValues, path: str | Path, about: Mapping[str, Any] | None = None
) -> Path:
    """Write constants, whole or not at all.

    Args:
        compiled: The model.
        values: As of `constants_bytes`.
        path: The file, or a folder's file of a circuit: `folder / constants_file(circuit)`.
        about: As of `constants_bytes`.

    Raises:
        OutputError: The file cannot be written.
        ConfigurationError: As of `constants_bytes`.

    Examples:
        >>> import tempfile
        >>> from circuitgraph import compile_model, load_model
        >>> compiled = compile_model(load_model("tracr:reverse"))
        >>> values = compiled.ablation_values("zero").constant("optimal")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_constants(compiled, values, Path(folder) / "zeros.safetensors", {"task": "none"})
        ...     again = load_constants(compiled, path)
        ...     about_constants(path)["task"], again.ablation
        ('none', 'optimal')
    """
    return write_atomically(Path(path), constants_bytes(compiled, values, about))


def load_constants(compiled: CompiledModel, path: str | Path) -> AblationValues:
    """Constants from a file of `save_constants`, where the model lies and in its number format.

    Args:
        compiled: The model.
        path: The file.

    Raises:
        CircuitFormatError: It cannot be read, or is of another version.
        ConfigurationError: It is of another model or universe.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    about_constants(path)
    try:
        named = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CircuitFormatError(f"{path} cannot be read as learnt constants: {error}") from error
    try:
        return values_of_constants(compiled.runnable, constants_of_names(compiled.runnable, named))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def about_constants(path: str | Path) -> dict[str, Any]:
    """Where the constants of a file came from.

    Args:
        path: The file.

    Raises:
        CircuitFormatError: It cannot be read, holds something else, or is of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            found = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CircuitFormatError(f"{path} cannot be read as learnt constants: {error}") from error
    if found.get("format_version") != FORMAT_VERSION:
        raise CircuitFormatError(
            f"{path}: expected learnt constants of format_version {FORMAT_VERSION}; got "
            f"{found.get('format_version', 'a file without one')}"
        )
    try:
        about = json.loads(found["about"])
    except (KeyError, ValueError) as error:
        raise CircuitFormatError(f"{path}: its metadata does not say what it is about") from error
    return about if isinstance(about, dict) else {}

"""Vectors on disk: safetensors with one tensor per vector, by its name, and in the metadata where each is added.

The metadata has `format_version`, `at` (JSON: by name `all`, `asked` or a place) and `about` (JSON: where the vectors
came from). A circuit that was found with vectors has them beside it, as `vectors.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitFormatError, ConfigurationError, GraphMismatchError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.strict_json import parse_strictly
from circuitgraph.forward.vectors import Vector
from circuitgraph.graph.virtual import VECTOR_FILE

FORMAT_VERSION = "1"
_SHOWN = 200


def vectors_bytes(vectors: Sequence[Vector], about: Mapping[str, Any] | None = None) -> bytes:
    """Vectors as a file's content.

    Args:
        vectors: At least one, each with a name of its own.
        about: Where they came from, as JSON values.

    Raises:
        ConfigurationError: None, two of one name, or an `about` that JSON cannot hold.
    """
    from safetensors.torch import save

    names = [vector.name for vector in vectors]
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(f"a file holds vectors with a name each; got {', '.join(names) or 'none'}")
    try:
        told = json.dumps(dict(about or {}), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"about: expected JSON values that say where vectors came from; {error}") from error
    metadata = {
        "format_version": FORMAT_VERSION,
        "at": json.dumps({vector.name: vector.at for vector in vectors}),
        "about": told,
    }
    return save({vector.name: vector.value.cpu() for vector in vectors}, metadata=metadata)


def save_vectors(vectors: Sequence[Vector], path: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write vectors, whole or not at all.

    Args:
        vectors: At least one, each with a name of its own.
        path: The file.
        about: Where they came from, as JSON values.

    Raises:
        OutputError: The file cannot be written.
        ConfigurationError: As of `vectors_bytes`.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> vector = Vector(name="v@3", value=torch.ones(4), at=-1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (again,) = load_vectors(save_vectors([vector], Path(folder) / "v.safetensors"))
        >>> again.name, again.at, again.digest == vector.digest
        ('v@3', -1, True)
    """
    return write_atomically(Path(path), vectors_bytes(vectors, about))


def load_vectors(path: str | Path) -> tuple[Vector, ...]:
    """Vectors from a file of `save_vectors`.

    Args:
        path: The file.

    Raises:
        CircuitFormatError: It cannot be read, is of another version, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError) as error:
        raise CircuitFormatError(f"{path} cannot be read as vectors: {error}") from error
    if told.get("format_version") != FORMAT_VERSION or "at" not in told:
        raise CircuitFormatError(
            f"{path}: expected vectors of format_version {FORMAT_VERSION}, as circuitgraph.save_vectors writes them; "
            f"got {told.get('format_version', 'a file without one')}"
        )
    try:
        places = parse_strictly(told["at"])
        if not isinstance(places, dict) or not places or set(places) != set(tensors):
            raise ConfigurationError(
                f"expected `at` to be an object with a place for each of the tensors {', '.join(tensors) or 'none'}; "
                f"got {told['at'][:_SHOWN]}"
            )
        return tuple(Vector(name=name, value=tensors[name], at=places[name]) for name in places)
    except ValueError as error:
        raise CircuitFormatError(f"{path}: its vectors cannot be read: {error}") from error


def vectors_beside(circuit: Circuit, path: Path) -> Path | None:
    """The file with the vectors that a saved circuit was found with; None where it has none.

    Args:
        circuit: The circuit.
        path: Its file.

    Raises:
        GraphMismatchError: The file is missing, or has other vectors.
    """
    if not circuit.universe.virtual:
        return None
    file, names = path.parent / VECTOR_FILE, ", ".join(circuit.universe.virtual)
    if not file.is_file():
        raise GraphMismatchError(
            f"{path} is a circuit of a model with vectors added to it ({names}), and {file.name} is not beside it; put "
            "there what circuitgraph.save_vectors wrote"
        )
    found, known = {vector.name: vector.digest for vector in load_vectors(file)}, circuit.provenance.get("vectors")
    if tuple(sorted(found)) != tuple(sorted(circuit.universe.virtual)) or (known is not None and known != found):
        raise GraphMismatchError(f"{file} has other vectors than {path} was found with: expected {names}")
    return file

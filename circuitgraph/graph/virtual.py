"""Virtual writers: what is added to a model beside its own writers, by name.

A vector that is added to the residual stream before a layer's heads read is a writer `name@layer`, such as `v@12`: all
that read from there on have an edge from it. Names say which layer, so that a universe needs no more than them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from circuitgraph.errors import ConfigurationError

VECTOR = re.compile(r"[A-Za-z_][A-Za-z0-9_]*@(?P<layer>0|[1-9][0-9]{0,8})")

VECTOR_FILE = "vectors.safetensors"
"""The file beside a circuit that holds the vectors that it was found with."""


def vector_layer(name: str) -> int | None:
    """The layer before which a vector is added, by its name; None where the name is no vector's.

    Examples:
        >>> vector_layer("v@12"), vector_layer("m3")
        (12, None)
    """
    match = VECTOR.fullmatch(name)
    return int(match["layer"]) if match else None


def require_no_vectors(names: tuple[str, ...], what: str) -> None:
    """Refuse vectors where there is no place for them.

    Args:
        names: A universe's virtual writers.
        what: What has no place for them.

    Raises:
        ConfigurationError: There are some.
    """
    if names:
        raise ConfigurationError(f"{what} have no place for vectors that are added to a model: {', '.join(names)}")


def ordered_virtual(names: Iterable[str], n_layers: int) -> tuple[str, ...]:
    """Names of virtual writers in the order in which they write.

    Args:
        names: In any order; those of one layer keep theirs.
        n_layers: How many layers the model has.

    Raises:
        ConfigurationError: A name that is none, of a layer that there is not, or that comes twice.

    Examples:
        >>> ordered_virtual(["late@1", "v@0"], n_layers=2)
        ('v@0', 'late@1')
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"universe: virtual must be a list of names; got {names!r}")
    layers: dict[str, int] = {}
    for name in names:
        layer = vector_layer(name)
        if layer is None:
            raise ConfigurationError(
                f"universe: a vector's name is letters, digits or _, then @ and the layer before which it is added, "
                f"such as v@12; got {name!r}"
            )
        if layer >= n_layers:
            raise ConfigurationError(
                f"universe: {name} is added before layer {layer}, and the model has layers 0 to {n_layers - 1}"
            )
        if name in layers:
            raise ConfigurationError(f"universe: there are two virtual writers {name}; give each a name of its own")
        layers[name] = layer
    return tuple(sorted(layers, key=layers.__getitem__))

"""The methods that rank edges, by name. A new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Callable

from circuitgraph.errors import UnknownNameError
from pruning.methods.eap import EAP
from pruning.methods.gate_gradients import GateGradients, GateImportance
from pruning.methods.method import Method

METHODS: dict[str, Callable[[], Method]] = {made.name: made for made in (EAP, GateGradients, GateImportance)}


def method_named(name: str) -> Method:
    """A method with its default settings.

    Args:
        name: Its name.

    Raises:
        UnknownNameError: No such method.

    Examples:
        >>> method_named("eap").direction
        'noising'
    """
    if name not in METHODS:
        raise UnknownNameError.of("method", name, METHODS)
    return METHODS[name]()

"""The settings of a method that ranks edges, by name: the fields of its frozen dataclass, each of its declared type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.methods.method import Method
from pruning.methods.registry import method_class
from pruning.runs.fields import Kind, kinds_of


def method_with(name: str, settings: Mapping[str, object] | None = None) -> Method:
    """A method with some of its settings.

    Args:
        name: Its name.
        settings: Values of its fields by name; all others keep their defaults.

    Raises:
        UnknownNameError: No such method, or it has no such setting.
        ConfigurationError: A value of another type than declared, or none that the method can use.

    Examples:
        >>> method_with("eap-ig", {"steps": 30}).steps
        30
    """
    made: Any = method_class(name)
    kinds = method_kinds(name)
    return made(**{key: _known(name, kinds, key).checked(key, value) for key, value in (settings or {}).items()})


def read_settings(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Settings from the text of a command line.

    Args:
        name: The method.
        given: The texts by the names of settings.

    Returns:
        Values by name.

    Raises:
        UnknownNameError: No such method, or it has no such setting.
        ConfigurationError: A text that cannot be read as the declared type.

    Examples:
        >>> read_settings("eap-ig", {"steps": "30", "backward": "gim"})
        {'steps': 30, 'backward': 'gim'}
    """
    kinds = method_kinds(name)
    return {key: _known(name, kinds, key).read(key, text) for key, text in given.items()}


def method_kinds(name: str) -> Mapping[str, Kind]:
    """What each setting of a method may hold, by name.

    Args:
        name: The method's.

    Raises:
        UnknownNameError: No such method.
    """
    made: Any = method_class(name)
    kinds = kinds_of(made)
    assert set(kinds) == {one.name for one in fields(made)}, f"{name} has a setting of a type that cannot be read"
    return kinds


def _known(name: str, kinds: Mapping[str, Any], key: str) -> Any:
    if not kinds:
        raise ConfigurationError(f"method {name!r} has no settings; got {key!r}")
    if key not in kinds:
        raise UnknownNameError.of(f"setting of {name}", key, kinds)
    return kinds[key]

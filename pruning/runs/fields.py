"""Fields of frozen settings by declared type: read from text, checked, and put into plain values.

One rule for all ways in (Python's keywords, `--set`, TOML): the type that a dataclass declares decides.
"""

from __future__ import annotations

import functools
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.whole_numbers import whole_number

_ITEMS: dict[type, str] = {str: "names", int: "whole numbers", float: "numbers"}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_SCALES = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_BYTES = re.compile(r"([0-9_]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def number(default: Any = MISSING, *, least: int = 0, most: int | None = None, none: str = "none") -> Any:
    """A field that holds a whole number, or None.

    Args:
        default: Its default.
        least: The smallest that makes sense.
        most: The largest that makes sense; None for no limit.
        none: What stands for None in text and TOML.
    """
    return field(default=default, metadata={"least": least, "most": most, "none": none})


def one_of(*names: str, default: Any = MISSING, kind: str = "") -> Any:
    """A field that holds one of some names, or None.

    Args:
        names: The names.
        default: Its default.
        kind: What the message calls it; by default the field's name.
    """
    return field(default=default, metadata={"names": names, "kind": kind})


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field may hold.

    Attributes:
        base: `bool`, `int`, `float`, `str`, `tuple` (of strings or whole numbers) or `dict` (a table).
        optional: Whether None is allowed.
        least: The smallest whole number allowed.
        none: What stands for None in text.
        names: The only strings allowed; empty for any.
        label: What messages call it.
        item: What is in a tuple: `str`, `int` or `float`.
        most: The largest whole number allowed; None for no limit.
    """

    base: type
    optional: bool
    least: int
    none: str
    names: tuple[str, ...]
    label: str
    item: type = str
    most: int | None = None

    @property
    def expected(self) -> str:
        """What may be given, in words."""
        words = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "a text",
            tuple: f"several {_ITEMS[self.item]}",
        }
        word = words.get(self.base, "a table")
        if self.base is int:
            word += f" of at least {self.least}"
        return word + self._or_none

    @property
    def _or_none(self) -> str:
        return f" or {self.none}" if self.optional and self.base is not str else ""

    def checked(self, key: str, value: object) -> Any:
        """A value of the declared type.

        Args:
            key: What the message calls the field.
            value: What was given.

        Raises:
            ConfigurationError: It is of another type, or too small.
            UnknownNameError: It is none of the names.
        """
        if self.optional and (value is None or (self.base is not str and value == self.none)):
            return None
        if self.base is int and isinstance(value, int | np.integer):
            return whole_number(key, value, least=self.least, most=self.most)
        if self.base is float and isinstance(value, int | float | np.number) and not isinstance(value, bool):
            if _is_finite(value):
                return float(value)
        elif self.base is bool and isinstance(value, bool | np.bool_):
            return bool(value)
        elif self.base is str and isinstance(value, str):
            if self.names and value not in self.names:
                raise UnknownNameError.of(self.label, value, self.names)
            return value
        elif self.base is tuple and isinstance(value, Sequence) and not isinstance(value, str):
            if self.item is int:
                return tuple(whole_number(key, one, least=self.least) for one in value)
            if self.item is float:
                each = Kind(base=float, optional=False, least=0, none="", names=(), label=self.label)
                return tuple(each.checked(key, one) for one in value)
            if all(isinstance(one, str) for one in value):
                return tuple(value)
        elif self.base is dict and isinstance(value, Mapping):
            return dict(value)
        if self.base is tuple and self.item is str and isinstance(value, str):
            raise ConfigurationError(f"{key} must be several names; got {value!r}. For one, pass [{value!r}]")
        raise ConfigurationError(f"{key} must be {self.expected}; got {value!r}")

    def read(self, key: str, text: str) -> Any:
        """A value from the text of a command line.

        Args:
            key: What the message calls the field.
            text: What was typed.

        Raises:
            ConfigurationError: It cannot be read as the declared type.
            UnknownNameError: It is none of the names.
        """
        text = text.strip()
        if self.optional and text.lower() in (self.none, "none"):
            return None
        value: object = text
        if self.base is bool and text.lower() in (*_TRUE, *_FALSE):
            value = text.lower() in _TRUE
        elif self.base is int:
            value = _converted(int, text) if (unit := _unit(key)) is None else unit.read(text)
            if unit is not None and isinstance(value, str):
                raise ConfigurationError(f"{key} must be {unit.expected}{self._or_none}; got {text!r}")
        elif self.base is float:
            value = _converted(float, text)
        elif self.base is tuple:
            parts = [part.strip() for part in text.split(",") if part.strip()]
            value = tuple(parts if self.item is str else [_converted(self.item, part) for part in parts])
        return self.checked(key, value)

    def from_file(self, key: str, value: object) -> Any:
        """A value from a file: of the declared type, or a number of bytes or seconds as text with its unit.

        Args:
            key: The field's full name.
            value: What the file has.

        Raises:
            ConfigurationError: It is of another type, or too small.
            UnknownNameError: It is none of the names.
        """
        if self.base is int and isinstance(value, str) and _unit(key) is not None:
            return self.read(key, value)
        return self.checked(key, value)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _converted(into: type, text: str) -> object:
    """A number, or the text where it is none."""
    try:
        return into(text)
    except ValueError:
        return text


def _bytes(text: str) -> object:
    """A number of bytes: `1024`, `1.5 GiB`; the text where it is none.

    Examples:
        >>> _bytes("1.5 GiB"), _bytes("64MiB"), _bytes("much")
        (1610612736, 67108864, 'much')
    """
    found = _BYTES.fullmatch(text)
    if found is None or found[2].lower() not in _SCALES:
        return text
    return round(float(found[1].replace("_", "")) * _SCALES[found[2].lower()]) if found[2] else _converted(int, text)


def duration(text: str) -> object:
    """A number of seconds: `3h30m`, `90s`, `3600`; the text where it is none.

    Examples:
        >>> duration("3h30m"), duration("1d"), duration("90"), duration("soon"), duration("")
        (12600, 86400, 90, 'soon', '')
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        return _converted(int, text)
    return sum(int(n) * unit for n, unit in zip(found.groups(), _UNITS.values(), strict=True) if n)


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """Numbers that may be given with a unit."""

    read: Callable[[str], object]
    expected: str


_BYTE_SIZES = _Unit(read=_bytes, expected="a number of bytes, such as 1073741824, 512MiB or 1.5GiB")
_DURATIONS = _Unit(read=duration, expected="a time, such as 3h30m, 45m, 90s or 3600 (seconds)")


def _unit(key: str) -> _Unit | None:
    """The unit of a field, by its name; None where it has none."""
    return _BYTE_SIZES if key.endswith("_bytes") else _DURATIONS if key.endswith("_seconds") else None


def duration_text(seconds: float) -> str:
    """A number of seconds as `duration` reads it.

    Examples:
        >>> duration_text(12600), duration_text(61), duration_text(0)
        ('3h30m', '1m1s', '0s')
    """
    left, parts = round(seconds), []
    for name, unit in _UNITS.items():
        if left >= unit:
            parts.append(f"{left // unit}{name}")
            left %= unit
    return "".join(parts) or "0s"


@functools.cache
def kinds_of(cls: type) -> Mapping[str, Kind]:
    """What each field of a dataclass may hold, by name.

    Args:
        cls: The dataclass; fields that are dataclasses themselves are left out.
    """
    hints = get_type_hints(cls)
    found = {one.name: _kind(one, hints[one.name]) for one in fields(cls)}
    return types.MappingProxyType({name: kind for name, kind in found.items() if kind is not None})


def _kind(one: Field[Any], hint: Any) -> Kind | None:
    inside = [hint]
    if get_origin(hint) in (Union, types.UnionType):
        inside = [arg for arg in get_args(hint) if arg is not type(None)]
    base = get_origin(inside[0]) or inside[0]
    base = dict if isinstance(base, type) and issubclass(base, Mapping) else base
    if base not in (bool, int, float, str, tuple, dict):
        return None
    about = one.metadata
    return Kind(
        base=base,
        optional=type(None) in get_args(hint),
        least=about.get("least", 0),
        none=about.get("none", "none"),
        names=about.get("names", ()),
        label=about.get("kind") or one.name.replace("_", " "),
        item=get_args(inside[0])[0] if base is tuple else str,
        most=about.get("most"),
    )


def check_fields(settings: Any, prefix: str = "") -> None:
    """Check every field of a frozen dataclass by its declared type, and make numbers Python's own.

    Args:
        settings: The dataclass, being made.
        prefix: What stands before a field's name in messages.

    Raises:
        ConfigurationError: A value of another type, or too small.
        UnknownNameError: A name that there is not.
    """
    for name, kind in kinds_of(type(settings)).items():
        object.__setattr__(settings, name, kind.checked(prefix + name, getattr(settings, name)))


def plain(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values, tables of dataclasses within included.

    Args:
        settings: The dataclass.
    """
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if hasattr(type(value), "__dataclass_fields__"):
        return plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def required_fields(cls: type) -> list[str]:
    """The fields of a dataclass that have no default.

    Args:
        cls: The dataclass.
    """
    return [one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING]


def checked_table(given: object, cls: type, kind: str, prefix: str = "") -> dict[str, Any]:
    """Values for the fields of a dataclass, each of its declared type.

    Args:
        given: Values by name.
        cls: The dataclass.
        kind: What messages call a name.
        prefix: What stands before a name in messages.

    Returns:
        The values; those of fields that are dataclasses themselves as they came.

    Raises:
        ConfigurationError: What was given is no table, a value is of another type, or one is missing that has no
            default.
        UnknownNameError: A name that there is not; the nearest are named.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"expected a table of {kind}s; got {given!r}")
    names = [one.name for one in fields(cls)]
    for name in given:
        if name not in names:
            raise UnknownNameError.of(kind, name, names)
    lacking = [prefix + name for name in required_fields(cls) if name not in given]
    if lacking:
        raise ConfigurationError(f"the description of a run lacks {', '.join(lacking)}")
    kinds = kinds_of(cls)
    return {name: kinds[name].checked(prefix + name, one) if name in kinds else one for name, one in given.items()}

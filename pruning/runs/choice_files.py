"""What a TOML file chooses of a run: a result's `run.toml`, a file of some settings, or a recipe of one's own."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.runs.choices import METHOD, RECIPE, TABLES, Chosen, checked_method, setting_kinds
from pruning.runs.fields import required_fields

RUN_FILE = "run.toml"
"""The file in a result's folder that describes the run."""


def read_run_file(path: str | Path) -> Chosen:
    """What a file says of a run: a result's `run.toml`, its folder, or a file of that form with some settings.

    Args:
        path: The file or the folder.

    Raises:
        ConfigurationError: It cannot be read, or has a value of another type.
        UnknownNameError: It has a setting that there is not.
    """
    place = Path(path).expanduser()
    place = place / RUN_FILE if place.is_dir() else place
    found = _toml(place)
    chosen: Chosen = {}
    with _naming(place):
        for name, value in found.items():
            if name == RECIPE:
                chosen |= _recipe_of(value)
            elif name in TABLES:
                chosen |= _flat(name, value)
            else:
                chosen |= _flat("", {name: value})
    return chosen


def read_recipe_file(path: str | Path) -> Chosen:
    """A recipe from a TOML file.

    Args:
        path: The file. With `base = "quick"` it holds what differs from that recipe, and without `base` and `name`
            what differs from the one that the run would have; with a `name` alone it is a whole recipe.

    Raises:
        ConfigurationError: It cannot be read, has a value of another type, or lacks a setting of a whole recipe.
        UnknownNameError: It has a setting that no recipe has, or names a base that there is not.
    """
    place = Path(path).expanduser()
    found = _toml(place)
    if any(isinstance(found.get(name), dict) for name in TABLES):
        raise ConfigurationError(
            f"{place}: expected the settings of a recipe alone, without tables; a file that describes a run goes with "
            "--like (pruning.runs.load.read_run)"
        )
    with _naming(place):
        return _recipe_of(found)


def _recipe_of(table: object) -> Chosen:
    if isinstance(table, str):
        recipe_named(table)
        return {RECIPE: table}
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"expected a table of recipe settings; got {table!r}")
    base = table.get("base")
    rest = {name: value for name, value in table.items() if name != "base"}
    chosen = _flat(RECIPE, rest)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigurationError(f"base must be a recipe's name; got {base!r}")
        return {RECIPE: recipe_named(base).name, **chosen}
    if "name" not in rest:
        return chosen
    lacking = [name for name in required_fields(Recipe) if name not in rest]
    if lacking:
        raise ConfigurationError(
            f'recipe {rest["name"]!r} lacks {", ".join(lacking)}; give them, or base = "quick" (or another recipe) to '
            "change that one"
        )
    return {RECIPE: Recipe(**{name.removeprefix("recipe."): value for name, value in chosen.items()})}


def _flat(table: str, values: object) -> Chosen:
    """A table of a file as settings by full name."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{table} must be a table; got {values!r}")
    known, prefix = setting_kinds(), f"{table}." if table else ""
    names = {name.removeprefix(prefix): name for name in known if name.startswith(prefix)}
    if not table:
        names = {name: name for name in known if "." not in name}
    chosen: Chosen = {}
    for name, value in values.items():
        if name not in names:
            valid = [*names, *(TABLES if not table else ())]
            raise UnknownNameError.of(f"{table or 'run'} setting", name, valid)
        full = names[name]
        value = (
            checked_method(value) if full == METHOD and isinstance(value, str) else known[full].from_file(full, value)
        )
        if isinstance(value, dict):
            chosen |= {f"{full}.{inside}": one for inside, one in value.items()}
        else:
            chosen[full] = value
    return chosen


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a byte-order mark first
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise ConfigurationError(f"{path} is no TOML: {error}") from error
    except RecursionError as error:
        raise ConfigurationError(
            f"{path} is no TOML that can be read: its tables or lists are nested too deep"
        ) from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put a file's name before what is wrong in it."""
    try:
        yield
    except (ConfigurationError, UnknownNameError) as error:
        raise type(error)(f"{path}: {error}") from error

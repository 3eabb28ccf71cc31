"""What a user chose of a run, by the name of each setting, whichever way it came.

Every setting of a run has a name: `seed`, `model.embeddings`, `task.sizes.train`, `recipe.steps`, `settings.device`.
Python's keywords, the options of the command line, `--set NAME=VALUE` and a TOML file all become one table of names
and values, in which what comes later wins; `pruning.runs.decide` makes a run of it. `recipe` itself names the recipe
(or is one) that `recipe.…` changes.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.runs.fields import Kind, kinds_of, required_fields
from pruning.runs.request import ModelRequest, RunRequest, TaskRequest
from pruning.runs.settings import RunSettings

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel

Chosen = dict[str, Any]
"""Values by the full name of a setting."""
RECIPE = "recipe"
_SECTIONS: tuple[tuple[str, type], ...] = (
    ("", RunRequest),
    ("model.", ModelRequest),
    ("task.", TaskRequest),
    ("recipe.", Recipe),
    ("settings.", RunSettings),
)
_TABLES = ("model", "task", RECIPE, "settings")
_EXAMPLES = {"model": "name", "task": "name", "settings": "micro_batch"}


def setting_kinds() -> dict[str, Kind]:
    """What each setting of a run may hold, by its full name; tables such as `task.sizes` by their own."""
    return {prefix + name: kind for prefix, cls in _SECTIONS for name, kind in kinds_of(cls).items()}


def full_name(name: str) -> str:
    """The full name of a setting.

    Args:
        name: Its full name, or the last part of it where only one setting ends so; `device` is `settings.device`.

    Raises:
        UnknownNameError: There is no such setting; the nearest are named.
        ConfigurationError: Several end so.

    Examples:
        >>> full_name("steps"), full_name("objective"), full_name("task.sizes.train")
        ('recipe.steps', 'objective', 'task.sizes.train')
        >>> full_name("embeddings")
        Traceback (most recent call last):
            ...
        circuitgraph.errors.ConfigurationError: 'embeddings' may be model.embeddings or recipe.embeddings; say which
    """
    known = setting_kinds()
    if name in known or name == RECIPE:
        return name
    if name in _TABLES:
        raise ConfigurationError(f"{name!r} is a table of settings; name one in it, such as {name}.{_EXAMPLES[name]}")
    table, _, inside = name.rpartition(".")
    if inside and table in known and known[table].base is dict:
        return name
    found = [one for one in known if one.rpartition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(f"{name!r} may be {' or '.join(found)}; say which")
    raise UnknownNameError.of("setting", name, known if "." in name else {one.rpartition(".")[2]: 0 for one in known})


def read_settings(texts: Iterable[str], option: str = "--set") -> Chosen:
    """Read `NAME=VALUE`, as typed on a command line.

    Args:
        texts: Such texts; a later one wins.
        option: What the message calls them.

    Raises:
        ConfigurationError: No `=`, a name that may be several, or a value of another type than the setting's.
        UnknownNameError: No such setting, or no such choice of its value.

    Examples:
        >>> read_settings(["steps=300", "cache_bytes=1GiB", "n_random_prompts=all"])
        {'recipe.steps': 300, 'settings.cache_bytes': 1073741824, 'n_random_prompts': None}
    """
    chosen: Chosen = {}
    for text in texts:
        given, equals, value = text.partition("=")
        if not equals or not given.strip():
            raise ConfigurationError(f"{option}: expected NAME=VALUE, such as steps=300; got {text!r}")
        name = full_name(given.strip())
        chosen[name] = _read(name, value)
    return chosen


def _read(name: str, value: str) -> Any:
    """A setting's value as typed; options of a task stay text, which the task's defaults say how to read."""
    if name == RECIPE:
        recipe_named(value.strip())
        return value.strip()
    known = setting_kinds()
    if name in known:
        kind = known[name]
        if kind.base is dict:
            raise ConfigurationError(f"{name} is a table; set what is in it, such as {name}.NAME=VALUE")
        return kind.read(name, value)
    return whole(name, value.strip()) if name.startswith("task.sizes.") else value.strip()


def whole(name: str, value: object) -> int:
    """A size of a split.

    Args:
        name: What the message calls it.
        value: What was given; text is read.

    Raises:
        ConfigurationError: It is no whole number of at least 0.
    """
    kind = Kind(base=int, optional=False, least=0, none="none", names=(), label=name)
    return kind.read(name, value) if isinstance(value, str) else kind.checked(name, value)


def of_keywords(given: Mapping[str, object]) -> Chosen:
    """What Python's keywords choose.

    Args:
        given: Values by name; names as in `full_name`. `disk_cache` takes a `pruning.DiskCache`.

    Raises:
        UnknownNameError: No such setting; the nearest are named.
        ConfigurationError: A value of another type.
    """
    known = setting_kinds()
    chosen: Chosen = {}
    for given_name, value in given.items():
        if given_name == "disk_cache":
            chosen |= _disk_cache(value)
            continue
        name = full_name(given_name)
        if name in known:
            if value is None and not known[name].optional:
                continue  # not chosen
            value = known[name].checked(given_name, value)
        chosen[name] = value
    return chosen


def _disk_cache(value: Any) -> Chosen:
    """The settings of a disk cache."""
    from pruning.frozen.disk import DiskCache

    if value is None:
        return {"settings.disk_cache_bytes": 0}
    if not isinstance(value, DiskCache):
        raise ConfigurationError(f"disk_cache must be a pruning.DiskCache or None; got {value!r}")
    return {
        "settings.disk_cache_folder": str(value.folder),
        "settings.disk_cache_bytes": value.budget_bytes,
        "settings.disk_spare_bytes": value.spare_bytes,
    }


def of_model(compiled: CompiledModel) -> Chosen:
    """What a compiled model has decided already.

    Args:
        compiled: The model.
    """
    universe = compiled.universe
    return {
        "model.name": compiled.name,
        "model.embeddings": universe.embeddings,
        "model.kv_heads": universe.kv_heads,
        "model.qkv": universe.qkv,
        "settings.device": str(compiled.device),
        "settings.dtype": str(compiled.dtype).removeprefix("torch."),
    }


# -------------------------------------------------------------------- files


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
            elif name in _TABLES:
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
    if any(isinstance(found.get(name), dict) for name in _TABLES):
        raise ConfigurationError(
            f"{place}: expected the settings of a recipe alone, without tables; a file that describes a run goes with "
            "--like (pruning.runs.load.read_run)"
        )
    with _naming(place):
        return _recipe_of(found)


RUN_FILE = "run.toml"
"""The file in a result's folder that describes the run."""


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
            valid = [*names, *(_TABLES if not table else ())]
            raise UnknownNameError.of(f"{table or 'run'} setting", name, valid)
        value = known[names[name]].from_file(names[name], value)
        if isinstance(value, dict):
            chosen |= {f"{names[name]}.{inside}": one for inside, one in value.items()}
        else:
            chosen[names[name]] = value
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

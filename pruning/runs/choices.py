"""What a user chose of a run, by the name of each setting, whichever way it came.

Every setting of a run has a name: `seed`, `model.embeddings`, `task.sizes.train`, `recipe.steps`, `settings.device`.
Python's keywords, the options of the command line, `--set NAME=VALUE` and a TOML file all become one table of names
and values, in which what comes later wins; `pruning.runs.decide` makes a run of it. `recipe` itself names the recipe
(or is one) that `recipe.…` changes. Where another method is chosen than one that trains by a recipe, its own settings
are `method.options.…`, and their short names come before all others but full ones (`direction` is the run's).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from circuitgraph.errors import ConfigurationError, UnknownNameError
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.methods.method import Method
from pruning.methods.registry import METHODS
from pruning.runs.fields import Kind, kinds_of, plain
from pruning.runs.method_settings import method_kinds
from pruning.runs.request import BY_RECIPE, MethodRequest, ModelRequest, RunRequest, SelectionRequest, TaskRequest
from pruning.runs.settings import RunSettings

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel

Chosen = dict[str, Any]
"""Values by the full name of a setting."""
RECIPE, METHOD = "recipe", "method.name"
OPTIONS = "method.options."
_SECTIONS: tuple[tuple[str, type], ...] = (
    ("", RunRequest),
    ("model.", ModelRequest),
    ("task.", TaskRequest),
    ("recipe.", Recipe),
    ("method.", MethodRequest),
    ("selection.", SelectionRequest),
    ("settings.", RunSettings),
)
TABLES = ("model", "task", RECIPE, "method", "selection", "settings")
_EXAMPLES = {"model": "name", "task": "name", "method": "name", "selection": "rule", "settings": "micro_batch"}


def setting_kinds() -> dict[str, Kind]:
    """What each setting of a run may hold, by its full name; tables such as `task.sizes` by their own."""
    return {prefix + name: kind for prefix, cls in _SECTIONS for name, kind in kinds_of(cls).items()}


def own_settings(method: object) -> Mapping[str, Kind]:
    """What the settings of a method may hold that trains by no recipe, by name; none of any other.

    Args:
        method: Its name, or None.

    Raises:
        UnknownNameError: No such method.
    """
    if method is None:
        return {}
    if not isinstance(method, str) or method not in METHODS:
        raise UnknownNameError.of("method", str(method), METHODS)
    return {} if method in BY_RECIPE else method_kinds(method)


def full_name(name: str, method: str | None = None) -> str:
    """The full name of a setting.

    Args:
        name: Its full name, or the last part of it where only one setting ends so; `device` is `settings.device`.
        method: The method, whose own settings come first among short names.

    Raises:
        UnknownNameError: There is no such setting; the nearest are named.
        ConfigurationError: Several end so.

    Examples:
        >>> full_name("steps"), full_name("objective"), full_name("task.sizes.train"), full_name("steps", "eap-ig")
        ('recipe.steps', 'objective', 'task.sizes.train', 'method.options.steps')
        >>> full_name("embeddings")
        Traceback (most recent call last):
            ...
        circuitgraph.errors.ConfigurationError: 'embeddings' may be model.embeddings or recipe.embeddings; say which
    """
    known, own = setting_kinds(), own_settings(method)
    if name in known or name == RECIPE:
        return name
    if name in own:
        return OPTIONS + name
    if name in TABLES:
        raise ConfigurationError(f"{name!r} is a table of settings; name one in it, such as {name}.{_EXAMPLES[name]}")
    table, _, inside = name.rpartition(".")
    if inside and table in known and known[table].base is dict:
        return name
    found = [one for one in known if one.rpartition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(f"{name!r} may be {' or '.join(found)}; say which")
    short = {**own, **{one.rpartition(".")[2]: 0 for one in known}}
    raise UnknownNameError.of("setting", name, known if "." in name else short)


def read_settings(texts: Iterable[str], option: str = "--set", method: str | None = None) -> Chosen:
    """Read `NAME=VALUE`, as typed on a command line.

    Args:
        texts: Such texts; a later one wins.
        option: What the message calls them.
        method: The method that was chosen already; one that is named among the texts wins.

    Raises:
        ConfigurationError: No `=`, a name that may be several, or a value of another type than the setting's.
        UnknownNameError: No such setting, or no such choice of its value.

    Examples:
        >>> read_settings(["steps=300", "cache_bytes=1GiB", "n_random_prompts=all"])
        {'recipe.steps': 300, 'settings.cache_bytes': 1073741824, 'n_random_prompts': None}
    """
    chosen: Chosen = {}
    named: list[tuple[str, str]] = []
    for text in texts:
        given, equals, value = text.partition("=")
        if not equals or not given.strip():
            raise ConfigurationError(f"{option}: expected NAME=VALUE, such as steps=300; got {text!r}")
        named.append((given.strip(), value))
        method = value.strip() if given.strip() == METHOD else method
    for given, value in named:
        name = full_name(given, method)
        chosen[name] = _read(name, value, method)
    return chosen


def _read(name: str, value: str, method: str | None) -> Any:
    """A setting's value as typed; options of a task stay text, which the task's defaults say how to read."""
    if name == RECIPE:
        recipe_named(value.strip())
        return value.strip()
    if name == METHOD:
        return checked_method(value.strip())
    known, own = setting_kinds(), own_settings(method)
    if name.removeprefix(OPTIONS) in own and name.startswith(OPTIONS):
        inside = name.removeprefix(OPTIONS)
        return own[inside].read(inside, value)
    if name in known:
        kind = known[name]
        if kind.base is dict:
            raise ConfigurationError(f"{name} is a table; set what is in it, such as {name}.NAME=VALUE")
        return kind.read(name, value)
    return whole(name, value.strip()) if name.startswith("task.sizes.") else value.strip()


def checked_method(name: str) -> str:
    """The name of a registered method.

    Args:
        name: The name.

    Raises:
        UnknownNameError: No such method.
    """
    own_settings(name)
    return name


def of_method(method: object) -> Chosen:
    """What choosing a method chooses.

    Args:
        method: Its name, or a registered method with its settings.

    Raises:
        UnknownNameError: No such method.
        ConfigurationError: It is neither, or one that a recipe has the settings of.

    Examples:
        >>> from pruning.methods.eap_ig import EAPIG
        >>> of_method("edge-pruning"), of_method(EAPIG(steps=9))["method.options.steps"]
        ({'method.name': 'edge-pruning'}, 9)
    """
    if isinstance(method, str):
        return {METHOD: checked_method(method)}
    if not isinstance(method, Method) or METHODS.get(method.name) is not type(method) or method.name in BY_RECIPE:
        with_settings = ", ".join(sorted(set(METHODS) - set(BY_RECIPE)))
        raise ConfigurationError(
            f"method must be the name of a registered method, or one of {with_settings} with its settings; got "
            f"{method!r}. pruning.rank_edges takes a method of your own, and .select() makes a circuit of its scores"
        )
    return {METHOD: method.name, **{OPTIONS + name: value for name, value in plain(method).items()}}


def with_method(chosen: Mapping[str, Any], method: str) -> Chosen:
    """What holds of an earlier run's choices where another method is chosen: all but what was the method's own.

    Its sparsity holds. Its objective does not: it was what suited the other method.

    Args:
        chosen: The choices, by full name.
        method: The method that is chosen now.

    Examples:
        >>> with_method({"seed": 3, "recipe": "quick", "recipe.steps": 9, "recipe.target_sparsity": 0.9}, "eap")
        {'seed': 3, 'recipe.target_sparsity': 0.9}
    """
    if chosen.get(METHOD, BY_RECIPE[0]) == method:
        return dict(chosen)
    recipe = chosen.get(RECIPE)
    if isinstance(recipe, str):
        recipe = recipe_named(recipe)
    of_recipe = None if recipe is None else recipe.target_sparsity
    sparsity = chosen.get("selection.sparsity", chosen.get("recipe.target_sparsity", of_recipe))
    gone = {RECIPE, "objective"} | (set() if method in BY_RECIPE else {"teacher_top_k", "survivors", "survivors_by"})
    rest = {
        name: value
        for name, value in chosen.items()
        if name not in gone and not name.startswith(("recipe.", "method.", "selection."))
    }
    return rest | ({} if sparsity is None else {"recipe.target_sparsity": sparsity})


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
        given: Values by name; names as in `full_name`. `disk_cache` takes a `pruning.DiskCache`, `method` a name or
            a method with its settings.

    Raises:
        UnknownNameError: No such setting; the nearest are named.
        ConfigurationError: A value of another type.
    """
    known = setting_kinds()
    method = given.get("method")
    chosen: Chosen = {} if method is None else of_method(method)
    own = own_settings(chosen.get(METHOD))
    for given_name, value in given.items():
        if given_name == "method":
            continue
        if given_name == "disk_cache":
            chosen |= _disk_cache(value)
            continue
        name = full_name(given_name, chosen.get(METHOD))
        if name.startswith(OPTIONS) and given_name in own:
            value = own[given_name].checked(given_name, value)
        elif name in known:
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

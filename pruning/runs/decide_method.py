"""Which method a run has, of what a user chose: gates trained by a recipe, or any other with a rule of selection.

`edge-pruning` and `nested` are trained by a recipe; where neither is named, a recipe is what is taken. Of any other
method, choices that a recipe has too are its own where it has a setting of that name (`steps`, `batch_size`), and the
target sparsity is that of the selection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuitgraph.errors import ConfigurationError
from pruning.methods.edge_pruning.recipes import Recipe, recipe_named
from pruning.methods.method import Method, Searcher, require_ablation, usual_ablation
from pruning.runs.choices import METHOD, OPTIONS, RECIPE, own_settings
from pruning.runs.method_settings import method_with
from pruning.runs.request import BY_RECIPE, DEFAULT_SPARSITY, OWN, RULES_OF_RUN, MethodRequest, SelectionRequest

TRACR, _SELECTION = "tracr", "selection."
DEFAULT_RECIPE, NESTED = "quick", "nested"


@dataclass(frozen=True, kw_only=True)
class OtherMethod:
    """A method that trains by no recipe, decided.

    Attributes:
        request: Its name and settings.
        selection: How its scores become a circuit.
        made: The method.
    """

    request: MethodRequest
    selection: SelectionRequest
    made: Method

    def compared(self, objective: str | None, ablation: str | None, family: str) -> tuple[str | None, str]:
        """What is compared, None where the prompts decide, and what cut edges carry.

        Args:
            objective: What was chosen, or None.
            ablation: What was chosen, or None.
            family: The model's family.

        Raises:
            ConfigurationError: The method can make nothing of it.
        """
        if objective is not None:
            self.made.require(objective)
        ablation = ablation or usual_ablation(self.made, family)
        require_ablation(self.made, ablation)
        return objective, ablation


def trains_by_recipe(chosen: Mapping[str, Any]) -> bool:
    """Whether a run trains gates by a recipe.

    Args:
        chosen: Values by full name.
    """
    return chosen.get(METHOD, BY_RECIPE[0]) in BY_RECIPE


def recipe_to_change(chosen: Mapping[str, Any], family: str) -> Recipe:
    """The recipe that what was chosen of it changes.

    Args:
        chosen: Values by full name; the method is none or one of `BY_RECIPE`.
        family: The model's family.

    Raises:
        UnknownNameError: No such recipe.
        ConfigurationError: The recipe is not one of the method, or something was chosen that only other methods have.
    """
    method = chosen.get(METHOD)
    for name in chosen:
        if name.startswith(("method.options.", "selection.")):
            raise ConfigurationError(
                f"{name}: trained gates become a circuit by the recipe's own rule (recipe.keep), and their settings "
                "are the recipe's; name another method, or leave it out"
            )
    usual = NESTED if method == NESTED else TRACR if family == TRACR else DEFAULT_RECIPE
    base = chosen.get(RECIPE) or usual
    recipe = base if isinstance(base, Recipe) else recipe_named(base)
    if method == NESTED and recipe.control != NESTED:
        raise ConfigurationError(
            f"method 'nested' ranks for all sparsities, and the recipe {recipe.name!r} trains for one (control "
            f"{recipe.control!r}); leave out the recipe, or take the method edge-pruning"
        )
    return recipe


def decided_method(chosen: Mapping[str, Any]) -> OtherMethod:
    """The method of a run that trains by no recipe.

    Args:
        chosen: Values by full name.

    Raises:
        ConfigurationError: Something was chosen that it does not have, or that does not go together.
        UnknownNameError: No such method, setting or rule.
    """
    name = chosen[METHOD]
    options, sparsity = _own_choices(chosen, name)
    method = method_with(name, options)
    return OtherMethod(
        request=MethodRequest(name=name, options=options), selection=_selection(chosen, method, sparsity), made=method
    )


def _own_choices(chosen: Mapping[str, Any], name: str) -> tuple[dict[str, Any], float | None]:
    """The settings of a method that were chosen, and the sparsity of its circuit."""
    if chosen.get(RECIPE) is not None:
        recipe = chosen[RECIPE]
        raise ConfigurationError(
            f"method {name!r} trains by no recipe, and recipe {getattr(recipe, 'name', recipe)!r} was named; leave out "
            f"the one or the other ({' and '.join(BY_RECIPE)} train by a recipe)"
        )
    if chosen.get("teacher_top_k") is not None:
        raise ConfigurationError(f"method {name!r} has no teacher_top_k, which is of trained gates; leave it out")
    own = own_settings(name)
    options = {key.removeprefix(OPTIONS): value for key, value in chosen.items() if key.startswith(OPTIONS)}
    sparsity = chosen.get("selection.sparsity")
    for key, value in chosen.items():
        setting = key.removeprefix("recipe.")
        if setting == key or value is None:
            continue
        if setting == "target_sparsity":
            sparsity = value
        elif setting in own:
            options.setdefault(setting, own[setting].checked(setting, value))
        else:
            has = f"; its settings are {', '.join(own)}" if own else ", nor any setting"
            raise ConfigurationError(f"method {name!r} trains by no recipe, so it has no {setting}{has}")
    return options, sparsity


def _selection(chosen: Mapping[str, Any], method: Method, sparsity: float | None) -> SelectionRequest:
    """How the scores become a circuit."""
    given = {key.removeprefix(_SELECTION): value for key, value in chosen.items() if key.startswith(_SELECTION)}
    searches = isinstance(method, Searcher)
    rule = given.get("rule") or (OWN if searches else "top")
    if rule == OWN and not searches:
        raise ConfigurationError(
            f"method {method.name!r} gives scores and no circuit of its own; take another rule: "
            f"{', '.join(name for name in RULES_OF_RUN if name != OWN)}"
        )
    if sparsity is None and rule not in (OWN, "threshold"):
        sparsity = DEFAULT_SPARSITY
    return SelectionRequest(**{**given, "rule": rule, "sparsity": sparsity})

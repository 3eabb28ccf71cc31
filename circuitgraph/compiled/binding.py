"""A model's weights in the form of the forward pass, for as long as the model is what it was.

One rule for what may be run, when a model is compiled and ever after: it is the model that its config describes, and
its config is the one that it was compiled with. Weights may change, be replaced, moved or cast; these are bound again.
What the rule refuses (a hook, an adapter, another scaling or epsilon, a layer less) is refused at the next run by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from circuitgraph.architectures.family import BoundModel, Family, frozen_view
from circuitgraph.architectures.intact import check_intact
from circuitgraph.architectures.watch import ModelWatch
from circuitgraph.errors import UnsupportedModelError
from circuitgraph.forward.engine.mlps.frozen_linear import use_onednn
from circuitgraph.forward.engine.mlps.onednn import onednn_pays


@dataclass(frozen=True, kw_only=True, eq=False)
class _Held:
    """A bound model, and what shows that it is out of date."""

    watch: ModelWatch
    bound: BoundModel


class Binding:
    """A model that was found to be what its config describes, and its weights as they are used.

    Args:
        model: A model of a class that the family binds.
        family: Its family.
        name: What the model is called, for messages.

    Raises:
        UnsupportedModelError: The model is not what its config describes; see `check_intact`.
    """

    def __init__(self, model: nn.Module, family: Family, *, name: str) -> None:
        self._model, self._family, self._name = model, family, name
        check_intact(model, family=family.name)
        self._settings, self._checked = self._settings_now(), ModelWatch(model)
        self._held: _Held | None = None

    def bound(self) -> BoundModel:
        """The weights, bound again when the model was moved or cast, or a module, weight or buffer replaced.

        Products with the weights of MLPs are oneDNN's where that pays, see `circuitgraph.forward.engine.mlps`.

        Raises:
            UnsupportedModelError: The model is no longer what its config describes, or its config is another.
        """
        held = self._held
        if held is None or held.watch.sees_a_change():
            if self._checked.sees_a_change():
                self._check_again()
            watch, bound = ModelWatch(self._model), self._bind()
            if onednn_pays():
                for block in bound.blocks:
                    use_onednn(block.mlp)
            held = self._held = _Held(watch=watch, bound=bound)
        return held.bound

    def bound_as_given(self) -> BoundModel:
        """The weights in modules of the model's own kinds, bound anew.

        Raises:
            UnsupportedModelError: The model is no longer what its config describes, or its config is another.
        """
        if self._checked.sees_a_change():
            self._check_again()
        return self._bind()

    def _bind(self) -> BoundModel:
        return self._family.bind(frozen_view(self._model))

    def _check_again(self) -> None:
        settings = self._settings_now()
        changed = [name for name, value in settings.items() if value != self._settings.get(name)]
        if changed:
            what = ", ".join(f"{name} was {self._settings.get(name)!r} and is {settings[name]!r}" for name in changed)
            raise UnsupportedModelError(
                f"{self._name}: its config was changed after it was compiled: {what}. Compile it again"
            )
        try:
            check_intact(self._model, family=self._family.name)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{self._name} was changed after it was compiled. {error}") from error
        self._checked = ModelWatch(self._model)

    def _settings_now(self) -> dict[str, Any]:
        """The fields of the model's config that a forward pass depends on."""
        config: Any = self._model.config
        values = config.to_dict()
        return {name: values[name] for name in sorted(self._family.understood) if name in values}

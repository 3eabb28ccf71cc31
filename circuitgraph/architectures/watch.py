"""Whether a model is still what it was: its modules, weights, buffers, settings and hooks, looked at before each run.

It has to be quick, since a training step of a sparse circuit takes some ten milliseconds, so it compares what each
module holds by identity, and where weights and buffers lie: 0.2 ms for 400 modules. A changed number in a weight is no
change: weights are shared, not copied. What a change means is not decided here,
see `circuitgraph.compiled.binding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from operator import is_, itemgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # what torch itself keeps in a module, `training` among it
_TABLES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_TABLES = tuple(f"_global{name}" for name in _TABLES if name.endswith("hooks"))


class ModelWatch:
    """What a model was when the watch began.

    Args:
        model: Any module.

    Examples:
        >>> norm = nn.LayerNorm(2)
        >>> watch = ModelWatch(norm)
        >>> watch.sees_a_change()
        False
        >>> norm.eps = 0.5
        >>> watch.sees_a_change()
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(_with_shared(model))
        self._kinds = [type(module) for module in self._modules]
        self._forwards = [(kind, kind.forward) for kind in dict.fromkeys(self._kinds)]
        own = [vars(module) for module in self._modules]
        tables = [table[name] for table in own for name in _TABLES]
        tables += [getattr(torch_module, name) for name in _GLOBAL_TABLES]
        self._empty = [table for table in tables if not table]
        self._filled = [table for table in tables if table]
        self._sized = own + self._filled
        self._sizes = list(map(len, self._sized))
        self._settings = [_settings(table) for table in own if not table.keys() <= _OF_EVERY_MODULE]
        # The things themselves, so that no other thing gets the address of one that went.
        self._held = list(self._things_now())
        self._tensors = [thing for thing in self._held if isinstance(thing, Tensor)]
        self._places = self._places_now()

    def sees_a_change(self) -> bool:
        """Whether anything is another thing, or lies elsewhere, than when the watch began."""
        if any(self._empty) or list(map(len, self._sized)) != self._sizes:
            return True
        if not all(map(is_, map(type, self._modules), self._kinds)):
            return True
        if any(kind.forward is not forward for kind, forward in self._forwards):
            return True
        try:
            if not all(map(is_, self._things_now(), self._held)):
                return True
        except KeyError:  # a setting went, and another came
            return True
        return self._places_now() != self._places

    def _things_now(self) -> Iterator[Any]:
        """What the tables hold, in the order of the modules."""
        yield from chain.from_iterable(table.values() for table in self._filled)
        yield from chain.from_iterable(read(table) for table, read in self._settings)

    def _places_now(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self._tensors]


def _settings(table: dict[str, Any]) -> tuple[dict[str, Any], Callable[[dict[str, Any]], tuple[Any, ...]]]:
    """A module's table with what reads its settings from it: all that torch does not keep in every module."""
    first, *others = (name for name in table if name not in _OF_EVERY_MODULE)
    return table, itemgetter(first, *(others or [first]))  # of two names at least, which makes it a tuple


def _with_shared(module: nn.Module) -> Iterator[nn.Module]:
    """A module and those below it, shared ones as often as they occur."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _with_shared(child)

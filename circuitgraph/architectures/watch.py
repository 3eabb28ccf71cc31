"""Whether a model is still what it was: its modules, weights, buffers, settings and hooks, looked at before each run.

It has to be quick, since a training step of a sparse circuit takes some ten milliseconds, so it compares what the
tables of each module hold by identity, and where weights and buffers lie. A changed number in a weight is not a change
(weights are shared, not copied), unless changes in place are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from circuitgraph.errors import UnsupportedModelError

_TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


class ModelWatch:
    """What a model was when the watch began.

    Args:
        model: Any module.
        changes: Tell changes of weights in place too, by torch's count of them. It does not count those through
            `weight.data`.

    Examples:
        >>> norm = nn.LayerNorm(2)
        >>> watch = ModelWatch(norm)
        >>> watch.sees_a_change()
        False
        >>> norm.eps = 0.5
        >>> watch.sees_a_change()
        True
    """

    def __init__(self, model: nn.Module, *, changes: bool = False) -> None:
        self._changes = changes
        tables = list(_tables(model))
        self._empty = [table for table in tables if not table]
        self._tables = [table for table in tables if table]
        # The things themselves, so that no other thing gets the address of one that went.
        self._held = [list(table.values()) for table in self._tables]
        self._ids = [tuple(map(id, things)) for things in self._held]
        self._tensors = [thing for things in self._held for thing in things if isinstance(thing, Tensor)]
        self._places = self._places_now()

    def sees_a_change(self) -> bool:
        """Whether anything is another thing, or lies elsewhere, than when the watch began."""
        if any(self._empty):
            return True
        for table, ids in zip(self._tables, self._ids, strict=True):
            if tuple(map(id, table.values())) != ids:
                return True
        return self._places_now() != self._places

    def _places_now(self) -> list[int]:
        places = [tensor.data_ptr() for tensor in self._tensors]
        if self._changes:
            places += [tensor._version for tensor in self._tensors if not tensor.is_inference()]
        return places


def _tables(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The tables that say what a module and those below it are; empty ones too, which may be filled."""
    yield module.__dict__
    for name in _TABLES:
        yield module.__dict__[name]
    for child in module._modules.values():
        if child is not None:
            yield from _tables(child)


def check_no_hooks(model: nn.Module, *, name: str) -> None:
    """Refuse what would run around a module's own forward pass, which a bound model would leave out.

    Args:
        model: The model. Hooks that its library hangs on its modules to hand out what they said are passed over.
        name: What it is called.

    Raises:
        UnsupportedModelError: A forward hook, or a `forward` set on one module.
    """
    for path, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        strange = [hook for hook in hooks if not (getattr(hook, "__module__", None) or "").startswith("transformers.")]
        what = "a forward hook" if strange else "a forward of its own" if "forward" in module.__dict__ else None
        if what is not None:
            raise UnsupportedModelError(
                f"{name}: {path or 'the model'} has {what}, which a compiled graph would leave out; take it off, or "
                "put what it does into the weights"
            )

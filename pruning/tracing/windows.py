"""What is restored: windows of layers, of one kind of part, at one place of each prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.restored_run import ATTENTION, KINDS, MLP
from circuitgraph.graph.universe import Universe
from pruning.whole_numbers import whole_number

FIRST_SUBJECT, LAST_SUBJECT, SUBJECT, LAST = PLACES = ("first_subject", "last_subject", "subject", "last")
DEFAULT_KINDS, DEFAULT_PLACES, DEFAULT_WIDTHS = (ATTENTION, MLP), (FIRST_SUBJECT, LAST_SUBJECT, LAST), (0, 2, 4)


@dataclass(frozen=True, kw_only=True)
class Window:
    """Parts of one kind in neighbouring layers.

    Attributes:
        kind: `attention`, `mlp` or `residual`, see `circuitgraph.forward.restored_run`.
        place: `first_subject`, `last_subject`: the subject's first or last token; `subject`: all of them; `last`: the
            token from which the answer's first token is predicted.
        width: How many layers on either side of the middle one; the window ends where the model does.
        layer: The middle one.
        layers: All of them.
    """

    kind: str
    place: str
    width: int
    layer: int
    layers: range


def windows_of(
    universe: Universe,
    *,
    kinds: Sequence[str] = DEFAULT_KINDS,
    places: Sequence[str] = DEFAULT_PLACES,
    widths: Sequence[int] = DEFAULT_WIDTHS,
    layers: Sequence[int] | None = None,
) -> list[Window]:
    """All windows of some kinds, places and widths.

    Args:
        universe: The model's.
        kinds: Kinds of parts.
        places: Places in the prompts.
        widths: Layers on either side of the middle one.
        layers: Middle layers; all by default.

    Returns:
        By kind, place, width and layer, in the order given.

    Raises:
        UnknownNameError: No such kind or place.
        ConfigurationError: No such layer, a width that is no whole number from 0, something twice, or nothing of one
            of them.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=4, n_heads=1, n_kv_heads=1)
        >>> [window.layers for window in windows_of(universe, kinds=["mlp"], places=["last"], widths=[1])]
        [range(0, 2), range(0, 3), range(1, 4), range(2, 4)]
    """
    n_layers = universe.n_layers
    layers = range(n_layers) if layers is None else layers
    for name, numbers in (("widths", widths), ("layers", layers)):
        if not isinstance(numbers, Iterable) or isinstance(numbers, str):
            raise ConfigurationError(f"{name} to restore: expected whole numbers, such as [0, 2]; got {numbers!r}")
    widths = [whole_number("widths to restore", one) for one in widths]
    layers = [whole_number("layers to restore", one) for one in layers]
    named = (("kind of restoration", "kinds", KINDS, kinds), ("place", "places", PLACES, places))
    for what, name, known, given in named:
        for one in given:
            if one not in known:
                raise UnknownNameError.of(what, one, known)
        _all_different(name, given)
    _all_different("widths", widths)
    _all_different("layers", layers)
    for one in layers:
        if one >= n_layers:
            raise ConfigurationError(f"layers to restore are from 0 to {n_layers - 1}; got {one}")
    return [
        Window(
            kind=kind, place=place, width=width, layer=layer,
            layers=range(max(0, layer - width), min(n_layers, layer + width + 1)),
        )
        for kind in kinds for place in places for width in widths for layer in layers
    ]  # fmt: skip


def _all_different(name: str, given: Collection[object]) -> None:
    if not given or len(set(given)) < len(given):
        told = ", ".join(map(str, given)) or "none"
        raise ConfigurationError(f"{name} to restore: expected one or several different ones; got {told}")

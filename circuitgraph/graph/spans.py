"""Universes with spans: every edge once for each span of token positions.

Reading is position by position: what a reader sees at a token is what was written at that token. So the positions of a
prompt can be divided among named spans, and every edge into one edge a span, each with a gate of its own. Edges never
lead from one span to another; heads do, for their keys and values stand at their own span and at those before.

Writers, readers and edges are numbered span by span, and within a span as without spans. A name says its span behind an
`@`: `m3@subject->a4.h2<q>@subject`. Logits are read where something is asked; the spans where nothing is have no reader
`logits`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.block import Block
from circuitgraph.graph.part import Part, part_of_readers
from circuitgraph.graph.universe import Universe
from circuitgraph.graph.virtual import require_no_vectors

SPAN_MARK = "@"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]{0,39}")


def check_span_names(names: Sequence[str], called: str = "spans") -> None:
    """Refuse names that no span can have.

    Args:
        names: Of all spans, in order.
        called: What the message calls them.

    Raises:
        ConfigurationError: None at all, one twice, or one that does not begin with a letter or has other characters
            than letters, digits, `_`, `.`, `+` and `-`.
    """
    if not names:
        raise ConfigurationError(f"{called}: expected at least one name; got none")
    for place, name in enumerate(names):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{called}: a span's name has at most 40 letters, digits, '_', '.', '+' and '-', and begins with a "
                f"letter; got {name!r}"
            )
        if name in names[:place]:
            raise ConfigurationError(f"{called}: {name!r} comes twice; each span needs a name of its own")


@dataclass(frozen=True, kw_only=True)
class SpannedUniverse(Universe):
    """A universe whose edges are divided by spans of token positions.

    Attributes:
        spans: Names of the spans, in the order in which they follow each other in every prompt.
        asked_spans: Those at which logits are asked, in the same order.

    Raises:
        ConfigurationError: A bad name, a name twice, an asked span that is none, or what `Universe` refuses.

    Examples:
        >>> plain = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> names = with_spans(plain, ("names", "end"), asked=("end",))
        >>> names.n_edges == 2 * plain.n_edges - plain.n_writers  # no logits are read at the names
        True
        >>> names.edge_name(names.edge_index("m3@end", "a4.h2<q>@end"))
        'm3@end->a4.h2<q>@end'
    """

    spans: tuple[str, ...] = ()
    asked_spans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("spans", "asked_spans"):
            check_span_names(getattr(self, name), f"universe: {name}")
        asked = [name for name in self.spans if name in self.asked_spans]
        if asked != list(self.asked_spans):
            raise ConfigurationError(
                f"universe: asked_spans must be some of the spans {', '.join(self.spans)}, in their order; "
                f"got {', '.join(self.asked_spans)}"
            )
        require_no_vectors(self.virtual, "universes with spans")
        super().__post_init__()

    # ---------------------------------------------------------------- parts

    @cached_property
    def without_spans(self) -> Universe:
        """The same universe with one edge for all positions."""
        return Universe(**{field.name: getattr(self, field.name) for field in fields(Universe)})

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What is at each span, in order."""
        plain, found, reader, edge = self.without_spans, [], 0, 0
        for place, span in enumerate(self.spans):
            blocks = plain.blocks if span in self.asked_spans else plain.blocks[:-1]
            n_readers, n_edges = blocks[-1].readers.stop, blocks[-1].edges.stop
            found.append(
                Part(
                    span=span,
                    blocks=blocks,
                    writers=slice(place * plain.n_writers, (place + 1) * plain.n_writers),
                    readers=slice(reader, reader + n_readers),
                    edges=slice(edge, edge + n_edges),
                )
            )
            reader, edge = reader + n_readers, edge + n_edges
        return tuple(found)

    @property
    def blocks(self) -> tuple[Block, ...]:  # type: ignore[override]
        """None: with spans, no block sees a run of all writers; `parts` has the blocks of each span.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"this does not know spans of token positions yet, and edges are divided by {len(self.spans)} "
            f"({', '.join(self.spans)}); for this, find a circuit without spans (leave --spans out)"
        )

    # ---------------------------------------------------------------- sizes

    @property
    def n_writers(self) -> int:
        """Writers of all spans."""
        return len(self.spans) * self.without_spans.n_writers

    @property
    def n_readers(self) -> int:
        """Readers of all spans."""
        return len(self.spans) * (self.without_spans.n_readers - 1) + len(self.asked_spans)

    @cached_property
    def n_edges(self) -> int:
        """Edges of all spans."""
        plain = self.without_spans
        return len(self.spans) * (plain.n_edges - plain.n_writers) + len(self.asked_spans) * plain.n_writers

    # ---------------------------------------------------------------- names

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Writer names by index, span by span."""
        return tuple(f"{name}{SPAN_MARK}{span}" for span in self.spans for name in self.without_spans.writers)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Reader names by index, span by span."""
        names = self.without_spans.readers
        return tuple(
            f"{name}{SPAN_MARK}{part.span}"
            for part in self.parts
            for name in names[: part.readers.stop - part.readers.start]
        )

    def _of_readers(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[: part.readers.stop - part.readers.start] for part in self.parts])

    @cached_property
    def reader_kinds(self) -> np.ndarray:
        """Kind of every reader, one of `EDGE_KINDS`, as strings `[reader]`."""
        return self._of_readers(self.without_spans.reader_kinds)

    @cached_property
    def reader_layers(self) -> np.ndarray:
        """Layer of every reader `[reader]`; `n_layers` for the logits."""
        return self._of_readers(self.without_spans.reader_layers)

    @cached_property
    def writer_kinds(self) -> np.ndarray:
        """Kind of every writer, one of `WRITER_KINDS`, as strings `[writer]`."""
        return np.tile(self.without_spans.writer_kinds, len(self.spans))

    @cached_property
    def writer_layers(self) -> np.ndarray:
        """Layer of every writer `[writer]`; -1 for embeddings."""
        return np.tile(self.without_spans.writer_layers, len(self.spans))

    # ---------------------------------------------------------------- edges

    @cached_property
    def reader_offsets(self) -> np.ndarray:
        """Flat index of the first edge into every reader, and the number of edges `[reader + 1]`."""
        plain = self.without_spans.reader_offsets
        starts = [part.edges.start + plain[: part.readers.stop - part.readers.start] for part in self.parts]
        return np.concatenate([*starts, [self.n_edges]])

    @property
    def span_of_edge(self) -> np.ndarray:
        """Which span every edge is at `[edge]`."""
        return part_of_readers(self.parts)[self.endpoints(np.arange(self.n_edges))[1]]

    def edge_index(self, source: str, target: str) -> int:
        """Flat index of an edge.

        Args:
            source: A writer at a span, `m3@subject`.
            target: A reader at the same span that sees it.

        Raises:
            UnknownNameError: No such writer, reader or span, the ends are at two spans, or the reader does not see the
                writer.
        """
        (source, at), (target, there) = self._at_span(source, "writer"), self._at_span(target, "reader")
        if at != there:
            raise UnknownNameError(
                f"no edge {source}{SPAN_MARK}{at}->{target}{SPAN_MARK}{there}: a reader sees what was written at its "
                f"own position, so an edge has one span; expected both ends at {there!r} or both at {at!r}"
            )
        part = self.parts[self.spans.index(at)]
        if target == "logits" and at not in self.asked_spans:
            raise UnknownNameError(
                f"no reader logits{SPAN_MARK}{at}: nothing is asked at this span; asked at: "
                f"{', '.join(self.asked_spans)}"
            )
        return part.edges.start + self.without_spans.edge_index(source, target)

    def _at_span(self, name: str, what: str) -> tuple[str, str]:
        node, mark, span = str(name).partition(SPAN_MARK)
        if not mark:
            raise UnknownNameError(
                f"unknown {what} {name!r}: the universe has spans, so a name says its own, such as "
                f"{node}{SPAN_MARK}{self.spans[0]}"
            )
        if span not in self.spans:
            raise UnknownNameError.of("span", span, self.spans)
        return node, span

    def endpoints(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Writer and reader indices of edges; see `Universe.endpoints`."""
        first, readers = super().endpoints(edges)
        return first + part_of_readers(self.parts)[readers] * self.without_spans.n_writers, readers

    def structural_edges(self) -> list[tuple[str, str]]:
        """Edges from a head's readers to the head: its query's from its own span, keys' and values' from it and before.

        Where query, key and value are one reader, or heads share a scale, every reader that leads to a head does so
        from its own span, and those that make keys or values from spans before it too.
        """
        pairs = self.without_spans.structural_edges()
        found = []
        for place, span in enumerate(self.spans):
            for reader, head in pairs:
                before = () if reader.endswith("<q>") else self.spans[:place]
                found += [(f"{reader}{SPAN_MARK}{at}", f"{head}{SPAN_MARK}{span}") for at in (*before, span)]
        return found

    # ---------------------------------------------------------------- files and comparison

    def to_dict(self) -> dict[str, str | int | list[str]]:
        """The fields as JSON values."""
        return {**self.without_spans.to_dict(), "spans": list(self.spans), "asked_spans": list(self.asked_spans)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Universe:
        """Read the fields back; see `Universe.from_dict`."""
        names = {}
        for name in ("spans", "asked_spans"):
            given = values.get(name)
            if not isinstance(given, (list, tuple)) or not all(isinstance(span, str) for span in given):
                raise ConfigurationError(f"universe: {name} must be a list of names; got {given!r}")
            names[name] = tuple(given)
        return super().from_dict({**values, **names})

    @property
    def description(self) -> str:
        """The universe in a line."""
        plain = self.without_spans.description.rsplit("; ", 1)[0]
        return f"{plain}; {len(self.spans)} spans ({', '.join(self.spans)}); {self.n_edges:,} edges"


def with_spans(universe: Universe, spans: Sequence[str], *, asked: Sequence[str]) -> SpannedUniverse:
    """A universe with its edges divided by spans.

    Args:
        universe: One without spans.
        spans: Names of the spans, in their order.
        asked: Those at which logits are asked.

    Raises:
        ConfigurationError: The universe has spans already, or the names are none.
    """
    if universe.spans:
        raise ConfigurationError(f"the universe has spans already: {', '.join(universe.spans)}")
    values: Mapping[str, object] = {field.name: getattr(universe, field.name) for field in fields(Universe)}
    return SpannedUniverse(**values, spans=tuple(spans), asked_spans=tuple(asked))  # type: ignore[arg-type]


def refuse_spans(universe: Universe, what: str) -> None:
    """Refuse a universe with spans where nothing knows what to do with them.

    Args:
        universe: The universe.
        what: What does not know them, such as `the explorer`.

    Raises:
        ConfigurationError: It has spans.
    """
    if universe.spans:
        raise ConfigurationError(
            f"{what} does not know spans of token positions, and edges are divided by {len(universe.spans)} "
            f"({', '.join(universe.spans)}); for this, find a circuit without spans (leave --spans out)"
        )

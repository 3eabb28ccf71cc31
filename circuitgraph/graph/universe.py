"""The universe: which writers, readers and edges exist, and the index of every edge.

A universe is fixed by the family's block order, its layers and heads, and three choices of granularity.
It is all that counts, comparisons, plans and drawings need; no graph and no weights are built for it.

Indexing. Writers are numbered in the order in which they write. Each reader sees a *prefix* of that
order, and the readers of one attention layer see the same prefix. So the edges into a reader are a
contiguous run of the flat gate vector, and those into a layer's readers are a dense matrix
`[reader, writer]` within it. `Universe.blocks` lists these matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import ClassVar

import numpy as np

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.block import Block
from circuitgraph.graph.part import Part
from circuitgraph.graph.reader_names import unknown_reader
from circuitgraph.graph.structural import structural_edges
from circuitgraph.graph.universe_rules import CHOICES, check_universe
from circuitgraph.graph.virtual import vector_layer

EDGE_KINDS = ("q", "k", "v", "qkv", "mlp", "logits")
WRITER_KINDS = ("embedding", "vector", "head", "mlp")
SOURCES = ("embedding", "vector")
"""Kinds of writers that read nothing."""
_LEFT_OUT = (("head_scale", "own"), ("virtual", []))


@dataclass(frozen=True, kw_only=True)
class Universe:
    """What fixes which edges exist.

    Attributes:
        family: Architecture family, such as `gpt2` or `llama`.
        block_order: Whether an MLP reads its own layer's heads (`sequential`) or not (`parallel`).
        n_layers: Number of layers.
        n_heads: Query heads per layer.
        n_kv_heads: Key-value heads per layer.
        embeddings: One writer `input`, or `tok` and `pos` apart.
        kv_heads: A key and a value reader per key-value head, or per query head.
        qkv: Readers for query, key and value apart, or one per head.
        head_scale: `shared` where a norm stands between a layer's heads and the residual stream (or over its queries or
            keys together): the heads then have one scale in common, computed in the same run, so that each of them
            moves when any reader of the layer does.
        virtual: Names of vectors that are added to the model, each a writer, such as `v@12` before layer 12's heads.

    Raises:
        ConfigurationError: A field has a value that makes no universe.

    Examples:
        >>> gpt2_small = Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12)
        >>> gpt2_small.n_edges
        32491
        >>> gpt2_small.edge_name(gpt2_small.edge_index("a0.h3", "m0"))
        'a0.h3->m0'
    """

    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    block_order: str = "sequential"
    embeddings: str = "joint"
    kv_heads: str = "native"
    qkv: str = "split"
    head_scale: str = "own"
    virtual: tuple[str, ...] = ()

    spans: ClassVar[tuple[str, ...]] = ()  # of token positions, see `circuitgraph.graph.spans`

    def __post_init__(self) -> None:
        check_universe(self)

    # ---------------------------------------------------------------- sizes

    @property
    def group_size(self) -> int:
        """Query heads per key-value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def grouped(self) -> bool:
        """Whether a key or value reader serves more than one query head."""
        return self.kv_heads == "native" and self.n_kv_heads < self.n_heads

    @property
    def n_kv_readers(self) -> int:
        """Key readers (and value readers) a layer; 0 where query, key and value are joint."""
        if self.qkv == "joint":
            return 0
        return self.n_kv_heads if self.grouped else self.n_heads

    @property
    def n_embeddings(self) -> int:
        """Embedding writers: 1, or 2 where token and position embeddings are apart."""
        return 2 if self.embeddings == "split" else 1

    @cached_property
    def vector_layers(self) -> tuple[int, ...]:
        """The layer of every vector, rising `[vector]`."""
        return tuple(vector_layer(name) or 0 for name in self.virtual)

    @cached_property
    def reads_nothing(self) -> np.ndarray:
        """Which writers read nothing: embeddings and vectors, as booleans `[writer]`."""
        return np.isin(self.writer_kinds, SOURCES)

    @property
    def sources(self) -> list[str]:
        """Names of the writers that read nothing."""
        return [self.writers[index] for index in np.flatnonzero(self.reads_nothing)]

    @cached_property
    def vector_writers(self) -> np.ndarray:
        """Which writers the vectors are `[vector]`."""
        return np.flatnonzero(self.writer_kinds == "vector")

    @property
    def n_attention_readers(self) -> int:
        """Readers of one attention layer."""
        return self.n_heads + 2 * self.n_kv_readers

    @property
    def n_writers(self) -> int:
        """Writers in all."""
        return self.n_embeddings + self.n_layers * (self.n_heads + 1) + len(self.virtual)

    @property
    def n_readers(self) -> int:
        """Readers in all."""
        return self.n_layers * (self.n_attention_readers + 1) + 1

    @cached_property
    def n_edges(self) -> int:
        """Maskable edges in all."""
        layers = self.n_layers
        # A layer's attention sees the embeddings and (heads + MLP) of every layer before; so does its MLP, which sees
        # its own layer's heads too where blocks are sequential; the logits see every writer.
        seen = layers * self.n_embeddings + (self.n_heads + 1) * layers * (layers - 1) // 2
        seen += sum(layers - layer for layer in self.vector_layers)
        own = layers * self.n_heads if self.block_order == "sequential" else 0
        return (self.n_attention_readers + 1) * seen + own + self.n_writers

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks in the order in which they read: attention and MLP of each layer, then logits."""
        heads, found, reader, edge = self._readers_of_heads, [], 0, 0
        keys_and_values = np.arange(self.n_attention_readers) >= (self.n_heads if self.n_kv_readers else 0)
        no, n_vectors = np.zeros(1, dtype=bool), 0
        for layer in range(self.n_layers + 1):
            n_vectors += self.vector_layers.count(layer)
            before = self.n_embeddings + layer * (self.n_heads + 1) + n_vectors
            after = before + self.n_heads
            if layer == self.n_layers:
                parts = [("logits", before, before, heads[:0, :1], no)]
            else:
                mlp_sees = after if self.block_order == "sequential" else before
                parts = [
                    ("attention", before, before, heads, keys_and_values),
                    ("mlp", mlp_sees, after, np.zeros((1, 1), dtype=np.int64), no),
                ]
            for kind, n_writers, first_written, readers_of, elsewhere in parts:
                n_readers = len(elsewhere)
                found.append(
                    Block(
                        kind=kind,  # type: ignore[arg-type]
                        layer=layer,
                        first_reader=reader,
                        n_readers=n_readers,
                        n_writers=n_writers,
                        first_edge=edge,
                        first_written=first_written,
                        readers_of=readers_of,
                        elsewhere=elsewhere,
                        shares_scale=kind == "attention" and self.head_scale == "shared",
                    )
                )
                reader += n_readers
                edge += n_readers * n_writers
        return tuple(found)

    @property
    def without_spans(self) -> Universe:
        """The universe with one edge for all positions: this one, where there are no spans."""
        return self

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What is at each span of positions; without spans one part, which has everything."""
        everything = {"writers": self.n_writers, "readers": self.n_readers, "edges": self.n_edges}
        return (Part(span="", blocks=self.blocks, **{name: slice(0, n) for name, n in everything.items()}),)

    @property
    def _readers_of_heads(self) -> np.ndarray:
        """The readers of every head of a layer, as indices within the layer `[head role]`."""
        heads, n_kv = np.arange(self.n_heads), self.n_kv_readers
        if not n_kv:
            return heads[:, None]
        key = self.n_heads + heads // (self.n_heads // n_kv)
        return np.stack([heads, key, key + n_kv], 1)

    # ---------------------------------------------------------------- names

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Writer names by index."""
        names = ["tok", "pos"] if self.embeddings == "split" else ["input"]
        for layer in range(self.n_layers):
            names += self._of_vectors(layer, self.virtual)
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names.append(f"m{layer}")
        return tuple(names)

    def _of_vectors(self, layer: int, values: Sequence[str]) -> list[str]:
        """What a layer's vectors have, of one value per vector."""
        return [value for value, own in zip(values, self.vector_layers, strict=True) if own == layer]

    def attention_readers(self, layer: int) -> list[str]:
        """Names of one attention layer's readers: queries, then keys, then values."""
        if self.qkv == "joint":
            return [f"a{layer}.h{head}<qkv>" for head in range(self.n_heads)]
        kv = "kv" if self.grouped else "h"
        names = [f"a{layer}.h{head}<q>" for head in range(self.n_heads)]
        for letter in "kv":
            names += [f"a{layer}.{kv}{head}<{letter}>" for head in range(self.n_kv_readers)]
        return names

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Reader names by index."""
        names: list[str] = []
        for layer in range(self.n_layers):
            names += [*self.attention_readers(layer), f"m{layer}"]
        return (*names, "logits")

    @cached_property
    def reader_kinds(self) -> np.ndarray:
        """Kind of every reader, one of `EDGE_KINDS`, as strings `[reader]`."""
        if self.qkv == "joint":
            attention = ["qkv"] * self.n_heads
        else:
            attention = ["q"] * self.n_heads + ["k"] * self.n_kv_readers + ["v"] * self.n_kv_readers
        return np.array([*(attention + ["mlp"]) * self.n_layers, "logits"])

    @cached_property
    def reader_layers(self) -> np.ndarray:
        """Layer of every reader `[reader]`; `n_layers` for the logits."""
        per_layer = np.repeat(np.arange(self.n_layers), self.n_attention_readers + 1)
        return np.append(per_layer, self.n_layers)

    @cached_property
    def writer_kinds(self) -> np.ndarray:
        """Kind of every writer, one of `WRITER_KINDS`, as strings `[writer]`."""
        kinds = ["embedding"] * self.n_embeddings
        for layer in range(self.n_layers):
            kinds += ["vector"] * self.vector_layers.count(layer) + ["head"] * self.n_heads + ["mlp"]
        return np.array(kinds)

    @cached_property
    def writer_layers(self) -> np.ndarray:
        """Layer of every writer `[writer]`; -1 for embeddings."""
        sizes = [self.n_heads + 1 + self.vector_layers.count(layer) for layer in range(self.n_layers)]
        return np.concatenate([np.full(self.n_embeddings, -1), np.repeat(np.arange(self.n_layers), sizes)])

    # ---------------------------------------------------------------- edges

    @cached_property
    def reader_offsets(self) -> np.ndarray:
        """Flat index of the edge from writer 0 into every reader, and the number of edges `[reader + 1]`."""
        sizes = np.concatenate([np.full(block.n_readers, block.n_writers) for block in self.blocks])
        return np.concatenate([[0], np.cumsum(sizes)])

    @cached_property
    def _writer_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.writers)}

    @cached_property
    def _reader_index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.readers)}

    def edge_index(self, source: str, target: str) -> int:
        """Flat index of an edge.

        Args:
            source: A writer.
            target: A reader that sees it.

        Returns:
            The index of the edge's gate in the flat gate vector.

        Raises:
            UnknownNameError: No such writer, no such reader, or the reader does not see the writer.
        """
        if source not in self._writer_index:
            raise UnknownNameError.of("writer", source, self.writers)
        if target not in self._reader_index:
            raise unknown_reader(target, self.readers, n_heads=self.n_heads, n_kv_heads=self.n_kv_heads)
        writer, reader = self._writer_index[source], self._reader_index[target]
        start, stop = self.reader_offsets[reader : reader + 2]
        if writer >= stop - start:
            raise UnknownNameError(
                f"no edge {source}->{target}: {target} reads before {source} writes; "
                f"it sees {stop - start} writers, the last is {self.writers[stop - start - 1]}"
            )
        return int(start + writer)

    def endpoints(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Writer and reader indices of edges.

        Args:
            edges: Flat edge indices `[n]`.

        Returns:
            Writer indices `[n]` and reader indices `[n]`.
        """
        readers = np.searchsorted(self.reader_offsets, edges, side="right") - 1
        return np.asarray(edges) - self.reader_offsets[readers], readers

    @property
    def writer_of_edge(self) -> np.ndarray:
        """Index of the writer of every edge `[edge]`, int64."""
        return self.endpoints(np.arange(self.n_edges))[0]

    def edge_name(self, edge: int) -> str:
        """The field's exchange name of an edge, `writer->reader`."""
        writer, reader = self.endpoints(np.array([edge]))
        return f"{self.writers[writer[0]]}->{self.readers[reader[0]]}"

    def structural_edges(self) -> list[tuple[str, str]]:
        """Edges from a head's readers to the head, never masked and never counted."""
        return structural_edges(self)

    # ---------------------------------------------------------------- files and comparison

    def to_dict(self) -> dict[str, str | int | list[str]]:
        """The fields as JSON values; the last two only where they say something, so that older files are the same."""
        values = {**asdict(self), "virtual": list(self.virtual)}
        return {name: value for name, value in values.items() if (name, value) not in _LEFT_OUT}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Universe:
        """Read the fields back.

        Raises:
            UnknownNameError: A field that a universe does not have.
            ConfigurationError: A field is missing or has a bad value.
        """
        if cls is Universe and "spans" in values:
            from circuitgraph.graph.spans import SpannedUniverse

            return SpannedUniverse.from_dict(values)
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise UnknownNameError.of("universe field", name, names)
        missing = [name for name in names[:4] if name not in values]
        if missing:
            raise ConfigurationError(f"universe: missing {', '.join(missing)}")
        listed = values.get("virtual")
        values = {**values, "virtual": tuple(listed)} if isinstance(listed, list) else values
        return cls(**values)  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        from circuitgraph.html import card

        return card("Universe", [self.description])

    @property
    def description(self) -> str:
        """The universe in a line.

        Examples:
            >>> Universe(family="llama", n_layers=30, n_heads=9, n_kv_heads=3).description
            'llama: 30 layers of 9 heads and 3 key-value heads; 70,651 edges'
            >>> Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12, embeddings="split").description
            'gpt2: 12 layers of 12 heads; embeddings=split; 32,936 edges'
        """
        chosen = {field.name: getattr(self, field.name) for field in fields(Universe) if field.name in CHOICES}
        choices = [f"{name}={value}" for name, value in chosen.items() if value != getattr(Universe, name)]
        choices += [f"with {', '.join(self.virtual)}"] if self.virtual else []
        groups = f" and {self.n_kv_heads} key-value heads" if self.n_kv_heads < self.n_heads else ""
        sizes = f"{self.family}: {self.n_layers} layers of {self.n_heads} heads{groups}"
        return "; ".join([sizes, *choices, f"{self.n_edges:,} edges"])

    def first_difference(self, other: Universe) -> str | None:
        """The first field in which two universes differ, as text, or None."""
        names = dict.fromkeys(field.name for universe in (self, other) for field in fields(universe))
        for name in names:
            mine, theirs = getattr(self, name, ()), getattr(other, name, ())
            if mine != theirs:
                return f"{name}: {mine!r} against {theirs!r}"
        return None

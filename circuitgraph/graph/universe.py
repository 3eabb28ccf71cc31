"""The universe: which writers, readers and edges exist, and the index of every edge.

A universe is fixed by the family's block order, its layers and heads, and three choices of granularity.
It is all that counts, comparisons, plans and drawings need; no graph and no weights are built for it.

Indexing. Writers are numbered in the order in which they write. Each reader sees a *prefix* of that
order, and the readers of one attention layer see the same prefix. So the edges into a reader are a
contiguous run of the flat gate vector, and those into a layer's readers are a dense matrix
`[reader, writer]` within it. `Universe.blocks` lists these matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.block import Block
from circuitgraph.graph.reader_names import unknown_reader

EDGE_KINDS = ("q", "k", "v", "qkv", "mlp", "logits")
WRITER_KINDS = ("embedding", "head", "mlp")

MOST_EDGES = 500_000_000
"""Three times those of Llama 3.1 405B; one gate each takes 2 GB."""
MOST_NODES = 2_000_000
"""Writers and readers, which all have names."""

CHOICES = {
    "block_order": ("sequential", "parallel"),
    "embeddings": ("joint", "split"),
    "kv_heads": ("native", "per_query"),
    "qkv": ("split", "joint"),
    "head_scale": ("own", "shared"),
}


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

    def __post_init__(self) -> None:
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise ConfigurationError(
                    f"universe: {name} must be one of {', '.join(valid)}; got {getattr(self, name)!r}"
                )
        for name in ("n_layers", "n_heads", "n_kv_heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"universe: {name} must be a whole number of at least 1; got {value!r}")
        if self.n_edges > MOST_EDGES or self.n_writers + self.n_readers > MOST_NODES:
            raise ConfigurationError(
                f"universe: n_layers ({self.n_layers:,}) and n_heads ({self.n_heads:,}) make {self.n_edges:,} edges "
                f"between {self.n_writers + self.n_readers:,} places; expected at most {MOST_EDGES:,} and "
                f"{MOST_NODES:,}, some times those of the largest models. Are these the sizes that were meant?"
            )
        if self.n_heads % self.n_kv_heads:
            raise ConfigurationError(
                f"universe: n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})"
            )
        if self.qkv == "joint" and self.grouped:
            raise ConfigurationError(
                "qkv='joint' has one reader per query head, but keys and values are shared by groups of "
                f"{self.group_size} query heads; add kv_heads='per_query'"
            )

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

    @property
    def n_attention_readers(self) -> int:
        """Readers of one attention layer."""
        return self.n_heads + 2 * self.n_kv_readers

    @property
    def n_writers(self) -> int:
        """Writers in all."""
        return self.n_embeddings + self.n_layers * (self.n_heads + 1)

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
        own = layers * self.n_heads if self.block_order == "sequential" else 0
        return (self.n_attention_readers + 1) * seen + own + self.n_writers

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Blocks in the order in which they read: attention and MLP of each layer, then logits."""
        heads, found, reader, edge = self._readers_of_heads, [], 0, 0
        keys_and_values = np.arange(self.n_attention_readers) >= (self.n_heads if self.n_kv_readers else 0)
        no = np.zeros(1, dtype=bool)
        for layer in range(self.n_layers + 1):
            before = self.n_embeddings + layer * (self.n_heads + 1)
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
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names.append(f"m{layer}")
        return tuple(names)

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
        return np.array(["embedding"] * self.n_embeddings + (["head"] * self.n_heads + ["mlp"]) * self.n_layers)

    @cached_property
    def writer_layers(self) -> np.ndarray:
        """Layer of every writer `[writer]`; -1 for embeddings."""
        layers = np.repeat(np.arange(self.n_layers), self.n_heads + 1)
        return np.concatenate([np.full(self.n_embeddings, -1), layers])

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
        """Edges from a head's readers to the head, never masked and never counted.

        Where heads share a scale, every reader of a layer leads to every head of it.
        """
        pairs: list[tuple[str, str]] = []
        if self.head_scale == "shared":
            for layer in range(self.n_layers):
                readers = self.attention_readers(layer)
                pairs += [(reader, f"a{layer}.h{head}") for head in range(self.n_heads) for reader in readers]
            return pairs
        kv = "kv" if self.grouped else "h"
        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                name = f"a{layer}.h{head}"
                if self.qkv == "joint":
                    pairs.append((f"{name}<qkv>", name))
                    continue
                shared = head // self.group_size if self.grouped else head
                pairs.append((f"{name}<q>", name))
                pairs += [(f"a{layer}.{kv}{shared}<{letter}>", name) for letter in "kv"]
        return pairs

    # ---------------------------------------------------------------- files and comparison

    def to_dict(self) -> dict[str, str | int]:
        """The fields as JSON values; `head_scale` only where it is shared, so that other files stay as they were."""
        values = asdict(self)
        if self.head_scale == "own":
            del values["head_scale"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Universe:
        """Read the fields back.

        Raises:
            UnknownNameError: A field that a universe does not have.
            ConfigurationError: A field is missing or has a bad value.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise UnknownNameError.of("universe field", name, names)
        missing = [name for name in names[:4] if name not in values]
        if missing:
            raise ConfigurationError(f"universe: missing {', '.join(missing)}")
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
        defaults = {
            "block_order": "sequential", "embeddings": "joint", "kv_heads": "native", "qkv": "split",
            "head_scale": "own",
        }  # fmt: skip
        choices = [f"{name}={getattr(self, name)}" for name, usual in defaults.items() if getattr(self, name) != usual]
        groups = f" and {self.n_kv_heads} key-value heads" if self.n_kv_heads < self.n_heads else ""
        sizes = f"{self.family}: {self.n_layers} layers of {self.n_heads} heads{groups}"
        return "; ".join([sizes, *choices, f"{self.n_edges:,} edges"])

    def first_difference(self, other: Universe) -> str | None:
        """The first field in which two universes differ, as text, or None."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                return f"{field.name}: {mine!r} against {theirs!r}"
        return None

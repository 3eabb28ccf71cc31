"""What an extracted circuit consists of, without its numbers: which parts run and what each of them reads.

`folding` decides it, `module` builds torch modules from it, and it is kept as JSON beside the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from circuitgraph.errors import CircuitFormatError
from circuitgraph.graph.universe import Universe


@dataclass(frozen=True, kw_only=True)
class ReadLayout:
    """One view of the residual stream: a constant plus what some writers say.

    Attributes:
        writers: The writers that are added; with `all_but`, those that are left out.
        all_but: Whether every running writer so far is added except `writers`.
    """

    writers: tuple[str, ...]
    all_but: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether nothing that runs is read."""
        return not self.writers and not self.all_but


@dataclass(frozen=True, kw_only=True)
class ProjectionLayout:
    """The query readers of one layer's running heads, or their key or value readers.

    Attributes:
        readers: Names of the readers, those that see something that runs before those that see a constant.
        reads: For each reader of the first sort, which of the layer's reads it sees.
        weights: For each of them, the head of the model whose weights it uses.
        row_of_head: For each running head, its reader in `readers`.
    """

    readers: tuple[str, ...]
    reads: tuple[int, ...]
    weights: tuple[int, ...]
    row_of_head: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AttentionLayout:
    """The running heads of one layer.

    Attributes:
        heads: Which heads of the model.
        reads: Distinct views of the residual stream; heads that read the same share one.
        query: Their query readers.
        key: Their key readers.
        value: Their value readers.
    """

    heads: tuple[int, ...]
    reads: tuple[ReadLayout, ...]
    query: ProjectionLayout
    key: ProjectionLayout
    value: ProjectionLayout


@dataclass(frozen=True, kw_only=True)
class LayerLayout:
    """What runs of one layer.

    Attributes:
        layer: Which layer of the model.
        attention: Its running heads, or None.
        mlp: What its MLP reads, or None where it does not run.
    """

    layer: int
    attention: AttentionLayout | None
    mlp: ReadLayout | None


@dataclass(frozen=True, kw_only=True)
class CircuitLayout:
    """What runs of a model.

    Attributes:
        universe: The circuit's universe, which names writers and readers.
        causal: Whether a position sees only earlier ones.
        n_tokens: Token ids that the model understands.
        n_positions: Learned positions; 0 where there are none.
        n_columns: 1, or the prompt length that constants per position are for.
        embeddings: Embedding writers that run.
        layers: Layers of which something runs, in order.
        logits: What the logits read.
        folded: Kept heads and MLPs that always say the same, which is part of the constants.
    """

    universe: Universe
    causal: bool
    n_tokens: int
    n_positions: int
    n_columns: int
    embeddings: tuple[str, ...]
    layers: tuple[LayerLayout, ...]
    logits: ReadLayout
    folded: tuple[str, ...]

    @property
    def live_heads(self) -> tuple[str, ...]:
        """Names of the heads that run."""
        return tuple(
            f"a{part.layer}.h{head}" for part in self.layers if part.attention for head in part.attention.heads
        )

    @property
    def live_mlps(self) -> tuple[str, ...]:
        """Names of the MLPs that run."""
        return tuple(f"m{part.layer}" for part in self.layers if part.mlp)

    def reads(self) -> Iterator[ReadLayout]:
        """Every view of the residual stream."""
        for part in self.layers:
            if part.attention is not None:
                yield from part.attention.reads
            if part.mlp is not None:
                yield part.mlp
        yield self.logits

    def to_dict(self) -> dict[str, Any]:
        """The layout as JSON values."""
        return {**asdict(self), "universe": self.universe.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CircuitLayout:
        """Read what `to_dict` wrote.

        Raises:
            CircuitFormatError: Something is missing, of the wrong kind, or does not fit the rest.
        """
        try:
            layout = cls(
                universe=Universe.from_dict(values["universe"]),
                causal=bool(values["causal"]),
                n_tokens=int(values["n_tokens"]),
                n_positions=int(values["n_positions"]),
                n_columns=int(values["n_columns"]),
                embeddings=_names(values["embeddings"]),
                layers=tuple(_layer(part) for part in values["layers"]),
                logits=_read(values["logits"]),
                folded=_names(values["folded"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CircuitFormatError(f"layout: {type(error).__name__}: {error}") from error
        _check(layout)
        return layout


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(name, str) for name in values):
        raise TypeError(f"expected a list of names; got {values!r}")
    return tuple(values)


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not all(type(number) is int for number in values):
        raise TypeError(f"expected a list of whole numbers; got {values!r}")
    return tuple(values)


def _read(values: Mapping[str, Any]) -> ReadLayout:
    return ReadLayout(writers=_names(values["writers"]), all_but=bool(values["all_but"]))


def _projection(values: Mapping[str, Any]) -> ProjectionLayout:
    return ProjectionLayout(
        readers=_names(values["readers"]),
        **{name: _numbers(values[name]) for name in ("reads", "weights", "row_of_head")},
    )


def _layer(values: Mapping[str, Any]) -> LayerLayout:
    attention, mlp = values["attention"], values["mlp"]
    return LayerLayout(
        layer=int(values["layer"]),
        mlp=None if mlp is None else _read(mlp),
        attention=None
        if attention is None
        else AttentionLayout(
            heads=_numbers(attention["heads"]),
            reads=tuple(_read(read) for read in attention["reads"]),
            **{name: _projection(attention[name]) for name in ("query", "key", "value")},
        ),
    )


def _check(layout: CircuitLayout) -> None:
    """Refuse a layout that could not run.

    Raises:
        CircuitFormatError: A layer or head that the universe lacks, a reader that sees what has not been written,
            or a row that is not there.
    """
    universe = layout.universe
    layers = [part.layer for part in layout.layers]
    if layers != sorted(set(layers)) or any(not 0 <= layer < universe.n_layers for layer in layers):
        raise CircuitFormatError(f"layout: expected layers in order, each below {universe.n_layers}; got {layers}")
    if layout.n_columns < 1:
        raise CircuitFormatError(f"layout: n_columns must be at least 1; got {layout.n_columns}")
    written = set(layout.embeddings)
    if not written <= set(universe.writers[: universe.n_embeddings]):
        raise CircuitFormatError(f"layout: no such embeddings: {sorted(written)}")
    for part in layout.layers:
        heads: set[str] = set()
        if part.attention is not None:
            _check_attention(part.layer, part.attention, universe, written)
            heads = {f"a{part.layer}.h{head}" for head in part.attention.heads}
        if universe.block_order == "sequential":
            written |= heads
        if part.mlp is not None:
            _check_read(part.mlp, written, f"m{part.layer}")
            written.add(f"m{part.layer}")
        written |= heads
    _check_read(layout.logits, written, "logits")


def _check_read(read: ReadLayout, written: set[str], where: str) -> None:
    strangers = sorted(set(read.writers) - written)
    if strangers:
        raise CircuitFormatError(f"layout: {where} reads {', '.join(strangers)}, which has not run by then")


def _check_attention(layer: int, attention: AttentionLayout, universe: Universe, written: set[str]) -> None:
    if not attention.heads or any(not 0 <= head < universe.n_heads for head in attention.heads):
        raise CircuitFormatError(f"layout: layer {layer}: no such heads: {attention.heads}")
    for read in attention.reads:
        _check_read(read, written, f"a{layer}")
    for name in ("query", "key", "value"):
        part: ProjectionLayout = getattr(attention, name)
        n_heads = universe.n_heads if name == "query" else universe.n_kv_heads
        fits = (
            len(part.reads) == len(part.weights) <= len(part.readers)
            and len(part.row_of_head) == len(attention.heads)
            and all(0 <= read < len(attention.reads) for read in part.reads)
            and all(0 <= head < n_heads for head in part.weights)
            and all(0 <= row < len(part.readers) for row in part.row_of_head)
        )
        if not fits:
            raise CircuitFormatError(f"layout: layer {layer}: the {name} readers do not fit its heads and reads")

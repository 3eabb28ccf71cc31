"""What of a universe the steps of a query fit: modules that write, and ways in which modules read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from analysis.query.language import Chain, Glob, Step, query_error, to_regex
from analysis.structure.ends import logits_of
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import UnknownNameError
from circuitgraph.graph.spans import SPAN_MARK
from circuitgraph.graph.universe import Universe


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Every way in which a module of a universe reads: its own reader, or one that it shares.

    Attributes:
        starts: Index of the first reading of every reader, and how many there are `[reader + 1]`.
        modules: The module that reads, by its index `[reading]`.
        names: The reader's name and its name for that module, such as `a5.kv1<k>` and `a5.h6<k>` `[reading]`.
    """

    starts: np.ndarray
    modules: np.ndarray
    names: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, universe: Universe) -> Readings:
        """List a universe's readings, reader by reader."""
        readers, modules = _who_reads(universe)
        starts = np.searchsorted(readers, np.arange(universe.n_readers + 1))
        module_name = readable_modules(universe)
        names = []
        for reader, module in zip(readers.tolist(), modules.tolist(), strict=True):
            own = universe.readers[reader]
            port = "".join(own.partition("<")[1:])
            # A head reads keys of spans before: its name for one has the span of the key.
            names.append((own, _without_span(universe, module_name[module]) + port if port else own))
        return cls(starts=starts, modules=modules, names=tuple(names))

    def of_edges(self, circuit: Circuit) -> ReadEdges:
        """A circuit's edges, once for each module that reads them and is in the circuit.

        Args:
            circuit: A circuit of their universe.
        """
        universe = circuit.universe
        writers, readers = universe.endpoints(circuit.edge_ids)
        n_sharing = np.diff(self.starts)[readers]
        places = np.repeat(np.arange(len(circuit)), n_sharing)
        number = np.arange(len(places)) - np.repeat(np.cumsum(n_sharing) - n_sharing, n_sharing)
        readings = self.starts[readers][places] + number
        modules = self.modules[readings]
        stays = np.isin(modules, writers) | (modules >= universe.n_writers)
        return ReadEdges(
            writers=writers[places][stays], modules=modules[stays], readings=readings[stays], places=places[stays]
        )


@dataclass(frozen=True, kw_only=True)
class ReadEdges:
    """Edges as moves from a module that writes to one that reads.

    Attributes:
        writers: The module that writes `[move]`.
        modules: The module that reads `[move]`.
        readings: The way in which it reads `[move]`.
        places: Which of the edges it is, by position `[move]`; one into a shared reader comes several times.
    """

    writers: np.ndarray
    modules: np.ndarray
    readings: np.ndarray
    places: np.ndarray


def readable_modules(universe: Universe) -> tuple[str, ...]:
    """Names of modules by their index: the writers, then the logits, with spans those of each span that is asked."""
    return (*universe.writers, *logits_of(universe))


def _who_reads(universe: Universe) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a reader and a module that reads through it, in their order `[reading]`.

    Keys and values are read at their own span and at those after it.
    """
    pairs, n_logits = [], 0
    n_spans, width = len(universe.parts), universe.without_spans.n_writers
    for place, part in enumerate(universe.parts):
        for block in part.blocks:
            first = part.readers.start + block.first_reader
            if block.kind == "logits":
                pairs.append((first, universe.n_writers + n_logits))
                n_logits += 1
            for module, served in enumerate(block.readers_of.tolist()):
                for reader in set(served):
                    last = n_spans if block.elsewhere[reader] else place + 1
                    pairs += [
                        (first + reader, span * width + block.first_written + module) for span in range(place, last)
                    ]
    readers, modules = np.array(sorted(pairs)).T
    return readers, modules


def _without_port(name: str) -> str:
    """`a5.kv1@name` of `a5.kv1<k>@name`."""
    before, _, after = name.partition("<")
    return before + after.partition(">")[2]


def _without_span(universe: Universe, name: str) -> str:
    """The name without its span; a vector's `@` is none."""
    return name.partition(SPAN_MARK)[0] if universe.spans else name


@dataclass(frozen=True, kw_only=True)
class StepFit:
    """What a step fits.

    Attributes:
        is_gap: Whether it is `**`, which fits anything.
        writes: Whether it fits each module as something that writes `[module]`; never the logits.
        reads: Whether it fits each reading `[reading]`.
    """

    is_gap: bool
    writes: np.ndarray
    reads: np.ndarray


def fit_steps(universe: Universe, readings: Readings, query: str, chain: Chain) -> list[StepFit]:
    """Look up what every step of a chain fits.

    Args:
        universe: The universe.
        readings: Its readings.
        query: The query, for errors.
        chain: The chain.

    Returns:
        One fit a step.

    Raises:
        UnknownNameError: A glob fits nothing in the universe.
        ConfigurationError: A glob fits only what its step cannot be: the logits or a port where something
            writes, an embedding where something reads.
    """
    fits = [_fit_step(universe, readings, query, step) for step in chain.steps]
    if len(fits) > 1:
        for place, step in enumerate(chain.steps):
            for glob in step.globs:
                fit = _fit_glob(universe, readings, query, glob)
                _check_place(universe, readings, query, glob, fit, first=place == 0, last=step is chain.steps[-1])
    return fits


def _check_place(
    universe: Universe, readings: Readings, query: str, glob: Glob, fit: StepFit, *, first: bool, last: bool
) -> None:
    """Refuse a glob that fits nothing which could stand at its place in a chain of several steps."""
    if first and not fit.writes.any():
        what = "a port only reads, drop it" if glob.has_port else "the logits only read"
        raise query_error(query, glob.column, f"{glob.text} cannot write an edge: {what}")
    if not first and not fit.reads.any():
        raise query_error(query, glob.column, f"{glob.text} cannot read an edge: embeddings and vectors only write")
    if not first and not last and (readings.modules[fit.reads] >= universe.n_writers).all():
        raise query_error(query, glob.column, f"{glob.text} cannot write an edge: the logits only read")


def _fit_step(universe: Universe, readings: Readings, query: str, step: Step) -> StepFit:
    """What any of a step's globs fits, less what those with "!" do; with those alone, everything else."""
    n_modules, n_readings = len(readable_modules(universe)), len(readings.names)
    chosen = [_fit_glob(universe, readings, query, glob) for glob in step.globs if not glob.negated]
    dropped = [_fit_glob(universe, readings, query, glob) for glob in step.globs if glob.negated]
    writes, reads = np.full(n_modules, not chosen), np.full(n_readings, not chosen)
    writes[universe.n_writers :] = False
    for fit in chosen:
        writes, reads = writes | fit.writes, reads | fit.reads
    for fit in dropped:
        writes, reads = writes & ~fit.writes, reads & ~fit.reads
    return StepFit(is_gap=step.is_gap, writes=writes, reads=reads)


def _fit_glob(universe: Universe, readings: Readings, query: str, glob: Glob) -> StepFit:
    """What a glob fits, whether or not "!" stands before it."""
    fits = cache(to_regex(query, glob).fullmatch)
    modules = readable_modules(universe)

    def fits_name(name: str) -> bool:
        return fits(name if SPAN_MARK in glob.text else _without_span(universe, name)) is not None

    writes = np.array([not glob.has_port and fits_name(name) for name in modules])
    if glob.has_port:
        reads = np.array([any(map(fits_name, pair)) for pair in readings.names])
    else:
        reads = writes[readings.modules]
        reads |= [any(fits_name(_without_port(name)) for name in pair) for pair in readings.names]
    if not reads.any() and not writes.any():
        raise _unknown(universe, readings, query, glob)
    # The logits come last, and only read.
    writes[universe.n_writers :] = False
    return StepFit(is_gap=False, writes=writes, reads=reads)


def _unknown(universe: Universe, readings: Readings, query: str, glob: Glob) -> UnknownNameError:
    where = str(query_error(query, glob.column, "here")).partition("\n")[2]
    sizes = f"{universe.n_layers} layers of {universe.n_heads} heads, counted from 0"
    hint = f"(column {glob.column}; the universe has {sizes})\n{where}"
    if not glob.is_literal:
        return UnknownNameError(f"no node fits {glob.text!r} {hint}")
    shared = [name for pair in readings.names for name in pair]
    return UnknownNameError.of("node", glob.text, dict.fromkeys([*readable_modules(universe), *shared]), hint)

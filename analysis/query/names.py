"""What of a universe the steps of a query fit: modules that write, and ways in which modules read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from analysis.query.language import Chain, Glob, Step, query_error, to_regex
from analysis.structure.modules import module_names, modules_reading
from circuitgraph.errors import UnknownNameError
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
        first, n_sharing = modules_reading(universe)
        starts = np.concatenate([[0], np.cumsum(n_sharing)])
        readers = np.repeat(np.arange(universe.n_readers), n_sharing)
        modules = first[readers] + np.arange(len(readers)) - starts[readers]
        module_name = module_names(universe)
        names = []
        for reader, module in zip(readers.tolist(), modules.tolist(), strict=True):
            own = universe.readers[reader]
            names.append((own, module_name[module] + "".join(own.partition("<")[1:])))
        return cls(starts=starts, modules=modules, names=tuple(names))

    def index(self, readers: np.ndarray, modules: np.ndarray) -> np.ndarray:
        """Which readings some readers and modules are `[pair]`."""
        return self.starts[readers] + modules - self.modules[self.starts[readers]]


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
    if not first and not last and (readings.modules[fit.reads] == universe.n_writers).all():
        raise query_error(query, glob.column, f"{glob.text} cannot write an edge: the logits only read")


def _fit_step(universe: Universe, readings: Readings, query: str, step: Step) -> StepFit:
    """What any of a step's globs fits, less what those with "!" do; with those alone, everything else."""
    n_modules, n_readings = universe.n_writers + 1, len(readings.names)
    chosen = [_fit_glob(universe, readings, query, glob) for glob in step.globs if not glob.negated]
    dropped = [_fit_glob(universe, readings, query, glob) for glob in step.globs if glob.negated]
    writes, reads = np.full(n_modules, not chosen), np.full(n_readings, not chosen)
    writes[-1] = False
    for fit in chosen:
        writes, reads = writes | fit.writes, reads | fit.reads
    for fit in dropped:
        writes, reads = writes & ~fit.writes, reads & ~fit.reads
    return StepFit(is_gap=step.is_gap, writes=writes, reads=reads)


def _fit_glob(universe: Universe, readings: Readings, query: str, glob: Glob) -> StepFit:
    """What a glob fits, whether or not "!" stands before it."""
    fits = cache(to_regex(query, glob).fullmatch)

    def fits_name(name: str) -> bool:
        return fits(name if glob.has_port else name.partition("<")[0]) is not None

    reads = np.array([fits_name(own) or fits_name(its) for own, its in readings.names])
    writes = np.array([not glob.has_port and fits_name(name) for name in module_names(universe)])
    if not reads.any() and not writes.any():
        raise _unknown(universe, readings, query, glob)
    # The logits come last, and only read.
    writes[-1] = False
    return StepFit(is_gap=False, writes=writes, reads=reads)


def _unknown(universe: Universe, readings: Readings, query: str, glob: Glob) -> UnknownNameError:
    where = str(query_error(query, glob.column, "here")).partition("\n")[2]
    sizes = f"{universe.n_layers} layers of {universe.n_heads} heads, counted from 0"
    hint = f"(column {glob.column}; the universe has {sizes})\n{where}"
    if not glob.is_literal:
        return UnknownNameError(f"no node fits {glob.text!r} {hint}")
    shared = [name for pair in readings.names for name in pair]
    return UnknownNameError.of("node", glob.text, dict.fromkeys([*module_names(universe), *shared]), hint)

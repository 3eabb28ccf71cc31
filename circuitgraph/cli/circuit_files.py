"""Circuit files as commands take them: named, loaded, and made comparable where that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitgraph.cli.output import say, warn
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.graph.virtual import VECTOR_FILE

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.graph.universe import Universe


def named_files(given: Sequence[str]) -> dict[str, Path]:
    """Give every file of a command line a name that is short and its own.

    Args:
        given: `FILE`, or `NAME=FILE`. A file whose own name has an equals sign is taken as it is.

    Returns:
        Names and files. Without a name a file is called by its stem, `circuit` of a result by its folder, or,
        where several have the same, by the folders in which they differ.

    Raises:
        ConfigurationError: Two have the same name.

    Examples:
        >>> list(named_files(["runs/ioi/circuit.json", "runs/capitals/circuit.json", "other=c.json"]))
        ['ioi', 'capitals', 'other']
        >>> list(named_files(["a.json", "b.json"])), list(named_files(["runs/ioi/circuit.json", "a.json"]))
        (['a', 'b'], ['ioi', 'a'])
    """
    split = [text.partition("=") for text in given]
    is_named = [
        bool(name and equals) and not Path(text).exists() for text, (name, equals, _) in zip(given, split, strict=True)
    ]
    unnamed = iter(_short_names([Path(text) for text, named in zip(given, is_named, strict=True) if not named]))
    files: dict[str, Path] = {}
    for text, (name, _, file), named in zip(given, split, is_named, strict=True):
        called, path = (name, Path(file)) if named else (next(unnamed), Path(text))
        if called in files:
            raise ConfigurationError(f"two circuits are called {called!r}; name them: NAME=FILE")
        files[called] = path
    return files


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Stems where they differ, else the folders in which the paths differ, else the paths."""
    stems = [_stem(path) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    folders = [path.with_suffix("").parts for path in paths]
    shared_last = len(commonprefix([parts[::-1] for parts in folders]))
    folders = [parts[: len(parts) - shared_last] for parts in folders]
    shared_first = len(commonprefix(folders))
    names = ["/".join(parts[shared_first:]) for parts in folders]
    return names if all(names) and len(set(names)) == len(names) else [str(path) for path in paths]


def _stem(path: Path) -> str:
    """What a file is called: every result holds a circuit.json, so that its folder says more."""
    folder = path.parent.name
    return folder if path.name == "circuit.json" and folder not in ("", "..") else path.stem


def load_circuits(files: Mapping[str, Path]) -> dict[str, Circuit]:
    """Load circuits by name.

    Raises:
        CircuitFormatError: A file is no circuit.
    """
    from circuitgraph.circuits.circuit import Circuit

    return {name: Circuit.load(path) for name, path in files.items()}


def save_with_vectors(circuit: Circuit, path: Path, made_of: Iterable[Path]) -> None:
    """Save a circuit, and beside it the vectors that were added to its model, from beside what it was made of.

    Args:
        circuit: The circuit.
        path: Its file.
        made_of: Circuits, and folders of scores.

    Raises:
        OutputError: A file cannot be written.
    """
    circuit.save(path)
    keep_vectors(path, circuit.universe, [(one if one.is_dir() else one.parent) / VECTOR_FILE for one in made_of])


def keep_vectors(path: Path, universe: Universe, files: Iterable[Path]) -> None:
    """Put the vectors that were added to a model beside a result of it, where they are looked for.

    Args:
        path: The result.
        universe: Its universe.
        files: Files that the vectors may be in; those that are not there are left out.

    Raises:
        OutputError: The file cannot be written.
    """
    if not universe.virtual:
        return
    place = path.parent / VECTOR_FILE
    found = [file.read_bytes() for file in files if file.is_file()]
    there = place.read_bytes() if place.is_file() else None
    if there is None and found:
        write_atomically(place, found[0])
    elif there is None or (found and there not in found):
        warn(
            f"{path} can be run with the vectors {', '.join(universe.virtual)} alone, and "
            + (f"{place} has others: keep it in a folder of its own" if there else f"{place} is not there: copy it")
        )


def comparable_circuits(files: Mapping[str, Path], *, coarsen: bool, across_checkpoints: bool) -> dict[str, Circuit]:
    """Load circuits that are to be compared or combined.

    Args:
        files: Names and files.
        coarsen: Map all onto the finest universe that they have in common.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        The circuits, of one universe.

    Raises:
        CircuitFormatError: A file is no circuit.
        GraphMismatchError: They are of different universes or models, and what was asked for does not help.
    """
    from analysis.comparable import require_comparable

    circuits = load_circuits(files)
    if coarsen:
        circuits = _coarsened(circuits)
    try:
        require_comparable(circuits, across_checkpoints=across_checkpoints)
    except GraphMismatchError as error:
        raise GraphMismatchError(f"{error}{_option_for(circuits)}") from None
    return circuits


def about_circuits(circuits: Mapping[str, Circuit], files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What JSON says of the circuits that went into a result, in order."""
    told = ("model", "revision", "task", "seed", "operation")
    return [
        {
            "name": name,
            "file": str(files[name]),
            "digest": circuit.digest,
            "ablation": circuit.ablation,
            **circuit.sparsity,
            **{field: circuit.provenance.get(field) for field in told},
        }
        for name, circuit in circuits.items()
    ]


def _coarsened(circuits: Mapping[str, Circuit]) -> dict[str, Circuit]:
    from analysis.granularity import coarsen, common_universe

    universe = reduce(common_universe, (circuit.universe for circuit in circuits.values()))
    mapped = {}
    for name, circuit in circuits.items():
        difference = circuit.universe.first_difference(universe)
        mapped[name] = circuit if difference is None else coarsen(circuit, universe)
        if difference is not None:
            say(f"{name}: {len(circuit):,} edges mapped onto {len(mapped[name]):,} ({difference})")
    return mapped


def _option_for(circuits: Mapping[str, Circuit]) -> str:
    """What would make circuits comparable, on the command line."""
    from analysis.granularity import common_universe

    universes: list[Universe] = [circuit.universe for circuit in circuits.values()]
    if all(universe == universes[0] for universe in universes):
        return ", or --across-checkpoints on the command line"
    if any(universe.spans for universe in universes):
        return ""
    try:
        reduce(common_universe, universes)
    except GraphMismatchError:
        return ""
    return ", or --coarsen on the command line"

"""Which coordinates of a circuit's writers are kept: value dimensions of heads, neurons of MLPs.

A second stage inside a circuit, whose edges stay as they are. Coordinates that are not kept carry what they are where
their writer is ablated, as cut edges do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import (
    CircuitFormatError,
    CircuitGraphError,
    ConfigurationError,
    GraphMismatchError,
    UnknownNameError,
)
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.json_document import read_document
from circuitgraph.files.plain_json import json_text, plain_values
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.universe import Universe

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "circuitgraph coordinates"
FORMAT_VERSION = 1
_FIELDS = ("universe", "circuit", "ablation", "sizes", "kept", "provenance")
_MOST = 1 << 24
"""More coordinates than any writer has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """Kept coordinates of some writers of a circuit; those of all other writers are kept whole.

    Attributes:
        universe: What fixes the writers.
        circuit: Digest of the circuit that they are a stage of.
        ablation: What the others carry.
        kept: For each writer one boolean per coordinate: `[d_head]` of a head, `[d_mlp]` of an MLP.
        provenance: Where they came from, as JSON values.

    Raises:
        ConfigurationError: A writer that has no coordinates, or that the universe does not have; or no such ablation.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> found = Coordinates.of(circuit, {"m0": np.array([True, False, False])})
        >>> found.n_kept, found.n_coordinates
        (1, 3)
    """

    universe: Universe
    circuit: str
    ablation: str
    kept: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = dict(zip(self.universe.writers, self.universe.writer_kinds.tolist(), strict=True))
        for name, kept in self.kept.items():
            if kinds.get(name) not in ("head", "mlp"):
                raise ConfigurationError(
                    f"coordinates: expected heads and MLPs of the universe, such as a0.h1 and m0; got {name!r}"
                )
            if not isinstance(kept, np.ndarray) or kept.ndim != 1 or kept.dtype != bool or not len(kept):
                told = f"{list(kept.shape)} {kept.dtype}" if isinstance(kept, np.ndarray) else type(kept).__name__
                raise ConfigurationError(f"coordinates of {name}: expected an array of a boolean for each; got {told}")
        if self.ablation not in ABLATIONS:
            raise UnknownNameError.of("ablation", str(self.ablation), ABLATIONS)

    @staticmethod
    def of(
        circuit: Circuit, kept: Mapping[str, np.ndarray], provenance: Mapping[str, Any] | None = None
    ) -> Coordinates:
        """Coordinates of a circuit's writers.

        Args:
            circuit: The circuit.
            kept: As of the attribute.
            provenance: Where they came from.
        """
        return Coordinates(
            universe=circuit.universe, circuit=circuit.digest, ablation=circuit.ablation, kept=dict(kept),
            provenance=dict(provenance or {}),
        )  # fmt: skip

    @property
    def n_kept(self) -> int:
        """How many coordinates are kept."""
        return sum(int(kept.sum()) for kept in self.kept.values())

    @property
    def n_coordinates(self) -> int:
        """How many there are in all."""
        return sum(len(kept) for kept in self.kept.values())

    @property
    def sparsity(self) -> float:
        """The share that is not kept."""
        return 1 - self.n_kept / max(1, self.n_coordinates)

    def __repr__(self) -> str:
        return (
            f"<Coordinates: {self.n_kept:,} of {self.n_coordinates:,} kept, of {len(self.kept):,} writers "
            f"({self.universe.family}, {self.ablation} ablation)>"
        )

    def table(self) -> pd.DataFrame:
        """How many coordinates each writer keeps.

        Returns:
            A row per writer, in the order of the computation: `writer`, `kind`, `layer`, `n_kept`, `n_coordinates`,
            `share`, and `kept`, the indices as text.
        """
        import pandas as pd

        universe = self.universe
        rows = [
            {
                "writer": name, "kind": str(universe.writer_kinds[place]), "layer": int(universe.writer_layers[place]),
                "n_kept": int(self.kept[name].sum()), "n_coordinates": len(self.kept[name]),
                "share": float(self.kept[name].mean()),
                "kept": " ".join(map(str, np.flatnonzero(self.kept[name]).tolist())),
            }
            for place, name in enumerate(universe.writers)
            if name in self.kept
        ]  # fmt: skip
        columns = ["writer", "kind", "layer", "n_kept", "n_coordinates", "share", "kept"]
        return pd.DataFrame(rows, columns=columns)

    def require_circuit(self, circuit: Circuit) -> None:
        """Refuse another circuit than the one that these are a stage of.

        Args:
            circuit: The circuit.

        Raises:
            GraphMismatchError: It is another one, or cut otherwise.
        """
        difference = self.universe.first_difference(circuit.universe)
        if difference is not None:
            raise GraphMismatchError(f"the coordinates are of another universe than the circuit: {difference}")
        if self.circuit != circuit.digest:
            raise GraphMismatchError("the coordinates are those of another circuit: their edges are not the same")
        if self.ablation != circuit.ablation:
            raise GraphMismatchError(
                f"the coordinates are those of the circuit under {self.ablation} ablation, and it is under "
                f"{circuit.ablation} here"
            )

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all.

        Args:
            path: The file.

        Raises:
            OutputError: The file cannot be written.
        """
        values = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "universe": self.universe.to_dict(),
            "circuit": self.circuit, "ablation": self.ablation,
            "sizes": {name: len(kept) for name, kept in self.kept.items()},
            "kept": {name: np.flatnonzero(kept).tolist() for name, kept in self.kept.items()},
            "provenance": plain_values(dict(self.provenance)),
        }  # fmt: skip
        return write_atomically(Path(path), json_text(values) + "\n")

    @staticmethod
    def load(path: str | Path) -> Coordinates:
        """Read a file of `save`.

        Args:
            path: The file.

        Raises:
            CircuitFormatError: It cannot be read, or is no such file.
        """
        path = Path(path)
        values = read_document(path, format=FORMAT, version=FORMAT_VERSION, fields=_FIELDS)
        try:
            for name, kind in (("universe", dict), ("circuit", str), ("ablation", str), ("provenance", dict)):
                if not isinstance(values[name], kind):
                    told = "an object" if kind is dict else "text"
                    raise ConfigurationError(f"{name!r} has to be {told}; got {values[name]!r}")
            return Coordinates(
                universe=Universe.from_dict(values["universe"]), circuit=values["circuit"],
                ablation=values["ablation"], kept=_kept_of(values["sizes"], values["kept"]),
                provenance=values["provenance"],
            )  # fmt: skip
        except (CircuitGraphError, TypeError) as error:
            raise CircuitFormatError(f"{path}: its coordinates cannot be read: {error}") from error


def _kept_of(sizes: object, kept: object) -> dict[str, np.ndarray]:
    """Booleans of sizes and places, as a file has them.

    Raises:
        ConfigurationError: They are no such, or a place comes twice or is none of the writer's.
    """
    if not isinstance(sizes, dict) or not isinstance(kept, dict) or list(sizes) != list(kept):
        raise ConfigurationError("'sizes' and 'kept' have to be objects with the same writers")
    found: dict[str, np.ndarray] = {}
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size <= _MOST:
            raise ConfigurationError(f"the size of {name} has to be a whole number from 1; got {size!r}")
        places = kept[name]
        if not isinstance(places, list) or not all(type(place) is int and 0 <= place < size for place in places):
            raise ConfigurationError(f"what {name} keeps has to be a list of whole numbers from 0 to {size - 1}")
        if len(set(places)) < len(places):
            raise ConfigurationError(f"{name} keeps a coordinate twice")
        found[name] = np.zeros(size, dtype=bool)
        found[name][np.array(places, dtype=np.int64)] = True
    return found

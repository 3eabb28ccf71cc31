"""Edge scores: what a method says about every edge of a universe. Immutable, without torch.

A score is one signed, finite number per edge: the larger, the more the edge is needed. Where a method gives a sign, a
negative score says that the edge works against what was asked. Scores say nothing about which edges to keep: a rule in
`circuitgraph.circuits.selection` makes a `Circuit` of them. On disk they are a folder of two files:
`scores.safetensors` with the numbers, `scores.json` with what they are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuitgraph.circuits.file import require_universe
from circuitgraph.circuits.provenance import provenance_text
from circuitgraph.circuits.strength import SIGNED
from circuitgraph.errors import CircuitFormatError, ConfigurationError, UnknownNameError
from circuitgraph.files.strict_json import parse_strictly
from circuitgraph.files.whole_folder import check_free, write_folder
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.universe import Universe

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.formats.content import MergeRules
    from circuitgraph.circuits.formats.file_format import FileChoices

DIRECTIONS = ("noising", "denoising", "between", "both", "none", "unknown")
"""Where edges are looked at: each ablated in the full model, each restored where all are ablated, all kept in part;
noising and denoising put together; nothing ablated at all; or nobody says, as in files of other tools."""
ORDERS = ("strength", "size", "signed")
FORMAT_VERSION = 1
NUMBERS, ABOUT = "scores.safetensors", "scores.json"
_TENSOR = "scores"
_FIELDS = ("format_version", "universe", "method", "direction", "estimates", "ablation", "sha256", "provenance")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EdgeScores:
    """One score per edge of a universe. Build one with `EdgeScores.of` or `EdgeScores.load`.

    Attributes:
        universe: What fixes the edges.
        values: The scores `[edge]`, float64, finite, read-only; the larger, the more the edge is needed.
        method: The name of the method that made them.
        direction: Where the edges were looked at: `noising` (each edge ablated in the full model), `denoising` (each
            edge restored where all are ablated), `between` (all edges kept in part), `both` (noising and denoising put
            together), `none` (nothing ablated), or `unknown`.
        estimates: What a score estimates, in a few words with its unit.
        ablation: What cut edges carry.
        provenance_json: `provenance` as JSON text.

    Examples:
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> found = EdgeScores.of(universe, np.arange(8.0), method="mine", direction="noising", estimates="a rank")
        >>> found["m0->logits"], found.top(2)
        (7.0, ('m0->logits', 'a0.h0->logits'))
    """

    universe: Universe
    values: Float[np.ndarray, " edge"]
    method: str
    direction: str
    estimates: str
    ablation: str
    provenance_json: str = "{}"

    @classmethod
    def of(
        cls,
        universe: Universe,
        values: np.ndarray,
        *,
        method: str,
        direction: str,
        estimates: str,
        ablation: str = "counterfactual",
        provenance: Mapping[str, object] | None = None,
    ) -> EdgeScores:
        """Take scores, and refuse what no score can be.

        Args:
            universe: What fixes the edges.
            values: One number per edge `[edge]`, in the order of the flat gate vector; copied.
            method: The name of the method that made them.
            direction: `noising`, `denoising`, `between`, `both`, `none` or `unknown`.
            estimates: What a score estimates.
            ablation: What cut edges carry.
            provenance: Where they came from, as JSON values.

        Raises:
            ConfigurationError: Not one number per edge, a number that is not finite, or a provenance of what JSON
                cannot hold.
            UnknownNameError: No such direction or ablation.
        """
        if direction not in DIRECTIONS:
            raise UnknownNameError.of("direction", direction, DIRECTIONS)
        if ablation not in ABLATIONS:
            raise UnknownNameError.of("ablation", ablation, ABLATIONS)
        numbers = np.array(values, dtype=np.float64)
        if numbers.shape != (universe.n_edges,):
            raise ConfigurationError(
                f"expected one score for each of the universe's {universe.n_edges:,} edges; got shape {numbers.shape}"
            )
        broken = np.flatnonzero(~np.isfinite(numbers))
        if len(broken):
            first = int(broken[0])
            raise ConfigurationError(
                f"scores must be finite; {len(broken):,} of {len(numbers):,} are not, the first that of "
                f"{universe.edge_name(first)}: {numbers[first]}"
            )
        numbers.flags.writeable = False
        return cls(
            universe=universe, values=numbers, method=method, direction=direction, estimates=estimates,
            ablation=ablation, provenance_json=provenance_text(provenance or {}),
        )  # fmt: skip

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the scores came from; a fresh copy each time."""
        return {**json.loads(self.provenance_json), **self.about}

    @property
    def about(self) -> dict[str, str]:
        """What the scores are: `method`, `direction`, `score_meaning` and `ablation`."""
        return {
            "method": self.method, "direction": self.direction, "score_meaning": self.estimates,
            "ablation": self.ablation,
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """A sha256 over the universe and the scores, to refer to them by."""
        digest = hashlib.sha256(json.dumps(self.universe.to_dict(), sort_keys=True).encode())
        digest.update(self.values.astype("<f8").tobytes())
        return digest.hexdigest()

    def order(self, *, by: str = "strength") -> np.ndarray:
        """Edges from the first to the last, equal ones in the order of the flat gate vector.

        Args:
            by: `strength`: |score|, unless the scores are trained gates' or ACDC's, where it is the score itself (see
                `circuitgraph.circuits.strength`); `size`: |score| in any case; `signed`: the score in any case.

        Returns:
            Flat edge indices `[edge]`.

        Raises:
            UnknownNameError: No such order.
        """
        if by not in ORDERS:
            raise UnknownNameError.of("order", by, ORDERS)
        signed = by == "signed" or (by == "strength" and self.estimates in SIGNED)
        return np.argsort(-(self.values if signed else np.abs(self.values)), kind="stable")

    def top(self, n: int = 10, *, by: str = "strength") -> tuple[str, ...]:
        """Names of the first edges.

        Args:
            n: How many.
            by: See `order`.
        """
        return tuple(self.universe.edge_name(int(edge)) for edge in self.order(by=by)[:n])

    def select(
        self,
        rule: str = "top",
        n: int | None = None,
        *,
        by: str = "strength",
        threshold: float | None = None,
        exactly: bool = True,
        time_limit: float = 60.0,
    ) -> Circuit:
        """A circuit of these scores, by a named rule; see `circuitgraph.circuits.selection`.

        Args:
            rule: `top` (the n largest), `threshold` (all from a score on), `greedy` (n from the logits downwards) or
                `connected` (the connected circuit of n edges with the largest sum).
            n: How many edges.
            by: What edges are ranked by; see `order`.
            threshold: Of the rule `threshold`, the least score.
            exactly: Of `connected`, whether exactly n edges are kept, or at most n.
            time_limit: Of `connected`, seconds.

        Raises:
            UnknownNameError: No such rule or order.
            ConfigurationError: An option is missing, is another rule's, or makes no sense.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> found = EdgeScores.of(universe, np.arange(8.0), method="mine", direction="noising", estimates="a rank")
            >>> [len(found.select(rule, 4)) for rule in ("top", "greedy", "connected")]
            [1, 1, 4]
        """
        from circuitgraph.circuits.selection.rules import RuleOptions, select_edges

        options = RuleOptions(n=n, threshold=threshold, by=by, exactly=exactly, time_limit=time_limit)
        return select_edges([self], rule, options)

    def table(self) -> pd.DataFrame:
        """The edges from the strongest to the weakest, as a table.

        Returns:
            One row per edge: `edge`, `writer`, `reader`, the `layer` of the reader, its `kind` (q, k, v, qkv, mlp or
            logits), `score`, and `rank`, from 1, by `order`.

        Examples:
            >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
            >>> found = EdgeScores.of(universe, -np.arange(8.0), method="mine", direction="noising", estimates="a rank")
            >>> found.table().head(2)
                         edge writer  reader  layer    kind  score  rank
            0      m0->logits     m0  logits      1  logits   -7.0     1
            1  a0.h0->logits  a0.h0  logits      1  logits   -6.0     2
        """
        import pandas as pd

        order = self.order()
        writers, readers = self.universe.endpoints(order)
        frame = pd.DataFrame(
            {
                "writer": np.array(self.universe.writers, dtype=object)[writers],
                "reader": np.array(self.universe.readers, dtype=object)[readers],
                "layer": self.universe.reader_layers[readers],
                "kind": self.universe.reader_kinds[readers],
                "score": self.values[order],
                "rank": np.arange(1, len(order) + 1),
            }
        )
        frame.insert(0, "edge", frame["writer"] + "->" + frame["reader"])
        return frame

    def _repr_html_(self) -> str:
        """A card for notebooks: what the scores are, and the strongest."""
        from circuitgraph.circuits.card import scores_card

        return scores_card(self)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, edge: str) -> float:
        """The score of an edge by its name.

        Raises:
            UnknownNameError: The universe has no such edge.
        """
        return float(self.values[self.universe.edge_index(*edge.split("->", 1))])

    def __repr__(self) -> str:
        first = ", ".join(self.top(3))
        return (
            f"<EdgeScores of {len(self):,} edges ({self.universe.family}) by {self.method}, {self.direction}: "
            f"{self.estimates}; the largest: {first}>"
        )

    # ---------------------------------------------------------------- files

    def files(self) -> dict[str, bytes]:
        """The content of the two files by name."""
        from safetensors.numpy import save

        about = {
            "format_version": FORMAT_VERSION,
            "universe": self.universe.to_dict(),
            "method": self.method,
            "direction": self.direction,
            "estimates": self.estimates,
            "ablation": self.ablation,
            "sha256": self.digest,
            "provenance": json.loads(self.provenance_json),
        }
        text = json.dumps(about, allow_nan=False, indent=2, ensure_ascii=False) + "\n"
        return {NUMBERS: save({_TENSOR: np.array(self.values)}), ABOUT: text.encode()}

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Make a folder of both files, whole or not at all.

        Args:
            folder: The folder to make.
            overwrite: Whether older scores there may be replaced.

        Returns:
            The folder.

        Raises:
            OutputError: It exists, or cannot be made.
        """
        place = Path(os.path.realpath(Path(folder).expanduser()))
        check_free(place, overwrite=overwrite, names=(NUMBERS, ABOUT), what="result of edge scores")
        return write_folder(place, self.files())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        universe: Universe | None = None,
        rules: MergeRules | None = None,
        choices: FileChoices | None = None,
    ) -> EdgeScores:
        """Read scores that `save` wrote, or a file of another tool; see `circuitgraph.circuits.formats`.

        Args:
            folder: The folder, or its `scores.json`; with `universe`, also a file or folder of EAP-IG, MIB or
                auto-circuit.
            universe: The universe that the scores shall have. Files of other tools do not say theirs.
            rules: For files of other tools, what is done where edges do not match one to one.
            choices: What they leave open.

        Raises:
            CircuitFormatError: A file is missing, damaged, of a newer version or of another result, or holds what no
                score can be.
            GraphMismatchError: It is of another universe, or edges do not match and no rule says what to do.
            ConfigurationError: A file of another tool has no scores, or a choice is missing.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = Path(folder)
        if universe is not None:
            from circuitgraph.circuits.conversion import read_scores_as
            from circuitgraph.circuits.formats.content import MergeRules
            from circuitgraph.circuits.formats.file_format import FileChoices
            from circuitgraph.circuits.formats.registry import recognised_format

            if (known := recognised_format(path)) is not None:
                return read_scores_as(path, known, universe, rules or MergeRules(), choices or FileChoices())
        path = path if path.name == ABOUT else path / ABOUT
        about = _read_about(path)
        numbers = path.with_name(NUMBERS)
        try:
            tensors = load(numbers.read_bytes())
            found = cls.of(
                Universe.from_dict(about["universe"]), tensors[_TENSOR],
                method=about["method"], direction=about["direction"], estimates=about["estimates"],
                ablation=about["ablation"], provenance=about["provenance"],
            )  # fmt: skip
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CircuitFormatError(f"{numbers} and {ABOUT} beside it hold no edge scores: {error}") from None
        if found.digest != about["sha256"]:
            raise CircuitFormatError(f"{numbers} holds other scores than {ABOUT} beside it says; write both again")
        require_universe(path, found.universe, universe)
        return found


def _read_about(path: Path) -> dict[str, Any]:
    """What `scores.json` says, with all its fields."""
    try:
        about = parse_strictly(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CircuitFormatError(f"{path}: {error}; expected what `circuitgraph rank` writes") from None
    if not isinstance(about, dict) or (missing := [name for name in _FIELDS if name not in about]):
        what = f"lacks {', '.join(missing)}" if isinstance(about, dict) else "is no JSON object"
        raise CircuitFormatError(f"{path} {what}; expected what `circuitgraph rank` writes")
    if about["format_version"] != FORMAT_VERSION:
        raise CircuitFormatError(
            f"{path} has format version {about['format_version']!r}; this version reads {FORMAT_VERSION}"
        )
    return about

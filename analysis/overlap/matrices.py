"""One measure of overlap for all pairs of circuits as a square table, and clusters in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from analysis.comparable import Circuits, named_circuits, require_comparable
from analysis.overlap.tables import overlap_table
from analysis.overlap.weighted import weighted_recall
from circuitgraph.errors import ConfigurationError, UnknownNameError

_METHODS = ("average", "complete", "single")
# The columns of an overlap table that hold a measure for (a, b) and for (b, a).
_COLUMNS = {
    "intersection": ("intersection", "intersection"),
    "iou": ("iou", "iou"),
    "overlap_coefficient": ("overlap_coefficient", "overlap_coefficient"),
    "containment": ("a_in_b", "b_in_a"),
    "spearman": ("spearman", "spearman"),
    "kendall": ("kendall", "kendall"),
}
# Measures of scored edges, and whether scores count with their signs.
_SCORED = {"weighted_recall": False, "signed_recall": True}


def overlap_matrix(
    circuits: Circuits, *, measure: str = "iou", level: str = "edges", across_checkpoints: bool = False
) -> pd.DataFrame:
    """One measure of overlap for all pairs of circuits.

    Args:
        circuits: Circuits of one universe, or names with their circuits.
        measure: `intersection`, `iou`, `overlap_coefficient`, `containment` (the share of the row's circuit that
            lies in the column's, |A ∩ B| / |A|), `weighted_recall` (the same with each edge counting for how strong it
            is in the row's circuit), `signed_recall` (for its score), or `spearman` or `kendall` over the scores of
            shared edges.
        level: `edges`, `nodes`, `heads` or `layers`.
        across_checkpoints: Allow other weights or another model of the same universe.

    Returns:
        A square table with the circuits' names as index and columns; all but containment and recall are symmetric. The
        diagonal compares each with itself. Float64, where a rank correlation that is not defined is missing;
        Int64 for `intersection`.

    Raises:
        GraphMismatchError: The circuits are of different universes or models.
        ConfigurationError: There is no circuit, or a level other than edges for a measure of their scores.
        UnknownNameError: No such measure or level.

    Examples:
        >>> from circuitgraph import Circuit, Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)
        >>> a = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits"])
        >>> print(overlap_matrix({"a": a, "b": b}, measure="containment").round(2))
             a     b
        a  1.0  0.33
        b  1.0   1.0
    """
    if measure not in {**_COLUMNS, **_SCORED}:
        raise UnknownNameError.of("measure", measure, [*_COLUMNS, *_SCORED])
    named = named_circuits(circuits)
    if measure in _SCORED:
        if level != "edges":
            raise ConfigurationError(f"{measure} is of scores, which edges have alone; got level {level!r}")
        require_comparable(named, across_checkpoints=across_checkpoints)
        shares = [[weighted_recall(a, b, signed=_SCORED[measure]) for b in named.values()] for a in named.values()]
        return pd.DataFrame(shares, index=pd.Index(named), columns=pd.Index(named), dtype="Float64")
    dtype = "Int64" if measure == "intersection" else "Float64"
    matrix = pd.DataFrame(index=pd.Index(named), columns=pd.Index(named), dtype=dtype)
    # A circuit beside itself, under a second name, fills the diagonal by the same rules as everything else.
    for name, circuit in named.items():
        alone = overlap_table([circuit, circuit], levels=[level])
        matrix.loc[name, name] = alone[_COLUMNS[measure][0]].iloc[0]
    if len(named) > 1:
        table = overlap_table(named, levels=[level], across_checkpoints=across_checkpoints)
        forward, backward = _COLUMNS[measure]
        for a, b, there, back in zip(table["a"], table["b"], table[forward], table[backward], strict=True):
            matrix.loc[a, b], matrix.loc[b, a] = there, back
    return matrix


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Circuits in an order that puts similar ones side by side, and the tree behind it.

    Attributes:
        names: Names in that order.
        matrix: The similarities in that order.
        linkage: The tree as scipy writes it, over the circuits in the order they came `[merge 4]`.
    """

    names: tuple[str, ...]
    matrix: pd.DataFrame
    linkage: np.ndarray


def cluster(matrix: pd.DataFrame, *, method: str = "average") -> Clusters:
    """Cluster circuits by their similarity.

    Args:
        matrix: A symmetric matrix of similarities, at most 1, such as `overlap_matrix` gives for `iou`. The distance
            of two circuits is 1 minus their similarity.
        method: How far apart two clusters are: the average, the largest or the smallest distance of their members.

    Returns:
        The circuits in order, neighbours as similar as the tree allows.

    Raises:
        ConfigurationError: The matrix is not square and symmetric, has missing values or some above 1.
        UnknownNameError: No such method.

    Examples:
        >>> names = ["a", "b", "c"]
        >>> similar = [[1, 0.1, 0.8], [0.1, 1, 0.2], [0.8, 0.2, 1]]
        >>> cluster(pd.DataFrame(similar, index=names, columns=names)).names
        ('b', 'c', 'a')
    """
    if method not in _METHODS:
        raise UnknownNameError.of("method", method, _METHODS)
    if list(matrix.index) != list(matrix.columns):
        raise ConfigurationError("expected a square matrix with the same names as index and columns")
    values = matrix.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(values).any():
        row, column = np.argwhere(np.isnan(values))[0]
        raise ConfigurationError(f"the similarity of {matrix.index[row]} and {matrix.index[column]} is missing")
    if not np.allclose(values, values.T) or values.max(initial=0) > 1 + 1e-9:
        raise ConfigurationError(
            "expected symmetric similarities of at most 1, such as iou; got others (containment is not symmetric, "
            "an intersection is a count)"
        )
    if len(values) < 2:
        return Clusters(names=tuple(matrix.index), matrix=matrix.copy(), linkage=np.empty((0, 4)))
    distances = np.clip(1 - (values + values.T) / 2, 0, None)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances), method=method, optimal_ordering=True)
    order = leaves_list(tree)
    return Clusters(names=tuple(matrix.index[order]), matrix=matrix.iloc[order, order], linkage=tree)

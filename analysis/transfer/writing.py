"""Circuits on tasks as a folder: tables, figures, the circuits and a page that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures.overlap import overlap_figure
from analysis.figures.style import figure_bytes
from analysis.figures.transfer import transfer_figure
from analysis.markdown import code, plain
from analysis.markdown import table as markdown_table
from analysis.overlap.families import adjust_p_values
from analysis.overlap.matrices import overlap_matrix
from analysis.overlap.tables import overlap_table, overlap_tests
from analysis.transfer.groups import GroupTest, compare_groups
from analysis.transfer.matrices import EMPTY, FULL, faithfulness_matrix, mean_matrix
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.file import circuit_text
from circuitgraph.errors import ConfigurationError
from circuitgraph.files.csv_text import csv_text
from circuitgraph.files.whole_folder import write_folder

PAGE, MEASURED, TRIED = "transfer.md", "transfer.csv", "tried.csv"
_OVERLAPS = {
    "iou": ("IoU", "|A ∩ B| / |A ∪ B|"),
    "containment": ("Recall", "|A ∩ B| / |A|, A the row"),
    "overlap_coefficient": ("Min-overlap", "|A ∩ B| / the smaller"),
    "weighted_recall": ("Weighted recall", "as recall, each edge counting for how strong it is in A"),
    "signed_recall": ("Signed recall", "as recall, each edge counting for its score in A"),
}
_NULLS = ("hypergeometric", "stratified")
_MEANING = (
    "*Faithfulness* is the share of the way from no edge (0) to the full model (1), (m − m_empty) / "
    "(m_full − m_empty), of the mean m of that measure."
)
_KINDS = (
    "Mean faithfulness of a circuit on *other* tasks of its kind, and on tasks of another kind; p: the share of all "
    "ways to deal the kinds to the tasks that give a difference at least as large."
)
_TESTED = (
    "Shared edges against what null models expect, P(X ≥ shared); what these models mean is in "
    "`docs/explanations/overlap.md`."
)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Circuits measured on tasks, and what is made of it.

    Attributes:
        table: A row per circuit and task, see `analysis.transfer.matrices`.
        circuits: By name.
        tried: The sizes that were tried for each task's circuit; None where circuits were given.
        groups: The kind of each task, where kinds are compared.
        own: Whose circuit is whose, where names do not say it.
    """

    table: pd.DataFrame
    circuits: Mapping[str, Circuit]
    tried: pd.DataFrame | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] | None = None

    @property
    def matrices(self) -> dict[str, pd.DataFrame]:
        """Task × circuit by name: `faithfulness`, `faithfulness-own` where tasks have circuits, and of the KL alike.

        A task whose own circuit does as much as no edge at all is left out of `faithfulness-own`.
        """
        loss = "kl" if "kl" in self.table and bool(self.table["kl"].notna().all()) else "mse"
        found = {"faithfulness": faithfulness_matrix(self.table)}
        if loss in self.table and bool(self.table[loss].notna().all()):
            found[f"faithfulness-{loss}"] = faithfulness_matrix(self.table, loss)
            found[loss] = mean_matrix(self.table, loss).drop(columns=FULL)
        tasks = set(self.table["task"])
        own = self.own or {name: name for name in self.circuits if name in tasks}
        means = mean_matrix(self.table)
        # A circuit that does no more than no edge at all is none that others could be held against.
        own = {task: name for task, name in own.items() if means.loc[task].get(name) != means.loc[task, EMPTY]}
        if own:
            found["faithfulness-own"] = faithfulness_matrix(self.table, by_own=own)
        return found

    @property
    def overlaps(self) -> dict[str, pd.DataFrame]:
        """Circuit × circuit by measure of overlap."""
        return {measure: overlap_matrix(self.circuits, measure=measure) for measure in _OVERLAPS}

    @property
    def tests(self) -> pd.DataFrame | None:
        """Overlaps of edges against null models, p-values adjusted (Holm) within each; None of one circuit."""
        if len(self.circuits) < 2:
            return None
        shares = overlap_table(self.circuits, levels=["edges"])
        tests = adjust_p_values(overlap_tests(self.circuits, nulls=_NULLS), by="null")
        return shares.merge(tests.drop(columns="observed"), on=["a", "b", "level"], validate="one_to_many")

    @property
    def kinds(self) -> dict[str, GroupTest]:
        """Tasks of one kind against tasks of different kinds: within any kind, then within each that has two."""
        if not self.groups:
            return {}
        matrix = faithfulness_matrix(self.table)
        both = [name for name in matrix.index if name in matrix.columns]
        matrix = matrix.loc[both, both]
        of = {name: self.groups[name] for name in both if name in self.groups}
        kinds = list(of.values())
        several = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        return {"any": compare_groups(matrix, of)} | {kind: compare_groups(matrix, of, only=kind) for kind in several}


def transfer_files(found: Transfer, *, command: str = "") -> dict[str, str | bytes]:
    """The files of a folder by name.

    Args:
        found: The circuits on the tasks.
        command: The command that made it, for the page.

    Raises:
        ConfigurationError: As of `faithfulness_matrix`.
    """
    matrices, overlaps, tests = found.matrices, found.overlaps, found.tests
    files: dict[str, str | bytes] = {MEASURED: csv_text(found.table)}
    for name, matrix in matrices.items():
        files[f"{name}.csv"] = csv_text(with_names(matrix, "task"))
    for name, matrix in overlaps.items():
        files[f"{name.replace('_', '-')}.csv"] = csv_text(with_names(matrix, "circuit"))
    if tests is not None:
        files["overlap.csv"] = csv_text(tests)
    if found.tried is not None:
        files[TRIED] = csv_text(found.tried)
    for name, circuit in found.circuits.items():
        files[circuit_file(name)] = circuit_text(circuit)
    files["faithfulness.svg"] = figure_bytes(transfer_figure(matrices["faithfulness"]), "svg")
    if "faithfulness-own" in matrices:
        label = "faithfulness, own circuit = 1"
        files["faithfulness-own.svg"] = figure_bytes(transfer_figure(matrices["faithfulness-own"], label=label), "svg")
    if tests is not None:
        files["iou.svg"] = figure_bytes(overlap_figure(overlaps["iou"]), "svg")
    files[PAGE] = _page(found, matrices, overlaps, tests, command)
    return files


def write_transfer(found: Transfer, folder: str | Path, *, command: str = "") -> Path:
    """Write tables, figures, circuits and a page into a new folder; an older one is replaced.

    Args:
        found: The circuits on the tasks.
        folder: The folder.
        command: The command that made it, for the page.

    Returns:
        The page.

    Raises:
        ConfigurationError: As of `faithfulness_matrix`, or two circuits' names make the same file.
        OutputError: The folder cannot be made.

    Examples:
        `docs/how-to/transfer.md` makes one.
    """
    names = [circuit_file(name) for name in found.circuits]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigurationError(f"two circuits would be written to {twice[0]}; give one of them another name")
    return write_folder(Path(folder), transfer_files(found, command=command)) / PAGE


def circuit_file(name: str) -> str:
    """The name of a circuit's file.

    Examples:
        >>> circuit_file("capitals:in-context")
        'circuit-capitals_in-context.json'
    """
    return "circuit-" + "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name) + ".json"


def with_names(matrix: pd.DataFrame, corner: str) -> pd.DataFrame:
    """A matrix as a table whose first column is what its rows are called.

    Args:
        matrix: The matrix.
        corner: What that column is called; with an underscore behind it where a column has that name.

    Examples:
        >>> with_names(pd.DataFrame({"circuit": [1.0]}, index=["ioi"]), "circuit").to_dict("records")
        [{'circuit_': 'ioi', 'circuit': 1.0}]
    """
    while corner in matrix.columns:
        corner += "_"
    return matrix.rename_axis(corner).reset_index()


# -------------------------------------------------------------------- the page


def _page(
    found: Transfer,
    matrices: Mapping[str, pd.DataFrame],
    overlaps: Mapping[str, pd.DataFrame],
    tests: pd.DataFrame | None,
    command: str,
) -> str:
    measures = found.table.drop_duplicates("task").set_index("task")["measure"]
    told = ", ".join(f"{plain(str(task))} by {code(str(name))}" for task, name in measures.items())
    counts = found.table.drop_duplicates("task").set_index("task")[["split", "n"]]
    where = ", ".join(f"{row['n']:,} {row['split']} prompts of {plain(str(task))}" for task, row in counts.iterrows())
    sections = [
        "# Circuits on tasks",
        f"Made by {code(command)}." if command else "",
        f"Measured on {where}. A task's own measure: {told}. {_MEANING}",
        "## Faithfulness",
        "A row for each task, a column for each circuit.",
        _as_table(matrices["faithfulness"], "task"),
        "![Faithfulness of each circuit on each task](faithfulness.svg)",
    ]
    if "faithfulness-own" in matrices:
        sections += [
            "## Next to the task's own circuit",
            "The same with the task's own circuit as 1.",
            _as_table(matrices["faithfulness-own"], "task"),
            "![Faithfulness next to the task's own circuit](faithfulness-own.svg)",
        ]
    for loss, text in (("kl", "KL to the full model, in nats"), ("mse", "Mean squared distance from the full model")):
        if loss in matrices:
            sections += [f"## {text}", _as_table(matrices[loss], "task")]
    if found.kinds:
        sections += ["## Kinds of tasks", *_kinds(found)]
    sections += ["## Circuits", _sizes(found)]
    if tests is not None:
        sections += ["## What they share", *_shared(overlaps, tests)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _as_table(matrix: pd.DataFrame, corner: str) -> str:
    rows = [
        [plain(str(name)), *(_number(value) for value in row)]
        for name, row in zip(matrix.index, _floats(matrix), strict=True)
    ]
    return markdown_table([corner, *(plain(str(name)) for name in matrix.columns)], rows)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _floats(matrix: pd.DataFrame) -> np.ndarray:
    return matrix.to_numpy(dtype=np.float64, na_value=np.nan)


def _sizes(found: Transfer) -> str:
    rows = []
    for name, circuit in found.circuits.items():
        share = 100 * len(circuit) / circuit.universe.n_edges
        told = circuit.provenance.get("selection")
        rule = told.get("rule", "") if isinstance(told, dict) else ""
        counts = [f"{len(circuit):,}", f"{share:.2f}", f"{len(circuit.heads):,}", f"{len(circuit.mlps):,}"]
        rows.append([plain(name), *counts, plain(str(circuit.provenance.get("task", ""))), plain(rule)])
    header = ["circuit", "edges", "% of all", "heads", "MLPs", "found for", "rule"]
    return markdown_table(header, rows, numbers=[False, True, True, True, True, False, False])


def _kinds(found: Transfer) -> list[str]:
    named = ", ".join(f"{plain(task)}: {plain(kind)}" for task, kind in found.groups.items())
    rows = [
        [
            plain(kind),
            _number(test.within),
            _number(test.across),
            _number(test.difference),
            f"{test.p:.3f}",
            str(test.n_ways),
        ]
        for kind, test in found.kinds.items()
    ]
    return [
        f"{named}. {_KINDS}",
        markdown_table(["within", "mean within", "mean across", "difference", "p", "ways"], rows),
    ]


def _shared(overlaps: Mapping[str, pd.DataFrame], tests: pd.DataFrame) -> list[str]:
    parts = []
    for name, (title, meaning) in _OVERLAPS.items():
        parts += [f"**{title}**: {meaning.replace('|', chr(92) + '|')}.", _as_table(overlaps[name], "circuit")]
    parts.append("![IoU of the circuits](iou.svg)")
    rows = [
        [plain(row["a"]), plain(row["b"]), plain(row["null"]), str(row["intersection"]), f"{row['expected']:.1f}",
         f"{row['ratio']:.2f}", f"{row['log10_p_adjusted']:.1f}"]
        for row in tests.to_dict("records")
    ]  # fmt: skip
    header = ["A", "B", "null model", "shared", "expected", "ratio", "log10 p (Holm)"]
    parts += [
        _TESTED,
        markdown_table(header, rows, numbers=[False, False, False, True, True, True, True]),
    ]
    return parts

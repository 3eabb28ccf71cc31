"""Several seeds and sparsities summed up: tables over seeds, a figure and a report, from a folder that was trained.

Works on what `circuitgraph discover --seeds` and `pruning.discover_seeds` leave in a folder: `sweep.json`, `front.csv`
and the circuits of every seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.columns import grouped, numbers_in, require_columns
from analysis.figures.front import front_figure
from analysis.figures.style import save_figure
from analysis.markdown import plain
from analysis.markdown import table as markdown_table
from analysis.seeds import seed_intervals, stability_table
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.errors import CircuitFormatError
from circuitgraph.files.atomic_file import write_atomically
from circuitgraph.files.csv_text import csv_text

MEASURES = ("kl", "mse", "exact_match", "accuracy", "n_edges", "n_heads", "n_mlps")
"""What is summed up over seeds."""
STABILITY = ("mean_pairwise_iou", "chance_corrected")
"""How much seeds agree, as `analysis.stability_table` has it."""
_CALLED = {
    "kl": "KL (nats)", "mse": "squared error", "exact_match": "exact match", "accuracy": "accuracy", "n_edges": "edges",
    "n_heads": "heads", "n_mlps": "MLPs",
}  # fmt: skip
_ON_FAITHFULNESS = (
    "*One seed*: mean over the circuits of single seeds, and its 95 % interval over seeds (Student's t). *Consensus*: "
    "the edges that most seeds keep, as many as a seed's circuit has. *Averaged scores*: the edges with the highest "
    "scores, averaged over seeds. Both are one circuit each. All figures are in `summary.csv`, and every circuit's, "
    "with intervals over prompts, in `front.csv`."
)
_ON_STABILITY = (
    "*IoU*: the mean Jaccard index of pairs of seeds. *Beyond chance*: 1 where all agree, 0 for random sets of the "
    "same size (Nogueira, Sechidis and Brown 2018). Intervals by the jackknife over seeds; they need three."
)
_ALWAYS = "Seeds vary the training alone: prompts, model and recipe are the same. Nothing is said of other prompts."
_WHICH = {"seed": "one seed", "consensus": "consensus", "averaged": "averaged scores"}


@dataclass(frozen=True, kw_only=True)
class SweepTables:
    """Several seeds, summed up.

    Attributes:
        summary: As of `sweep_summary`.
        stability: As of `sweep_stability`.
    """

    summary: pd.DataFrame
    stability: pd.DataFrame


def sweep_summary(front: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """Measures over seeds, by sparsity.

    Args:
        front: A row per circuit, with `which`, `sparsity` and measures, as `front.csv` has it.
        confidence: How often an interval is to hold the true mean over seeds.

    Returns:
        One row per which (`seed`: the circuits of single seeds; `consensus`, `averaged`: one circuit of all of them),
        sparsity and measure, with the columns `which` (str), `sparsity` (float64), `measure` (str), `n` (int64,
        circuits), `mean`, `min`, `max` (float64), and `sd`, `low`, `high` (Float64): Student's interval, see
        `analysis.seed_intervals`, missing where there is one circuit.

    Raises:
        UnknownNameError: A column is missing.
        ConfigurationError: The table is empty, or a number is missing.

    Examples:
        >>> front = pd.DataFrame({"which": ["seed", "seed", "averaged"], "sparsity": [0.9] * 3})
        >>> front["kl"], front["n_edges"] = [0.1, 0.3, 0.1], [9, 9, 8]
        >>> print(sweep_summary(front).drop(columns=["low", "high"]).round(3).to_string(index=False))
           which  sparsity measure  n  mean  min  max    sd
            seed       0.9      kl  2   0.2  0.1  0.3 0.141
            seed       0.9 n_edges  2   9.0  9.0  9.0   0.0
        averaged       0.9      kl  1   0.1  0.1  0.1  <NA>
        averaged       0.9 n_edges  1   8.0  8.0  8.0  <NA>
    """
    require_columns(front, others=["which", "sparsity"])
    measures = [name for name in MEASURES if name in front and bool(front[name].notna().any())]
    by = ["which", "sparsity"]
    found = seed_intervals(front, measures, by=by, confidence=confidence)
    ends = [
        {**dict(zip(by, key, strict=True)), "measure": name, "min": numbers_in(rows, name).min(),
         "max": numbers_in(rows, name).max()}
        for key, rows in grouped(front, by)
        for name in measures
    ]  # fmt: skip
    table = found.merge(pd.DataFrame(ends), on=[*by, "measure"], validate="1:1")
    return table.reindex(columns=[*by, "measure", "n", "mean", "min", "max", "sd", "low", "high"])


def sweep_stability(circuits: Mapping[float, Sequence[Circuit]], *, confidence: float = 0.95) -> pd.DataFrame:
    """How much the circuits of several seeds agree, by sparsity.

    Args:
        circuits: The seeds' circuits, by sparsity; sparsities with one circuit are left out.
        confidence: How often an interval is to hold the true value.

    Returns:
        A row per sparsity and measure, with the column `sparsity` and those of `analysis.stability_table`, of which it
        has `mean_pairwise_iou` (Jaccard) and `chance_corrected`.

    Examples:
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> a = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> b = Circuit.from_edges(universe, ["input->logits", "input->m0", "m0->logits"])
        >>> print(sweep_stability({0.9: [a, b, b]})[["sparsity", "measure", "value"]].round(3).to_string(index=False))
         sparsity           measure  value
              0.9 mean_pairwise_iou  0.778
              0.9  chance_corrected  0.812
    """
    parts = []
    for sparsity, several in circuits.items():
        if len(several) < 2:
            continue
        found = stability_table(list(several), confidence=confidence)
        found.insert(0, "sparsity", float(sparsity))
        parts.append(found[found["measure"].isin(STABILITY)])
    if not parts:
        return pd.DataFrame(columns=["sparsity", "measure", "value", "low", "high", "note"])
    return pd.concat(parts, ignore_index=True)


def write_sweep(folder: str | Path) -> SweepTables:
    """Sum up the seeds of a folder: `summary.csv`, `stability.csv`, `front.png` and `report.md` in it.

    Args:
        folder: What `circuitgraph discover --seeds` or `pruning.discover_seeds` left.

    Returns:
        The tables.

    Raises:
        CircuitFormatError: It is no such folder, is not finished, or lacks a file.
        OutputError: A file cannot be written.
    """
    folder = Path(folder)
    about = _about(folder)
    try:
        front = pd.read_csv(folder / "front.csv", dtype={"seed": "Int64"})
    except (OSError, ValueError) as error:
        raise CircuitFormatError(f"{folder / 'front.csv'} cannot be read: {error}") from error
    tables = SweepTables(summary=sweep_summary(front), stability=sweep_stability(_circuits(folder, about)))
    write_atomically(folder / "summary.csv", csv_text(tables.summary))
    write_atomically(folder / "stability.csv", csv_text(tables.stability))
    save_figure(front_figure(_to_draw(front), by="circuit"), folder / "front.png", dpi=150)
    write_atomically(folder / "report.md", _report(about, front, tables))
    return tables


# -------------------------------------------------------------------- reading


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "sweep.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitFormatError(
            f"{path}: cannot be read: {error.strerror}; expected what discover --seeds leaves"
        ) from error
    except ValueError as error:
        raise CircuitFormatError(f"{path}: no complete JSON ({error}); is it still being written?") from error
    if not isinstance(about, dict) or not about.get("finished"):
        raise CircuitFormatError(f"{path}: not all of its trainings are done; let it go on first")
    return about


def _circuits(folder: Path, about: Mapping[str, Any]) -> dict[float, list[Circuit]]:
    """The seeds' circuits by sparsity."""
    found: dict[float, list[Circuit]] = {sparsity: [] for sparsity in about["sparsities"]}
    for training in about["trainings"]:
        for name, sparsity in training["files"].items():
            found[sparsity].append(Circuit.load(folder / training["folder"] / name))
    return found


def _to_draw(front: pd.DataFrame) -> pd.DataFrame:
    """The rows without their intervals over prompts, which beside a band over seeds would say something else."""
    bounds = [name for name in front if str(name).endswith(("_low", "_high"))]
    names = {"seed": "seeds (mean, range)", "consensus": "consensus", "averaged": "averaged"}
    return front.drop(columns=bounds).assign(circuit=[names[which] for which in front["which"]])


# -------------------------------------------------------------------- the report


def _report(about: Mapping[str, Any], front: pd.DataFrame, tables: SweepTables) -> str:
    """The report's text."""
    seeds, task, model = about["seeds"], about["task"], about["model"]
    counted = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"
    trained = f"{len(about['trainings'])} trainings" if len(about["trainings"]) > 1 else "one training"
    how = "each seed's ranking is cut at each sparsity" if about["ranks_for_all"] else "a training for each sparsity"
    measured = f"{front['n'].iloc[0]:,} {about['split']} prompts, the same for all circuits"
    parts = [
        f"# {plain(task)} in {plain(model)}: {counted}",
        f"{trained} by the recipe `{about['recipe']['name']}`; {how}. Measured on {measured}.",
        "## How faithful",
        _faithfulness(tables.summary),
        _ON_FAITHFULNESS,
        "![measures over edges kept](<front.png>)",
    ]
    if len(tables.stability):
        parts += ["## How much seeds agree", _stability(tables.stability), _ON_STABILITY]
    else:
        parts.append("There is one seed, so nothing says how much another training would differ.")
    against = [f"- `{one['folder']}`: {plain(text)}" for one in about["trainings"] for text in one.get("verdicts", ())]
    if against:
        parts += ["## What the figures say against single results", "\n".join(against)]
    return "\n\n".join([*parts, _ALWAYS]) + "\n"


def _faithfulness(summary: pd.DataFrame) -> str:
    """A row per sparsity and kind of circuit, a column per measure."""
    measures = list(dict.fromkeys(summary["measure"]))
    rows = []
    for sparsity in sorted(dict.fromkeys(summary["sparsity"])):
        for which, called in _WHICH.items():
            mine = summary[(summary["sparsity"] == sparsity) & (summary["which"] == which)].set_index("measure")
            if len(mine):
                rows.append([f"{sparsity:g}", called, *(_with_bounds(mine.loc[name], name) for name in measures)])
    header = ["sparsity", "circuit", *(_CALLED[name] for name in measures)]
    return markdown_table(header, rows, numbers=[False, False, *[True] * len(measures)])


def _stability(stability: pd.DataFrame) -> str:
    rows = []
    for sparsity, found in stability.groupby("sparsity"):
        by_name = found.set_index("measure")
        rows.append([f"{sparsity:g}", *(_with_bounds(by_name.loc[name], name, "value") for name in STABILITY)])
    return markdown_table(["sparsity", "IoU", "beyond chance"], rows)


def _with_bounds(row: Any, measure: str, column: str = "mean") -> str:
    """A figure with its interval, where it has one."""
    digits = 1 if measure.startswith("n_") else 3
    told = "–" if pd.isna(row[column]) else f"{row[column]:,.{digits}f}"
    if measure.startswith("n_") or pd.isna(row["low"]):
        return told
    return f"{told} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"

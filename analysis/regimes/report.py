"""The report of a comparison of regimes, in Markdown: what was found, and what may and may not be concluded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.columns import grouped
from analysis.drawing.caption import name_in
from analysis.markdown import code, plain, table
from analysis.regimes.case_study import CONSENSUS, case_study_markdown
from circuitgraph.files.atomic_file import write_atomically

if TYPE_CHECKING:
    from analysis.regimes.comparison import RegimeComparison

_LEVEL = 0.05
_TOP = 12

_ON_FAITHFULNESS = (
    "Every circuit on the test prompts of every regime: mean ± standard deviation over seeds. Differences "
    "hold the edges of one regime's circuit that no other has; most of what such a set needs is shared, so "
    "few of its edges lead anywhere by themselves. Random circuits have as many edges between each pair of "
    "layers."
)
_ON_YARDSTICK = (
    "Mean IoU of pairs of circuits of different seeds. *Within a regime* is the yardstick: two trainings that "
    "differ in their seed alone. *p* is the share of all ways of exchanging regimes within seeds that give at "
    "least this difference; with so few seeds it cannot be below *smallest p*, whatever the circuits. The "
    "levels are four views of the same circuits, and their p-values are not adjusted for being four."
)
_ON_NULLS = (
    "Every two circuits against the null models; Holm's adjustment is over all pairs of a level and null. "
    "Rejecting *hypergeometric* says next to nothing; *stratified*: more than the same layers and kinds; "
    "*degree-preserving*: more than the same hubs. The tests of the consensus circuits are in "
    "`tables/consensus_tests.csv`."
)
_ON_STRATA = (
    "*Leaning*: of the private edges, those of a. *Private*: of all edges, those that only one regime has. "
    "Edges of a circuit do not come independently of each other, so these p-values say where to look, not "
    "more."
)
_ONE_SEED = (
    "There is one seed a regime, so nothing says how much two trainings of one regime share: whether the "
    "regimes differ at all **cannot be concluded**."
)
_ALWAYS = (
    (
        "Seeds here vary the training alone: prompts, model and recipe are the same for all. Nothing is said "
        "about other prompts, models or sparsities."
    ),
    (
        "A circuit is one set of edges that suffices, found by one method at one size; another may suffice too. "
        "Edges that are not shared are not thereby mechanisms that are not shared."
    ),
    (
        "Overlap above every null says that circuits agree beyond size, layers and hubs; it does not say that "
        "shared edges carry the same information in both regimes. The rows of circuit × regime are the evidence "
        "for that: an intersection that is faithful on both regimes, and a circuit that is faithful on the "
        "other's prompts."
    ),
    "Which of two circuits is more faithful depends on their sizes, which are in the table.",
)


def write_regime_report(path: str | Path, found: RegimeComparison) -> Path:
    """Write the report.

    Args:
        path: The Markdown file; pictures are linked in `figures` and `drawings` beside it, where they are there.
        found: The comparison.

    Returns:
        The path.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    sections = [
        _heading(found),
        _verdicts(found),
        _asked(found),
        _faithfulness(found, path.parent),
        _yardstick(found),
        _nulls(found),
        _strata(found, path.parent),
        _modules(found),
        _drawings(found, path.parent),
        _conclusions(found),
    ]
    return write_atomically(path, "\n\n".join(section for section in sections if section) + "\n")


def _verdicts(found: RegimeComparison) -> str:
    """What the figures say against the circuits, before anything is concluded from them."""
    if not found.verdicts:
        return ""
    lines = (
        f"- **{one['severity']}** (seeds {', '.join(one['seeds'])}): {plain(one['text'])}" for one in found.verdicts
    )
    return "\n".join(("## What speaks against the circuits", "", *lines))


def _heading(found: RegimeComparison) -> str:
    names = " against ".join(plain(regime) for regime in found.circuits.regimes)
    row = _row(found.yardstick, "edges")
    across = row["across"] if _known(row["across"]) else row["across_same_seed"]
    text = f"Circuits of two regimes share on average {_share(across)} of their edges (IoU)"
    text += f"; circuits of one regime and different seeds {_share(row['within'])}." if _known(row["within"]) else "."
    return f"# {names}\n\n{text}"


def _asked(found: RegimeComparison) -> str:
    circuits, rows = found.circuits, []
    for regime, by_seed in circuits.by_seed.items():
        provenance = next(iter(by_seed.values())).provenance
        sizes = ", ".join(f"{len(circuit):,}" for circuit in by_seed.values())
        told = [name_in(provenance, field) or "–" for field in ("task", "recipe", "model")]
        rows.append(
            [plain(regime), *map(plain, told), ", ".join(by_seed), sizes, f"{len(circuits.consensus[regime]):,}"]
        )
    header = ["regime", "task", "recipe", "model", "seeds", "edges, seed by seed", "edges of the consensus"]
    text = (
        f"The universe has {circuits.universe.n_edges:,} edges. The consensus circuit of a regime has the edges that "
        f"at least {100 * circuits.threshold:.0f} % of its seeds keep."
    )
    return f"## What was compared\n\n{table(header, rows)}\n\n{text}"


def _faithfulness(found: RegimeComparison, folder: Path) -> str:
    if found.metrics is None:
        return ""
    parts = ["## Circuit × regime", _ON_FAITHFULNESS, case_study_markdown(found.metrics)]
    if found.has_consensus:
        parts += ["The consensus circuits:", case_study_markdown(found.metrics, over=CONSENSUS)]
    names = [f"faithfulness-{name}" for name in ("kl", "mse", "accuracy", "exact-match")]
    return "\n\n".join([*parts, *_pictures(folder / "figures", names)])


def _yardstick(found: RegimeComparison) -> str:
    header = [
        "level",
        "within a regime",
        "across",
        "across / within",
        "within − across",
        "95 % interval",
        "p",
        "smallest p",
    ]
    rows = []
    for row in _records(found.yardstick):
        interval = f"{row['low']:.3f} to {row['high']:.3f}" if _known(row["low"]) else "–"
        cells = [_share(row[name]) for name in ("within", "across", "ratio", "difference")]
        rows.append([plain(row["level"]), *cells, interval, _p(row["p"]), _p(row["smallest_p"])])
    note = next((row["note"] for row in _records(found.yardstick) if row["note"]), "")
    title = "## The yardstick: within a regime, and across"
    return "\n\n".join([title, _ON_YARDSTICK, table(header, rows), plain(note)]).rstrip()


def _nulls(found: RegimeComparison) -> str:
    rows = []
    for (level, null), tests in grouped(found.tests, ["level", "null"]):
        for pair in ("within", "across"):
            mine = tests.loc[np.asarray(tests["pair"] == pair)]
            if not len(mine):
                continue
            ratio, adjusted = mine["ratio"].to_numpy(dtype=float), mine["log10_p_adjusted"].to_numpy(dtype=float)
            significant = int((adjusted <= np.log10(_LEVEL)).sum())
            spread = f"{ratio.min():.2f} to {ratio.max():.2f}"
            told = f"{significant} of {len(mine)}"
            rows.append([plain(level), plain(null), pair, spread, told, _power(adjusted.max())])
    header = ["level", "null", "pairs", "observed / expected", f"more than chance at {_LEVEL}", "largest p (Holm)"]
    return f"## More than chance?\n\n{_ON_NULLS}\n\n{table(header, rows)}"


def _strata(found: RegimeComparison, folder: Path) -> str:
    header = [
        "by",
        "stratum",
        "shared",
        "only a",
        "only b",
        "leaning to a",
        "p (Holm)",
        "private",
        "p (Holm)",
        "seeds agreeing",
    ]
    parts = ["## Where they differ"]
    for (a, b), rows in grouped(found.differences, ["a", "b"]):
        chosen = [row for row in _records(rows) if min(row["leaning_p_adjusted"], row["private_p_adjusted"]) <= _LEVEL]
        parts.append(f"a: {plain(a)}; b: {plain(b)}. Strata that differ from all others together at {_LEVEL} (Holm):")
        cells = [
            [
                plain(row["by"].replace("_", " ")), plain(row["stratum"]),
                *(f"{row[name]:,}" for name in ("shared", "only_a", "only_b")),
                _percent(row["leaning"]), _p(row["leaning_p_adjusted"]),
                _percent(row["private_share"]), _p(row["private_p_adjusted"]),
                f"{row['seeds_agreeing']} of {row['n_seeds']}" if _known(row["seeds_agreeing"]) else "–",
            ]
            for row in chosen
        ]  # fmt: skip
        parts.append(table(header, cells) if cells else "None.")
    parts.append(_ON_STRATA)
    names = [f"shared-private-{name}" for name in ("reader-layer", "writer-layer", "reader-kind")]
    return "\n\n".join([*parts, *_pictures(folder / "figures", names)])


def _modules(found: RegimeComparison) -> str:
    regimes = found.circuits.regimes
    chosen = [row for row in _records(found.modules) if row["spread"] == 1.0]
    n_whole = len(chosen)
    rows = [
        [code(row["module"]), *(f"{row[f'seeds: {regime}']} ({row[f'edges: {regime}']})" for regime in regimes)]
        for row in chosen[:_TOP]
    ]
    if not rows:
        return "## Heads and MLPs\n\nNo head or MLP is in all circuits of one regime and in none of another."
    header = ["module", *(f"{plain(regime)}: seeds (edges out)" for regime in regimes)]
    more = f" The first {_TOP} of them, by layer:" if n_whole > _TOP else ""
    few = " With few seeds some would be so by chance." if len(found.circuits.seeds or []) < 5 else ""
    text = f"{n_whole} heads and MLPs are in all circuits of one regime and in none of another.{few}{more}"
    return f"## Heads and MLPs\n\n{text}\n\n{table(header, rows)}"


def _drawings(found: RegimeComparison, folder: Path) -> str:
    pictures = _pictures(folder / "drawings", ["side-by-side", "overlay"])
    return "\n\n".join(["## Drawings", *pictures]) if pictures else ""


def _conclusions(found: RegimeComparison) -> str:
    row = _row(found.yardstick, "edges")
    lines = [_on_difference(row), *_ALWAYS]
    return "## What may be concluded, and what not\n\n" + "\n".join(f"- {line}" for line in lines)


def _on_difference(row: dict[str, Any]) -> str:
    """Whether the regimes differ by more than their seeds, in a sentence."""
    if not _known(row["within"]):
        return _ONE_SEED
    p, smallest = _p(row["p"]), _p(row["smallest_p"])
    if row["p"] <= _LEVEL and row["difference"] > 0:
        return f"The regimes' circuits differ by more than their seeds do (edges, p = {p})."
    if row["smallest_p"] > _LEVEL:
        return (
            f"With these seeds no difference could be significant (the smallest possible p is {smallest}): the "
            f"difference of {_share(row['difference'])} in edge IoU is a measurement, **not a test that was passed**. "
            "More seeds would make it one."
        )
    return f"That the regimes' circuits differ by more than their seeds do was **not shown** (edges, p = {p})."


# -------------------------------------------------------------------- cells


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def _row(frame: pd.DataFrame, level: str) -> dict[str, Any]:
    return next(row for row in _records(frame) if row["level"] == level)


def _known(value: Any) -> bool:
    return not pd.isna(value)


def _share(value: Any) -> str:
    return f"{value:.3f}" if _known(value) else "–"


def _percent(value: Any) -> str:
    return f"{100 * value:.0f} %" if _known(value) else "–"


def _p(value: Any) -> str:
    if not _known(value):
        return "–"
    return f"{value:.3g}" if value >= 1e-4 else f"{value:.1e}"


def _power(log10_p: float) -> str:
    """A p-value from its logarithm, which may be too small to be a number.

    Examples:
        >>> _power(-0.30103), _power(-700.0)
        ('0.5', '< 1e-300')
    """
    return _p(10.0**log10_p) if log10_p > -300 else "< 1e-300"


def _pictures(folder: Path, names: list[str]) -> list[str]:
    there = [name for name in names if (folder / f"{name}.svg").exists()]
    return [f"![{name.replace('-', ' ')}](<{folder.name}/{name}.svg>)" for name in there]

"""A circuit's report in Markdown: what was asked, how large the circuit is, how faithful, what is in it.

Written from plain data, a `Circuit`, the metrics of `metrics.json` and the curve, so that a report can be
written again long after the run, without the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.drawing.caption import name_in, parts_of
from analysis.markdown import code, plain, table
from analysis.measure_text import METRICS
from analysis.report_effects import edges_section, effects_section
from analysis.report_faithfulness import TOLD, faithfulness_section, front_section, with_interval
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.strength import LOG_ALPHA
from circuitgraph.files.atomic_file import write_atomically

if TYPE_CHECKING:
    import pandas as pd

_ASKED = (
    "model", "revision", "task", "recipe", "objective", "ablation", "target_sparsity", "steps",
    "batch_size", "seed", "device", "dtype",
)  # fmt: skip
_TABLES = {
    "recipe": "recipe settings",
    "settings": "method settings",
    "selection": "selection of edges",
    "warm_start": "warm start by",
    "survivors": "survivors by",
}
"""Tables of the provenance that say what was asked, with their names in the report."""
_NOT_IN_TABLES = ("name", "summary", "scores")
_KINDS = {
    "q": "query",
    "k": "key",
    "v": "value",
    "qkv": "query, key, value",
    "mlp": "MLP",
    "logits": "logits",
}


def write_report(
    path: str | Path,
    circuit: Circuit,
    metrics: Mapping[str, Any],
    *,
    command: str | None = None,
    picture: str | Path | None = None,
    explorer: str | Path | None = None,
    curve_picture: str | Path | None = None,
    curve: pd.DataFrame | str | Path | None = None,
    diagnoses: Sequence[str] = (),
    missing: Mapping[str, str] | None = None,
    again: str | None = None,
    top: int = 15,
) -> Path:
    """Write the report.

    Args:
        path: The Markdown file to write.
        circuit: The circuit; its provenance says what was asked.
        metrics: As in `metrics.json`: `splits`, then a split, then `circuit`, `full`, `empty`, `complement`
            and `random` with their figures (`kl_sd` is the spread of `kl`); `seconds`, `peak_rss_bytes`.
        command: The command line or call that produced the circuit.
        picture: The circuit's drawing, shown if it is a PNG or SVG and linked otherwise.
        explorer: The circuit's page from `write_explorer`, linked.
        curve_picture: The curve's picture.
        curve: The curve, or its CSV file, of which a few rows are shown.
        diagnoses: What went wrong or looks doubtful, one text each.
        missing: Why a part of the result is not there, by part.
        again: The command that makes what is missing.
        top: How many heads and edges to list.

    Returns:
        The path.

    Raises:
        OutputError: The file cannot be written.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from circuitgraph import Universe
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->m0", "m0->logits"])
        >>> with TemporaryDirectory() as folder:
        ...     report = write_report(Path(folder) / "report.md", circuit, {"splits": {}})
        ...     report.read_text().partition(chr(10))[0]
        '# Circuit of gpt2'
    """
    path = Path(path)
    sections = [
        _heading(circuit, metrics),
        _verdicts(metrics),
        _missing(missing or {}, again),
        faithfulness_section(metrics),
        front_section(metrics, picture="front.png" if (path.parent / "front.png").is_file() else None),
        _parts(circuit, metrics, top),
        _edges(circuit, metrics, top),
        _size(circuit),
        _picture("## Picture", picture, path.parent, "the circuit"),
        _picture("## Explorer", explorer, path.parent, "All its edges, to look around in with a browser"),
        _curve(curve, curve_picture, path.parent),
        _diagnoses(diagnoses),
        _preflight(metrics),
        _asked(circuit, command),
        _cost(metrics),
    ]
    return write_atomically(path, "\n\n".join(section for section in sections if section) + "\n")


def _heading(circuit: Circuit, metrics: Mapping[str, Any]) -> str:
    provenance = circuit.provenance
    model, task = name_in(provenance, "model") or circuit.universe.family, name_in(provenance, "task")
    counts = circuit.sparsity
    text = (
        f"The circuit keeps {len(circuit):,} of {counts['n_universe']:,} edges "
        f"({100 * counts['effective']:.2f} % are cut), in {parts_of(circuit)}."
    )
    for split in ("test", "validation"):
        figures = metrics.get("splits", {}).get(split, {}).get("circuit", {})
        told = [
            f"{METRICS[name]} {with_interval(name, figures)}"
            for name in METRICS
            if figures.get(name) is not None and name in TOLD
        ]
        if told:
            n = f" ({figures['n']:,} prompts)" if figures.get("n") else ""
            text += f" On the {split} split{n}: {', '.join(told)}."
            break
    return f"# Circuit of {plain(model)}" + (f" for {plain(task)}" if task else "") + f"\n\n{text}"


def _verdicts(metrics: Mapping[str, Any]) -> str:
    """What the figures say against the run, first of all."""
    found = metrics.get("verdicts")
    if found is None:
        return ""
    if not found:
        return (
            "## Verdicts\n\nNo check speaks against the circuit. The checks look for figures that mean nothing; how "
            "faithful the circuit is, the figures below say."
        )
    return "## Verdicts\n\n" + "\n".join(f"- **{plain(one['severity'])}**: {plain(one['text'])}" for one in found)


def _preflight(metrics: Mapping[str, Any]) -> str:
    """What the check before training found of the model, as far as it is single values."""
    found = metrics.get("preflight")
    if not isinstance(found, Mapping):
        return ""
    seen = found.get("behaviour")
    seen = seen if isinstance(seen, Mapping) else {}
    rows = [
        [words, plain(f"{seen[name]:,.4g}")]
        for name, words in _SEEN.items()
        if isinstance(seen.get(name), (int, float)) and (seen[name] or name not in _SEEN_IF_ANY)
    ]
    if isinstance(seen.get("cut"), (int, float)):
        rows.append([_everything_cut(seen.get("metric"), found.get("ablation")), plain(f"{seen['cut']:,.4g}")])
    if not rows:
        return ""
    heading = "## Before training\n\nThe full model on a sample of the prompts."
    return heading + "\n\n" + table(["", "value"], rows).replace("---:", ":---")


_SEEN = {
    "n": "prompts that it was run on",
    "n_undefined": "… whose outputs are not finite numbers",
    "accuracy": "accuracy (share of prompts)",
    "answer_probability": "probability of the answer, mean",
    "other_spacing": "prompts whose likeliest token is the answer but for spaces",
}
_SEEN_IF_ANY = ("n_undefined", "other_spacing")


def _everything_cut(metric: object, ablation: object) -> str:
    """What the distance between the full model and the model with every edge cut is called."""
    if metric == "mse":
        return "mean squared error with every edge cut"
    if ablation == "counterfactual":
        return "KL (nats) between its outputs on the prompt and on the counterfactual"
    return "KL (nats) with every edge cut"


def _missing(missing: Mapping[str, str], again: str | None) -> str:
    """Which parts of the result are not there, and how to come by them."""
    if not missing:
        return ""
    rows = "\n".join(f"- **{plain(part)}**: {plain(reason)}" for part, reason in missing.items())
    how = f"\n\nThis makes them:\n\n{code(again)}" if again else ""
    return f"## What is missing\n\n{rows}{how}"


def _asked(circuit: Circuit, command: str | None) -> str:
    provenance = circuit.provenance
    # Time and memory have a section of their own.
    known = (*_ASKED, "seconds")
    rest = [name for name, value in provenance.items() if name not in known and not isinstance(value, (dict, list))]
    rows = []
    for name in (*_ASKED, *rest):
        value = name_in(provenance, name)
        if value is not None:
            rows.append([plain(name.replace("_", " ")), plain(value)])
    tables = {words: provenance.get(name) for name, words in _TABLES.items()}
    for name, values in {**tables, "universe": circuit.universe.to_dict()}.items():
        if isinstance(values, Mapping):
            told = {key: value for key, value in values.items() if key not in _NOT_IN_TABLES}
            rows.append([name, plain(", ".join(f"{k} {v}" for k, v in told.items() if v is not None))])
    asked = "## What was asked\n\n"
    if command:
        asked += f"{code(command)}\n\n"
    return asked + table(["", "value"], rows).replace("---:", ":---")


def _diagnoses(diagnoses: Sequence[str]) -> str:
    if not diagnoses:
        return "## Diagnoses\n\nNothing to report."
    return "## Diagnoses\n\n" + "\n".join(f"- {plain(text)}" for text in diagnoses)


def _size(circuit: Circuit) -> str:
    counts, universe = circuit.sparsity, circuit.universe
    by_kind = _edges_by_kind(circuit)
    parts = [
        ("edges kept (raw)", counts["n_raw"], counts["n_universe"]),
        ("edges kept (effective)", len(circuit), counts["n_universe"]),
        *((f"… into {label}", *by_kind[kind]) for kind, label in _KINDS.items() if kind in by_kind),
        ("heads", len(circuit.heads), int((universe.writer_kinds == "head").sum())),
        ("MLPs", len(circuit.mlps), int((universe.writer_kinds == "mlp").sum())),
    ]
    rows = [[label, f"{kept:,}", f"{total:,}", f"{100 * (1 - kept / total):.2f} %"] for label, kept, total in parts]
    note = (
        "Raw counts the edges that were kept at first; effective leaves out those that dangle under "
        f"{circuit.ablation} ablation and so change nothing. All else here is about the effective ones."
    )
    return "## Size\n\n" + table(["", "kept", "of", "cut"], rows) + f"\n\n{note}"


def _edges_by_kind(circuit: Circuit) -> dict[str, tuple[int, int]]:
    """Kept edges and all edges of every kind that the universe has."""
    universe = circuit.universe
    sizes = universe.reader_offsets[1:] - universe.reader_offsets[:-1]
    return {
        str(kind): (circuit.kinds.count(str(kind)), int(sizes[universe.reader_kinds == kind].sum()))
        for kind in dict.fromkeys(universe.reader_kinds.tolist())
    }


# -------------------------------------------------------------------- faithfulness


# -------------------------------------------------------------------- contents


def _parts(circuit: Circuit, metrics: Mapping[str, Any], top: int) -> str:
    found = metrics.get("effects")
    return effects_section(found, top) if isinstance(found, Mapping) else _heads(circuit, top)


def _heads(circuit: Circuit, top: int) -> str:
    """Heads by the sum of the strengths of the edges in and out."""
    graph, strengths = circuit.graph, dict(zip(circuit, circuit.strengths.tolist(), strict=True))
    ranked = []
    for head in circuit.heads:
        into = [f"{u}->{v}" for reader in graph.pred[head] for u, v in graph.in_edges(reader)]
        out = [f"{u}->{v}" for u, v in graph.out_edges(head)]
        ranked.append((sum(strengths[name] for name in into + out), head, into, out))
    ranked.sort(key=lambda row: -row[0])
    rows = [
        [
            code(head),
            f"{total:.3f}",
            str(len(into)),
            str(len(out)),
            _strongest(into, strengths),
            _strongest(out, strengths),
        ]
        for total, head, into, out in ranked[:top]
    ]
    if not rows:
        return "## Heads by the scores of their edges\n\nThe circuit has no heads."
    note = (
        f"{min(top, len(ranked))} of {len(ranked)} heads, by the sum of the {_strength_words(circuit)} of their edges: "
        "mostly a matter of how many edges they have. Effects were not measured; "
        "`circuitgraph evaluate --effects 150` does."
    )
    if circuit.universe.grouped:
        note += " A key or value edge shared by several heads counts for each of them."
    header = ["head", "Σ strength", "in", "out", "strongest in", "strongest out"]
    return f"## Heads by the scores of their edges\n\n{note}\n\n" + table(header, rows)


def _strength_words(circuit: Circuit) -> str:
    return "strengths, log(1 + exp(score))," if circuit.score_meaning == LOG_ALPHA else "absolute scores"


def _strongest(edges: list[str], strengths: Mapping[str, float]) -> str:
    return code(max(edges, key=lambda edge: strengths[edge])) if edges else "–"


def _edges(circuit: Circuit, metrics: Mapping[str, Any], top: int) -> str:
    found = metrics.get("effects")
    if isinstance(found, Mapping) and found["edges"]:
        return edges_section(circuit, found, top)
    order = np.argsort(-circuit.strengths, kind="stable")[:top].tolist()
    names = list(circuit)
    rows = [[code(names[i]), _KINDS[circuit.kinds[i]], f"{circuit.scores[i]:.4f}"] for i in order]
    if not rows:
        return "## Strongest edges\n\nThe circuit is empty."
    by = "score" if circuit.score_meaning == LOG_ALPHA else "absolute score"
    note = f"{len(rows)} of {len(circuit):,} edges, by {by}, which is no measured effect."
    return f"## Strongest edges\n\n{note}\n\n" + table(["edge", "into", "score"], rows)


# -------------------------------------------------------------------- pictures, curve, cost


def _picture(heading: str, picture: str | Path | None, folder: Path, label: str) -> str:
    if picture is None:
        return ""
    # Angle brackets let a Markdown link hold spaces and parentheses.
    target = os.path.relpath(picture, folder).replace("<", "%3C").replace(">", "%3E")
    shown = "!" if Path(picture).suffix.lower() in (".png", ".svg") else ""
    return f"{heading}\n\n{shown}[{plain(label)}](<{target}>)".strip()


def _curve(curve: pd.DataFrame | str | Path | None, picture: str | Path | None, folder: Path) -> str:
    parts = ["## Curve"]
    if picture is not None:
        parts.append(_picture("", picture, folder, "sparsity and faithfulness over the steps"))
    if curve is not None:
        import pandas as pd

        frame = curve if isinstance(curve, pd.DataFrame) else pd.read_csv(curve)
        if len(frame):
            parts.append(_curve_rows(frame))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _curve_rows(frame: pd.DataFrame) -> str:
    """The first row, the last, and three between."""
    wanted = ["step", "kl", "objective", "sparsity", "target", "live_heads", "live_mlps", "undecided"]
    columns = [name for name in wanted if name in frame]
    places = sorted({round(part * (len(frame) - 1) / 4) for part in range(5)})
    rows = [
        ["–" if value != value else f"{value:,.0f}" if value == int(value) else f"{value:,.4g}" for value in row]
        for row in frame[columns].iloc[places].astype(float).itertuples(index=False)
    ]
    return table([plain(name.replace("_", " ")) for name in columns], rows)


def _cost(metrics: Mapping[str, Any]) -> str:
    told = []
    if metrics.get("seconds") is not None:
        told.append(f"{metrics['seconds']:,.0f} seconds")
    if metrics.get("peak_rss_bytes") is not None:
        told.append(f"a peak of {metrics['peak_rss_bytes'] / 2**30:.2f} GiB of memory")
    return f"## Cost\n\nThe run took {' and '.join(told)}." if told else ""

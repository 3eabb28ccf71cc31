"""A submission to MIB: a folder with one folder a task and model, in it one file of scores or up to ten of circuits.

`ioi_gpt2/importances.json` has the scores of all edges. Or each file has a circuit, called by the largest share of the
edges that it may have: `ioi_gpt2/0.05.json` at most 5 %. Files are EAP-IG's, so shares are of edges with key and value
readers per query head; those of models with over 200,000 such edges are tensors, `.pt`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from circuitgraph.circuits.formats.content import Content
from circuitgraph.circuits.formats.eap_ig import EAP_IG, eap_ig_universe
from circuitgraph.circuits.formats.eap_ig_pt import EAP_IG_PT
from circuitgraph.circuits.formats.file_format import KEPT, SCORES, FileChoices, FileFormat, refuse
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.universe import Universe

TASKS = ("ioi", "mcqa", "arithmetic-addition", "arithmetic-subtraction", "arc-easy", "arc-challenge")
MODELS = {
    "gpt2": (12, 12, 12, 768),
    "qwen2.5": (24, 14, 2, 896),
    "gemma2": (26, 8, 4, 2304),
    "llama3": (32, 32, 8, 4096),
}
"""Layers, heads, key-value heads and width of the models that there are places for."""
SIZES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of the edges: a submission has at most one circuit for each."""
IMPORTANCES = "importances"
_AS_JSON = 200_000
_PLACE = re.compile(rf"({'|'.join(TASKS)})_({'|'.join(re.escape(model) for model in MODELS)})")


def circuit_name(n_kept: int, n_edges: int) -> str:
    """The name of a circuit's file: the smallest share that it does not exceed.

    Args:
        n_kept: Edges of the circuit.
        n_edges: Edges of the universe, with key and value readers per query head.

    Raises:
        ConfigurationError: It has more than half of the edges.

    Examples:
        >>> circuit_name(1624, 32491), circuit_name(1625, 32491), circuit_name(0, 32491)
        ('0.05', '0.1', '0')
    """
    for size in SIZES:
        if n_kept <= int(size * n_edges):
            return f"{size:g}"
    raise ConfigurationError(
        f"{n_kept:,} of {n_edges:,} edges; the largest circuit of a submission has {int(SIZES[-1] * n_edges):,}"
    )


def _place(part: str | None) -> str:
    if part is None:
        raise ConfigurationError(
            "a submission has a folder for each task and model; say which with part (--part), such as ioi_gpt2"
        )
    if not _PLACE.fullmatch(part):
        raise UnknownNameError.of("task and model", part, [f"{task}_{model}" for task in TASKS for model in MODELS])
    return part


def _check_model(place: str, universe: Universe) -> int:
    """Refuse a universe of another model, and give the width of this one."""
    *right, width = MODELS[place.rpartition("_")[2]]
    found = [universe.n_layers, universe.n_heads, universe.n_kv_heads]
    if found != right:
        raise ConfigurationError(
            f"{place}: expected {right[0]} layers of {right[1]} heads and {right[2]} key-value heads; got "
            f"{found[0]}, {found[1]} and {found[2]}: another model"
        )
    return width


def _read(path: Path, universe: Universe, choices: FileChoices) -> Content:
    place, _, name = (choices.part or "").partition("/")
    inside = [path] if _PLACE.fullmatch(path.resolve().name) else _places(path)
    if place:
        inside = [folder for folder in inside if folder.resolve().name == _place(place)]
    if len(inside) != 1:
        known = ", ".join(folder.name for folder in inside or _places(path)) or "none"
        refuse(path, "folders", f"expected one of a task and model, or part (--part) to say which; there are: {known}")
    files = [file for file in sorted(inside[0].iterdir()) if file.suffix in (".json", ".pt")]
    if name:
        files = [file for file in files if file.stem == name]
    if len(files) != 1:
        known = ", ".join(file.stem for file in files) or "none"
        refuse(
            inside[0], "files", f"expected one, or part (--part {inside[0].name}/NAME) to say which; there are: {known}"
        )
    _check_model(inside[0].resolve().name, universe)
    kind = EAP_IG if files[0].suffix == ".json" else EAP_IG_PT
    return kind.read(files[0], universe, choices)


def _places(path: Path) -> list[Path]:
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _PLACE.fullmatch(folder.name)]


def _write(content: Content, choices: FileChoices) -> dict[str, bytes]:
    place = _place(choices.part)
    universe = content.universe
    choices = replace(choices, d_model=_check_model(place, universe))
    kind = EAP_IG if universe.n_edges <= _AS_JSON else EAP_IG_PT
    name = IMPORTANCES if content.kept is None else circuit_name(int(content.kept.sum()), universe.n_edges)
    made = kind.write(content, choices)
    assert isinstance(made, bytes)
    return {f"{place}/{name}{kind.suffix}": made}


def check_beside(folder: Path, names: list[str]) -> None:
    """Refuse scores beside circuits in one folder of a task and model, which a submission may not have.

    Args:
        folder: The submission.
        names: Files that are to be written, relative to it.

    Raises:
        ConfigurationError: Both would be there.
    """
    for name in names:
        place = (folder / name).parent
        others = {file.stem for file in place.glob("*") if file.suffix in (".json", ".pt")} - {Path(name).stem}
        if others and (Path(name).stem == IMPORTANCES or IMPORTANCES in others):
            raise ConfigurationError(
                f"{place} holds {', '.join(sorted(others))}, and {name} cannot be beside it: a submission has either "
                "one file of scores there, or circuits"
            )


MIB = FileFormat(
    name="mib",
    tool="a submission to the circuit track of MIB",
    source="https://github.com/hannamw/MIB-circuit-track",
    suffix="",
    holds=(SCORES, KEPT),
    meaning=EAP_IG.meaning,
    universe=eap_ig_universe,
    recognises=lambda path: path.is_dir() and bool(_PLACE.fullmatch(path.resolve().name) or _places(path)),
    read=_read,
    write=_write,
)

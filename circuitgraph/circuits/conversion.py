"""Circuits and edge scores from files of other tools, and into them.

A file of another tool is read in the universe that it is of, mapped onto the one that is wanted, and becomes a circuit
or edge scores; the way back is the same. Whatever the other side has no place for is said, line by line.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.circuits.edge_scores import ABOUT, EdgeScores
from circuitgraph.circuits.formats.content import Content, MergeRules, mapped
from circuitgraph.circuits.formats.eap_ig import eap_ig_universe
from circuitgraph.circuits.formats.file_format import KEPT, SCORES, FileChoices, FileFormat
from circuitgraph.circuits.formats.mib import MIB, check_beside
from circuitgraph.circuits.formats.registry import FORMATS, format_named, recognised_format
from circuitgraph.errors import ConfigurationError, OutputError, UnknownNameError
from circuitgraph.files.atomic_file import reason, write_atomically
from circuitgraph.graph.liveness import effective_edges
from circuitgraph.graph.spans import refuse_spans
from circuitgraph.graph.universe import Universe
from circuitgraph.graph.virtual import require_no_vectors

OWN_CIRCUIT, OWN_SCORES = "circuit", "scores"
ALL_FORMATS = (OWN_CIRCUIT, OWN_SCORES, *FORMATS)
NO_SCORES = "none: 1 for every kept edge"
_IN_FLOAT32 = ("eap-ig-pt", "auto-circuit")
_AS_IT_IS, _NO_CHOICES = MergeRules(), FileChoices()


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source: The format that was read: `circuit`, `scores` or one of another tool.
        target: The format that was written.
        files: What was written.
        n_edges: How many edges there are in all, in the universe of what was read and of what was written.
        n_kept: How many edges are kept in each, or None where these are scores.
        lost: What the file that was written does not say any more, a line each.
        notes: What else there is to know, a line each.
    """

    source: str
    target: str
    files: tuple[Path, ...]
    n_edges: tuple[int, int]
    n_kept: tuple[int, int] | None
    lost: tuple[str, ...]
    notes: tuple[str, ...] = ()


def convert_file(
    source: str | Path,
    target: str | Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    universe: Universe | None = None,
    rules: MergeRules = _AS_IT_IS,
    choices: FileChoices = _NO_CHOICES,
    overwrite: bool = False,
) -> Conversion:
    """Write what a file says in another format.

    Args:
        source: A circuit file, a folder of edge scores, or a file or folder of another tool.
        target: The file or folder to write.
        source_format: `circuit`, `scores` or a format of another tool; by default what it looks like.
        target_format: The same of the result. By default a file of another tool becomes a circuit where `target` ends
            with `.json` and scores where it has no ending, and `.pt` and `.pkl` say `eap-ig-pt` and `auto-circuit`.
        universe: The universe of the model, at the granularity of the result. Files of other tools do not say it.
        rules: What is done where edges do not match one to one.
        choices: What the formats leave open.
        overwrite: Whether an older file may be replaced.

    Returns:
        What was written, how many edges there are on both sides, and what was lost.

    Raises:
        CircuitFormatError: The source is damaged, or of another model.
        ConfigurationError: A choice is missing; the message says which.
        GraphMismatchError: Edges do not match one to one, and no rule says what to do.
        UnknownNameError: No such format, or an unknown edge.
        OutputError: The target exists, or cannot be written.

    Examples:
        >>> import tempfile
        >>> universe = Universe(family="gpt2", n_layers=1, n_heads=1, n_kv_heads=1)
        >>> folder = Path(tempfile.mkdtemp())
        >>> circuit = Circuit.from_edges(universe, {"input->m0": 2.0, "m0->logits": 1.5})
        >>> path = circuit.save(folder / "circuit.json")
        >>> done = convert_file(path, folder / "graph.pt", choices=FileChoices(d_model=8))
        >>> done.target, done.n_kept, done.lost[-1]
        ('eap-ig-pt', (2, 2), 'method, ablation and provenance')
        >>> Circuit.load(folder / "graph.pt", universe=universe) == circuit
        True
    """
    source, target = Path(source), Path(target)
    from_format = source_format or _looks_like(source)
    into = target_format or _ending(target, from_format)
    for name in (from_format, into):
        if name not in ALL_FORMATS:
            raise UnknownNameError.of("format", name, ALL_FORMATS)
    _refuse_pair(from_format, into)
    content = _content(source, from_format, universe, choices)
    if into in FORMATS:
        return _write(
            content, from_format, format_named(into), target, rules=rules, choices=choices, overwrite=overwrite
        )
    wanted = universe or content.universe
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; choose another place, or allow it to be overwritten")
    meaning = FORMATS[from_format].meaning if from_format in FORMATS else ""
    made: Circuit | EdgeScores
    if into == OWN_CIRCUIT:
        made, lost = _circuit(content, wanted, meaning, rules, choices)
        files = (made.save(target),)
    else:
        made, lost = _scores(content, wanted, meaning, rules, choices)
        folder = made.save(target, overwrite=overwrite)
        files = tuple(folder / name for name in made.files())
    return Conversion(
        source=from_format, target=into, files=files, n_edges=(content.universe.n_edges, wanted.n_edges),
        n_kept=(_count(content), len(made)) if isinstance(made, Circuit) else None, lost=lost,
    )  # fmt: skip


def save_as(
    found: Circuit | EdgeScores,
    path: str | Path,
    file_format: str,
    *,
    rules: MergeRules = _AS_IT_IS,
    choices: FileChoices = _NO_CHOICES,
    overwrite: bool = False,
) -> Conversion:
    """Write a circuit or edge scores as a file of another tool.

    Args:
        found: What to write.
        path: The file, or the folder that it goes into.
        file_format: A format of another tool.
        rules: What is done where edges do not match one to one.
        choices: What the format leaves open.
        overwrite: Whether an older file may be replaced.

    Returns:
        What was written, how many edges there are on both sides, and what was lost.

    Raises:
        ConfigurationError: The format cannot hold it, or a choice is missing.
        GraphMismatchError: Edges do not match one to one, and no rule says what to do.
        UnknownNameError: No such format.
        OutputError: The file exists, or cannot be written.

    Examples:
        >>> import tempfile
        >>> universe = Universe(family="llama", n_layers=1, n_heads=2, n_kv_heads=1)
        >>> circuit = Circuit.from_edges(universe, ["input->a0.kv0<v>", "a0.h1->logits"])
        >>> path = Path(tempfile.mkdtemp()) / "edges.json"
        >>> save_as(circuit, path, "edge-pruning").lost
        ('scores', 'method, ablation and provenance')
        >>> print(path.read_text())
        [
          ["embeds", "a0.h0.v"],
          ["a0.h1", "resid_post"]
        ]
    """
    name = OWN_CIRCUIT if isinstance(found, Circuit) else OWN_SCORES
    return _write(
        _content_of(found), name, format_named(file_format), Path(path), rules=rules, choices=choices,
        overwrite=overwrite,
    )  # fmt: skip


def read_circuit_as(
    path: Path, file_format: FileFormat, universe: Universe, rules: MergeRules, choices: FileChoices
) -> Circuit:
    """A circuit of another tool's file; `Circuit.load` is the way to it."""
    content = _content(path, file_format.name, universe, choices)
    return _circuit(content, universe, file_format.meaning, rules, choices)[0]


def read_scores_as(
    path: Path, file_format: FileFormat, universe: Universe, rules: MergeRules, choices: FileChoices
) -> EdgeScores:
    """Edge scores of another tool's file; `EdgeScores.load` is the way to it."""
    content = _content(path, file_format.name, universe, choices)
    return _scores(content, universe, file_format.meaning, rules, choices)[0]


# -------------------------------------------------------------------- reading


def _looks_like(path: Path) -> str:
    """The format of a file that nobody named."""
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist; expected a circuit, edge scores or a file of another tool")
    if path.name == ABOUT or (path / ABOUT).is_file():
        return OWN_SCORES
    found = recognised_format(path)
    if found is not None:
        return found.name
    if path.suffix == ".json":
        return OWN_CIRCUIT
    raise ConfigurationError(f"{path} looks like no format that is known; say which it is: {', '.join(ALL_FORMATS)}")


def _refuse_pair(source: str, target: str) -> None:
    """Refuse what is no conversion."""
    if source == OWN_CIRCUIT and target == OWN_SCORES:
        raise ConfigurationError("a circuit has no scores for the edges that it cuts, and edge scores are of all edges")
    if source == OWN_SCORES and target == OWN_CIRCUIT:
        raise ConfigurationError("scores keep no edge; `circuitgraph select` makes a circuit of them, by a rule")
    if source not in FORMATS and target not in FORMATS:
        raise ConfigurationError(f"the source is one of our own {target} files already; choose another tool's format")


def _content(path: Path, name: str, universe: Universe | None, choices: FileChoices) -> Content:
    """What a file says, in its own universe."""
    if name == OWN_CIRCUIT:
        return _content_of(Circuit.load(path))
    if name == OWN_SCORES:
        return _content_of(EdgeScores.load(path))
    file_format = format_named(name)
    if universe is None:
        raise ConfigurationError(
            f"{path} is a file of {file_format.tool}, which does not say of which model; give its universe "
            "(--model NAME, or --universe CIRCUIT)"
        )
    require_no_vectors(universe.virtual, f"{name} files")
    refuse_spans(universe, f"a file of format {name}")
    content = file_format.read(path, file_format.universe(universe), choices)
    about: dict[str, object] = {"format": name, "name": path.name, "n_edges": content.universe.n_edges, **content.about}
    if path.is_file():
        about["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    if content.kept is not None:
        about["n_kept"] = _count(content)
    return replace(content, about=about)


def _content_of(found: Circuit | EdgeScores) -> Content:
    said = found.provenance.get("file")
    about = said if isinstance(said, dict) else {}
    if isinstance(found, EdgeScores):
        return Content(universe=found.universe, scores=np.array(found.values), about=about)
    scores = np.zeros(found.universe.n_edges)
    scores[found.edge_ids] = found.scores
    return Content(universe=found.universe, scores=scores, kept=found.mask, about=about)


def _count(content: Content) -> int:
    return 0 if content.kept is None else int(content.kept.sum())


# -------------------------------------------------------------------- results of our own


def _circuit(
    content: Content, universe: Universe, meaning: str, rules: MergeRules, choices: FileChoices
) -> tuple[Circuit, tuple[str, ...]]:
    if content.kept is None:
        raise ConfigurationError(
            "the file has scores and keeps no edge, so it is no circuit yet; convert it to scores, and select from "
            "these (`circuitgraph select`)"
        )
    there = mapped(content, universe, rules)
    assert there.kept is not None
    circuit = Circuit.from_edges(
        universe, there.kept, scores=there.scores, ablation=choices.ablation,
        provenance=_provenance(content, there, meaning, choices),
    )  # fmt: skip
    dangling = circuit.n_raw - len(circuit)
    dropped = (f"{dangling:,} of {circuit.n_raw:,} kept edges, which dangle without others",) if dangling else ()
    return circuit, (*there.lost, *dropped)


def _scores(
    content: Content, universe: Universe, meaning: str, rules: MergeRules, choices: FileChoices
) -> tuple[EdgeScores, tuple[str, ...]]:
    if content.scores is None:
        raise ConfigurationError("the file says which edges are kept, and has no scores; convert it to a circuit")
    chosen = f"which {_count(content):,} edges the file keeps" if content.kept is not None else ""
    there = mapped(replace(content, kept=None), universe, rules)
    assert there.scores is not None
    provenance = _provenance(content, there, meaning, choices)
    scores = EdgeScores.of(
        universe, there.scores, method=choices.method, direction=choices.direction, estimates=meaning,
        ablation=choices.ablation, provenance=provenance,
    )  # fmt: skip
    return scores, (*there.lost, *filter(None, [chosen]))


def _provenance(content: Content, there: Content, meaning: str, choices: FileChoices) -> dict[str, object]:
    model = {"model": choices.model} if choices.model else {}
    return {
        **model,
        "method": choices.method,
        "direction": choices.direction,
        "score_meaning": NO_SCORES if there.scores is None else meaning,
        "file": {**content.about, "universe": content.universe.to_dict(), "lost": list(there.lost)},
    }


# -------------------------------------------------------------------- files of other tools


def _write(
    content: Content, source: str, file_format: FileFormat, target: Path, *, rules: MergeRules, choices: FileChoices,
    overwrite: bool,
) -> Conversion:  # fmt: skip
    held, lost = _held(content, file_format, source)
    require_no_vectors(content.universe.virtual, f"{file_format.name} files")
    refuse_spans(content.universe, f"a file of format {file_format.name}")
    there = mapped(held, file_format.universe(content.universe), rules)
    made = file_format.write(there, choices)
    contents = {"": made} if isinstance(made, bytes) else made
    paths = {target / name if name else target: data for name, data in contents.items()}
    if file_format is MIB and not overwrite:
        check_beside(target, list(contents))
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; choose another place, or allow it to be overwritten")
    for path, data in paths.items():
        try:
            if path != target:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {reason(error)}; choose another place") from error
        write_atomically(path, data)
    lost += [*there.lost, *_said_no_more(there, file_format, source)]
    return Conversion(
        source=source, target=file_format.name, files=tuple(paths),
        n_edges=(content.universe.n_edges, there.universe.n_edges),
        n_kept=None if there.kept is None else (_count(content), _count(there)), lost=tuple(lost),
        notes=_dangling(there, file_format),
    )  # fmt: skip


def _held(content: Content, file_format: FileFormat, source: str) -> tuple[Content, list[str]]:
    """What a format can hold of something, and what it cannot."""
    lost: list[str] = []
    if SCORES not in file_format.holds:
        if content.kept is None:
            raise ConfigurationError(
                f"{file_format.name} files hold {KEPT} and no scores; select first (`circuitgraph select`)"
            )
        lost += ["scores"] if content.scores is not None else []
        return replace(content, scores=None), lost
    if KEPT in file_format.holds:
        return content, lost
    if content.scores is None:
        raise ConfigurationError(f"{file_format.name} files hold scores, and the source has none")
    if content.kept is not None:
        lost.append(f"which edges are kept, but by their scores: the others have 0 (of {_count(content):,} kept)")
        weak = int((content.kept & (content.scores == 0)).sum())
        lost += [f"{weak:,} kept edges, whose score is 0 as well"] if weak else []
    return content, lost


def _dangling(there: Content, file_format: FileFormat) -> tuple[str, ...]:
    """Edges that EAP-IG and MIB drop: of writers without inputs, or of a group's heads that lead nowhere."""
    if there.kept is None or file_format.universe is not eap_ig_universe:
        return ()
    n_kept = _count(there)
    dangling = n_kept - int(effective_edges(there.universe, there.kept, "counterfactual").sum())
    told = f"{dangling:,} of {n_kept:,} edges dangle there, so that the tool drops them when it reads the file"
    return (told,) if dangling else ()


def _said_no_more(there: Content, file_format: FileFormat, source: str) -> list[str]:
    """What a file of another tool has no place for."""
    lost = []
    if there.scores is not None and file_format.name in _IN_FLOAT32:
        rounded = int((there.scores.astype(np.float32).astype(np.float64) != there.scores).sum())
        lost += [f"digits of {rounded:,} scores, which are rounded to float32"] if rounded else []
    if source == OWN_CIRCUIT:
        lost.append("method, ablation and provenance")
    elif source == OWN_SCORES:
        lost.append("method, direction, meaning, ablation and provenance")
    return lost


def _ending(target: Path, source: str) -> str:
    """The format that a file's name asks for."""
    endings = {".pt": "eap-ig-pt", ".pkl": "auto-circuit"}
    if target.suffix in endings:
        return endings[target.suffix]
    if source in FORMATS:
        return {".json": OWN_CIRCUIT, "": OWN_SCORES}.get(target.suffix, "unknown")
    raise ConfigurationError(
        f"{target}: say which format it shall have (target_format, --to): {', '.join(ALL_FORMATS)}"
    )

"""What a file format has to declare: its name and source, what it holds, its universe, how it is read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from circuitgraph.circuits.formats.content import Content
from circuitgraph.errors import CircuitFormatError
from circuitgraph.graph.universe import Universe

SCORES, KEPT = "scores", "kept edges"


@dataclass(frozen=True, kw_only=True)
class FileChoices:
    """What files of other tools leave open, and formats and results want to know.

    Attributes:
        part: Which of several results in one file or folder is meant, such as `ioi/EAP` or `ioi_gpt2`; also where a
            result goes in one that is written.
        d_model: The width of the model, which EAP-IG's files hold and universes do not.
        embedding_edges: `always` says that a file without edges from embeddings is one of a model whose embeddings
            reach every reader.
        join_positions: How scores of several positions become one: `sum`, `mean` or `max`.
        method: By which method the file was made.
        direction: Where edges were looked at; see `circuitgraph.EdgeScores`.
        ablation: What cut edges carry.
        model: The name of the model, for the provenance.
    """

    part: str | None = None
    d_model: int | None = None
    embedding_edges: str | None = None
    join_positions: str | None = None
    method: str = "unknown"
    direction: str = "unknown"
    ablation: str = "counterfactual"
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One format.

    Attributes:
        name: How it is asked for.
        tool: Whose it is, and what it is there.
        source: Where it is defined.
        suffix: What its files end with; empty for folders, to which other results may be added.
        holds: What it can hold, of `SCORES` and `KEPT`.
        meaning: What its scores are, in a few words.
        universe: The universe that a file is of, from one of the model.
        recognises: Whether a file or folder looks like one, which must not read much of it.
        read: Reads one; the universe is that of the file.
        write: Makes the content of one, or of several files of a folder by name; the universe is that of the file.
    """

    name: str
    tool: str
    source: str
    suffix: str
    holds: tuple[str, ...]
    meaning: str
    universe: Callable[[Universe], Universe]
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Universe, FileChoices], Content]
    write: Callable[[Content, FileChoices], bytes | dict[str, bytes]]


def refuse(path: Path, where: str, problem: str) -> NoReturn:
    """Refuse a file.

    Raises:
        CircuitFormatError: Always; it says where in the file the problem is.
    """
    raise CircuitFormatError(f"{path}: {where}: {problem}")

"""The files of a result, by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from circuitgraph.circuits.edge_scores import ABOUT as ABOUT_SCORES
from circuitgraph.circuits.edge_scores import NUMBERS as SCORES
from circuitgraph.errors import CircuitFormatError
from circuitgraph.graph.virtual import VECTOR_FILE as VECTORS

if TYPE_CHECKING:
    from circuitgraph.graph.gate_map import GateMap
    from pruning.methods.edge_pruning.gates import Gates

STATE = "state.json"
CHECKPOINT = "checkpoint"
"""The folder with what a run that was ended goes on from."""
CIRCUIT, GATES, CURVE, METRICS, EXAMPLES, FRONT_TABLE = (
    "circuit.json", "gates.safetensors", "curve.csv", "metrics.json", "examples.csv", "front.csv",
)  # fmt: skip
LEARNT = (GATES, SCORES)
"""What a method leaves, one of the two: all else of a result can be made of it and the circuit."""
_OF_FRONT = re.compile(r"circuit-0(\.\d+)?\.json|circuit-1\.json")
_CONSTANTS = re.compile(r"optimal-[0-9a-f]{16}\.safetensors")
FILES = (
    "run.toml",
    CIRCUIT,
    METRICS,
    EXAMPLES,
    "effects.csv",
    FRONT_TABLE,
    "front.png",
    CURVE,
    "curve.png",
    "circuit.dot",
    "circuit.pdf",
    "circuit.svg",
    "circuit.html",
    GATES,
    SCORES,
    ABOUT_SCORES,
    VECTORS,
    "report.md",
    STATE,
)
"""Everything that a result folder may hold, beside further circuits (`front_file`) and learnt constants."""


def front_file(sparsity: float) -> str:
    """The file of a further circuit.

    Args:
        sparsity: What was asked for.

    Examples:
        >>> front_file(0.99), front_file(1.0)
        ('circuit-0.99.json', 'circuit-1.json')
    """
    return f"circuit-{sparsity_text(sparsity)}.json"


def sparsity_text(sparsity: float) -> str:
    """A sparsity in the name of a file: the shortest decimal number that it is.

    Args:
        sparsity: The sparsity.

    Examples:
        >>> sparsity_text(0.99), sparsity_text(1.0)
        ('0.99', '1')
    """
    return f"{sparsity:.12f}".rstrip("0").rstrip(".")


def is_of_result(name: str) -> bool:
    """Whether a result folder may hold a file of that name.

    Args:
        name: The file's name.

    Examples:
        >>> is_of_result("circuit-0.995.json"), is_of_result("circuit-old.json")
        (True, False)
    """
    return name in FILES or any(pattern.fullmatch(name) for pattern in (_OF_FRONT, _CONSTANTS))


def gates_file(gates: Gates) -> bytes:
    """Trained gates as safetensors: `log_alpha`, and `writer_log_alpha` where writers have gates."""
    from safetensors.torch import save

    tensors = {"log_alpha": gates.log_alpha}
    if gates.writer_log_alpha is not None:
        tensors["writer_log_alpha"] = gates.writer_log_alpha
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_gates(path: Path, gate_map: GateMap) -> Gates:
    """Trained gates that `gates_file` gave.

    Args:
        path: The file.
        gate_map: Which parameter each edge has.

    Raises:
        CircuitFormatError: It cannot be read, or holds other tensors than these gates have.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from pruning.methods.edge_pruning.gates import Gates

    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CircuitFormatError(f"{path} cannot be read as trained gates: {error}") from error
    writers = "writer_log_alpha" in tensors
    gates = Gates(gate_map, init_mean=0.0, init_std=0.0, writers=writers, generator=torch.Generator())
    wanted = {"log_alpha": gates.log_alpha} | ({"writer_log_alpha": gates.parameters[-1]} if writers else {})
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {name: tuple(tensor.shape) for name, tensor in wanted.items()}:
        raise CircuitFormatError(
            f"{path}: expected log_alpha of {gate_map.n_parameters:,} gates, one for each parameter of the graph; "
            f"got {found}"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])
    return gates

"""The files of a result, by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruning.methods.edge_pruning.gates import Gates

STATE = "state.json"
CHECKPOINT = "checkpoint"
"""The folder with what a run that was ended goes on from."""
CIRCUIT, GATES, CURVE, METRICS, EXAMPLES, FRONT_TABLE = (
    "circuit.json", "gates.safetensors", "curve.csv", "metrics.json", "examples.csv", "front.csv",
)  # fmt: skip
_OF_FRONT = re.compile(r"circuit-0(\.\d+)?\.json|circuit-1\.json")
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
    "report.md",
    STATE,
)
"""Everything that a result folder may hold, beside further circuits (`front_file`)."""


def front_file(sparsity: float) -> str:
    """The file of a further circuit.

    Args:
        sparsity: What was asked for.

    Examples:
        >>> front_file(0.99), front_file(1.0)
        ('circuit-0.99.json', 'circuit-1.json')
    """
    return f"circuit-{f'{sparsity:.12f}'.rstrip('0').rstrip('.')}.json"


def is_of_result(name: str) -> bool:
    """Whether a result folder may hold a file of that name.

    Args:
        name: The file's name.

    Examples:
        >>> is_of_result("circuit-0.995.json"), is_of_result("circuit-old.json")
        (True, False)
    """
    return name in FILES or _OF_FRONT.fullmatch(name) is not None


def gates_file(gates: Gates) -> bytes:
    """Trained gates as safetensors: `log_alpha`, and `writer_log_alpha` where writers have gates."""
    from safetensors.torch import save

    tensors = {"log_alpha": gates.log_alpha}
    if gates.writer_log_alpha is not None:
        tensors["writer_log_alpha"] = gates.writer_log_alpha
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})

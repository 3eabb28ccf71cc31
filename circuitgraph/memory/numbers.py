"""Number formats by name, and what models keep of them, in bytes."""

from __future__ import annotations

from circuitgraph.architectures.family import ModelShape

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per number."""


def values_a_token(shape: ModelShape, *, short: bool = False) -> int:
    """How many numbers one run's ablation values are, a token.

    Args:
        shape: The model's sizes.
        short: Only writers' outputs, see `circuitgraph.forward.reference.AblationValues.only_said`.

    Examples:
        >>> shape = ModelShape(n_layers=2, n_heads=4, n_kv_heads=2, d_model=8, d_head=2, d_mlp=16,
        ...     d_vocab=9, n_positions=9, learned_positions=False)
        >>> values_a_token(shape), values_a_token(shape, short=True)
        (88, 40)
    """
    embeddings = 2 if shape.learned_positions else 1
    outputs = shape.n_heads * shape.d_head + shape.d_model
    others = shape.d_model + (shape.n_heads + 2 * shape.n_kv_heads) * shape.d_head
    return embeddings * shape.d_model + shape.n_layers * (outputs if short else outputs + others)


def step_numbers(
    shape: ModelShape, *, writers: int, readers: int, heads: int, mlps: int, tokens: int, asked: int, n_bytes: int = 4
) -> int:
    """About how many numbers a step holds per prompt: from it follows how many more fit where little of a model runs.

    What does not shrink with the gates is among them: ablation values, and six times the logits.

    Args:
        shape: The model's sizes.
        writers: How many run; `heads` and `mlps` are those of them that keep more than their output.
        readers: How many run.
        heads: Heads that run.
        mlps: MLPs that run.
        tokens: Of the prompt.
        asked: Its asked positions.
        n_bytes: Bytes per number; MLPs keep more numbers where these are few.

    Examples:
        >>> shape = ModelShape(n_layers=2, n_heads=4, n_kv_heads=2, d_model=8, d_head=2, d_mlp=16,
        ...     d_vocab=9, n_positions=9, learned_positions=False)
        >>> step_numbers(shape, writers=11, readers=27, heads=8, mlps=2, tokens=10, asked=1)
        5894
        >>> step_numbers(shape, writers=1, readers=1, heads=0, mlps=0, tokens=10, asked=1)
        1094
    """
    streams = (writers + readers) * shape.d_model
    inside = 4 * heads * shape.d_head + mlps * shape.mlp_saved_in(n_bytes) * shape.d_mlp
    return tokens * (streams + inside + values_a_token(shape)) + 6 * asked * shape.d_vocab

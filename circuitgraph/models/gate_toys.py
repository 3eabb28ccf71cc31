"""Toy models whose gates are known: heads copy a 1 or a 0, and one ReLU MLP computes AND, OR or a sum of them.

Built by hand and not compiled from a program, in the same module as compiled ones. Head i looks for the token `on i` or
`off i`, wherever it stands, and says 1 or 0; with x for what the MLP reads, it says

    and      ReLU(x − 1), x = A1 + A2
    or       1 − ReLU(1 − x), x = A1 + A2
    adder    ReLU(x), x = A1 + 1.5 A2
    nested   ReLU(A1 + A2 − 1) + 1 − ReLU(1 − A3 − A4): the AND of two heads plus the OR of two others

and the output is that number. The clean prompt has all tokens on, the corrupted one all off. Numbers are whole or half,
and a head gives its token all of its attention up to 4e-44, so that what is 0 by the formula is 0 in the model as well.

References:
    arXiv 2505.10039: the gates, and which edges noising and denoising find of each.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch

from circuitgraph.errors import UnknownNameError
from circuitgraph.models import LoadedModel
from circuitgraph.tracr.model import TracrConfig, TracrModel
from circuitgraph.tracr.tokenizer import TracrTokenizer

NOISE = ("x", "y", "z")
"""Tokens that say nothing."""
_LOOK = 100.0
_MOST_TOKENS = 12
_LABELS = {
    "and": ("AND", "AND"),
    "or": ("OR", "OR"),
    "adder": ("ADDER", "ADDER"),
    "nested": ("AND", "AND", "OR", "OR"),
}
GATE_TOYS = MappingProxyType(
    {kind: {f"a0.h{head}->m0": label for head, label in enumerate(labels)} for kind, labels in _LABELS.items()}
)
"""The gate of each edge into the MLP, by toy."""


def gate_toy(kind: str, *, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Build a toy.

    Args:
        kind: `and`, `or`, `adder` or `nested`.
        dtype: Its number format.

    Returns:
        The model with its tokenizer: tokens `on1`, `off1`, `on2` … and `NOISE`.

    Raises:
        UnknownNameError: No such toy.

    Examples:
        >>> toy = gate_toy("or")
        >>> prompts = [["x", "on1", "off2"], ["off1", "x", "off2"], ["on2", "y", "on1"]]
        >>> ids = torch.tensor([toy.tokenizer.encode_tokens(prompt) for prompt in prompts])
        >>> toy.model(ids).logits[:, -1, 0].tolist()
        [1.0, 0.0, 1.0]
    """
    if kind not in _LABELS:
        raise UnknownNameError.of("gate toy", kind, _LABELS)
    config = _config(kind)
    model = TracrModel(config)
    with torch.no_grad():
        _write_heads(model, kind)
        _write_mlp(model, kind)
    model.to(dtype).eval()
    name = f"gates:{kind}"
    return LoadedModel(model=model, tokenizer=TracrTokenizer.from_config(config), name=name, revision="by hand")


def _n_heads(kind: str) -> int:
    return len(_LABELS[kind])


def _config(kind: str) -> TracrConfig:
    """Directions of the residual stream: one a token, one a head's number, and the output."""
    n = _n_heads(kind)
    tokens = (*(f"{state}{head}" for head in range(1, n + 1) for state in ("on", "off")), *NOISE, "BOS", "PAD")
    labels = (*(f"token:{token}" for token in tokens), *(f"A{head}" for head in range(1, n + 1)), "output")
    return TracrConfig(
        program=f"gates-{kind}", n_layers=1, n_heads=n, d_head=1, d_model=len(labels), d_mlp=2,
        n_positions=_MOST_TOKENS + 1, d_out=1, output="numeric", tokens=tokens, bos_token="BOS", pad_token="PAD",
        output_symbols=(), residual_labels=labels,
    )  # fmt: skip


def _write_heads(model: TracrModel, kind: str) -> None:
    """Each head looks at its own token from everywhere, and says whether it is on."""
    place = {label: at for at, label in enumerate(model.config.residual_labels)}
    for at in range(model.config.vocab_size):
        model.tok_embed.weight[at, at] = 1.0
    block: Any = model.blocks[0]
    attention = block.attn
    for head in range(_n_heads(kind)):
        on, off = place[f"token:on{head + 1}"], place[f"token:off{head + 1}"]
        attention.q.bias[head] = _LOOK
        attention.k.weight[head, [on, off]] = 1.0
        attention.v.weight[head, on] = 1.0
        share = 1.5 if (kind, head) == ("adder", 1) else 1.0
        attention.o.weight[place[f"A{head + 1}"], head] = share


def _write_mlp(model: TracrModel, kind: str) -> None:
    """Hidden unit 0 is ReLU(x − 1) or ReLU(x), hidden unit 1 is ReLU(1 − x), of 1 less of which the output is made."""
    place = {label: at for at, label in enumerate(model.config.residual_labels)}
    block: Any = model.blocks[0]
    mlp, output = block.mlp, place["output"]
    labels = _LABELS[kind]
    for head, label in enumerate(labels):
        unit, sign = (1, -1.0) if label == "OR" else (0, 1.0)
        mlp.fc_in.weight[unit, place[f"A{head + 1}"]] = sign
    mlp.fc_in.bias[0] = -1.0 if "AND" in labels else 0.0
    mlp.fc_out.weight[output, 0] = 1.0
    if "OR" in labels:
        mlp.fc_in.bias[1] = 1.0
        mlp.fc_out.weight[output, 1] = -1.0
        mlp.fc_out.bias[output] = 1.0
    model.unembed.weight[0, output] = 1.0

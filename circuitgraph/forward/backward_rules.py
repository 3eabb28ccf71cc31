"""Rules by which gradients go back through a model, other than the derivative. The forward pass is the same by all.

A gradient says what a small change does. Attribution asks what a large one does, and in a deep model the two come
apart: norms divide a change away, a saturated softmax or activation hides it, and where two changing factors are
multiplied each claims the whole change. The rules mend one or more of these:

- `standard`: the derivative.
- `relp` (relevance patching): a norm's statistics are constants (LN-rule); an activation is a factor, x · (act(x) / x),
  the quotient a constant (identity rule); of a product of gate and up each takes half (half rule). Attention is
  differentiated as it is, as in the published example; the frozen pattern that the code offers besides (AH-rule) would
  make every score of an edge into a query or key 0.
- `gim` (gradient interaction modifications): a norm's statistics are constants; the softmax is differentiated where
  its scores are halved (temperature 2, without the factor ½ of the scores themselves); gradients of queries and keys
  are quartered, of values halved; gate and up each take half. MLPs without a gate are differentiated as they are: the
  published hooks halve them in one library (TransformerLens) and not in the other (transformers).

References:
    Rezaei Jafari, Eberle, Khakzar, Nanda 2025, RelP: Faithful and Efficient Circuit Discovery via Relevance Patching
    (arXiv 2508.21258).
    Edin et al. 2025, GIM: Improved Interpretability for Large Language Models (arXiv 2505.17630).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.attention import Attention
from circuitgraph.architectures.norm import Norm
from circuitgraph.errors import UnknownNameError, UnsupportedModelError
from circuitgraph.forward.attention import attend, scores_of, shares_of

_TINY = 1e-4
"""Where an activation's quotient act(x) / x is taken for x = 0."""


@dataclass(frozen=True, kw_only=True)
class BackwardRule:
    """How gradients go back. `BackwardRule()` is the derivative.

    Attributes:
        name: Its name.
        frozen_norms: Whether a norm's statistics are constants.
        activation_as_factor: Whether an activation passes on act(x) / x in place of its derivative.
        halved_gates: Whether gate and up of a gated MLP take half each.
        softmax_temperature: What scores are divided by where the softmax is differentiated.
        query_key: Factor on the gradients of queries and keys.
        value: Factor on the gradients of values.
    """

    name: str = "standard"
    frozen_norms: bool = False
    activation_as_factor: bool = False
    halved_gates: bool = False
    softmax_temperature: float = 1.0
    query_key: float = 1.0
    value: float = 1.0

    @property
    def changes_mlps(self) -> bool:
        """Whether MLPs are differentiated in another way than by the derivative."""
        return self.activation_as_factor or self.halved_gates


STANDARD = BackwardRule()
RELP = BackwardRule(name="relp", frozen_norms=True, activation_as_factor=True, halved_gates=True)
GIM = BackwardRule(
    name="gim", frozen_norms=True, halved_gates=True, softmax_temperature=2.0, query_key=0.25, value=0.5
)  # fmt: skip
RULES = {rule.name: rule for rule in (STANDARD, RELP, GIM)}


def rule_named(name: str) -> BackwardRule:
    """A rule by its name.

    Args:
        name: `standard`, `relp` or `gim`.

    Raises:
        UnknownNameError: No such rule.

    Examples:
        >>> rule_named("gim").softmax_temperature
        2.0
    """
    if name not in RULES:
        raise UnknownNameError.of("backward rule", name, RULES)
    return RULES[name]


# ---------------------------------------------------------------- norms


def statistics(norm: Norm, x: Float[Tensor, "*row d_model"]) -> tuple[Tensor, Tensor]:
    """Rows less their mean, where the norm takes it off, and what it multiplies them with.

    Args:
        norm: A layer norm or an RMS norm.
        x: The rows.

    Returns:
        The centred rows `[… d_model]`, and 1 / sqrt(mean(centred²) + ε) `[… 1]`.
    """
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    return centred, (centred.pow(2).mean(-1, keepdim=True) + norm.epsilon).rsqrt()


def norm_by_rule(norm: Norm, x: Float[Tensor, "*row d_model"], rule: BackwardRule) -> Float[Tensor, "*row d_model"]:
    """Normed rows, as a tensor of their own also where there is no norm, so that the gradient in them is theirs alone.

    Args:
        norm: The norm.
        x: The rows.
        rule: How gradients go back.
    """
    if norm.kind == "none":
        return x.view_as(x)
    if not rule.frozen_norms:
        return norm(x)
    with torch.no_grad():
        scale = statistics(norm, x)[1]
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    normed = centred * scale
    normed = normed if norm.factor is None else normed * norm.factor
    return normed if norm.bias is None else normed + norm.bias


# ---------------------------------------------------------------- attention


def attend_by_rule(
    query: Float[Tensor, "head batch seq d_head"],
    key: Float[Tensor, "head batch seq d_head"],
    value: Float[Tensor, "head batch seq d_head"],
    mask: Bool[Tensor, "1 #batch seq seq"] | None,  # noqa: UP037 - no code with a comment
    *,
    causal: bool,
    attention: Attention,
    rule: BackwardRule,
) -> Float[Tensor, "head batch seq d_head"]:
    """What each head gathers; arguments as of `circuitgraph.forward.attention.attend`.

    Args:
        query: Queries, prepared.
        key: Keys, one a query head.
        value: Values, one a query head.
        mask: Which positions each query may see; None for all, or all earlier ones.
        causal: Whether later positions are hidden; used only where there is no mask.
        attention: How the heads attend.
        rule: How gradients go back.
    """
    if rule.query_key != 1:
        query, key = scaled_back(query, rule.query_key), scaled_back(key, rule.query_key)
    value = scaled_back(value, rule.value) if rule.value != 1 else value
    if rule.softmax_temperature == 1:
        return attend(query, key, value, mask, causal=causal, attention=attention)
    scores = scores_of(query, key, mask, causal=causal, attention=attention)
    pattern: Any = _Softmax.apply(scores, rule.softmax_temperature)
    return shares_of(pattern, attention) @ value


class _Softmax(torch.autograd.Function):
    """A softmax that goes back as that of its scores over a temperature, without the factor 1 / temperature."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.temperature = temperature
        return scores.softmax(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        (scores,) = ctx.saved_tensors
        pattern = (scores / ctx.temperature).softmax(-1)
        return pattern * (gradient - (pattern * gradient).sum(-1, keepdim=True)), None


class _ScaledBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient * ctx.factor, None


def scaled_back(x: Tensor, factor: float) -> Tensor:
    """A tensor as it is, whose gradient is multiplied with a factor.

    Examples:
        >>> x = torch.ones(1, requires_grad=True)
        >>> scaled_back(3 * x, 0.5).backward()
        >>> x.grad
        tensor([1.5000])
    """
    return _ScaledBack.apply(x, factor)  # type: ignore[return-value]


# ---------------------------------------------------------------- MLPs

PLAIN_MLPS = (
    ("c_fc", "act", "c_proj"),
    ("fc_in", "act", "fc_out"),
    ("dense_h_to_4h", "act", "dense_4h_to_h"),
    ("fc1", "activation_fn", "fc2"),
)
"""First map, activation and second map of MLPs without a gate, by the names of a family's modules."""


def mlp_by_rule(mlp: nn.Module, x: Float[Tensor, "*position d_model"], rule: BackwardRule) -> Tensor:
    """What an MLP says.

    Args:
        mlp: The MLP, as a family binds it.
        x: What it reads, after the norm.
        rule: How gradients go back.

    Raises:
        UnsupportedModelError: The rule changes how MLPs are differentiated, and does not know this kind.
    """
    if not rule.changes_mlps:
        return mlp(x)
    require_rule(mlp, rule)
    parts: dict[str, Any]
    if isinstance(mlp, GatedMLP):
        parts = dict(mlp.own.named_children())  # type: ignore[union-attr]
        inner = _activated(parts["act_fn"], parts["gate_proj"](x), rule) * parts["up_proj"](x)
        return parts["down_proj"](scaled_back(inner, 0.5) if rule.halved_gates else inner)
    parts = dict(mlp.named_children())
    first, activation, second = next(names for names in PLAIN_MLPS if set(names) <= set(parts))
    return parts[second](_activated(parts[activation], parts[first](x), rule))


def require_rule(mlp: nn.Module, rule: BackwardRule) -> None:
    """Refuse an MLP that a rule does not know how to differentiate.

    Args:
        mlp: The MLP, as a family binds it.
        rule: How gradients go back.

    Raises:
        UnsupportedModelError: The rule changes how MLPs are differentiated, and does not know this kind.
    """
    if not rule.changes_mlps or isinstance(mlp, GatedMLP):
        return
    parts = set(dict(mlp.named_children()))
    if not any(set(names) <= parts for names in PLAIN_MLPS):
        raise UnsupportedModelError(
            f"backward={rule.name!r} has no rule for MLPs of the kind {type(mlp).__name__}; use backward='standard'"
        )


def _activated(activation: nn.Module, x: Tensor, rule: BackwardRule) -> Tensor:
    if not rule.activation_as_factor:
        return activation(x)
    with torch.no_grad():
        away_from_0 = torch.where(x == 0, _TINY, x)
        quotient = activation(away_from_0) / away_from_0
    return x * quotient

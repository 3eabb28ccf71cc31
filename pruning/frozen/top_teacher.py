"""The full model's likeliest tokens, and one bucket for all others: a teacher that fits where a vocabulary does not.

The KL between the coarsened distributions, k tokens and the rest as one, is

    Σ_{i in top} p_i (log p_i − log q_i) + p_rest (log p_rest − log q_rest),

with p the teacher, q the circuit, and q_rest the circuit's mass outside the teacher's top k. It never
exceeds the KL over the whole vocabulary (log-sum inequality): it does not see how the rest is shared out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from circuitgraph.errors import ConfigurationError

_NO_MASS = -1e4  # exp() of it is 0, and times 0 it is no NaN


@dataclass(frozen=True, kw_only=True)
class TopTeacher:
    """Log-probabilities of the likeliest tokens at each asked position, in float32 at least.

    Attributes:
        ids: The tokens, likeliest first.
        log_probabilities: Theirs, over the whole vocabulary.
        log_rest: Of all other tokens together.
    """

    ids: Int32[Tensor, "asked top"]
    log_probabilities: Float[Tensor, "asked top"]
    log_rest: Float[Tensor, " asked"]

    @staticmethod
    def of(logits: Float[Tensor, "asked d_vocab"], k: int) -> TopTeacher:
        """Keep the likeliest tokens of a whole vocabulary.

        Args:
            logits: The full model's.
            k: How many, fewer than the vocabulary.

        Examples:
            >>> teacher = TopTeacher.of(torch.tensor([[0.5, 0.125, 0.125, 0.25]]).log(), 2)
            >>> teacher.ids.tolist(), teacher.log_rest.exp().tolist()
            ([[0, 3]], [0.25])
        """
        known = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)
        top = known.topk(k, dim=-1)
        return TopTeacher(ids=top.indices.int(), log_probabilities=top.values, log_rest=_outside(known, top.indices))

    def kl(self, logits: Float[Tensor, "asked d_vocab"]) -> Float[Tensor, " asked"]:
        """KL(teacher ‖ circuit) in nats between the two coarsened distributions.

        Args:
            logits: The circuit's, over the whole vocabulary.

        Examples:
            >>> teacher = TopTeacher.of(torch.tensor([[0.5, 0.125, 0.125, 0.25]]).log(), 2)
            >>> round(float(teacher.kl(torch.zeros(1, 4))), 4)  # 0.5 log 2 + 0.25 log 1 + 0.25 log 0.5
            0.1733
        """
        known = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)
        ids = self.ids.long()
        top = (self.log_probabilities.exp() * (self.log_probabilities - known.gather(-1, ids))).sum(-1)
        rest = self.log_rest.clamp(min=_NO_MASS)
        return top + rest.exp() * (rest - _outside(known, ids))


Teacher = Tensor | TopTeacher
"""The full model's outputs at the asked positions: logits `[asked d_vocab]`, or the likeliest tokens alone."""


def whole_vocabulary(teacher: Teacher, what: str) -> Tensor:
    """The logits of a teacher that has all of them.

    Args:
        teacher: The full model's outputs.
        what: What needs them, for the message.

    Raises:
        ConfigurationError: Only the likeliest tokens were kept.
    """
    if isinstance(teacher, TopTeacher):
        raise ConfigurationError(
            f"{what} needs the full model's logits over the whole vocabulary, and teacher_top_k="
            f"{teacher.ids.shape[-1]} keeps the likeliest tokens alone; leave teacher_top_k out"
        )
    return teacher


def _outside(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    """Log of the mass outside some tokens."""
    return log_probabilities.scatter(-1, ids, -torch.inf).logsumexp(-1)

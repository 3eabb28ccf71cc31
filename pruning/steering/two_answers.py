"""The right answer against the wrong one, and all other tokens: what a steered model is judged by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from circuitgraph.batch import PairBatch
from circuitgraph.errors import ConfigurationError
from pruning.execution.objectives import (
    first_asked,
    log_softmax,
    logit_difference,
    right_tokens,
)
from pruning.frozen.top_teacher import Teacher, whole_vocabulary
from pruning.prompts.encoding import EncodedPairs


def require_two_answers(pairs: EncodedPairs, what: str = "") -> None:
    """Refuse prompts that have no right answer to weigh against a wrong one, and none at all.

    Args:
        pairs: The prompts.
        what: What the message calls them, such as `test`.

    Raises:
        ConfigurationError: There are none, answers are numbers, or a prompt has no wrong answer.
    """
    called = f"the {what} prompts" if what else "the prompts"
    if not len(pairs):
        raise ConfigurationError(
            f"there are no {f'{what} prompts' if what else 'prompts to steer by'}; ask for some "
            f"(--{what or 'train'}-size), or choose a task that has some"
        )
    if pairs.answer_values is not None:
        raise ConfigurationError("steering weighs a right answer token against a wrong one; these answers are numbers")
    sets = pairs.wrong_ids or [()] * len(pairs)
    without = [index for index, ids in enumerate(sets) if not len(ids)]
    if without:
        raise ConfigurationError(
            f"steering weighs a right answer against a wrong one, so it needs wrong answers, and {len(without)} of "
            f"{len(pairs)} of {called} have none, the first of them {pairs.where(without[0])}; give each line a "
            "'wrong_answer', or choose a task whose prompts have some"
        )


def other_tokens(batch: PairBatch, d_vocab: int) -> Bool[Tensor, "batch d_vocab"]:
    """Booleans: tokens that are neither a right nor a wrong answer of their prompt.

    Args:
        batch: The prompts.
        d_vocab: Size of the vocabulary.
    """
    right = right_tokens(batch)
    assert right is not None and batch.wrong_ids is not None
    answers = torch.cat([right, batch.wrong_ids], -1)
    named = torch.zeros(len(answers), d_vocab + 1, dtype=torch.bool, device=answers.device)
    named.scatter_(1, answers.masked_fill(answers < 0, d_vocab), True)
    return ~named[:, :d_vocab]


def kl_of_others(
    logits: Float[Tensor, "batch d_vocab"],
    teacher: Float[Tensor, "batch d_vocab"],
    others: Bool[Tensor, "batch d_vocab"],
) -> Float[Tensor, " batch"]:
    """KL(teacher ‖ steered) in nats over all tokens but the answers, each side renormalised.

    Args:
        logits: The steered model's.
        teacher: The model's own.
        others: What is compared.
    """
    wide = [one if one.dtype == torch.float64 else one.float() for one in (logits, teacher)]
    lowest = torch.finfo(torch.float32).min
    ours, theirs = (log_softmax(one.masked_fill(~others, lowest)) for one in wide)
    terms = (theirs.exp() * (theirs - ours)).masked_fill(~others, 0.0)
    return terms.sum(-1)


def answer_against_wrong(sign: float, *, faithfulness: float) -> Callable[[Tensor, Teacher, PairBatch], Tensor]:
    """The objective of steering towards an answer: two-way cross-entropy, and the KL of all other tokens.

    Args:
        sign: 1 towards the right answers, −1 towards the wrong ones.
        faithfulness: What a nat of KL costs.

    Returns:
        A function of logits, the model's own logits and the batch, as of `pruning.execution.objectives`.
    """

    def objective(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
        rows = first_asked(batch)
        own = whole_vocabulary(teacher, "steering")[rows]
        effect = softplus(-sign * logit_difference(logits, batch)).mean()
        others = other_tokens(batch, logits.shape[-1])
        return effect + faithfulness * kl_of_others(logits[rows], own, others).mean()

    return objective

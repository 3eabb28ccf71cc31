"""What training minimises besides the number of edges: distance between the circuit and the full model.

Every objective averages over a prompt's asked positions, then over prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.transfer import to_device, to_host
from pruning.frozen.top_teacher import Teacher, TopTeacher, whole_vocabulary

if TYPE_CHECKING:
    from pruning.prompts.encoding import EncodedPairs


def per_prompt_mean(values: Float[Tensor, " asked"], prompt: Int[Tensor, " asked"], n: int) -> Float[Tensor, " batch"]:
    """Mean over each prompt's asked positions.

    Args:
        values: One value an asked position.
        prompt: The prompt of each.
        n: Number of prompts.
    """
    zeros = values.new_zeros(n)
    counts = zeros.index_add(0, prompt, torch.ones_like(values))
    return zeros.index_add(0, prompt, values) / counts.clamp(min=1)


def first_asked(batch: PairBatch) -> Int[Tensor, " batch"]:
    """Index of each prompt's first asked position among all asked positions."""
    (prompt,) = to_host(batch.clean.to_look_at.predict_prompt)
    assert prompt is not None
    first = np.diff(prompt, prepend=-1) != 0
    return to_device(np.flatnonzero(first), batch.clean.predict_prompt.device)


def log_softmax(logits: Float[Tensor, "asked d_vocab"]) -> Float[Tensor, "asked d_vocab"]:
    """Log-probabilities, in float32 at least."""
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)


def kl_divergence(
    logits: Float[Tensor, "asked d_vocab"],
    teacher: Float[Tensor, "asked d_vocab"],
    *,
    accumulate: torch.dtype | None = None,
) -> Float[Tensor, " asked"]:
    """KL(teacher ‖ circuit) in nats over the full vocabulary.

    Args:
        logits: The circuit's logits.
        teacher: The full model's logits.
        accumulate: The number format that the vocabulary is added up in; by default that of the log-probabilities.
    """
    expected = log_softmax(teacher)
    return (expected.exp() * (expected - log_softmax(logits))).sum(-1, dtype=accumulate)


def set_logit(logits: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch choice"]) -> Float[Tensor, " batch"]:
    """Mean logit over each prompt's set of tokens (-1 is padding); NaN where a set is empty."""
    real = ids >= 0
    chosen = logits.gather(-1, ids.clamp(min=0)).masked_fill(~real, 0.0)
    return chosen.sum(-1) / real.sum(-1)


def right_tokens(batch: PairBatch) -> Int[Tensor, "batch right"] | None:
    """Right tokens at each prompt's first asked position, padded with -1; None where no answers are known.

    They are those that the prompt lists, or the answer's own first token where it lists none.
    """
    own = None if batch.answer_ids is None else batch.answer_ids[first_asked(batch)][:, None]
    if batch.correct_ids is None or own is None:
        return own if batch.correct_ids is None else batch.correct_ids
    listed = (batch.correct_ids >= 0).any(-1, keepdim=True)
    return torch.cat([batch.correct_ids, own.masked_fill(listed, -1)], -1)


def logit_difference(logits: Float[Tensor, "asked d_vocab"], batch: PairBatch) -> Float[Tensor, " batch"]:
    """Mean logit of the right tokens minus that of the wrong ones, at each prompt's first asked position.

    Returns:
        NaN for a prompt that has no wrong answers.

    Raises:
        ConfigurationError: No prompt has wrong answers, or no answers are known.
    """
    right = right_tokens(batch)
    if right is None or batch.wrong_ids is None:
        raise ConfigurationError("a logit difference needs wrong answers, which these prompts do not have")
    first = logits[first_asked(batch)].float()
    return set_logit(first, right) - set_logit(first, batch.wrong_ids)


def check_objective(objective: str, pairs: EncodedPairs, what: str = "the training data") -> None:
    """Refuse prompts that an objective cannot compare, before any work.

    Args:
        objective: Its name.
        pairs: The prompts to train on.
        what: What the message calls them.

    Raises:
        ConfigurationError: Answers are numbers where tokens are compared, or the other way round, or `logit-diff` is
            or `negative-logit-diff` is asked for and prompts have no wrong answers.
        UnknownNameError: No such objective.
    """
    objective_named(objective)
    require_answers(objective, pairs, what)
    numeric = pairs.answer_values is not None
    if numeric != (objective in ("mse", "position-kl")):
        fit = "mse or position-kl" if numeric else "kl, kl-top1, logit-diff, negative-logit-diff or cross-entropy"
        raise ConfigurationError(
            f"objective {objective!r} does not fit {what}, whose answers are {'numbers' if numeric else 'tokens'}; "
            f"use {fit}"
        )
    require_wrong_answers(objective, pairs, what)


def require_answers(objective: str, pairs: EncodedPairs, what: str = "the training data") -> None:
    """Refuse prompts whose right answers are not known where an objective needs them.

    Args:
        objective: Its name.
        pairs: The prompts.
        what: What the message calls them.

    Raises:
        ConfigurationError: It does, and they are not.
    """
    unknown = pairs.answer_ids is None and pairs.answer_values is None and pairs.correct_ids is None
    if unknown and objective in _NEED_ANSWERS:
        raise ConfigurationError(
            f"objective {objective!r} needs right answers, and those of {what} are not known: the sides are swapped, "
            "and the counterfactuals have no answers of their own. Use kl, which needs none, with a method that looks "
            "between ablated and full model (gate-importance, exact, edge-pruning); a task whose counterfactuals have "
            "answers (ioi: --task-option counterfactual=exchanged); or give each line a 'corrupted_answer'"
        )


def require_wrong_answers(objective: str, pairs: EncodedPairs, what: str = "the training data") -> None:
    """Refuse prompts without wrong answers where an objective compares right ones with them.

    Args:
        objective: Its name.
        pairs: The prompts to train on.
        what: What the message calls them.

    Raises:
        ConfigurationError: The objective compares with wrong answers, and prompts have none; the message says how many
            and which.
    """
    if objective not in _NEED_WRONG_ANSWERS:
        return
    sets = pairs.wrong_ids or [()] * len(pairs)
    without = [index for index, ids in enumerate(sets) if not len(ids)]
    if len(without) == len(pairs):
        raise ConfigurationError(
            f"objective {objective!r} needs wrong answers, and {what} has none; use kl or cross-entropy, or give "
            "each line a 'wrong_answer'"
        )
    if without:
        first = ", ".join(f"{i} ({pairs.texts[i]!r})" if pairs.texts else str(i) for i in without[:3])
        raise ConfigurationError(
            f"objective {objective!r} needs wrong answers, and {len(without)} of {len(pairs)} prompts of {what} have "
            f"none: prompts {first}{' …' if len(without) > 3 else ''} (counted from 0). Give each line a "
            "'wrong_answer', leave these lines out, or use kl"
        )


Objective = Callable[[Tensor, Teacher, PairBatch], Tensor]


def _mean(values: Tensor, batch: PairBatch) -> Tensor:
    return per_prompt_mean(values, batch.clean.predict_prompt, batch.clean.input_ids.shape[0]).mean()


def _kl(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
    if logits.shape[-1] == 1:
        raise ConfigurationError("objective 'kl' needs a vocabulary; this model puts out one number, use 'mse'")
    if isinstance(teacher, TopTeacher):
        return _mean(teacher.kl(logits), batch)
    return _mean(kl_divergence(logits, teacher), batch)


def _kl_top1(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
    """The KL and, as a push towards the same top token, a quarter of the cross-entropy of the model's likeliest one.

    A quarter, because more of it makes the circuit surer than the model, costs KL, and does not bring more top tokens.
    """
    if logits.shape[-1] == 1:
        raise ConfigurationError("objective 'kl-top1' needs a vocabulary; this model puts out one number, use 'mse'")
    top = teacher.ids[:, :1].long() if isinstance(teacher, TopTeacher) else teacher.argmax(-1, keepdim=True)
    return _kl(logits, teacher, batch) - _mean(log_softmax(logits).gather(-1, top)[:, 0], batch) / 4


def _logit_diff(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
    teacher = whole_vocabulary(teacher, "objective 'logit-diff'")
    return (logit_difference(logits, batch) - logit_difference(teacher, batch)).pow(2).mean()


def _negative_logit_diff(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
    return -logit_difference(logits, batch).mean()


def _cross_entropy(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
    if batch.answer_ids is None:
        raise ConfigurationError("objective 'cross-entropy' needs answer tokens; this task's answers are numbers")
    return _mean(-log_softmax(logits).gather(-1, batch.answer_ids[:, None])[:, 0], batch)


def _mse(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
    teacher = whole_vocabulary(teacher, "objective 'mse'")
    return _mean((logits - teacher).pow(2).mean(-1), batch)


def _position_kl(logits: Tensor, teacher: Teacher, batch: PairBatch) -> Tensor:
    """KL of a softmax taken over each prompt's asked positions (the published xproportion run)."""
    teacher = whole_vocabulary(teacher, "objective 'position-kl'")
    prompt, n = batch.clean.predict_prompt, batch.clean.input_ids.shape[0]

    def normalised(values: Tensor) -> Tensor:
        values = values[:, 0]
        total = values.new_zeros(n).index_add(0, prompt, values.exp())
        return values - total.log()[prompt]

    expected = normalised(teacher)
    terms = expected.exp() * (expected - normalised(logits))
    return logits.new_zeros(n).index_add(0, prompt, terms).mean()


OBJECTIVES: dict[str, Objective] = {
    "kl": _kl,
    "kl-top1": _kl_top1,
    "logit-diff": _logit_diff,
    "negative-logit-diff": _negative_logit_diff,
    "cross-entropy": _cross_entropy,
    "mse": _mse,
    "position-kl": _position_kl,
}

TAKES_TOP_K = ("kl", "kl-top1", "negative-logit-diff", "cross-entropy")
"""Objectives that do with the teacher's likeliest tokens and the mass of all others (see
`pruning.frozen.top_teacher`)."""

FLAT_AT_FULL_MODEL = ("kl", "logit-diff", "mse", "position-kl")
"""Objectives that are least where the circuit is the full model, so that their gradient there is 0."""

_NEED_WRONG_ANSWERS = ("logit-diff", "negative-logit-diff")
_NEED_ANSWERS = ("cross-entropy", *_NEED_WRONG_ANSWERS)


def check_top_k(teacher_top_k: int | None, objective: str, d_vocab: int) -> None:
    """Refuse a cut vocabulary where the objective needs all of it.

    Args:
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps all.
        objective: What is compared.
        d_vocab: Size of the vocabulary.

    Raises:
        ConfigurationError: The objective needs the whole vocabulary.

    Examples:
        >>> check_top_k(64, "kl", 50257)
        >>> check_top_k(64, "mse", 1)
    """
    if teacher_top_k is not None and teacher_top_k < d_vocab and objective not in TAKES_TOP_K:
        raise ConfigurationError(
            f"objective {objective!r} needs the full model's whole vocabulary, and teacher_top_k={teacher_top_k} "
            f"keeps its likeliest tokens alone; leave it out, or use {' or '.join(TAKES_TOP_K)}"
        )


def objective_named(name: str) -> Objective:
    """Look an objective up.

    Args:
        name: `kl`: KL(full ‖ circuit); `kl-top1`: that plus a quarter of the cross-entropy of the full model's
            likeliest token, so that the circuit's top token is more often the full model's;
            `logit-diff`: squared difference of the two logit differences;
            `negative-logit-diff`: minus the circuit's own logit difference, whatever the full model's is;
            `cross-entropy`: of the right answer; `mse`: squared difference of numeric outputs;
            `position-kl`: KL of a softmax over positions.

    Returns:
        A function of the circuit's logits, the full model's logits and the batch.

    Raises:
        UnknownNameError: No such objective.
    """
    if name not in OBJECTIVES:
        raise UnknownNameError.of("objective", name, OBJECTIVES)
    return OBJECTIVES[name]

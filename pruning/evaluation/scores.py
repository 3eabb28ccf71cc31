"""What a prompt's outputs are worth: one value per prompt and measure.

*KL* is KL(full ‖ circuit) in nats over the full vocabulary, averaged over the prompt's answer tokens.

*Accuracy*: is the right answer chosen? Chosen among what the prompt names: where it has wrong answers, the right ones
together have to be more probable than the wrong ones together, at the answer's first token, which is where they differ;
where it has none, a right answer has to be the most probable of the whole vocabulary. Of the answer that the prompt was
written with every token has to be, given those before it; another right answer is known by its first token. For numeric
outputs: within 0.05 of the right number. A set of prompts may hold both kinds.

*Logit difference*: mean logit of the right answers minus that of the wrong ones, at the answer's first token; only
prompts that have wrong answers have it.

*Probability difference*: the probability of all right answers together minus that of all wrong ones, there too.

*Kendall's τ* (τ-b, ties counted): how far the circuit puts the listed answers, right and wrong, into the full model's
order, there too; only prompts that list at least three have it. Both are Edge Pruning's measures of greater-than.

*Hit@k*, where it is asked for: a right answer is among the k most probable tokens of the full vocabulary, at the
answer's first token; what is as probable as the right answer does not push it back. It is the measure of knowledge
circuits (Yao et al. 2024, arXiv 2405.17969).

*Exact match*: the most probable token of the full vocabulary is the full model's, at every answer token; for numeric
outputs, within 0.05 of the full model's.

A prompt for which the circuit or the full model puts out NaN or infinite logits has no value in any measure.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitgraph.batch import PairBatch
from pruning.execution.objectives import (
    first_asked,
    kl_divergence,
    log_softmax,
    logit_difference,
    per_prompt_mean,
    right_tokens,
)

NEAR = 0.05
_LEAST_RANKED = 3
SHARES = ("accuracy", "exact_match", "agreement_full_right", "agreement_full_wrong")
"""Measures that are shares of prompts, beside `hit_at_K`."""
HIT = "hit_at_"
"""What the names of Hit@k begin with."""


def score_prompts(
    logits: Float[Tensor, "asked d_vocab"],
    teacher: Float[Tensor, "asked d_vocab"],
    batch: PairBatch,
    *,
    hit_at: int | None = None,
) -> dict[str, Float[Tensor, " batch"]]:
    """Measure a batch of outputs.

    Args:
        logits: The circuit's, at the asked positions.
        teacher: The full model's.
        batch: The prompts.
        hit_at: The k of Hit@k; None leaves it out.

    Returns:
        One value per prompt for each measure, NaN where a prompt has none: `kl` or `mse`, `exact_match`, `accuracy`
        where right answers are known (and `hit_at_K`, if asked for), `logit_diff` and `prob_diff` where any prompt of
        the batch has wrong ones, and `kendall_tau` where any lists three answers or more.
    """
    prompt, n = batch.clean.predict_prompt, batch.clean.input_ids.shape[0]
    if batch.answer_values is not None:
        error = (logits - teacher)[:, 0].double()
        scores = {
            "mse": per_prompt_mean(error.pow(2), prompt, n),
            "accuracy": _everywhere((logits[:, 0] - batch.answer_values).abs() <= NEAR, batch),
            "exact_match": _everywhere(error.abs() <= NEAR, batch),
        }
    else:
        kl = kl_divergence(logits, teacher, accumulate=torch.float64)
        scores = {
            # A KL is never below 0: what is there is rounding.
            "kl": per_prompt_mean(kl.double(), prompt, n).clamp(min=0),
            "exact_match": _everywhere(logits.argmax(-1) == teacher.argmax(-1), batch),
            **_by_answers(logits, teacher, batch),
            **_hits(logits, batch, hit_at),
        }
    finite = _everywhere(logits.isfinite().all(-1) & teacher.isfinite().all(-1), batch)
    return {name: values.double().masked_fill(~finite, torch.nan) for name, values in scores.items()}


def _everywhere(right: Tensor, batch: PairBatch) -> Tensor:
    """Whether something holds at every asked position of a prompt `[batch]`."""
    return per_prompt_mean(right.double(), batch.clean.predict_prompt, batch.clean.input_ids.shape[0]) == 1


def _hits(logits: Tensor, batch: PairBatch, hit_at: int | None) -> dict[str, Tensor]:
    """Hit@k, where it is asked for and answers are known."""
    right = right_tokens(batch)
    if hit_at is None or right is None:
        return {}
    first = logits[first_asked(batch)]
    best = first.gather(-1, right.clamp(min=0)).masked_fill(right < 0, -torch.inf).amax(-1, keepdim=True)
    return {f"{HIT}{hit_at}": (first > best).sum(-1) < hit_at}


def _by_answers(logits: Tensor, teacher: Tensor, batch: PairBatch) -> dict[str, Tensor]:
    """Measures that need right answers, as far as the prompts have them."""
    right = right_tokens(batch)
    if right is None:
        return {}
    first = first_asked(batch)
    chosen = _chosen_of_all(logits, right, first, batch)
    if batch.wrong_ids is None or not batch.wrong_ids.shape[-1]:
        return {"accuracy": chosen}
    has_wrong = (batch.wrong_ids >= 0).any(-1)
    known = log_softmax(logits[first])
    good, bad = _set_log_probability(known, right), _set_log_probability(known, batch.wrong_ids)
    found = {
        "accuracy": torch.where(has_wrong, good > bad, chosen),
        "logit_diff": logit_difference(logits, batch).double(),
        "prob_diff": (good.double().exp() - bad.double().exp()).where(has_wrong, torch.nan),
    }
    listed = torch.cat([right, batch.wrong_ids], -1)
    if int((listed >= 0).sum(-1).max()) >= _LEAST_RANKED:
        found["kendall_tau"] = kendall_tau(logits[first], teacher[first], listed)
    return found


def kendall_tau(
    logits: Float[Tensor, "batch d_vocab"], teacher: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch listed"]
) -> Float[Tensor, " batch"]:
    """Kendall's τ-b between two orders of some tokens.

    Args:
        logits: One side's.
        teacher: The other's.
        ids: The tokens, padded with -1.

    Returns:
        NaN where fewer than three are listed, or where one side holds all of them equal.

    Examples:
        >>> ids = torch.tensor([[0, 1, 2, -1]])
        >>> kendall_tau(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0]]), ids).tolist()
        [0.3333333333333333]
    """
    real = ids >= 0
    both = real[:, :, None] & real[:, None, :]
    signs = [
        (of.gather(-1, ids.clamp(min=0))[:, :, None] - of.gather(-1, ids.clamp(min=0))[:, None, :]).sign() * both
        for of in (logits.double(), teacher.double())
    ]
    ours, theirs = (sign.abs().sum((1, 2)) for sign in signs)
    tau = (signs[0] * signs[1]).sum((1, 2)) / (ours * theirs).sqrt()
    return tau.where(real.sum(-1) >= _LEAST_RANKED, torch.nan)


def _chosen_of_all(logits: Tensor, right: Tensor, first: Tensor, batch: PairBatch) -> Tensor:
    """Whether a right answer is the most probable of the whole vocabulary `[batch]`."""
    top = logits.argmax(-1)
    listed = (top[first][:, None] == right).any(-1)
    if batch.answer_ids is None:
        return listed
    another = listed & (top[first] != batch.answer_ids[first])
    return another | _everywhere(top == batch.answer_ids, batch)


def _set_log_probability(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    chosen = log_probabilities.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    return chosen.logsumexp(-1)

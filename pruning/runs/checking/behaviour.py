"""What the model itself does on a sample of the prompts, and what cutting every edge changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from circuitgraph.memory.portions import Portions
from circuitgraph.torch_state import in_settled_state
from pruning.evaluation.proportion import percent_between
from pruning.evaluation.scores import score_prompts
from pruning.execution.objectives import first_asked, log_softmax
from pruning.findings import Finding
from pruning.frozen.constants import AblationData
from pruning.frozen.runs import FrozenRuns
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs
from pruning.runs.verdicts import HARDLY, NOTHING, judge_accuracy

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel

BATCH = 16
N_WRONG_TOKENS = 5
_SPACED = 0.1
"""A share of the prompts whose likeliest token is the answer but for a space that is no accident."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """The model on a sample of the prompts.

    Attributes:
        n: Prompts that it was run on.
        n_undefined: Those whose logits are not finite; they are in none of the other figures.
        choice: Whether the right answer is compared with a wrong one in all of them, so that chance is a half.
        n_accuracy: Prompts for which accuracy is defined.
        accuracy: Share that it gets right, or None.
        answer_probability: Mean probability of the answer, all its tokens in a row; None for numeric outputs.
        metric: `kl` (nats) or `mse`.
        cut: That metric between the full model and the model with everything cut; under counterfactual ablation this
            is the KL of its outputs on the prompt and on the counterfactual. None where all outputs are undefined.
        wrong_tokens: The likeliest tokens that are no right answers, with how often each came, the most frequent first.
        other_spacing: Prompts whose likeliest token is the answer's first but for spaces around it.
        spacing_example: One of them: likeliest token and answer.
    """

    n: int
    n_undefined: int
    choice: bool
    n_accuracy: int
    accuracy: float | None
    answer_probability: float | None
    metric: str
    cut: float | None
    wrong_tokens: tuple[tuple[str, int], ...]
    other_spacing: int
    spacing_example: tuple[str, str] | None

    def doubts(self) -> Iterator[Finding]:
        """What these figures speak against."""
        if self.n_undefined:
            every = self.n_undefined == self.n
            yield Finding(
                name="undefined-outputs",
                severity="error" if every else "doubt",
                text=f"The model's outputs on {self.n_undefined:,} of {self.n:,} prompts are not finite numbers: "
                "training cannot use them. Use --dtype float32, or leave out the token that they have in common.",
            )
        if self.accuracy is not None and self.n_accuracy:
            able = judge_accuracy(self.accuracy, self.n_accuracy, choice=self.choice, of="sampled")
            if able is not None:
                yield Finding(name=able.name, severity="doubt", text=able.text)
        if self.spacing_example is not None and self.other_spacing >= max(1, _SPACED * self.n):
            top, answer = self.spacing_example
            yield Finding(
                name="missing-space",
                severity="doubt",
                text=f"In {self.other_spacing:,} of {self.n:,} prompts the model's likeliest token is {top!r} and the "
                f"answer {answer!r}: the same word with another space. Put the space that belongs to the answer into "
                "it, as in 'The capital of Peru is<predict> Lima</predict>'.",
            )
        if self.cut is not None and self.cut <= HARDLY[self.metric]:
            changes = "changes nothing" if self.cut <= NOTHING[self.metric] else "hardly changes anything"
            yield Finding(
                name="nothing-to-explain",
                severity="doubt",
                text=f"Cutting every edge {changes}: {self.metric.upper()} {self.cut:.2g} to the full model on "
                f"{self.n:,} prompts. Every circuit would be as good as the model. Give counterfactuals that change "
                "the answer, or another --ablation.",
            )

    def accuracy_text(self) -> str:
        """Accuracy with its interval, in words."""
        if self.accuracy is None or not self.n_accuracy:
            return "not defined"
        against = "; right answer against wrong, chance 50 %" if self.choice else ""
        return percent_between(self.accuracy, self.n_accuracy) + against


def sample_of(splits: Mapping[str, EncodedPairs], n: int) -> dict[str, EncodedPairs]:
    """Prompts to look at, evenly spread over each split, which gets its share of them.

    Args:
        splits: The prompts by split.
        n: How many prompts in all, about; every split with prompts gets one at least.

    Examples:
        >>> ids = tuple(np.array([i]) for i in range(8))
        >>> pairs = EncodedPairs(clean_ids=ids, corrupted_ids=ids, predict_positions=(np.array([0]),) * 8)
        >>> [int(ids[0]) for ids in sample_of({"train": pairs, "test": pairs.subset([])}, 3)["train"].clean_ids]
        [0, 3, 7]
    """
    total = sum(len(pairs) for pairs in splits.values())
    chosen = {}
    for name, pairs in splits.items():
        if len(pairs):
            size = min(len(pairs), max(1, round(n * len(pairs) / total)))
            chosen[name] = pairs.subset(np.linspace(0, len(pairs) - 1, size).astype(int))
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A batch of prompts: one value per prompt, on the host."""

    finite: Tensor
    accuracy: Tensor | None
    probability: Tensor | None
    cut: Tensor
    top: Tensor


@in_settled_state
def behaviour(
    compiled: CompiledModel,
    splits: Mapping[str, EncodedPairs],
    *,
    ablation: str,
    ablation_data: AblationData | None = None,
) -> Behaviour:
    """Run the model, and the model with everything cut, on prompts.

    Args:
        compiled: The model.
        splits: The prompts, at least one; see `sample_of`.
        ablation: What cut edges carry.
        ablation_data: The prompts that means are taken over; or constants (`learn_constants`).

    Returns:
        What it does on all of them together.
    """
    seen: list[_Seen] = []
    rows: list[EncodedPairs] = []
    for pairs in splits.values():
        order = []
        for chunk, found in _runs(compiled, pairs, ablation, ablation_data):
            order += chunk.tolist()
            seen += found
        rows.append(pairs.subset(order))
    return _summed(seen, rows, compiled.tokenizer)


def _runs(
    compiled: CompiledModel, pairs: EncodedPairs, ablation: str, ablation_data: AblationData | None
) -> Iterator[tuple[np.ndarray, list[_Seen]]]:
    """Batches of prompts, each with what was seen."""
    runs = FrozenRuns(compiled, pairs, ablation=ablation, budget_bytes=0, batch_size=BATCH, ablation_data=ablation_data)
    nothing = torch.zeros(compiled.universe.n_edges)
    portions = Portions(compiled, BATCH)

    def look(prompts: np.ndarray) -> _Seen:
        frozen = runs.batch(prompts)
        full, batch = frozen.teacher_logits, frozen.pairs
        cut = compiled.masked(nothing, batch.clean, frozen.values).logits
        scores = score_prompts(full, full, batch)
        between = score_prompts(cut, full, batch)
        top = full[first_asked(batch)]
        probability = None
        prompt, n = batch.clean.predict_prompt, len(prompts)
        if batch.answer_ids is not None:
            each = log_softmax(full).gather(-1, batch.answer_ids[:, None])[:, 0].double()
            probability = each.new_zeros(n).index_add(0, prompt, each).exp().cpu()
        bad = (~full.isfinite().all(-1)).double()
        return _Seen(
            finite=(bad.new_zeros(n).index_add(0, prompt, bad) == 0).cpu(),
            accuracy=scores["accuracy"].double().cpu() if "accuracy" in scores else None,
            probability=probability,
            cut=between["mse" if "mse" in between else "kl"].double().cpu(),
            top=(top.argmax(-1) if top.shape[-1] > 1 else torch.full((n,), -1)).cpu(),
        )

    with torch.no_grad():
        for chunk in batches_by_length(runs.by_length, BATCH):
            yield chunk, portions.run(look, chunk)


def _summed(seen: list[_Seen], rows: list[EncodedPairs], tokenizer: object) -> Behaviour:
    finite = torch.cat([one.finite for one in seen]).numpy()

    def mean(values: list[Tensor | None]) -> tuple[float | None, int]:
        there = [(value, one.finite) for value, one in zip(values, seen, strict=True) if value is not None]
        kept = torch.cat([value[good] for value, good in there]) if there else torch.zeros(0)
        kept = kept[kept.isfinite()]
        return (float(kept.mean()), len(kept)) if len(kept) else (None, 0)

    accuracy, n_accuracy = mean([one.accuracy for one in seen])
    numeric = any(pairs.answer_values is not None for pairs in rows)
    tops = torch.cat([one.top for one in seen]).tolist()
    shown = [] if numeric else _decoded(tokenizer, tops, rows)
    wrong = Counter(top for top, _, is_right in shown if not is_right)
    spaced = [(top, answer) for top, answer, is_right in shown if not is_right and _but_for_spaces(top, answer)]
    return Behaviour(
        n=len(finite),
        n_undefined=int((~finite).sum()),
        choice=all(_is_choice(pairs) for pairs in rows),
        n_accuracy=n_accuracy,
        accuracy=accuracy,
        answer_probability=mean([one.probability for one in seen])[0],
        metric="mse" if numeric else "kl",
        cut=_at_least_0(mean([one.cut for one in seen])[0]),
        wrong_tokens=tuple(wrong.most_common(N_WRONG_TOKENS)),
        other_spacing=len(spaced),
        spacing_example=spaced[0] if spaced else None,
    )


def _at_least_0(value: float | None) -> float | None:
    """A distance, which rounding may have taken below 0."""
    return None if value is None else max(0.0, value)


def _is_choice(pairs: EncodedPairs) -> bool:
    return pairs.wrong_ids is not None and all(len(ids) for ids in pairs.wrong_ids)


def _decoded(tokenizer: object, tops: list[int], rows: list[EncodedPairs]) -> list[tuple[str, str, bool]]:
    """Each prompt's likeliest token and whole answer as text, and whether the first is a right one."""
    decode = getattr(tokenizer, "decode", None)

    def text(tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens)) if decode is None else str(decode(list(tokens)))

    answers: list[list[int]] = []
    right: list[set[int]] = []
    for pairs in rows:
        for index in range(len(pairs)):
            answers.append([] if pairs.answer_ids is None else pairs.answer_ids[index].tolist())
            others = [] if pairs.correct_ids is None else pairs.correct_ids[index].tolist()
            right.append({*answers[-1][:1], *others})
    return [(text([top]), text(answer), top in ids) for top, answer, ids in zip(tops, answers, right, strict=True)]


def _but_for_spaces(top: str, answer: str) -> bool:
    """Whether a token begins the answer, or is all of it, but for a space before it.

    Examples:
        >>> _but_for_spaces(" Lima", "Lima"), _but_for_spaces(" Lima", " Lima"), _but_for_spaces(" Lyon", "Lima")
        (True, False, False)
    """
    word, unlike = top.strip(), top[:1].isspace() != answer[:1].isspace()
    return unlike and bool(word) and answer.strip().startswith(word)

"""Prompts as they are traced: up to the first asked position, in batches of one length, with the clean run of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.restored_run import Restoration, RestoredRun
from circuitgraph.graph.spans import refuse_spans
from pruning.execution.objectives import log_softmax, right_tokens
from pruning.prompts.batches import batches_by_length
from pruning.prompts.encoding import EncodedPairs
from pruning.tracing.subjects import Subjects, subjects_of
from pruning.tracing.windows import FIRST_SUBJECT, LAST, LAST_SUBJECT, SUBJECT, Window

_NUMBERS = 1 << 26
"""How many numbers of logits and of inner activations a batch of samples holds about."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TracedBatch:
    """Prompts of one length, with their clean run.

    Attributes:
        rows: Which of the data set.
        run: The clean run.
        pairs: The batch.
        places: By name of a place, where it is `[prompt seq]`.
        right: Each prompt's right tokens, padded with -1.
        full: The clean run's log-probabilities `[prompt d_vocab]`.
    """

    rows: Int[np.ndarray, " prompt"]
    run: RestoredRun
    pairs: PairBatch
    places: dict[str, Bool[Tensor, "prompt seq"]]
    right: Int[Tensor, "prompt right"]
    full: Float[Tensor, "prompt d_vocab"]

    @property
    def subject(self) -> Bool[Tensor, "prompt seq_from_start"]:
        """Where the subject is, from the first position that may change."""
        return self.places[SUBJECT][:, self.run.start :]

    def hidden(
        self,
        tokens: Float[Tensor, "token #prompt #seq d_model"],  # noqa: F821, UP037 - no code with a comment
    ) -> Float[Tensor, "token prompt seq d_model"]:
        """What the first layer reads with the subject's tokens replaced.

        Args:
            tokens: Embeddings that stand instead of theirs, at every position or one for all.
        """
        return torch.where(self.subject[..., None], self.run.embedded - self.run.tokens + tokens, self.run.embedded)

    def restoration(self, window: Window | None) -> Restoration:
        """What a window restores; None for nothing.

        Args:
            window: The window.
        """
        if window is None:
            return Restoration(kind="mlp", layers=range(0), places=self.places[LAST])
        return Restoration(kind=window.kind, layers=window.layers, places=self.places[window.place])

    def samples(
        self, tokens: Float[Tensor, "#window #prompt #seq d_model"], windows: Sequence[Window | None]
    ) -> Iterator[tuple[list[int], list[int], Float[Tensor, "some prompt d_vocab"]]]:
        """The log-probabilities of all prompts with subjects hidden and each window restored, as many at once as fit.

        Args:
            tokens: Embeddings instead of the subject's, of `hidden`; the same for all windows, or some for each.
            windows: What is restored, None for nothing. What is the same in all prompts of the batch runs once.

        Yields:
            Numbers of windows, for each its place in what follows, and the log-probabilities of different ones.
        """
        shared, run, at_once = len(tokens) == 1, self.run, self.at_once()
        alike: dict[object, list[int]] = {}
        for number, window in enumerate(windows):
            alike.setdefault(self._key(window) if shared else number, []).append(number)
        groups = sorted(alike.values(), key=lambda group: _first_layer(windows[group[0]]))
        for start in range(0, len(groups), at_once):
            some = groups[start : start + at_once]
            chosen = [group[0] for group in some]
            embedded = self.hidden(tokens if shared else tokens[chosen])
            logits = run.logits(embedded, [self.restoration(windows[number]) for number in chosen])
            numbers = [number for group in some for number in group]
            back = [place for place, group in enumerate(some) for _ in group]
            yield numbers, back, log_softmax(logits.flatten(0, 2)).unflatten(0, logits.shape[:2])

    def at_once(self, *, gradients: bool = False) -> int:
        """How many windows run at once.

        Args:
            gradients: Whether what is inside is kept for a way back.
        """
        shape = self.run.model.shape
        inside = self.run.embedded.shape[1] * (2 * shape.d_mlp + 8 * shape.d_model)
        of_prompt = 3 * shape.d_vocab + inside * (shape.n_layers if gradients else 1)
        return max(1, _NUMBERS // (len(self.rows) * of_prompt))

    def _key(self, window: Window | None) -> object:
        if window is None:
            return None
        return window.kind, window.layers, self.places[window.place].cpu().numpy().tobytes()

    def probability(self, found: Float[Tensor, "*sample prompt d_vocab"]) -> Float[Tensor, "*sample prompt"]:
        """The probability of the right tokens.

        Args:
            found: Log-probabilities.
        """
        return self.log_right(found).exp()

    def log_right(self, found: Float[Tensor, "*sample prompt d_vocab"]) -> Float[Tensor, "*sample prompt"]:
        """Its logarithm.

        Args:
            found: Log-probabilities.
        """
        ids = self.right.clamp(min=0).expand(*found.shape[:-1], -1)
        return found.gather(-1, ids).masked_fill(self.right < 0, float("-inf")).logsumexp(-1)

    def distance(self, found: Float[Tensor, "*sample prompt d_vocab"]) -> Float[Tensor, "*sample prompt"]:
        """KL(full ‖ sample) in nats.

        Args:
            found: Log-probabilities.
        """
        return (self.full.exp() * (self.full - found)).sum(-1)


def _first_layer(window: Window | None) -> int:
    return -1 if window is None else window.layers[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class TracedPrompts:
    """A data set as it is traced.

    Attributes:
        compiled: The model.
        pairs: Prompts up to their first asked position, where the model looks back alone.
        subjects: Where their subjects are.
        given: Which of the given prompts they are.
        batches: All of them, with their clean runs, which lie where the model does.
    """

    compiled: CompiledModel
    pairs: EncodedPairs
    subjects: Subjects
    given: Int[np.ndarray, " prompt"]
    batches: tuple[TracedBatch, ...]

    def column(self, parts: Sequence[Tensor]) -> Float[np.ndarray, "... prompt"]:
        """What was measured batch by batch, in the order of the prompts, float64.

        Args:
            parts: One a batch, `[… prompt]`.
        """
        joined = torch.cat([part.detach().double().cpu() for part in parts], -1).numpy()
        return joined[..., np.argsort(np.concatenate([batch.rows for batch in self.batches]))]


@torch.no_grad()
def traced_prompts(
    compiled: CompiledModel, pairs: EncodedPairs, *, subject: str | None = None, known: bool = True, batch_size: int = 8
) -> TracedPrompts:
    """Run the full model on prompts whose subjects are to be hidden.

    Args:
        compiled: The model.
        pairs: The prompts; of what is asked, only the first position counts.
        subject: How subjects are found, see `subjects_of`.
        known: Leave out prompts whose right answer is not the model's first choice.
        batch_size: Prompts run at once at most.

    Raises:
        UnknownNameError: No such way to find subjects.
        ConfigurationError: No prompts, none that the model knows, a prompt without a subject, answers that are numbers
            or not known, or a model whose edges are divided by spans.
    """
    refuse_spans(compiled.universe, "causal tracing")
    if pairs.answer_values is not None or (pairs.answer_ids is None and pairs.correct_ids is None):
        kind = "numbers" if pairs.answer_values is not None else "not known"
        raise ConfigurationError(f"causal tracing needs answers that are tokens, and those of the prompts are {kind}")
    found = subjects_of(compiled, pairs, subject)
    cut = _asked_once(pairs, causal=compiled.shape.causal)
    given = np.arange(len(cut))
    batches = _batches(compiled, cut, found, batch_size)
    if known:
        right = [batch.right == batch.full.argmax(-1, keepdim=True) for batch in batches]
        order = np.concatenate([batch.rows for batch in batches])
        given = np.sort(order[torch.cat([one.any(-1) for one in right]).cpu().numpy()])
        if not len(given):
            raise ConfigurationError(
                f"of {len(cut)} prompts there is none whose right answer is the model's first choice, so that nothing "
                "could be lost; take another task or model, or all prompts (known=False, --all-prompts)"
            )
        if len(given) < len(cut):
            cut = cut.subset(given)
            found = replace(
                found, first=found.first[given], last=found.last[given], texts=tuple(found.texts[i] for i in given)
            )
            del batches  # before their like is made
            batches = _batches(compiled, cut, found, batch_size)
    return TracedPrompts(compiled=compiled, pairs=cut, subjects=found, given=given, batches=tuple(batches))


def _asked_once(pairs: EncodedPairs, *, causal: bool) -> EncodedPairs:
    """Prompts asked at their first asked position alone, and cut behind it where nothing looks ahead."""
    first = [int(asked[0]) for asked in pairs.predict_positions]
    ends = [at + 1 if causal else len(ids) for at, ids in zip(first, pairs.clean_ids, strict=True)]

    def cut(column: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(ids[:end] for ids, end in zip(column, ends, strict=True))

    answers = pairs.answer_ids
    return replace(
        pairs, clean_ids=cut(pairs.clean_ids), corrupted_ids=cut(pairs.corrupted_ids),
        predict_positions=tuple(np.array([at]) for at in first),
        answer_ids=None if answers is None else tuple(ids[:1] for ids in answers),
        corrupted_answers=None, spans=(), divided_by=(),
    )  # fmt: skip


def _batches(compiled: CompiledModel, pairs: EncodedPairs, subjects: Subjects, batch_size: int) -> list[TracedBatch]:
    return [_batch(compiled, pairs, subjects, some) for some in batches_by_length(pairs.by_length, batch_size)]


def _batch(compiled: CompiledModel, pairs: EncodedPairs, subjects: Subjects, rows: np.ndarray) -> TracedBatch:
    batch, device = pairs.batch(rows, device=compiled.device), compiled.device
    first, last = (torch.from_numpy(part[rows])[:, None].to(device) for part in (subjects.first, subjects.last))
    asked = torch.from_numpy(np.array([pairs.predict_positions[row][0] for row in rows]))[:, None].to(device)
    at = torch.arange(batch.clean.input_ids.shape[1], device=device)
    places = {
        FIRST_SUBJECT: at == first, LAST_SUBJECT: at == last, SUBJECT: (at >= first) & (at <= last), LAST: at == asked,
    }  # fmt: skip
    start = int(subjects.first[rows].min()) if compiled.shape.causal else 0
    run = RestoredRun(compiled.runnable, batch.clean, start=start)
    right = right_tokens(batch)
    assert right is not None
    return TracedBatch(rows=rows, run=run, pairs=batch, places=places, right=right, full=log_softmax(run.clean))

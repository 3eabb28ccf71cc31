"""The prompts of a benchmark: one batch, of one length, asked at the same positions in every prompt.

The executor skips what comes before the first token in which a prompt differs from its counterfactual, so a
benchmark has to say where that is: `share_reached`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from pruning.bench.settings import BenchSettings
from pruning.prompts.encoding import EncodedPairs

_DEFAULT_SEQ = 32
_IOI_SPARE, _IOI_A_PROMPT = 64, 40


@dataclass(frozen=True, kw_only=True)
class BenchPrompts:
    """A batch of prompts, and what to say about them.

    Attributes:
        pairs: The prompts, as many as the batch holds.
        told: Where they came from, and how they reached their length.
    """

    pairs: EncodedPairs
    told: str

    @property
    def seq(self) -> int:
        """Tokens a prompt."""
        return len(self.pairs.clean_ids[0])


def make_prompts(settings: BenchSettings, compiled: CompiledModel) -> BenchPrompts:
    """The prompts that the settings ask for.

    Args:
        settings: What is asked for.
        compiled: The model.

    Raises:
        ConfigurationError: No prompts of that length can be had, or the model does not take it.
    """
    longest = compiled.shape.n_positions
    if settings.seq is not None and longest is not None and settings.seq > longest:
        raise ConfigurationError(f"seq: {compiled.name} takes at most {longest} tokens, got {settings.seq}")
    if settings.prompt_kind == "ioi":
        return ioi_prompts(compiled.tokenizer, settings.batch, seq=settings.seq, seed=settings.seed)
    seq = settings.seq if settings.seq is not None else min(_DEFAULT_SEQ, longest or _DEFAULT_SEQ)
    return random_prompts(
        settings.batch, seq, d_vocab=compiled.shape.d_vocab, seed=settings.seed, differ=settings.differ
    )


def random_prompts(n: int, seq: int, *, d_vocab: int, seed: int, differ: str = "three") -> BenchPrompts:
    """Random tokens, asked at the last position.

    Args:
        n: How many prompts.
        seq: Tokens a prompt, at least 2.
        d_vocab: Tokens to draw from, at least 2.
        seed: Of the tokens.
        differ: `three`: the counterfactual has another token at a quarter of the prompt and at two places drawn
            between there and the last token (fewer where there is no room); `all`: everywhere.

    Examples:
        >>> prompts = random_prompts(2, 8, d_vocab=50, seed=0)
        >>> differs = prompts.pairs.clean_ids[0] != prompts.pairs.corrupted_ids[0]
        >>> int(differs.argmax()), int(differs.sum())
        (2, 3)
    """
    rng = np.random.default_rng(seed)
    clean = [rng.integers(0, d_vocab, seq) for _ in range(n)]
    places = [np.arange(seq) if differ == "all" else _places(seq, rng) for _ in range(n)]
    corrupted = []
    for ids, at in zip(clean, places, strict=True):
        other = ids.copy()
        other[at] = (ids[at] + rng.integers(1, d_vocab, len(at))) % d_vocab
        corrupted.append(other)
    pairs = EncodedPairs(
        clean_ids=tuple(clean),
        corrupted_ids=tuple(corrupted),
        predict_positions=(np.array([seq - 1]),) * n,
        answer_ids=tuple(rng.integers(0, d_vocab, (n, 1))),
    )
    where = "every token" if differ == "all" else f"{len(places[0])} tokens, the first of them token {seq // 4 + 1}"
    return BenchPrompts(pairs=pairs, told=f"random tokens, seed {seed}; the counterfactual differs in {where}")


def _places(seq: int, rng: np.random.Generator) -> np.ndarray:
    """A quarter of the way in, and up to two places between there and the last token."""
    first = min(seq // 4, seq - 2)
    later = np.arange(first + 1, seq - 1)
    return np.sort(np.append(rng.permutation(later)[:2], first))


def ioi_prompts(tokenizer: object, n: int, *, seq: int | None, seed: int) -> BenchPrompts:
    """IOI pairs of one length.

    Args:
        tokenizer: The model's tokenizer.
        n: How many prompts.
        seq: Tokens a prompt. Where the sentences have none of that length, the longest shorter ones are repeated
            whole, and cut at the front to the length wanted; nothing is padded. None takes the commonest length.
        seed: Which pairs.

    Raises:
        ConfigurationError: All sentences are longer than that.
    """
    from pruning.tasks import load_task

    sizes = {"train": _IOI_SPARE + _IOI_A_PROMPT * n, "validation": 0, "test": 0}
    pairs = load_task("ioi", tokenizer, sizes=sizes, seed=seed).splits["train"]
    kinds = [(len(ids), tuple(at.tolist())) for ids, at in zip(pairs.clean_ids, pairs.predict_positions, strict=True)]
    enough = {kind: count for kind, count in Counter(kinds).items() if count >= n}
    if seq is not None:
        enough = {kind: kind[0] for kind in enough if kind[0] <= seq}
    if not enough:
        lengths = sorted({kind[0] for kind in kinds})
        raise ConfigurationError(
            f"seq: IOI pairs have {lengths[0]} to {lengths[-1]} tokens with this tokenizer, so {n} of them do not fit "
            f"{seq}; ask for {lengths[0]} or more, or for random prompts"
        )
    kind = max(enough, key=lambda found: enough[found])
    chosen = pairs.subset([index for index, found in enumerate(kinds) if found == kind][:n])
    told = f"IOI pairs of {kind[0]} tokens, seed {seed}"
    if seq is None or seq == kind[0]:
        return BenchPrompts(pairs=chosen, told=told)
    told += f", each repeated and cut at the front to {seq} (no padding)"
    return BenchPrompts(pairs=_repeated(chosen, seq), told=told)


def _repeated(pairs: EncodedPairs, seq: int) -> EncodedPairs:
    """Prompts filled up at the front with themselves."""

    def fill(ids: np.ndarray) -> np.ndarray:
        return np.tile(ids, -(-seq // len(ids)))[-seq:]

    return EncodedPairs(
        clean_ids=tuple(fill(ids) for ids in pairs.clean_ids),
        corrupted_ids=tuple(fill(ids) for ids in pairs.corrupted_ids),
        predict_positions=tuple(
            at + seq - len(ids) for at, ids in zip(pairs.predict_positions, pairs.clean_ids, strict=True)
        ),
        answer_ids=pairs.answer_ids,
        correct_ids=pairs.correct_ids,
        wrong_ids=pairs.wrong_ids,
        groups=pairs.groups,
    )

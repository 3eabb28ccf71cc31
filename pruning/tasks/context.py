"""What a task's generator is given: the tokenizer, a random stream, and means to match token counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from circuitgraph.errors import ConfigurationError
from circuitgraph.tracr.tokenizer import TracrTokenizer
from pruning.prompts.encoded_rows import encode_rows
from pruning.prompts.encoder import PromptEncoder
from pruning.prompts.pairs import PromptPair

TRIED_IN_VAIN = 2_000
"""So many prompts in a row that do not fit the tokenizer, and no more are tried: some generators have millions."""
_PERMUTED = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """All that a generator may depend on; the same context gives the same prompts.

    Attributes:
        task: The task's name as the user gave it.
        tokenizer: The model's tokenizer.
        rng: The random stream; generators use no other.
        sizes: How many prompts each split is to have.
        sizes_given: Whether the user asked for these sizes.
        options: The task's own options, defaults filled in.
        chat_template: Whether prompts are wrapped as a user's message.
        bos: What stands before a prompt, see `pruning.prompts.encoder.PromptEncoder`.
        notes: What was dropped and why, in order; `note` adds to it.
    """

    task: str
    tokenizer: object
    rng: np.random.Generator
    sizes: Mapping[str, int]
    sizes_given: bool = False
    options: Mapping[str, object] = field(default_factory=dict)
    chat_template: bool = False
    bos: str = "auto"
    notes: list[str] = field(default_factory=list)

    @cached_property
    def encoder(self) -> PromptEncoder:
        """How text becomes tokens.

        Raises:
            ConfigurationError: The tokenizer is a Tracr program's, which knows no text.
        """
        if isinstance(self.tokenizer, TracrTokenizer):
            raise ConfigurationError(
                f"task {self.task!r} is made of text, but this model is a Tracr program; use a task "
                "'tracr-…' with it, or another model"
            )
        return PromptEncoder(
            tokenizer=self.tokenizer,  # pyright: ignore[reportArgumentType]
            chat_template=self.chat_template,
            bos=self.bos,
        )

    def note(self, message: str) -> None:
        """Keep a remark for the user about what was dropped or chosen."""
        self.notes.append(message)

    def token_counts(self, words: Iterable[str], form: str = " {}") -> dict[str, int]:
        """Count each word's tokens as it stands in a sentence.

        Args:
            words: The words.
            form: How a word is written, with `{}` for it; the default puts a space before it.

        Returns:
            The number of tokens by word.
        """
        return {word: len(tokens) for word, tokens in self._tokens(words, form).items()}

    def _tokens(self, words: Iterable[str], form: str) -> dict[str, list[int]]:
        """Each word's tokens as it stands in a sentence."""
        written = {word: form.format(word) for word in words}
        if not written:
            return {}
        ids = self.encoder.tokenizer(list(written.values()), add_special_tokens=False)["input_ids"]
        return dict(zip(written, ids, strict=True))

    def same_length(self, words: Sequence[str], kind: str, form: str = " {}") -> list[str]:
        """Keep the words of the commonest token count that the tokenizer knows, and note the others.

        Words with the unknown token in them are left out: two of them would be the same to the model.

        Args:
            words: The words.
            kind: What they are, in the plural, for the note.
            form: How a word is written, with `{}` for it.

        Returns:
            The words kept, in order.
        """
        unknown = getattr(self.encoder.tokenizer, "unk_token_id", None)
        tokens = self._tokens(words, form)
        counts = {word: len(found) for word, found in tokens.items() if unknown not in found}
        if len(counts) < len(tokens):
            strangers = [word for word in tokens if word not in counts]
            self.note(f"{kind}: the tokenizer does not know {len(strangers)} of {len(tokens)}: {shortened(strangers)}")
        if not counts:
            return []
        tally = Counter(counts.values())
        length = min(tally, key=lambda count: (-tally[count], count))
        dropped = [word for word in words if counts.get(word, length) != length]
        kept = [word for word in words if counts.get(word) == length]
        if dropped:
            self.note(
                f"{kind}: kept {len(kept)} of {len(words)}, those of {length} "
                f"token{'s' * (length > 1)}; dropped {shortened(dropped)}"
            )
        return kept

    def fit(self, pairs: Sequence[PromptPair]) -> list[bool]:
        """Say of each pair whether it can be encoded."""
        marked = [replace(pair, source=str(index)) for index, pair in enumerate(pairs)]
        rows, _ = encode_rows(marked, self.encoder)
        good = {row.pair.source for row in rows}
        return [str(index) in good for index in range(len(pairs))]

    def product(self, *axes: Sequence[object]) -> Iterator[tuple]:
        """Go through every combination once, in random order, without holding them all.

        Args:
            axes: The lists to combine.

        Yields:
            One item of each axis.
        """
        shape = [len(axis) for axis in axes]
        for number in self._numbers(math.prod(shape)):
            chosen = []
            for axis in reversed(axes):
                number, at = divmod(number, len(axis))
                chosen.append(axis[at])
            yield tuple(reversed(chosen))

    def _numbers(self, total: int) -> Iterator[int]:
        """Yield 0 … total - 1 in random order: permuted if few, else drawn until all were seen."""
        if total <= _PERMUTED:
            yield from map(int, self.rng.permutation(total))
            return
        seen: set[int] = set()
        while len(seen) < total:
            number = int(self.rng.integers(total))
            if number not in seen:
                seen.add(number)
                yield number


def shortened(items: Sequence[str], most: int = 12) -> str:
    """List items for a message, at most so many of them.

    Examples:
        >>> shortened(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    listed = ", ".join(items[:most])
    return listed if len(items) <= most else f"{listed} and {len(items) - most} more"

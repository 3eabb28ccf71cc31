"""Prompt pairs as token ids, and batches of them.

Second step of the flow: `encode_pairs` turns `PromptPairs` into `EncodedPairs`; `EncodedPairs.batch` makes
the `PairBatch` that a masked forward pass reads.

How a pair becomes tokens:

1. Spaces that end a prompt belong to the answer: `"… is <predict>Paris</predict>"` and
   `"… is<predict> Paris</predict>"` are the same text and give the same tokens.
2. Prompt alone and prompt with answer are tokenised. The second must begin with the first: what is left
   are the answer's tokens. A tokenizer that merges across the boundary makes the pair unusable, which is
   an error (or drops it). Nothing is assumed about how an answer alone would be tokenised.
3. The corrupted prompt must be as long as the clean one and leave the same answer tokens.
4. The model reads prompt and answer but its last token; the answer's first token is asked at the prompt's
   last position.

With a chat template the prompt is the user's message, and the answer, without leading spaces, begins the
assistant's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitgraph.batch import PairBatch, TokenBatch
from circuitgraph.errors import ConfigurationError, PromptFormatError
from circuitgraph.transfer import to_device
from pruning.pairs import PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """Prompt pairs as token ids, unpadded.

    Attributes:
        clean_ids: One int64 array a prompt: the prompt's tokens, then the answer's but the last.
        corrupted_ids: The counterfactuals, of the same lengths.
        predict_positions: The positions whose output is asked.
        answer_ids: The right token at each asked position, or None for numeric outputs.
        answer_values: The right number at each asked position, or None for token outputs.
        correct_ids: Right tokens at the first asked position, or None.
        wrong_ids: Wrong tokens at the first asked position, or None.
        texts: Each clean prompt before its answer.
        groups: Each prompt's group; empty means none has one.
        corrupted_texts: Each counterfactual before the answer; empty if it has no text.
        notes: What was left out while encoding, and why; not part of the hash.

    Raises:
        PromptFormatError: Arrays that do not fit together.
    """

    clean_ids: tuple[np.ndarray, ...]
    corrupted_ids: tuple[np.ndarray, ...]
    predict_positions: tuple[np.ndarray, ...]
    answer_ids: tuple[np.ndarray, ...] | None = None
    answer_values: tuple[np.ndarray, ...] | None = None
    correct_ids: tuple[np.ndarray, ...] | None = None
    wrong_ids: tuple[np.ndarray, ...] | None = None
    texts: tuple[str, ...] = ()
    groups: tuple[str | None, ...] = ()
    corrupted_texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that all columns have the same number of prompts and each prompt's arrays fit."""
        for name in _COLUMNS:
            column = getattr(self, name)
            if column is not None and len(column) != len(self):
                raise PromptFormatError(f"{name} has {len(column)} entries for {len(self)} prompts")
        for index in range(len(self)):
            self._check_prompt(index)
        for name in ("texts", "groups", "corrupted_texts"):
            column = getattr(self, name)
            if column and len(column) != len(self):
                raise PromptFormatError(f"{name} has {len(column)} entries for {len(self)} prompts")
        if not self.groups:
            object.__setattr__(self, "groups", (None,) * len(self))

    def _check_prompt(self, index: int) -> None:
        """Check one prompt's lengths and asked positions."""
        clean, corrupted = self.clean_ids[index], self.corrupted_ids[index]
        asked = self.predict_positions[index]
        if len(clean) != len(corrupted):
            raise PromptFormatError(
                f"prompt {index}: {len(clean)} clean tokens but {len(corrupted)} corrupted ones; "
                "both sides must have the same length"
            )
        if len(asked) == 0 or asked.min() < 0 or asked.max() >= len(clean):
            raise PromptFormatError(
                f"prompt {index}: asked positions {asked.tolist()} must be at least one, "
                f"all within its {len(clean)} tokens"
            )
        for answers in (self.answer_ids, self.answer_values):
            if answers is not None and len(answers[index]) != len(asked):
                raise PromptFormatError(
                    f"prompt {index}: {len(answers[index])} answers for {len(asked)} asked positions"
                )

    def __len__(self) -> int:
        """Count the prompts."""
        return len(self.clean_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Each prompt's number of tokens, int64."""
        return np.array([len(ids) for ids in self.clean_ids], dtype=np.int64)

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over every token id, asked position and answer."""
        digest = hashlib.sha256()
        for name in _COLUMNS:
            column = getattr(self, name)
            digest.update(f"{name}:{'none' if column is None else len(column)};".encode())
            for array in column or ():
                kind = "<f8" if name == "answer_values" else "<i8"
                digest.update(f"{len(array)},".encode() + np.asarray(array).astype(kind).tobytes())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int] | np.ndarray) -> EncodedPairs:
        """Take some of the prompts, in the order given.

        Args:
            indices: Which prompts.

        Returns:
            A new data set; notes are kept.
        """
        chosen = [int(index) for index in indices]
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken = {
            name: tuple(column[index] for index in chosen) if column else column
            for name, column in columns.items()
            if name != "notes"
        }
        return EncodedPairs(**taken, notes=self.notes)

    def batch(
        self,
        indices: Iterable[int] | np.ndarray,
        *,
        pad_id: int = 0,
        side: str = "right",
        device: torch.device | str = "cpu",
    ) -> PairBatch:
        """Pad some of the prompts into one batch.

        Args:
            indices: Which prompts, in this order.
            pad_id: The id at padding; it is masked, so any id of the vocabulary will do.
            side: The side that padding lies on, `right` or `left`.
            device: Where the tensors go.

        Returns:
            The batch; its `index` holds `indices`.

        Raises:
            ConfigurationError: An unknown side, or no prompt.
        """
        if side not in ("right", "left"):
            raise ConfigurationError(f"padding side must be 'right' or 'left', got {side!r}")
        chosen = [int(index) for index in indices]
        if not chosen:
            raise ConfigurationError("a batch needs at least one prompt, got none")
        width = max(len(self.clean_ids[index]) for index in chosen)
        starts = [width - len(self.clean_ids[i]) if side == "left" else 0 for i in chosen]
        asked = [self.predict_positions[i] for i in chosen]
        flat = [row * width + start + at for row, (start, at) in enumerate(zip(starts, asked, strict=True))]
        prompts = np.repeat(np.arange(len(chosen)), [len(at) for at in asked])

        def tokens(column: tuple[np.ndarray, ...]) -> TokenBatch:
            ids = np.full((len(chosen), width), pad_id, dtype=np.int64)
            mask = np.zeros((len(chosen), width), dtype=np.int64)
            for row, (index, start) in enumerate(zip(chosen, starts, strict=True)):
                ids[row, start : start + len(column[index])] = column[index]
                mask[row, start : start + len(column[index])] = 1
            return TokenBatch(
                input_ids=torch.from_numpy(ids),
                attention_mask=torch.from_numpy(mask),
                predict_index=torch.from_numpy(np.concatenate(flat)),
                predict_prompt=torch.from_numpy(prompts),
            ).to(device)

        return PairBatch(
            clean=tokens(self.clean_ids),
            corrupted=tokens(self.corrupted_ids),
            answer_ids=_joined(self.answer_ids, chosen, np.int64, device),
            answer_values=_joined(self.answer_values, chosen, np.float32, device),
            correct_ids=_padded(self.correct_ids, chosen, device),
            wrong_ids=_padded(self.wrong_ids, chosen, device),
            index=to_device(torch.tensor(chosen), device),
        )


_COLUMNS = (
    "clean_ids",
    "corrupted_ids",
    "predict_positions",
    "answer_ids",
    "answer_values",
    "correct_ids",
    "wrong_ids",
)


def _joined(
    column: tuple[np.ndarray, ...] | None, chosen: list[int], dtype: type, device: torch.device | str
) -> torch.Tensor | None:
    """Lay the answers of the chosen prompts end to end."""
    if column is None:
        return None
    return to_device(np.concatenate([column[index] for index in chosen]).astype(dtype), device)


def _padded(
    column: tuple[np.ndarray, ...] | None, chosen: list[int], device: torch.device | str
) -> torch.Tensor | None:
    """Stack sets of tokens of different sizes, padded with -1."""
    if column is None:
        return None
    rows = np.full((len(chosen), max(1, *(len(column[index]) for index in chosen))), -1, dtype=np.int64)
    for row, index in enumerate(chosen):
        rows[row, : len(column[index])] = column[index]
    return to_device(rows, device)


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """How text becomes tokens: tokenizer, chat template, and what is put before the prompt.

    Attributes:
        tokenizer: A Hugging Face tokenizer.
        chat_template: Whether the prompt is wrapped as a user's message with the generation prompt.
        bos: What stands before the prompt: `auto` is what the tokenizer itself puts there (with a chat
            template: what the template writes), `yes` its BOS token, `no` nothing. With a chat template
            `no` adds nothing to it but takes nothing away.

    Raises:
        ConfigurationError: An unknown `bos`, or one or a template that the tokenizer does not have.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template: bool = False
    bos: str = "auto"

    def __post_init__(self) -> None:
        """Check that the tokenizer has what is asked for."""
        if self.bos not in ("auto", "yes", "no"):
            raise ConfigurationError(f"bos must be 'auto', 'yes' or 'no', got {self.bos!r}")
        if self.bos == "yes" and self.tokenizer.bos_token_id is None:
            raise ConfigurationError("bos='yes', but this tokenizer has no BOS token; use bos='auto' or 'no'")
        if self.chat_template and not self.tokenizer.chat_template:
            raise ConfigurationError("chat_template=True, but this tokenizer has none; use chat_template=False")

    @cached_property
    def bos_ids(self) -> Ids:
        """The ids put before every prompt (`yes` and a chat template: unless the prompt begins with them)."""
        if self.bos == "yes":
            return (int(self.tokenizer.bos_token_id),)  # pyright: ignore[reportArgumentType]
        if self.bos == "no" or self.chat_template:
            return ()
        plain = self._tokenize(["a"])["a"]
        full = tuple(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return full[:start]
        raise ConfigurationError("cannot tell what this tokenizer puts before a prompt; say bos='yes' or 'no'")

    def prompt_text(self, prompt: str) -> str:
        """Give the text that is tokenised for a prompt: without final spaces, in the template if asked."""
        if not self.chat_template:
            return prompt.rstrip(" ")
        message = [{"role": "user", "content": prompt.rstrip(" ")}]
        text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def answer_text(self, answer: str, prompt: str) -> str:
        """Give an answer's text as it follows `prompt_text(prompt)`."""
        if self.chat_template:
            return answer.lstrip(" ")
        return prompt[len(prompt.rstrip(" ")) :] + answer

    def ids(self, texts: Iterable[str]) -> dict[str, Ids]:
        """Tokenise texts as they follow the BOS ids, which are put in front.

        Args:
            texts: Texts made by `prompt_text`, with or without an answer.

        Returns:
            Each text's ids.
        """
        plain = self._tokenize(list(dict.fromkeys(texts)))
        front = self.bos_ids
        doubled = self.chat_template and bool(front)
        return {text: ids if doubled and ids[: len(front)] == front else front + ids for text, ids in plain.items()}

    def _tokenize(self, texts: list[str]) -> dict[str, Ids]:
        """Tokenise without special tokens."""
        if not texts:
            return {}
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {text: tuple(ids) for text, ids in zip(texts, encoded, strict=True)}


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """One pair's ids."""

    pair: PromptPair
    clean: Ids
    corrupted: Ids
    answer: Ids
    correct: Ids
    wrong: Ids


def encode_pairs(
    pairs: Iterable[PromptPair],
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: bool = False,
    bos: str = "auto",
    align: str = "error",
) -> EncodedPairs:
    """Tokenise prompt pairs.

    Args:
        pairs: The pairs.
        tokenizer: A Hugging Face tokenizer.
        chat_template: Whether the prompt is wrapped as a user's message; by default it is not.
        bos: `auto` (what the tokenizer puts before a text by itself, the default), `yes` or `no`.
        align: What happens to a pair whose sides differ in token length, or whose answer's tokens are not
            well defined: `error` raises, `drop` leaves it out and says so in `notes`.

    Returns:
        The token ids. A right or wrong alternative whose text the tokenizer merges with the prompt's end is
        left out of its set (it could not be written there), and `notes` counts them.

    Raises:
        PromptFormatError: A pair that cannot be used, naming its file and line or its index; or no pair.
        ConfigurationError: An unknown option, or one that the tokenizer cannot follow.
    """
    if align not in ("error", "drop"):
        raise ConfigurationError(f"align must be 'error' or 'drop', got {align!r}")
    encoder = PromptEncoder(tokenizer=tokenizer, chat_template=chat_template, bos=bos)
    listed = list(pairs)
    if not listed:
        raise PromptFormatError("no prompt pairs to encode")
    rows, problems, left_out = encode_rows(listed, encoder)
    if problems and (align == "error" or not rows):
        more = f" (and {len(problems) - 1} more pairs)" if len(problems) > 1 else ""
        raise PromptFormatError(problems[0] + more)
    notes = [f"dropped: {problem}" for problem in problems]
    if left_out:
        notes.append(
            f"{left_out} alternative answers left out of their sets: the tokenizer merges them with the prompt"
        )
    return columns(rows, tuple(notes))


def encode_rows(pairs: Sequence[PromptPair], encoder: PromptEncoder) -> tuple[list[EncodedRow], list[str], int]:
    """Tokenise pairs in one go and tell the usable from the others.

    Args:
        pairs: The pairs.
        encoder: How text becomes tokens.

    Returns:
        The usable pairs' ids, in order; a message for each of the others; how many alternatives were left
        out of their sets.
    """
    texts: list[str] = []
    for pair in pairs:
        texts += _texts(pair, encoder)
    ids = encoder.ids(texts)
    rows: list[EncodedRow] = []
    problems: list[str] = []
    left_out = 0
    for index, pair in enumerate(pairs):
        try:
            row, skipped = _row(pair, encoder, ids)
        except PromptFormatError as error:
            problems.append(str(error) if pair.source else f"pair {index}, {error}")
        else:
            rows.append(row)
            left_out += skipped
    return rows, problems, left_out


def _texts(pair: PromptPair, encoder: PromptEncoder) -> list[str]:
    """List every text whose ids a pair needs: both prompts, both with the answer, the alternatives."""
    clean, corrupted = encoder.prompt_text(pair.clean), encoder.prompt_text(pair.corrupted)
    answer = encoder.answer_text(pair.answer, pair.clean)
    others = (*pair.correct_answers, *pair.all_wrong)
    joint = [clean + encoder.answer_text(other, pair.clean) for other in others]
    return [clean, corrupted, clean + answer, corrupted + answer, *joint]


def _row(pair: PromptPair, encoder: PromptEncoder, ids: dict[str, Ids]) -> tuple[EncodedRow, int]:
    """Check one pair and put its ids together; also count the alternatives left out."""
    clean_text, corrupted_text, clean_joint, corrupted_joint, *others = _texts(pair, encoder)
    clean, corrupted = ids[clean_text], ids[corrupted_text]
    if len(clean) != len(corrupted):
        raise pair.error(
            f"the clean side has {len(clean)} tokens and the corrupted side {len(corrupted)}; "
            'give both the same number, or leave such pairs out, with options={"align": "drop"} or '
            "--task-option align=drop"
        )
    answer = continuation(clean, ids[clean_joint])
    if not answer:
        raise pair.error(
            f"the tokenizer merges the answer {pair.answer!r} with the prompt's end, so the answer "
            "has no tokens of its own; let the answer start at a word's beginning"
        )
    if continuation(corrupted, ids[corrupted_joint]) != answer:
        raise pair.error(
            f"after the corrupted prompt the answer {pair.answer!r} has other tokens than after the clean "
            "one; end both sides with the same characters"
        )
    n_right = len(pair.correct_answers)
    firsts = [continuation(clean, ids[text])[:1] for text in others]
    correct = _set(firsts[:n_right]) if n_right else answer[:1]
    wrong = _set(firsts[n_right:])
    _check_sets(pair, correct, wrong)
    row = EncodedRow(pair=pair, clean=clean, corrupted=corrupted, answer=answer, correct=correct, wrong=wrong)
    return row, firsts.count(())


def continuation(prompt: Ids, joint: Ids) -> Ids:
    """Give the tokens that a text adds to its beginning's.

    Args:
        prompt: The beginning's ids.
        joint: The whole text's ids.

    Returns:
        What follows; nothing if the tokenizer merged across the boundary.

    Examples:
        >>> continuation((5, 7), (5, 7, 9)), continuation((5, 7), (5, 8))
        ((9,), ())
    """
    return joint[len(prompt) :] if joint[: len(prompt)] == prompt else ()


def _set(firsts: list[Ids]) -> Ids:
    """Join first tokens into a set without repetition, in order."""
    return tuple(dict.fromkeys(token for first in firsts for token in first))


def _check_sets(pair: PromptPair, correct: Ids, wrong: Ids) -> None:
    """Refuse sets of right and wrong first tokens that are empty or overlap."""
    if (pair.correct_answers and not correct) or (pair.all_wrong and not wrong):
        raise pair.error("no alternative answer has tokens of its own after this prompt; use others")
    if set(correct) & set(wrong):
        raise pair.error(
            "a right and a wrong answer begin with the same token, so their first logits cannot be compared; "
            "use another wrong answer"
        )


def columns(rows: list[EncodedRow], notes: tuple[str, ...]) -> EncodedPairs:
    """Turn usable pairs into columns."""

    def column(take: Callable[[EncodedRow], Sequence[int]]) -> tuple[np.ndarray, ...]:
        return tuple(np.array(take(row), dtype=np.int64) for row in rows)

    return EncodedPairs(
        clean_ids=column(lambda row: row.clean + row.answer[:-1]),
        corrupted_ids=column(lambda row: row.corrupted + row.answer[:-1]),
        predict_positions=column(lambda row: range(len(row.clean) - 1, len(row.clean) + len(row.answer) - 1)),
        answer_ids=column(lambda row: row.answer),
        correct_ids=column(lambda row: row.correct),
        wrong_ids=column(lambda row: row.wrong) if any(row.wrong for row in rows) else None,
        texts=tuple(row.pair.clean for row in rows),
        groups=tuple(row.pair.group for row in rows),
        corrupted_texts=tuple(row.pair.corrupted for row in rows),
        notes=notes,
    )

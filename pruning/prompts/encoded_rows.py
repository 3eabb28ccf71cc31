"""One prompt pair's token ids, and every reason why a pair cannot be used.

`pruning.prompts.encoding` makes columns of the usable ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from circuitgraph.errors import PromptFormatError
from pruning.prompts.encoder import Ids, PromptEncoder
from pruning.prompts.pairs import PromptPair
from pruning.prompts.spacing import Respelling, respelled
from pruning.prompts.text_rules import shown


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """One pair's ids, and what was noticed while they were made.

    Attributes:
        pair: The pair.
        clean: The clean prompt up to the answer, with what stands before it.
        corrupted: The corrupted prompt up to the answer.
        answer: The answer.
        clean_after: What follows the answer on the clean side, of a model that fills in masks.
        corrupted_after: What follows it on the corrupted side.
        mask: What a model that fills in masks reads instead of each of the answer's tokens; None for others.
        spans: Names of the spans with the position at which each begins.
        correct: First tokens of right answers.
        wrong: First tokens of wrong answers.
        corrupted_answer: The counterfactual's own answer, after its side; empty if not known.
        unknown: Unknown tokens and dropped characters in all of these.
        spacing: The answer as it was probably meant, where its spaces look wrong.
        own_bos: Whether the prompt itself begins with BOS, so that it was not put there again.
        left_out: How many alternatives are in no set, because the tokenizer merges them with the prompt.
    """

    pair: PromptPair
    clean: Ids
    corrupted: Ids
    answer: Ids
    correct: Ids
    wrong: Ids
    corrupted_answer: Ids
    unknown: int
    spacing: Respelling | None
    own_bos: bool
    left_out: int
    clean_after: Ids = ()
    corrupted_after: Ids = ()
    mask: int | None = None
    spans: tuple[tuple[str, int], ...] = ()

    @property
    def prompt(self) -> Ids:
        """What tells the prompt from others: all of it but the answer."""
        return self.clean + self.clean_after

    @property
    def sides(self) -> tuple[Ids, Ids]:
        """What the model reads on the clean and on the corrupted side."""
        if self.mask is None:
            return self.clean + self.answer[:-1], self.corrupted + self.answer[:-1]
        masks = (self.mask,) * len(self.answer)
        return self.clean + masks + self.clean_after, self.corrupted + masks + self.corrupted_after

    @property
    def asked(self) -> range:
        """The positions at which the answer is asked: at its masks, or at the token before each of its own."""
        first = len(self.clean) - (self.mask is None)
        return range(first, first + len(self.answer))


def remarks(rows: Sequence[EncodedRow]) -> list[str]:
    """Say what was done with pairs that a user might not expect.

    Args:
        rows: The usable pairs.
    """
    notes = []
    if left_out := sum(row.left_out for row in rows):
        notes.append(
            f"{left_out} alternative answers left out of their sets: the tokenizer merges them with the prompt"
        )
    if own_bos := sum(row.own_bos for row in rows):
        notes.append(f"{own_bos} of {len(rows)} prompts begin with BOS themselves: it is not put before them again")
    return notes


def encode_rows(pairs: Sequence[PromptPair], encoder: PromptEncoder) -> tuple[list[EncodedRow], list[str]]:
    """Tokenise pairs in one go and tell the usable from the others.

    Args:
        pairs: The pairs.
        encoder: How text becomes tokens.

    Returns:
        The usable pairs' ids, in order; a message for each of the others.
    """
    written = [_Texts.of(pair, encoder) for pair in pairs]
    ids = encoder.ids(text for texts in written for text in texts.all)
    rows: list[EncodedRow] = []
    problems: list[str] = []
    for index, (pair, texts) in enumerate(zip(pairs, written, strict=True)):
        try:
            rows.append(_row(pair, texts, encoder, ids))
        except PromptFormatError as error:
            problems.append(str(error) if pair.source else f"pair {index}, {error}")
    return rows, problems


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """Every text whose ids a pair needs."""

    clean: str
    corrupted: str
    answered: str
    """The clean prompt with its answer."""
    corrupted_answered: str
    right: tuple[str, ...]
    """The clean prompt with each right alternative."""
    wrong: tuple[str, ...]
    corrupted_own: str | None
    """The corrupted prompt with its own answer."""
    respelled: str | None
    """The clean prompt with the answer as it was probably meant."""
    whole: str
    """The clean prompt with its answer and what follows it."""
    corrupted_whole: str
    before_spans: tuple[str, ...]
    """The clean prompt up to each of its spans but the first."""
    corrupted_before_spans: tuple[str, ...]

    @classmethod
    def of(cls, pair: PromptPair, encoder: PromptEncoder) -> _Texts:
        clean, corrupted = encoder.prompt_text(pair.clean), encoder.prompt_text(pair.corrupted)
        answer = encoder.answer_text(pair.answer, pair.clean)
        meant = None if encoder.chat_template else respelled(pair.clean, pair.answer)
        return cls(
            clean=clean,
            corrupted=corrupted,
            answered=clean + answer,
            corrupted_answered=corrupted + answer,
            right=tuple(clean + encoder.answer_text(other, pair.clean) for other in pair.correct_answers),
            wrong=tuple(clean + encoder.answer_text(other, pair.clean) for other in pair.all_wrong),
            corrupted_own=None
            if pair.corrupted_answer is None
            else corrupted + encoder.answer_text(pair.corrupted_answer, pair.corrupted),
            respelled=None if meant is None else clean + meant,
            whole=clean + answer + pair.clean_after,
            corrupted_whole=corrupted + answer + pair.corrupted_after,
            before_spans=_before(pair.spans),
            corrupted_before_spans=_before(pair.corrupted_spans),
        )

    @property
    def all(self) -> list[str]:
        """All of them."""
        meant = [text for text in (self.respelled, self.corrupted_own) if text is not None]
        prompts = [self.clean, self.corrupted, self.answered, self.corrupted_answered]
        spans = (*self.before_spans, *self.corrupted_before_spans)
        return [*prompts, *self.right, *self.wrong, *meant, self.whole, self.corrupted_whole, *spans]


def _before(spans: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The text up to each span but the first; a space before a span is the span's, as in most tokens."""
    texts = accumulate(piece for _, piece in spans)
    return tuple(text.rstrip(" ") for text in texts)[:-1]


def _row(pair: PromptPair, texts: _Texts, encoder: PromptEncoder, ids: dict[str, Ids]) -> EncodedRow:
    """Check one pair and put its ids together."""
    if not encoder.fills_masks and (after := pair.clean_after.strip() or pair.corrupted_after.strip()):
        raise pair.error(
            f"text after </predict>: {shown(after)}; nothing after the answer is ever read by a model that says the "
            "next token, so end the prompt there or take that text into the span"
        )
    clean, corrupted = ids[texts.clean], ids[texts.corrupted]
    n_bos = _check_beginnings(pair, texts, encoder, clean, corrupted)
    if len(clean) != len(corrupted):
        raise pair.error(
            f"the clean side has {len(clean)} tokens and the corrupted side {len(corrupted)}; "
            'give both the same number, or leave such pairs out, with options={"align": "drop"} or '
            "--task-option align=drop"
        )
    answer = continuation(clean, ids[texts.answered])
    if not answer:
        raise pair.error(
            f"the tokenizer merges the answer {pair.answer!r} with the prompt's end, so the answer "
            "has no tokens of its own; let the answer start at a word's beginning, with a space where one belongs"
        )
    if continuation(corrupted, ids[texts.corrupted_answered]) != answer:
        raise pair.error(
            f"after the corrupted prompt the answer {pair.answer!r} has other tokens than after the clean "
            "one; end both sides with the same characters"
        )
    _check_known(pair, encoder, [(pair.answer, answer)])
    after = _after(pair, texts, encoder, ids) if encoder.fills_masks else ((), ())
    right = [continuation(clean, ids[text])[:1] for text in texts.right]
    wrong = [continuation(clean, ids[text])[:1] for text in texts.wrong]
    _check_known(pair, encoder, list(zip(pair.correct_answers + pair.all_wrong, right + wrong, strict=True)))
    correct_set, wrong_set = _set(right) if right else answer[:1], _set(wrong)
    _check_sets(pair, correct_set, wrong_set)
    return EncodedRow(
        pair=pair,
        clean=clean,
        corrupted=corrupted,
        answer=answer,
        correct=correct_set,
        wrong=wrong_set,
        corrupted_answer=_corrupted_answer(texts, encoder, ids),
        unknown=encoder.n_unknown(texts.whole, ids[texts.whole])
        + encoder.n_unknown(texts.corrupted + pair.corrupted_after, corrupted + after[1]),
        spacing=_spacing(texts, encoder, ids),
        own_bos=bool(encoder.bos_ids) and n_bos > 0,
        left_out=right.count(()) + wrong.count(()),
        clean_after=after[0],
        corrupted_after=after[1],
        mask=encoder.mask_id if encoder.fills_masks else None,
        spans=_span_starts(pair, texts, encoder, ids),
    )


def _span_starts(
    pair: PromptPair, texts: _Texts, encoder: PromptEncoder, ids: dict[str, Ids]
) -> tuple[tuple[str, int], ...]:
    """The position at which each span begins, the same on both sides."""
    if not pair.spans or encoder.chat_template:
        return ()  # a template puts text of its own around the message
    names = [name for name, _ in pair.spans]
    clean = _begin(pair, names, ids[texts.clean], [ids[text] for text in texts.before_spans])
    if pair.corrupted_spans:
        other = _begin(pair, names, ids[texts.corrupted], [ids[text] for text in texts.corrupted_before_spans])
        for name, here, there in zip(names, clean, other, strict=True):
            if here != there:
                raise pair.error(
                    f"span {name!r} begins at token {here} of the clean side and at token {there} of the corrupted "
                    "one; spans of both sides must have the same numbers of tokens"
                )
    return tuple(zip(names, clean, strict=True))


def _begin(pair: PromptPair, names: list[str], whole: Ids, before: list[Ids]) -> list[int]:
    """Where spans begin in a side's tokens."""
    starts = [0]
    for name, ids in zip(names[1:], before, strict=True):
        if whole[: len(ids)] != ids:
            raise pair.error(
                f"the tokenizer merges the beginning of span {name!r} with the text before it; let a span begin at a "
                "word's beginning, with the space before it"
            )
        starts.append(len(ids))
    for name, start, after in zip(names, starts, [*starts[1:], len(whole)], strict=True):
        if start >= after:
            raise pair.error(f"span {name!r} has no token of its own; leave it out, or give it more of the text")
    return starts


def _after(pair: PromptPair, texts: _Texts, encoder: PromptEncoder, ids: dict[str, Ids]) -> tuple[Ids, Ids]:
    """What follows the answer on either side, up to the token that ends the text."""
    found = []
    for text, before, whole in (
        (pair.clean_after, texts.answered, texts.whole),
        (pair.corrupted_after, texts.corrupted_answered, texts.corrupted_whole),
    ):
        after = continuation(ids[before], ids[whole])
        if text.strip() and not after:
            raise pair.error(
                f"the tokenizer merges the answer {pair.answer!r} with what follows it, {shown(text)}, so that a mask "
                "would hide another text; let a space or a mark follow the answer"
            )
        found.append(after + encoder.back_ids)
    if len(found[0]) != len(found[1]):
        raise pair.error(
            f"after the answer the clean side has {len(found[0])} tokens and the corrupted side {len(found[1])}; give "
            "both the same number (mark the answer's place on the corrupted side, too), or leave such pairs out, with "
            'options={"align": "drop"} or --task-option align=drop'
        )
    return found[0], found[1]


def _check_beginnings(pair: PromptPair, texts: _Texts, encoder: PromptEncoder, clean: Ids, corrupted: Ids) -> int:
    """Refuse sides that do not begin alike, and BOS twice; count the BOS tokens written out before the clean side."""
    counts = encoder.written_bos(texts.clean, clean), encoder.written_bos(texts.corrupted, corrupted)
    if not any(counts):
        return 0
    bos = encoder.tokenizer.bos_token
    if clean[:1] != corrupted[:1]:
        side = "clean" if counts[0] else "corrupted"
        raise pair.error(
            f"only the {side} side begins with the BOS token {bos!r}, so that the sides' positions differ; "
            "begin both with it, or neither"
        )
    if max(counts) > 1:
        raise pair.error(f"the prompt begins with the BOS token {bos!r} {max(counts)} times; a model reads it once")
    if encoder.chat_template and any(side.lstrip().startswith(str(bos)) for side in (pair.clean, pair.corrupted)):
        raise pair.error(f"the message begins with the BOS token {bos!r}, but the chat template begins the prompt")
    return counts[0]


def _check_known(pair: PromptPair, encoder: PromptEncoder, answers: list[tuple[str, Ids]]) -> None:
    """Refuse answers that the tokenizer does not know: what is measured would be its unknown token."""
    for text, ids in answers:
        if encoder.unknown_id_in(ids, text) or (ids and encoder.n_dropped(text)):
            raise pair.error(
                f"the tokenizer does not know all of the answer {text!r}, so that another text would be measured; "
                "use an answer that this model can say"
            )


def _spacing(texts: _Texts, encoder: PromptEncoder, ids: dict[str, Ids]) -> Respelling | None:
    """Give the answer as it was probably meant, where this tokenizer tells the two apart and knows it."""
    if texts.respelled is None or ids[texts.respelled] == ids[texts.answered]:
        return None
    meant = continuation(ids[texts.clean], ids[texts.respelled])
    if not meant or encoder.unknown_id_in(meant, texts.respelled):
        return None
    cut = len(texts.clean)
    return Respelling(written=texts.answered[cut:], meant=texts.respelled[cut:], first_id=meant[0])


def _corrupted_answer(texts: _Texts, encoder: PromptEncoder, ids: dict[str, Ids]) -> Ids:
    """The counterfactual's own answer; nothing where it has none, or one that this tokenizer cannot write or know."""
    if texts.corrupted_own is None:
        return ()
    own = continuation(ids[texts.corrupted], ids[texts.corrupted_own])
    unknown = encoder.unknown_id_in(own, texts.corrupted_own) or encoder.n_dropped(texts.corrupted_own)
    return () if unknown else own


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

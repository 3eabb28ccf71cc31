"""Prompts that a model can run: not too long for it, of tokens that it has, and asked where it has an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from circuitgraph.errors import ConfigurationError
from pruning.findings import Finding
from pruning.prompts.spans import require_same_spans

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from pruning.prompts.encoding import EncodedPairs


def unrunnable(compiled: CompiledModel, pairs: EncodedPairs, name: str = "") -> list[Finding]:
    """Prompts that a model cannot run: too long for it, or of tokens that it does not have.

    Args:
        compiled: The model.
        pairs: The prompts.
        name: What they are called, such as `test`.

    Returns:
        An error for each kind, naming the first prompt; empty if all can run.
    """
    if not len(pairs):
        return []
    named = f"{name} prompt" if name else "prompt"
    found = [*_too_long(compiled, pairs, named), *_beyond(compiled, pairs, named), *_unmasked(compiled, pairs, named)]
    return [Finding(name=kind, severity="error", text=text) for kind, text in found]


def require_runnable(compiled: CompiledModel, pairs: EncodedPairs) -> None:
    """Refuse prompts that a model cannot run.

    Raises:
        ConfigurationError: There are some; the message names the first. Or they are not divided into the model's spans.
    """
    require_same_spans(compiled.universe, pairs)
    found = unrunnable(compiled, pairs)
    if found:
        raise ConfigurationError("\n".join(one.text for one in found))


def _too_long(compiled: CompiledModel, pairs: EncodedPairs, named: str) -> Iterator[tuple[str, str]]:
    limit, lengths = compiled.shape.longest_prompt, pairs.lengths
    if limit is not None and int(lengths.max()) > limit:
        long = np.flatnonzero(lengths > limit)
        yield (
            "prompts-too-long",
            (
                f"{counted(len(long), named)} too long: a prompt has {lengths.max():,} tokens, and the "
                "model takes at most "
                f"{limit:,} (the first: {text_of(pairs, int(long[0]))}). Shorten or leave out what is longer."
            ),
        )


def _beyond(compiled: CompiledModel, pairs: EncodedPairs, named: str) -> Iterator[tuple[str, str]]:
    """Ids that the embeddings, or the logits, do not have."""
    n_read, n_written = int(compiled.model.config.vocab_size), compiled.shape.d_vocab  # pyright: ignore
    columns = {
        "the prompt": (pairs.clean_ids, n_read),
        "the corrupted prompt": (pairs.corrupted_ids, n_read),
        "the answer": (pairs.answer_ids, n_written),
        "a right answer": (pairs.correct_ids, n_written),
        "a wrong answer": (pairs.wrong_ids, n_written),
    }
    for what, (column, size) in columns.items():
        if not column:
            continue
        joined = np.concatenate(column)
        if not len(joined) or (joined.max() < size and joined.min() >= 0):
            continue
        bad = [index for index, ids in enumerate(column) if len(ids) and (ids.max() >= size or ids.min() < 0)]
        worst = next(int(token) for token in column[bad[0]] if token >= size or token < 0)
        yield (
            "ids-beyond-vocabulary",
            (
                f"{counted(len(bad), named)} of tokens that the model does not have: {what} has token "
                f"{worst:,}, and the "
                f"model's vocabulary ends at {size - 1:,} (the first: {text_of(pairs, bad[0])}). Tokens "
                "were added to the "
                "tokenizer and not to the model: resize its embeddings, or load the tokenizer that belongs to it."
            ),
        )


def _unmasked(compiled: CompiledModel, pairs: EncodedPairs, named: str) -> Iterator[tuple[str, str]]:
    """Prompts that ask a model that fills in masks elsewhere than at a mask, or another model at one."""
    mask = getattr(compiled.tokenizer, "mask_token_id", None)
    if mask is None:
        return
    sides = zip(pairs.clean_ids, pairs.corrupted_ids, pairs.predict_positions, strict=True)
    at_masks = [bool((clean[at] == mask).all() and (corrupted[at] == mask).all()) for clean, corrupted, at in sides]
    wanted = compiled.family.fills_masks
    bad = [index for index, is_masked in enumerate(at_masks) if is_masked != wanted]
    if bad and wanted:
        why = (
            "not asked at a mask, but this model says what masks stand for: make the prompts with the model's own "
            "tokenizer, which puts a mask where the answer is marked"
        )
    else:
        why = "asked at a mask, but this model says the next token: make the prompts with the model's own tokenizer"
    if bad:
        yield "asked-elsewhere", f"{counted(len(bad), named)} {why} (the first: {text_of(pairs, bad[0])})."


def counted(n: int, named: str) -> str:
    """So many of something, with its verb."""
    return f"1 {named} is" if n == 1 else f"{n:,} {named}s are"


def text_of(pairs: EncodedPairs, index: int) -> str:
    """A prompt's text, cut, or its number where it has none."""
    if not pairs.texts:
        return f"prompt {index}"
    text = pairs.texts[index]
    return repr(text if len(text) <= 60 else f"{text[:57]}…")

"""The tokens of prompts as text.

A letter outside of a tokenizer's own may be several tokens, bytes that are no text alone. The first of them has the
letter here, the others none, so that the tokens of a prompt are its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from circuitgraph.compiled.model import CompiledModel
from pruning.prompts.encoding import EncodedPairs

_NO_TEXT, _BYTES = "\N{REPLACEMENT CHARACTER}", 8
"""What bytes that are no letter decode to, and how many tokens are taken together at most."""


def tokens_of(compiled: CompiledModel, pairs: EncodedPairs) -> tuple[tuple[str, ...], ...]:
    """The tokens of each prompt as text.

    Args:
        compiled: The model.
        pairs: The prompts.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split", verify=False)
        >>> tokens_of(compiled, load_task("tracr-reverse", compiled.tokenizer).split("test"))[0]
        ('BOS', '1')
    """
    tokenizer = compiled.tokenizer
    if tokenizer is None or compiled.universe.family == "tracr":
        decode = decoder(compiled)
        return tuple(tuple(decode(int(token)) for token in ids) for ids in pairs.clean_ids)
    return tuple(pieces(tokenizer.decode, [int(token) for token in ids]) for ids in pairs.clean_ids)


def pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token; of tokens that make letters together the first has them all.

    Args:
        decode: What text some tokens are.
        ids: The tokens.

    Examples:
        >>> pieces(lambda ids: bytes(ids).decode(errors="replace"), list("a日b".encode()))
        ('a', '日', '', '', 'b')
    """
    found: list[str] = []
    while len(found) < len(ids):
        at = len(found)
        texts = (decode(list(ids[at : at + n])) for n in range(1, min(_BYTES, len(ids) - at) + 1))
        whole = next(((n, text) for n, text in enumerate(texts, 1) if _NO_TEXT not in text), None)
        n, text = whole or (1, _NO_TEXT)
        found += [text, *[""] * (n - 1)]
    return tuple(found)


def covering(tokens: Sequence[str], start: int, end: int) -> Bool[np.ndarray, " seq"]:
    """Which tokens have a letter of a stretch of their text.

    Args:
        tokens: The tokens of a prompt, as of `tokens_of`.
        start: Where the stretch begins, counted in letters.
        end: Where it ends.

    Examples:
        >>> covering(("The", " cat", " s", "at"), 4, 9).tolist()
        [False, True, True, False]
    """
    ends = np.cumsum([len(token) for token in tokens])
    row = (ends - [len(token) for token in tokens] < end) & (ends > start)
    for place, token in enumerate(tokens):
        if not token and place:  # a part of the letter that the token before it has
            row[place] = row[place - 1]
    return row


def decoder(compiled: CompiledModel) -> Callable[[int], str]:
    """What a token's text is; its id where the model has no tokenizer.

    Args:
        compiled: The model.
    """
    tokenizer = compiled.tokenizer
    if tokenizer is None:
        return str
    if compiled.universe.family == "tracr":
        return tokenizer.decode_token
    return lambda token: tokenizer.decode([token])

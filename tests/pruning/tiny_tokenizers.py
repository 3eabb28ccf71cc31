"""Tokenizers small enough to read, built in memory: one token a word, or one a digit."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def word_tokenizer(
    texts: Iterable[str], *, pattern: str = r" ?[^\W\d]+| ?\d+| ?[^\w\s]|\s", bos: bool = False
) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose vocabulary is every piece that `pattern` finds in `texts`.

    Args:
        texts: What it must know; all else is `<unk>`.
        pattern: What one token is; a word's token holds the space before it.
        bos: Whether the tokenizer puts `<s>` before a text by itself.

    Returns:
        The tokenizer, with BOS and padding tokens.
    """
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = {piece: number for number, piece in enumerate(("<unk>", "<s>", "<pad>", *sorted(pieces)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", pad_token="<pad>"
    )

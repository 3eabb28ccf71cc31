"""Tokenizers small enough to read, built in memory: one token a word, or one a digit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


def word_tokenizer(
    texts: Iterable[str], *, pattern: str = r" ?[^\W\d]+| ?\d+| ?[^\w\s]|\s", bos: bool = False, masks: bool = False
) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose vocabulary is every piece that `pattern` finds in `texts`.

    Args:
        texts: What it must know; all else is `<unk>`.
        pattern: What one token is; a word's token holds the space before it.
        bos: Whether the tokenizer puts `<s>` before a text by itself.
        masks: Whether it is an encoder's: `[CLS]` before a text, `[SEP]` behind it, and `[MASK]`.

    Returns:
        The tokenizer, with BOS and padding tokens.
    """
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    own = ("<unk>", "<s>", "<pad>") + ("[CLS]", "[SEP]", "[MASK]") * masks
    vocabulary = {piece: number for number, piece in enumerate((*own, *sorted(pieces)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    if bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special: dict[str, Any] = {"unk_token": "<unk>", "bos_token": "<s>", "pad_token": "<pad>"}
    if masks:
        mask = AddedToken("[MASK]", lstrip=True, special=True)  # the space before it is its own, as ModernBERT's
        special |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": mask}
        around = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
        tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def piece_tokenizer(texts: Iterable[str], *, vocabulary: int = 1500) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts, with a token for each digit, as SmolLM2's tokenizer has.

    Args:
        texts: What it learns from; with few merges, rarer words stay in several tokens.
        vocabulary: How many tokens it may have.

    Returns:
        The tokenizer, which knows any text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)

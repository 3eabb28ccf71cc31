"""Answers whose spaces look wrong: missing, doubled, or after the answer.

Most tokenizers have one token for ` Lima` and another for `Lima`. A model that knows the capital says the first, and
a prompt `… is<predict>Lima</predict>` asks for the second: its accuracy is 0. Text alone cannot decide it
(`cat<predict>s</predict>` is meant), so that what is found here is a suspicion, to be held against the model.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_AFTER_A_SPACE = frozenset(",.;:!?)]}%…")
_NO_SPACE_AFTER = frozenset("\n\t([{")
_WRITTEN_TOGETHER = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI")


@dataclass(frozen=True, kw_only=True)
class Respelling:
    """An answer as it was probably meant.

    Attributes:
        written: The answer as it is, with the spaces that the prompt ends with.
        meant: The answer with other spaces.
        first_id: The first token of that.
    """

    written: str
    meant: str
    first_id: int


def respelled(prompt: str, answer: str) -> str | None:
    r"""Guess the answer that was meant from how prompt and answer meet.

    Args:
        prompt: The text before the answer.
        answer: The answer.

    Returns:
        The answer with other spaces, or None where nothing is suspicious.

    Examples:
        >>> respelled("The capital of Peru is", "Lima"), respelled("The capital of Peru is", " Lima")
        (' Lima', None)
        >>> respelled("The capital of Peru is ", " Lima"), respelled("It is", " Lima ")
        (' Lima', ' Lima')
        >>> respelled("Capital:\n", " Lima"), respelled("from 17", "42"), respelled("首都は", "東京")
        ('Lima', None, None)
    """
    before = prompt.rstrip(" ")
    whole = prompt[len(before) :] + answer
    word = whole.strip(" ")
    meant = word if before and before[-1] in _NO_SPACE_AFTER else " " + word
    n_spaces = len(whole) - len(whole.lstrip(" "))
    if not before or not word:
        return None
    if n_spaces == 0 and not _apart(before[-1], word[0]):
        meant = word
    return None if meant == whole else meant


def _apart(last: str, first: str) -> bool:
    """Say whether a space is usual between two characters."""
    if first.isdigit():
        return _spaced_letter(last)
    return _spaced_letter(first) and (_spaced_letter(last) or last in _AFTER_A_SPACE)


def _spaced_letter(character: str) -> bool:
    """Say whether a character is a letter of a script that parts its words by spaces."""
    return character.isalpha() and not unicodedata.name(character, "").startswith(_WRITTEN_TOGETHER)

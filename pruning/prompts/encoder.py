"""How one text becomes token ids: the tokenizer, the chat template, and what is put before the prompt.

`pruning.prompts.encoding` makes prompt pairs of it. Nothing is assumed about a tokenizer: neither that it knows every
word, nor that decoding gives back what was encoded, nor that its BOS and unknown tokens differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.text_rules import not_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
_PROBES = ("a", "A", "0", " a", "the")
_PROBED = 1000


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """How text becomes tokens: tokenizer, chat template, and what is put before the prompt.

    Attributes:
        tokenizer: A Hugging Face tokenizer.
        chat_template: Whether the prompt is wrapped as a user's message with the generation prompt.
        bos: What stands before the prompt: `auto` is what the tokenizer itself puts there (with a chat
            template: what the template writes), `yes` its BOS token, `no` nothing. What the text begins with already
            is not put there again, and nothing that is written in the text is taken away.

    Raises:
        ConfigurationError: An unknown `bos`, or one or a template that the tokenizer does not have.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template: bool = False
    bos: str = "auto"
    _dropped: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that the tokenizer has what is asked for."""
        if self.bos not in ("auto", "yes", "no"):
            raise ConfigurationError(f"bos must be 'auto', 'yes' or 'no', got {self.bos!r}")
        if self.bos == "yes" and self.tokenizer.bos_token_id is None:
            raise ConfigurationError("bos='yes', but this tokenizer has no BOS token; use bos='auto' or 'no'")
        if self.chat_template and not self.tokenizer.chat_template:
            raise ConfigurationError("chat_template=True, but this tokenizer has none; use chat_template=False")

    @cached_property
    def fills_masks(self) -> bool:
        """Whether the tokenizer is that of an encoder: it has a mask, and puts a token of its own behind a text.

        Then a mask stands where an answer is asked, and text may follow it.

        Raises:
            ConfigurationError: It is, and its prompts were to be wrapped by a chat template.
        """
        if getattr(self.tokenizer, "mask_token_id", None) is None or not self.back_ids:
            return False
        if self.chat_template:
            raise ConfigurationError("chat_template=True, but a model that fills in masks takes texts as they are")
        return True

    @property
    def mask_id(self) -> int:
        """The id of the mask, of a tokenizer that `fills_masks`."""
        return int(self.tokenizer.mask_token_id)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]

    @cached_property
    def back_ids(self) -> Ids:
        """The ids that the tokenizer puts behind a text, which an encoder reads and a decoder is not given."""
        return () if self._around is None else self._around[1]

    @cached_property
    def bos_ids(self) -> Ids:
        """The ids put before every prompt that does not begin with them.

        Raises:
            ConfigurationError: `auto`, and it cannot be told what the tokenizer puts there.
        """
        if self.bos == "yes":
            return (int(self.tokenizer.bos_token_id),)  # pyright: ignore[reportArgumentType]
        if self.bos == "no" or self.chat_template:
            return ()
        if self._around is None:
            raise ConfigurationError("cannot tell what this tokenizer puts before a prompt; say bos='yes' or 'no'")
        return self._around[0]

    @cached_property
    def _around(self) -> tuple[Ids, Ids] | None:
        """The ids that the tokenizer puts before and behind a text; None where it cannot be told."""
        special = set(getattr(self.tokenizer, "all_special_ids", ()))
        for probe in self._probes():
            plain = self._tokenize([probe])[probe]
            if not plain or special.intersection(plain):
                continue  # a dropped or unknown probe does not show where the text begins
            full = tuple(self.tokenizer(probe, add_special_tokens=True)["input_ids"])
            for start in range(len(full) - len(plain) + 1):
                if full[start : start + len(plain)] == plain:
                    return full[:start], full[start + len(plain) :]
            break
        return None

    def _probes(self) -> Iterator[str]:
        """Texts that a tokenizer may know: common ones, then its own tokens."""
        yield from _PROBES
        vocabulary = getattr(self.tokenizer, "get_vocab", dict)()
        yield from islice(sorted(vocabulary, key=vocabulary.__getitem__), _PROBED)

    @cached_property
    def unknown_id(self) -> int:
        """The id of the unknown token, or -1 where there is none."""
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return -1 if unknown is None else int(unknown)

    def prompt_text(self, prompt: str) -> str:
        """Give the text that is tokenised for a prompt: without final spaces, in the template if asked.

        Raises:
            ConfigurationError: The chat template cannot be applied.
        """
        if not self.chat_template:
            return prompt.rstrip(" ")
        message = [{"role": "user", "content": prompt.rstrip(" ")}]
        try:
            text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # the template is a program of the model's makers and may raise anything
            raise ConfigurationError(
                f"this tokenizer's chat template cannot be applied to one user's message ({error}); "
                "use chat_template=False"
            ) from error
        assert isinstance(text, str)
        return text

    def answer_text(self, answer: str, prompt: str) -> str:
        """Give an answer's text as it follows `prompt_text(prompt)`."""
        if self.chat_template:
            return answer.lstrip(" ")
        return prompt[len(prompt.rstrip(" ")) :] + answer

    def ids(self, texts: Iterable[str]) -> dict[str, Ids]:
        """Tokenise texts as they follow the BOS ids, which are put in front of those that lack them.

        Args:
            texts: Texts made by `prompt_text`, with or without an answer.

        Returns:
            Each text's ids.

        Raises:
            PromptFormatError: A text that is no Unicode text, such as half a surrogate pair.
        """
        front = self.bos_ids
        plain = self._tokenize(list(dict.fromkeys(texts)))
        return {text: front[: len(front) - _overlap(front, ids)] + ids for text, ids in plain.items()}

    def written_bos(self, text: str, ids: Ids) -> int:
        """Count the BOS tokens that are written out at the beginning of a text.

        Args:
            text: A text.
            ids: Its ids, see `ids`.
        """
        bos, spelled = self.tokenizer.bos_token_id, getattr(self.tokenizer, "bos_token", None)
        if bos is None or not spelled:
            return 0
        leading = next((n for n, token in enumerate(ids) if token != bos), len(ids))
        return min(leading, text.count(str(spelled)))

    def unknown_id_in(self, ids: Ids, text: str) -> bool:
        """Say whether ids hold the unknown token though the text does not spell it out."""
        return self.unknown_id in ids and str(getattr(self.tokenizer, "unk_token", None)) not in text

    def n_unknown(self, text: str, ids: Ids) -> int:
        """Count what the tokenizer does not know in a text: unknown tokens, and characters that it drops.

        Args:
            text: A text.
            ids: Its ids, see `ids`.

        Returns:
            How many. An unknown token that is written out in the text, or stands there as BOS, is none.
        """
        count = 0
        if self.unknown_id in ids:
            written = text.count(str(getattr(self.tokenizer, "unk_token", None)))
            count = max(0, ids.count(self.unknown_id) - max(written, self.bos_ids.count(self.unknown_id)))
        return count + self.n_dropped(text)

    def unknown_words(self, text: str) -> list[str]:
        """List the words of a text, as spaces part them, that the tokenizer knows neither with nor without a space.

        Args:
            text: A text.
        """
        words = dict.fromkeys(text.split())
        plain = self._tokenize([form for word in words for form in (word, f" {word}")])

        def unknown(form: str) -> bool:
            return self.unknown_id_in(plain[form], form) or self.n_dropped(form) > 0

        return [word for word in words if unknown(word) and unknown(f" {word}")]

    def n_dropped(self, text: str) -> int:
        """Count the characters of a text, other than spaces, that leave no trace in its ids."""
        characters = {character for character in text if not character.isspace()}
        new = sorted(characters - self._dropped.keys())
        twice = self._tokenize([n * character for character in new for n in (1, 2)])
        for character in new:
            once = twice[character]
            self._dropped[character] = once == twice[2 * character] and self.unknown_id not in once
        return sum(text.count(character) for character in characters if self._dropped[character])

    def _tokenize(self, texts: list[str]) -> dict[str, Ids]:
        """Tokenise without special tokens."""
        if not texts:
            return {}
        for text in texts:
            if (problem := not_unicode(text)) is not None:
                raise PromptFormatError(problem)
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {text: tuple(ids) for text, ids in zip(texts, encoded, strict=True)}


def _overlap(front: Ids, ids: Ids) -> int:
    """Count how many of the last ids of `front` a text begins with already.

    Examples:
        >>> _overlap((1,), (1, 7)), _overlap((1,), (7,)), _overlap((5, 1), (1, 7))
        (1, 0, 1)
    """
    return next((n for n in range(len(front), 0, -1) if ids[:n] == front[-n:]), 0)

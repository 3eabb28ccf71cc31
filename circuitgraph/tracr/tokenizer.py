"""Tokens of a Tracr-compiled program: its input vocabulary and its output symbols.

Not a text tokenizer: a prompt is a list of tokens, and the output columns are not the input vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError
from circuitgraph.tracr.model import TracrConfig


@dataclass(frozen=True, kw_only=True)
class TracrTokenizer:
    """Turns a program's tokens into ids, and its output columns into symbols.

    Inputs are looked up with `encode_tokens`. **Answers are looked up with `output_id`**, which gives a
    column of the logits; in `reverse` the columns happen to equal the token ids, in other programs they
    need not.

    Attributes:
        tokens: The input vocabulary, by token id, with BOS and padding.
        bos_token: The token before every prompt.
        pad_token: The token that stands for padding.
        output_symbols: The symbol of each output column; empty where the output is a number.
        max_seq_len: The longest prompt, without BOS.
        program: The program, where it is known; several have the same tokens.

    Examples:
        >>> from circuitgraph.tracr import load_tracr
        >>> tokenizer = load_tracr("tracr:reverse").tokenizer
        >>> tokenizer.encode_tokens(["1", "2", "3"])
        [3, 0, 1, 2]
        >>> tokenizer.output_id("2"), tokenizer.output_symbols
        (1, ('1', '2', '3'))
    """

    tokens: tuple[str, ...]
    bos_token: str
    pad_token: str
    output_symbols: tuple[str, ...]
    max_seq_len: int
    program: str | None = None

    @classmethod
    def from_config(cls, config: TracrConfig) -> TracrTokenizer:
        """Take the vocabulary of a model."""
        return cls(
            tokens=config.tokens,
            bos_token=config.bos_token,
            pad_token=config.pad_token,
            output_symbols=config.output_symbols,
            max_seq_len=config.n_positions - 1,
            program=config.program,
        )

    @property
    def bos_token_id(self) -> int:
        """The id of BOS."""
        return self.tokens.index(self.bos_token)

    @property
    def pad_token_id(self) -> int:
        """The id that stands at padding."""
        return self.tokens.index(self.pad_token)

    @property
    def vocab_size(self) -> int:
        """Input tokens, BOS and padding included."""
        return len(self.tokens)

    @property
    def program_tokens(self) -> tuple[str, ...]:
        """The tokens that a prompt may be made of: all but BOS and padding."""
        return tuple(token for token in self.tokens if token not in (self.bos_token, self.pad_token))

    def encode_tokens(self, tokens: Sequence[str | int]) -> list[int]:
        """Encode a prompt.

        Args:
            tokens: The prompt, without BOS.

        Returns:
            BOS's id, then one id a token.

        Raises:
            UnknownNameError: A token that the program does not know.
            PromptFormatError: A prompt longer than the model has positions for.
        """
        if len(tokens) > self.max_seq_len:
            raise PromptFormatError(
                f"expected at most {self.max_seq_len} tokens (the program was compiled for as many), "
                f"got {len(tokens)}: {list(tokens)}; shorten the prompt"
            )
        valid = self.program_tokens
        for token in tokens:
            if str(token) not in valid:
                hint = f"({self.bos_token!r} is put before the prompt by itself)"
                raise UnknownNameError.of("token", token, valid, hint)
        return [self.bos_token_id, *(self.tokens.index(str(token)) for token in tokens)]

    def decode_token(self, token_id: int) -> str:
        """Give the token of an input id.

        Raises:
            UnknownNameError: No token has this id.
        """
        if not 0 <= token_id < len(self.tokens):
            raise UnknownNameError.of("token id", token_id, map(str, range(len(self.tokens))))
        return self.tokens[token_id]

    def output_id(self, symbol: str | int) -> int:
        """Give the output column of a symbol, which is the answer id of a task.

        Raises:
            ConfigurationError: The program's output is a number.
            UnknownNameError: The program never says this symbol.
        """
        if not self.output_symbols:
            raise ConfigurationError(
                f"expected a program whose output is symbols to look {str(symbol)!r} up in, got one whose "
                "output is a number; compare the logits' single column with the number itself"
            )
        if str(symbol) not in self.output_symbols:
            raise UnknownNameError.of("output symbol", symbol, self.output_symbols)
        return self.output_symbols.index(str(symbol))

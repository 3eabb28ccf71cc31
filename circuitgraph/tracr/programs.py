"""The RASP programs that are shipped compiled: their inputs and what they must answer.

Says nothing about weights: `compile_program` turns a program into weights, `loading` reads them back. `outputs` of a
program is plain Python (see `answers`), so that a task can be made, and a model checked, without Tracr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from circuitgraph.errors import UnknownNameError
from circuitgraph.tracr import answers
from circuitgraph.tracr.answers import AnswerFunction

BOS_TOKEN = "BOS"
"""The token before every prompt. What a model says there means nothing."""


def _any(tokens: Sequence[str]) -> bool:
    return True


def _distinct(tokens: Sequence[str]) -> bool:
    return len(set(tokens)) == len(tokens)


@dataclass(frozen=True, kw_only=True)
class TracrProgram:
    """A RASP program, apart from its weights.

    Attributes:
        name: The model is called `tracr:<name>`.
        summary: What it says, in a few words.
        example: A prompt that shows it, a character a token.
        values: The input vocabulary, as RASP sees it (numbers stay numbers), in the order of the token ids.
        max_seq_len: The longest prompt, without BOS.
        output: Whether each position says a symbol or a number.
        outputs: The answers to a prompt, one per token, worked out in plain Python; None where none is defined.
        accepts: Which prompts the program is defined for.
        causal: Whether it was compiled so that a position sees only itself and what is before it.

    Examples:
        >>> get_program("reverse").outputs(("1", "2", "3"))
        ['3', '2', '1']
    """

    name: str
    summary: str
    example: str
    values: tuple[int | str, ...]
    max_seq_len: int
    output: Literal["categorical", "numeric"]
    outputs: AnswerFunction
    accepts: Callable[[Sequence[str]], bool] = _any
    causal: bool = False

    @property
    def tokens(self) -> tuple[str, ...]:
        """The input vocabulary, as text."""
        return tuple(str(value) for value in self.values)

    def inputs(self, max_length: int | None = None) -> Iterator[tuple[str, ...]]:
        """Every prompt for which some answer is defined, the shortest first.

        Args:
            max_length: The longest prompts, without BOS; by default `max_seq_len`.

        Examples:
            >>> len(list(get_program("reverse").inputs()))
            363
            >>> list(get_program("induction").inputs(2))
            [('a', 'a'), ('b', 'b'), ('c', 'c')]
        """
        for length in range(1, (max_length or self.max_seq_len) + 1):
            for tokens in product(self.tokens, repeat=length):
                if self.accepts(tokens) and any(answer is not None for answer in self.outputs(tokens)):
                    yield tokens


_PROGRAMS = {
    program.name: program
    for program in (
        TracrProgram(
            name="reverse",
            summary="the prompt backwards",
            example="122",
            values=(1, 2, 3),
            max_seq_len=5,
            output="categorical",
            outputs=answers.reversed_tokens,
        ),
        TracrProgram(
            name="xproportion",
            summary="the share of x so far",
            example="xaxx",
            values=("a", "b", "c", "x"),
            max_seq_len=5,
            output="numeric",
            outputs=answers.share_so_far("x"),
        ),
        TracrProgram(
            name="frac-prevs",
            summary="the share of l so far",
            example="hello",
            values=("e", "h", "l", "o"),
            max_seq_len=5,
            output="numeric",
            outputs=answers.share_so_far("l"),
        ),
        TracrProgram(
            name="pair-balance",
            summary="the share of ( so far, less that of )",
            example="()a(",
            values=("(", ")", "a"),
            max_seq_len=5,
            output="numeric",
            outputs=answers.balance_so_far,
        ),
        TracrProgram(
            name="length",
            summary="how many tokens there are",
            example="aba",
            values=("a", "b"),
            max_seq_len=6,
            output="numeric",
            outputs=answers.length,
        ),
        TracrProgram(
            name="first-token",
            summary="the first token",
            example="cab",
            values=("a", "b", "c"),
            max_seq_len=5,
            output="categorical",
            outputs=answers.first_token,
        ),
        TracrProgram(
            name="count",
            summary="how often a occurs",
            example="abca",
            values=("a", "b", "c"),
            max_seq_len=5,
            output="categorical",
            outputs=answers.count_of("a"),
        ),
        TracrProgram(
            name="parity",
            summary="whether 1 occurs an odd number of times",
            example="1011",
            values=(0, 1),
            max_seq_len=6,
            output="categorical",
            outputs=answers.parity_of("1"),
        ),
        TracrProgram(
            name="hist",
            summary="how often each token occurs",
            example="abac",
            values=("a", "b", "c"),
            max_seq_len=5,
            output="categorical",
            outputs=answers.occurrences,
        ),
        TracrProgram(
            name="count-less-freq",
            summary="how many positions hold a token that occurs once",
            example="abac",
            values=("a", "b", "c"),
            max_seq_len=5,
            output="categorical",
            outputs=answers.rare_tokens(1),
        ),
        TracrProgram(
            name="maximum",
            summary="the largest token",
            example="1321",
            values=(1, 2, 3),
            max_seq_len=5,
            output="categorical",
            outputs=answers.maximum,
        ),
        TracrProgram(
            name="sort-unique",
            summary="distinct tokens in ascending order",
            example="2431",
            values=(1, 2, 3, 4),
            max_seq_len=4,
            output="categorical",
            outputs=answers.sorted_tokens,
            accepts=_distinct,
        ),
        TracrProgram(
            name="sort",
            summary="the tokens in ascending order",
            example="2312",
            values=(1, 2, 3),
            max_seq_len=4,
            output="categorical",
            outputs=answers.sorted_tokens,
        ),
        TracrProgram(
            name="sort-freq",
            summary="the tokens, the most frequent first",
            example="3122",
            values=(1, 2, 3),
            max_seq_len=4,
            output="categorical",
            outputs=answers.sorted_by_frequency,
        ),
        TracrProgram(
            name="detect-pattern",
            summary="whether a b ends here",
            example="abcab",
            values=("a", "b", "c"),
            max_seq_len=5,
            output="categorical",
            outputs=answers.pattern_ends("ab"),
        ),
        TracrProgram(
            name="induction",
            summary="the token that came after this one earlier",
            example="abcab",
            values=("a", "b", "c"),
            max_seq_len=5,
            output="categorical",
            outputs=answers.token_that_followed,
            causal=True,
        ),
        TracrProgram(
            name="dyck-1",
            summary="whether brackets are nested",
            example="(())",
            values=("(", ")"),
            max_seq_len=6,
            output="categorical",
            outputs=answers.nested("()"),
        ),
        TracrProgram(
            name="dyck-2",
            summary="whether brackets of two kinds are nested",
            example="([])",
            values=("(", ")", "[", "]"),
            max_seq_len=4,
            output="categorical",
            outputs=answers.nested("()", "[]"),
        ),
        TracrProgram(
            name="shuffle-dyck",
            summary="whether each of two kinds of brackets is nested",
            example="({)}",
            values=("(", ")", "{", "}"),
            max_seq_len=4,
            output="categorical",
            outputs=answers.shuffled("()", "{}"),
        ),
    )
}


def program_names() -> list[str]:
    """List the programs that are shipped compiled.

    Examples:
        >>> len(program_names()), program_names()[:3]
        (19, ['count', 'count-less-freq', 'detect-pattern'])
    """
    return sorted(_PROGRAMS)


def get_program(name: str) -> TracrProgram:
    """Look a program up.

    Args:
        name: With or without `tracr:` before it.

    Returns:
        The program.

    Raises:
        UnknownNameError: There is no such program.

    Examples:
        >>> get_program("reverse").outputs(["1", "2", "2"])
        ['2', '2', '1']
        >>> get_program("tracr:xproportion").outputs(["x", "a", "x", "x"])
        [1.0, 0.5, 0.6666666666666666, 0.75]
    """
    program = _PROGRAMS.get(name.removeprefix("tracr:"))
    if program is None:
        valid = [f"tracr:{known}" for known in program_names()]
        raise UnknownNameError.of("Tracr program", f"tracr:{name.removeprefix('tracr:')}", valid)
    return program

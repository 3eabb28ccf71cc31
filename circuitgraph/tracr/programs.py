"""The RASP programs that are shipped compiled: their inputs and what they must answer.

Says nothing about weights: `compile_program` turns a program into weights, `loading` reads them back.
`outputs` of a program is plain Python, so that a task can be made, and a model checked, without Tracr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from circuitgraph.errors import UnknownNameError

BOS_TOKEN = "BOS"
"""The token before every prompt. What a model says there means nothing."""


@dataclass(frozen=True, kw_only=True)
class TracrProgram:
    """A RASP program, apart from its weights.

    Attributes:
        name: The model is called `tracr:<name>`.
        values: The input vocabulary, as RASP sees it (numbers stay numbers).
        max_seq_len: The longest prompt, without BOS.
        output: Whether each position says a symbol or a number.
        outputs: The answers to a prompt, one per token, worked out in plain Python.
    """

    name: str
    values: tuple[int | str, ...]
    max_seq_len: int
    output: Literal["categorical", "numeric"]
    outputs: Callable[[Sequence[str]], list[str] | list[float]]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The input vocabulary, as text."""
        return tuple(str(value) for value in self.values)

    def inputs(self) -> Iterator[tuple[str, ...]]:
        """Every prompt of 1 to `max_seq_len` tokens, the shortest first.

        Examples:
            >>> len(list(get_program("reverse").inputs()))
            363
        """
        for length in range(1, self.max_seq_len + 1):
            yield from product(self.tokens, repeat=length)


def _reversed_tokens(tokens: Sequence[str]) -> list[str]:
    return list(reversed(tokens))


def _proportion_of_x(tokens: Sequence[str]) -> list[float]:
    return [tokens[: end + 1].count("x") / (end + 1) for end in range(len(tokens))]


_PROGRAMS = {
    program.name: program
    for program in (
        TracrProgram(name="reverse", values=(1, 2, 3), max_seq_len=5, output="categorical", outputs=_reversed_tokens),
        TracrProgram(
            name="xproportion",
            values=("a", "b", "c", "x"),
            max_seq_len=5,
            output="numeric",
            outputs=_proportion_of_x,
        ),
    )
}


def program_names() -> list[str]:
    """List the programs that are shipped compiled.

    Examples:
        >>> program_names()
        ['reverse', 'xproportion']
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

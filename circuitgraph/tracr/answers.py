"""What each shipped program must answer, in plain Python: one function a program, a prompt in, one answer a token out.

These are the programs' definitions, apart from RASP and from any weights. An answer is the text of a symbol, or a
number; None where the program defines none, and then the position is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Answers = list[str] | list[float] | list[str | None]
"""One answer a token."""

AnswerFunction = Callable[[Sequence[str]], Answers]
"""A program in plain Python."""


def reversed_tokens(tokens: Sequence[str]) -> Answers:
    """The prompt backwards."""
    return list(reversed(tokens))


def share_so_far(token: str) -> AnswerFunction:
    """At every position, which share of the tokens up to it is `token`."""

    def answer(tokens: Sequence[str]) -> Answers:
        return [tokens[: end + 1].count(token) / (end + 1) for end in range(len(tokens))]

    return answer


def length(tokens: Sequence[str]) -> Answers:
    """How many tokens there are, as a number, at every position."""
    return [float(len(tokens))] * len(tokens)


def first_token(tokens: Sequence[str]) -> Answers:
    """The first token, at every position."""
    return [tokens[0]] * len(tokens)


def count_of(token: str) -> AnswerFunction:
    """How often `token` occurs, at every position."""

    def answer(tokens: Sequence[str]) -> Answers:
        return [str(tokens.count(token))] * len(tokens)

    return answer


def parity_of(token: str) -> AnswerFunction:
    """Whether `token` occurs an odd number of times: 1 or 0, at every position."""

    def answer(tokens: Sequence[str]) -> Answers:
        return [str(tokens.count(token) % 2)] * len(tokens)

    return answer


def occurrences(tokens: Sequence[str]) -> Answers:
    """At every position, how often its token occurs in the prompt."""
    return [str(tokens.count(token)) for token in tokens]


def rare_tokens(at_most: int) -> AnswerFunction:
    """How many positions hold a token that occurs at most so often, at every position."""

    def answer(tokens: Sequence[str]) -> Answers:
        rare = sum(tokens.count(token) <= at_most for token in tokens)
        return [str(rare)] * len(tokens)

    return answer


def maximum(tokens: Sequence[str]) -> Answers:
    """The largest token, at every position."""
    return [max(tokens, key=int)] * len(tokens)


def sorted_tokens(tokens: Sequence[str]) -> Answers:
    """The tokens in ascending order."""
    return sorted(tokens, key=int)


def sorted_by_frequency(tokens: Sequence[str]) -> Answers:
    """The tokens, the most frequent first; tokens of one frequency stay in the order of the prompt."""
    return sorted(tokens, key=lambda token: -tokens.count(token))


def pattern_ends(pattern: str) -> AnswerFunction:
    """Whether `pattern` ends here; undefined where the prompt is too short for it yet."""

    def answer(tokens: Sequence[str]) -> Answers:
        ends = range(1, len(tokens) + 1)
        text = "".join(tokens)
        return [None if end < len(pattern) else str(text[:end].endswith(pattern)) for end in ends]

    return answer


def token_that_followed(tokens: Sequence[str]) -> Answers:
    """The token that came after this one earlier; undefined where none did, or several different ones."""
    answers: list[str | None] = []
    for here, token in enumerate(tokens):
        followed = {tokens[after] for after in range(1, here + 1) if tokens[after - 1] == token}
        answers.append(followed.pop() if len(followed) == 1 else None)
    return answers


def balance_so_far(tokens: Sequence[str]) -> Answers:
    """At every position, the share of `(` up to it less the share of `)`."""
    worth = {"(": 1, ")": -1}
    return [sum(worth.get(token, 0) for token in tokens[:end]) / end for end in range(1, len(tokens) + 1)]


def nested(*pairs: str) -> AnswerFunction:
    """Whether brackets close in the reverse order in which they opened, at every position."""
    return lambda tokens: [str(_close_in_order(tokens, pairs))] * len(tokens)


def shuffled(*pairs: str) -> AnswerFunction:
    """Whether each kind of bracket, the others left out, is nested, at every position."""

    def answer(tokens: Sequence[str]) -> Answers:
        fits = all(_close_in_order([token for token in tokens if token in pair], [pair]) for pair in pairs)
        return [str(fits)] * len(tokens)

    return answer


def _close_in_order(tokens: Sequence[str], pairs: Sequence[str]) -> bool:
    """Read brackets with a stack."""
    opener_of = {pair[1]: pair[0] for pair in pairs}
    still_open: list[str] = []
    for token in tokens:
        if token not in opener_of:
            still_open.append(token)
        elif not still_open or still_open.pop() != opener_of[token]:
            return False
    return not still_open

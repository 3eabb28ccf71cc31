"""The shipped programs in RASP, for `compile_program`, which gives them Tracr's `rasp` and `lib`.

Most come from Tracr's own library (`tracr.compiler.lib`); `first-token`, `parity`, `maximum`, `induction` and `dyck-2`
are written here. RASP has the words `Select` (which positions look at which), `Aggregate` (the mean over those),
`SelectorWidth` (how many they are) and maps of one or two sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracr.rasp.rasp import SOp  # pyright: ignore[reportMissingImports]

# Tracr's modules `tracr.rasp.rasp` and `tracr.compiler.lib` are given, so that importing this does not need them.
RaspProgram = Callable[[Any, Any], "SOp"]
"""From Tracr's `rasp` and `lib` to a program."""

_DYCK_2_LEVELS = 2


def first_token(rasp: Any, lib: Any) -> SOp:
    """Look at index 0."""
    first = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 0)
    return rasp.Aggregate(first, rasp.tokens).named("first_token")


def parity(rasp: Any, lib: Any) -> SOp:
    """Count, then take the remainder."""
    return rasp.Map(lambda count: count % 2, lib.make_count(rasp.tokens, 1)).named("parity")


def maximum(rasp: Any, lib: Any) -> SOp:
    """Look where no larger token is."""
    larger = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.GT)).named("larger")
    largest = rasp.Select(larger, larger, lambda key, query: key == 0)
    return rasp.Aggregate(largest, rasp.tokens).named("maximum")


def induction(rasp: Any, lib: Any) -> SOp:
    """Look where the token before is the one that is here; compiled causal, so only at earlier positions."""
    before = lib.shift_by(1, rasp.tokens)
    after_this = rasp.Select(before, rasp.tokens, rasp.Comparison.EQ)
    return rasp.Aggregate(after_this, rasp.tokens).named("induction")


def dyck_2(rasp: Any, lib: Any) -> SOp:
    """Match each closing bracket with the last one before it on its level.

    A bracket's level counts the brackets opened up to it, less those closed before it. On one level brackets open and
    close in turns, so that a closing bracket's partner is the one before it. The prompt is nested if as many open as
    close, and each that closes has a partner of its kind. Nested prompts of four tokens have two levels; deeper ones
    may count as two, since they do not close in time.
    """
    opener_of = {")": "(", "]": "["}
    tokens, indices = rasp.tokens, rasp.indices
    n_open = _number_where(rasp, tokens, tokens, lambda key, query: key not in opener_of).named("n_open")
    n_closed = _number_where(rasp, tokens, tokens, lambda key, query: key in opener_of).named("n_closed")
    placed = rasp.SequenceMap(lambda token, index: (token, index), tokens, indices).named("placed")
    opened = _number_where(rasp, placed, placed, lambda key, query: key[0] not in opener_of and key[1] <= query[1])
    closed = _number_where(rasp, placed, placed, lambda key, query: key[0] in opener_of and key[1] < query[1])
    level = rasp.SequenceMap(
        lambda up, down: min(max(up - down, 0), _DYCK_2_LEVELS), opened.named("opened"), closed.named("closed")
    ).named("level")
    on_level = rasp.SequenceMap(lambda level, index: (level, index), level, indices).named("on_level")
    before = rasp.Select(on_level, on_level, lambda key, query: key[0] == query[0] and key[1] < query[1])
    rank = rasp.SelectorWidth(before).named("rank")
    ranked = rasp.SequenceMap(lambda level, rank: (level, rank), level, rank).named("ranked")
    last = rasp.Select(ranked, ranked, lambda key, query: key == (query[0], query[1] - 1)).named("last_on_level")
    partner = rasp.Aggregate(last, tokens).named("partner")
    # Brackets without a partner say nothing from here on, so the last count is asked for by the tokens, which all have.
    fits = rasp.SequenceMap(lambda token, partner: partner == opener_of.get(token), tokens, partner).named("fits")
    n_fit = _number_where(rasp, fits, tokens, lambda key, query: key).named("n_fit")
    all_fit = rasp.SequenceMap(lambda fit, closed: fit == closed, n_fit, n_closed).named("all_fit")
    all_close = rasp.SequenceMap(lambda opened, closed: opened == closed, n_open, n_closed).named("all_close")
    return (all_fit & all_close).named("dyck_2")


def _number_where(rasp: Any, keys: SOp, queries: SOp, where: Callable[..., bool]) -> SOp:
    """How many positions a position looks at."""
    return rasp.SelectorWidth(rasp.Select(keys, queries, where))


PROGRAMS: dict[str, RaspProgram] = {
    "reverse": lambda rasp, lib: lib.make_reverse(rasp.tokens),
    "length": lambda rasp, lib: rasp.numerical(lib.make_length()),
    "count": lambda rasp, lib: lib.make_count(rasp.tokens, "a"),
    "count-less-freq": lambda rasp, lib: lib.make_count_less_freq(1),
    "hist": lambda rasp, lib: lib.make_hist(),
    "sort": lambda rasp, lib: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1),
    "sort-unique": lambda rasp, lib: lib.make_sort_unique(rasp.tokens, rasp.tokens),
    "sort-freq": lambda rasp, lib: lib.make_sort_freq(max_seq_len=4),
    "detect-pattern": lambda rasp, lib: lib.detect_pattern(rasp.tokens, "ab"),
    "pair-balance": lambda rasp, lib: lib.make_pair_balance(rasp.tokens, "(", ")"),
    "dyck-1": lambda rasp, lib: lib.make_shuffle_dyck(["()"]),
    "shuffle-dyck": lambda rasp, lib: lib.make_shuffle_dyck(["()", "{}"]),
    "xproportion": lambda rasp, lib: lib.make_frac_prevs((rasp.tokens == "x").named("is_x")),
    "frac-prevs": lambda rasp, lib: lib.make_frac_prevs((rasp.tokens == "l").named("is_l")),
    "first-token": first_token,
    "parity": parity,
    "maximum": maximum,
    "induction": induction,
    "dyck-2": dyck_2,
}
"""What makes each program's RASP, by the program's name."""

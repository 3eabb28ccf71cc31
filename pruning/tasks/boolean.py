"""Boolean expressions: True or False?

`((not False and False) or True) is` → ` True`. Expressions have at most six literals and are at most three
deep. The counterfactual has the same shape with other literals and operators and the other value.

Two regimes over the same items (same order, same group): `instruction` says what is asked (the reference puts
it in the chat format: `chat_template=True`), `in-context` shows three worked examples and no instruction.

References:
    Bhaskar et al., "Finding Transformer Circuits with Edge Pruning", NeurIPS 2024, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from circuitgraph.errors import ConfigurationError
from pruning.prompts.pairs import PromptPair
from pruning.tasks.context import TRIED_IN_VAIN, TaskContext
from pruning.tasks.regimes import register_regimes

MAX_LITERALS = 6
MAX_DEPTH = 3
_INSTRUCTION = "Evaluate the following Boolean expression as either 'True' or 'False'.\n{item} is"
_WORKED = (
    "(True and False) or False is False",
    "not (False and True) is True",
    "(not True or True) and True is True",
)
_IN_CONTEXT = "\n".join((*_WORKED, "{item} is"))
_SIZES = {"train": 400, "validation": 200, "test": 400}
_ATTEMPTS = 200_000
_CHUNK = 32

# A literal, or an operator with its one or two operands.
Expression = bool | tuple


def _items(context: TaskContext, written: str, other: str) -> Iterator[PromptPair]:
    """Draw expressions, half of them true, each once; both regimes must be able to tokenise it.

    Args:
        context: The tokenizer and the random stream.
        written: The regime's template.
        other: The other regime's template.

    Yields:
        Pairs in this regime; `group` is the item.

    Raises:
        ConfigurationError: Thousands of expressions in a row do not fit the tokenizer.
    """
    drawn = _drawn_items(context.rng)
    in_vain = 0
    while chunk := list(islice(drawn, _CHUNK)):
        pairs = [[_pair(template, *item) for template in (written, other)] for item in chunk]
        fit = context.fit([pair for both in pairs for pair in both])
        fitting = [both[0] for at, both in enumerate(pairs) if fit[2 * at] and fit[2 * at + 1]]
        in_vain = 0 if fitting else in_vain + len(chunk)
        if in_vain >= TRIED_IN_VAIN:
            raise ConfigurationError(
                f"task {context.task!r}: {in_vain:,} expressions in a row do not fit this tokenizer; it has to tell "
                "' True' from ' False', and to write an expression and its counterfactual in as many tokens"
            )
        yield from fitting


def _drawn_items(rng: np.random.Generator) -> Iterator[tuple[str, str, bool]]:
    """Draw expressions, each once, true and false in turn: text, counterfactual and value."""
    seen = {worked.removesuffix(" is True").removesuffix(" is False") for worked in _WORKED}
    wanted = True
    for _ in range(_ATTEMPTS):
        drawn = _drawn(rng, wanted, seen)
        if drawn is not None:
            seen.add(drawn[0])
            yield *drawn, wanted
            wanted = not wanted


def _drawn(rng: np.random.Generator, wanted: bool, seen: set[str]) -> tuple[str, str] | None:
    """Draw an expression of the wanted value and its counterfactual, or nothing if luck failed."""
    clean = _random(rng, int(rng.integers(2, MAX_LITERALS + 1)), MAX_DEPTH)
    if value_of(clean) != wanted or text_of(clean) in seen:
        return None
    for _ in range(20):
        corrupted = _redrawn(rng, clean)
        if value_of(corrupted) != wanted:
            return text_of(clean), text_of(corrupted)
    return None


def _pair(template: str, clean: str, corrupted: str, value: bool) -> PromptPair:
    """Write an item in a regime."""
    return PromptPair(
        clean=template.format(item=clean),
        corrupted=template.format(item=corrupted),
        answer=f" {value}",
        wrong_answer=f" {not value}",
        corrupted_answer=f" {not value}",
        group=clean,
    )


def _random(rng: np.random.Generator, literals: int, depth: int) -> Expression:
    """Draw an expression of so many literals, at most so deep."""
    if literals == 1:
        literal = bool(rng.integers(2))
        return ("not", literal) if rng.random() < 0.3 else literal
    most = 2 ** (depth - 1)
    left = int(rng.integers(max(1, literals - most), min(most, literals - 1) + 1))
    operands = (_random(rng, left, depth - 1), _random(rng, literals - left, depth - 1))
    joined = (("and", "or")[rng.integers(2)], *operands)
    return ("not", joined) if rng.random() < 0.15 else joined


def _redrawn(rng: np.random.Generator, expression: Expression) -> Expression:
    """Draw other literals and operators for the same shape."""
    if isinstance(expression, bool):
        return bool(rng.integers(2))
    operator, *operands = expression
    if operator != "not":
        operator = ("and", "or")[rng.integers(2)]
    return (operator, *(_redrawn(rng, operand) for operand in operands))


def value_of(expression: Expression) -> bool:
    """Evaluate an expression.

    Examples:
        >>> value_of(("or", ("not", True), ("and", True, True)))
        True
    """
    if isinstance(expression, bool):
        return expression
    operator, *operands = expression
    values = [value_of(operand) for operand in operands]
    return not values[0] if operator == "not" else all(values) if operator == "and" else any(values)


def text_of(expression: Expression, *, inner: bool = False) -> str:
    """Write an expression as Python would read it, with parentheses around every inner operator.

    Examples:
        >>> text_of(("not", ("or", ("not", True), ("and", True, False))))
        'not (not True or (True and False))'
    """
    if isinstance(expression, bool):
        return str(expression)
    operator, *operands = expression
    if operator == "not":
        return f"not {text_of(operands[0], inner=True)}"
    written = f" {operator} ".join(text_of(operand, inner=True) for operand in operands)
    return f"({written})" if inner else written


def by_instruction(context: TaskContext) -> Iterator[PromptPair]:
    """Ask with an instruction."""
    return _items(context, _INSTRUCTION, _IN_CONTEXT)


def from_examples(context: TaskContext) -> Iterator[PromptPair]:
    """Ask after three worked examples."""
    return _items(context, _IN_CONTEXT, _INSTRUCTION)


register_regimes(
    "boolean-expressions",
    description="True or False? At most 6 literals, 3 deep; counterfactual: the same shape, the other value.",
    instruction=by_instruction,
    in_context=from_examples,
    sizes=_SIZES,
)

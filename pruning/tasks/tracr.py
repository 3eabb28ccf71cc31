"""Tasks of Tracr-compiled programs: all inputs, made as tokens without text.

Each position after BOS is asked. Circuits of these programs are found under zero ablation, so the
counterfactual is the prompt itself. All three splits hold all inputs: the program is defined by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from circuitgraph.errors import ConfigurationError
from circuitgraph.tracr.programs import get_program
from circuitgraph.tracr.tokenizer import TracrTokenizer
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.text_rules import SPLITS
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task


@register_task(
    "tracr-reverse",
    description="Say the prompt backwards, all inputs of 1 to 5 tokens from 1, 2, 3 (model tracr:reverse).",
    objective="kl",
    sizes=None,
    options={"max_length": 5},
    shares_prompts=True,
    example="BOS 1 2 2 → 2 2 1",
)
def reverse(context: TaskContext) -> Mapping[str, EncodedPairs]:
    """Make every input of `reverse`; the answers are the logits' columns of the reversed tokens."""
    tokenizer = _tracr_tokenizer(context, "reverse")
    program = get_program("reverse")
    inputs = _all_inputs(context, tokenizer)
    answers = [[tokenizer.output_id(str(symbol)) for symbol in program.outputs(tokens)] for tokens in inputs]
    data = replace(_prompts(inputs, tokenizer), answer_ids=tuple(np.array(ids, dtype=np.int64) for ids in answers))
    return _all_splits(context, data)


@register_task(
    "tracr-xproportion",
    description="The share of x so far, all inputs of 1 to 5 tokens of a, b, c, x (model tracr:xproportion).",
    objective="mse",
    sizes=None,
    options={"max_length": 5},
    shares_prompts=True,
    example="BOS x a x x → 1 0.5 0.67 0.75",
)
def xproportion(context: TaskContext) -> Mapping[str, EncodedPairs]:
    """Make every input of `xproportion`; the answers are numbers."""
    tokenizer = _tracr_tokenizer(context, "xproportion")
    program = get_program("xproportion")
    inputs = _all_inputs(context, tokenizer)
    values = tuple(np.array(program.outputs(tokens), dtype=np.float64) for tokens in inputs)
    return _all_splits(context, replace(_prompts(inputs, tokenizer), answer_values=values))


def _tracr_tokenizer(context: TaskContext, program: str) -> TracrTokenizer:
    """Check that the tokenizer is the program's."""
    tokenizer = context.tokenizer
    tokens = get_program(program).tokens
    if not isinstance(tokenizer, TracrTokenizer) or set(tokenizer.program_tokens) != set(tokens):
        raise ConfigurationError(
            f"task {context.task!r} is only for the model 'tracr:{program}' (tokens {', '.join(tokens)}); "
            "load that model, or choose another task"
        )
    if context.sizes_given:
        raise ConfigurationError(
            f"task {context.task!r} always holds all inputs, so it takes no sizes; use the option max_length for fewer"
        )
    if context.chat_template or context.bos == "no":
        raise ConfigurationError(
            f"task {context.task!r} has no chat template and always starts with BOS; leave both options out"
        )
    return tokenizer


def _all_inputs(context: TaskContext, tokenizer: TracrTokenizer) -> list[tuple[str, ...]]:
    """List every input of 1 to `max_length` tokens, the shortest first."""
    longest = context.options["max_length"]
    if not isinstance(longest, int) or not 1 <= longest <= tokenizer.max_seq_len:
        raise ConfigurationError(
            f"max_length must be a whole number from 1 to {tokenizer.max_seq_len} (the program was compiled "
            f"for as many tokens), got {longest!r}"
        )
    tokens = tokenizer.program_tokens
    return [text for length in range(1, longest + 1) for text in product(tokens, repeat=length)]


def _prompts(inputs: list[tuple[str, ...]], tokenizer: TracrTokenizer) -> EncodedPairs:
    """Encode inputs, asking each position after BOS."""
    ids = tuple(np.array(tokenizer.encode_tokens(tokens), dtype=np.int64) for tokens in inputs)
    texts = tuple(" ".join((tokenizer.bos_token, *tokens)) for tokens in inputs)
    return EncodedPairs(
        clean_ids=ids,
        corrupted_ids=ids,
        predict_positions=tuple(np.arange(1, len(row), dtype=np.int64) for row in ids),
        texts=texts,
        corrupted_texts=texts,
    )


def _all_splits(context: TaskContext, data: EncodedPairs) -> dict[str, EncodedPairs]:
    """Put all inputs into each split, and say so."""
    context.note(f"train, validation and test each hold all {len(data)} inputs")
    return dict.fromkeys(SPLITS, data)

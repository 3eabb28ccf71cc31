"""Tasks of Tracr-compiled programs: all inputs, made as tokens without text.

Each position after BOS that the program has an answer for is asked. Circuits of these programs are found under zero
ablation, so the counterfactual is the prompt itself. All three splits hold all inputs: the program is defined by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from circuitgraph.errors import ConfigurationError
from circuitgraph.tracr.programs import BOS_TOKEN, TracrProgram, get_program, program_names
from circuitgraph.tracr.tokenizer import TracrTokenizer
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.text_rules import SPLITS
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task


def _register(program: TracrProgram) -> None:
    """Make a program's task: every input that has an answer, and its answers as the logits' columns or as numbers."""
    said = ["–" if answer is None else _short(answer) for answer in program.outputs(program.example)]

    @register_task(
        f"tracr-{program.name}",
        description=f"Say {program.summary}, all inputs of 1 to {program.max_seq_len} tokens from "
        f"{', '.join(program.tokens)} (model tracr:{program.name}).",
        objective="mse" if program.output == "numeric" else "kl",
        sizes=None,
        options={"max_length": program.max_seq_len},
        shares_prompts=True,
        example=f"{BOS_TOKEN} {' '.join(program.example)} → {' '.join(said)}",
    )
    def task(context: TaskContext) -> Mapping[str, EncodedPairs]:
        tokenizer = _tracr_tokenizer(context, program.name)
        inputs = list(program.inputs(_max_length(context, tokenizer)))
        return _all_splits(context, _prompts(inputs, program, tokenizer))


def _short(answer: str | float) -> str:
    """Write an answer with two digits."""
    return answer if isinstance(answer, str) else f"{answer:.2g}"


for _name in program_names():
    _register(get_program(_name))


def _tracr_tokenizer(context: TaskContext, program: str) -> TracrTokenizer:
    """Check that the tokenizer is the program's."""
    tokenizer = context.tokenizer
    tokens = get_program(program).tokens
    if (
        not isinstance(tokenizer, TracrTokenizer)
        or tokenizer.program not in (None, program)
        or (set(tokenizer.program_tokens) != set(tokens))
    ):
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


def _max_length(context: TaskContext, tokenizer: TracrTokenizer) -> int:
    """Read the option."""
    longest = context.options["max_length"]
    if not isinstance(longest, int) or isinstance(longest, bool) or not 1 <= longest <= tokenizer.max_seq_len:
        raise ConfigurationError(
            f"max_length must be a whole number from 1 to {tokenizer.max_seq_len} (the program was compiled "
            f"for as many tokens), got {longest!r}"
        )
    return longest


def _prompts(inputs: list[tuple[str, ...]], program: TracrProgram, tokenizer: TracrTokenizer) -> EncodedPairs:
    """Encode inputs, asking each position after BOS that has an answer."""
    ids = tuple(np.array(tokenizer.encode_tokens(tokens), dtype=np.int64) for tokens in inputs)
    texts = tuple(" ".join((tokenizer.bos_token, *tokens)) for tokens in inputs)
    answers = [dict(enumerate(program.outputs(tokens), start=1)) for tokens in inputs]
    said = [{position: answer for position, answer in row.items() if answer is not None} for row in answers]
    pairs = EncodedPairs(
        clean_ids=ids,
        corrupted_ids=ids,
        predict_positions=tuple(np.array(list(row), dtype=np.int64) for row in said),
        texts=texts,
        corrupted_texts=texts,
    )
    if program.output == "numeric":
        return replace(pairs, answer_values=tuple(np.array(list(row.values()), dtype=np.float64) for row in said))
    columns = [[tokenizer.output_id(str(answer)) for answer in row.values()] for row in said]
    return replace(pairs, answer_ids=tuple(np.array(row, dtype=np.int64) for row in columns))


def _all_splits(context: TaskContext, data: EncodedPairs) -> dict[str, EncodedPairs]:
    """Put all inputs into each split, and say so."""
    context.note(f"train, validation and test each hold all {len(data)} inputs")
    return dict.fromkeys(SPLITS, data)

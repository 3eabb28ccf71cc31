"""Prompts of one's own: `jsonl:PATH`, in the format of `pruning.prompts.pairs`, or pairs in memory (`task_from_pairs`).

Where no pair has a `split`, the prompts are dealt out with the task's seed: half to train, a quarter each to
validation and test, those of the same clean prompt (by its tokens) or the same group together. Sizes, where
asked for, take the first so many of each split. A pair whose sides differ in token length is an error, unless the
option `align` is `drop`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from circuitgraph.errors import ConfigurationError, PromptFormatError
from pruning.prompts.encoder import Ids
from pruning.prompts.encoding import EncodedPairs, encode_pairs
from pruning.prompts.pairs import PromptPair, PromptPairs
from pruning.prompts.prompt_rules import units
from pruning.prompts.text_rules import SPLITS
from pruning.tasks.context import TaskContext
from pruning.tasks.registry import register_task


@register_task(
    "jsonl:PATH",
    description="Prompts of your own, one JSON object a line: clean, corrupted, and more if you like.",
    sizes=None,
    options={"align": "error"},
    example='{"clean": "1 + 1 =<predict> 2</predict>", "corrupted": "1 + 2 =", "wrong_answer": " 3"}',
)
def jsonl(context: TaskContext) -> Mapping[str, EncodedPairs]:
    """Read a file, deal its prompts to the splits and encode them."""
    path = context.task.partition(":")[2]
    if not path:
        raise ConfigurationError("task 'jsonl:PATH' needs a file, for example jsonl:prompts.jsonl")
    return encoded_splits(context, PromptPairs.from_jsonl(path), path)


def encoded_splits(context: TaskContext, pairs: Sequence[PromptPair], where: str) -> dict[str, EncodedPairs]:
    """Deal pairs to the splits and encode them.

    Args:
        context: The tokenizer, the sizes, the option `align`; takes the note on how pairs were dealt.
        pairs: The pairs, all with a split or none.
        where: What messages call the place that they come from.

    Returns:
        The splits that have pairs, in the order train, validation, test.

    Raises:
        PromptFormatError: Pairs that cannot be dealt or encoded.
        ConfigurationError: A size that cannot be reached.
    """
    splits = _dealt(context, _split(context, pairs, where))
    return {
        split: encode_pairs(
            pairs,
            context.encoder.tokenizer,
            chat_template=context.chat_template,
            bos=context.bos,
            align=str(context.options["align"]),
        )
        for split, pairs in splits.items()
        if pairs
    }


def _split(context: TaskContext, pairs: Sequence[PromptPair], where: str) -> list[PromptPair]:
    """Give every pair its split: its own, or by seed where none has one."""
    without = [pair for pair in pairs if pair.split is None]
    if not without:
        return list(pairs)
    if len(without) < len(pairs):
        raise without[0].error("'split' is missing here but given elsewhere; give it everywhere or nowhere")
    together = units(_prompt_ids(context, pairs), [pair.group for pair in pairs])
    if len(together) < 3:
        raise PromptFormatError(
            f"{where}: {len(together)} separate prompts cannot fill train, validation "
            "and test; add prompts (of other groups, if all have one), or give each a 'split'"
        )
    context.note(f"no split in {where}: half train, a quarter validation, a quarter test, dealt by seed")
    order = context.rng.permutation(len(together))
    quarter = max(1, len(together) // 4)
    names = ["test"] * quarter + ["validation"] * quarter + ["train"] * (len(together) - 2 * quarter)
    return [
        replace(pairs[number], split=name)
        for at, name in zip(order, names, strict=True)
        for number in together[int(at)]
    ]


def _prompt_ids(context: TaskContext, pairs: Sequence[PromptPair]) -> list[Ids]:
    """Each clean prompt's tokens: what a model cannot tell apart may not be dealt to two splits."""
    texts = [context.encoder.prompt_text(pair.clean) for pair in pairs]
    ids = context.encoder.ids([*texts, *(pair.clean_after for pair in pairs)])
    return [ids[text] + ids[pair.clean_after] for text, pair in zip(texts, pairs, strict=True)]


def _dealt(context: TaskContext, pairs: Sequence[PromptPair]) -> dict[str, list[PromptPair]]:
    """Sort pairs by split and cut each to the size asked for."""
    splits = {split: [pair for pair in pairs if pair.split == split] for split in SPLITS}
    for split, size in context.sizes.items():
        if size > len(splits[split]):
            raise ConfigurationError(
                f"task {context.task!r} has {len(splits[split])} prompts in split {split!r}, but {size} were "
                "asked for; ask for fewer"
            )
        splits[split] = splits[split][:size]
    return splits

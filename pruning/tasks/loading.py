"""`load_task` and `task_from_pairs`: from a task's name, or from pairs, to encoded splits that share no prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

import numpy as np

from circuitgraph.errors import ConfigurationError, PromptFormatError, UnknownNameError
from circuitgraph.tracr.tokenizer import TracrTokenizer
from pruning.prompts import prompt_rules
from pruning.prompts.encoded_rows import EncodedRow, encode_rows, remarks
from pruning.prompts.encoder import Ids
from pruning.prompts.encoding import EncodedPairs, columns
from pruning.prompts.pairs import PromptPair, refuse_shared_prompts
from pruning.prompts.swapped import DENOISING, NOISING
from pruning.prompts.text_rules import SPLITS
from pruning.tasks.card import task_card
from pruning.tasks.context import TRIED_IN_VAIN, TaskContext
from pruning.tasks.registry import Task, get_task, task_names

_FILL_ORDER = ("test", "validation", "train")


@dataclass(frozen=True, kw_only=True, repr=False)
class TaskData:
    """A task's prompts, as token ids of one tokenizer.

    Attributes:
        name: The task.
        splits: The prompts by split: train, validation and test (a file may lack some).
        notes: What was dropped or chosen, and why.
        provenance: Task, seed, sizes, options, chat template and BOS, ready for JSON.
        data_hash: SHA-256 over the splits' token ids.
        objective: The task's default objective.
        shares_prompts: Whether its splits may hold the same prompts, as those of a program defined by all its inputs.
        spans: Names of the spans that the prompts are divided into, in order; empty if they are not.
        asked_spans: Those in which something is asked.

    Examples:
        >>> from circuitgraph import load_model
        >>> load_task("tracr-reverse", load_model("tracr:reverse").tokenizer)
        <Task tracr-reverse: 363 train, 363 validation, 363 test prompts; objective kl>
    """

    name: str
    splits: Mapping[str, EncodedPairs]
    notes: tuple[str, ...]
    provenance: Mapping[str, object]
    data_hash: str
    objective: str
    shares_prompts: bool = False
    spans: tuple[str, ...] = ()
    asked_spans: tuple[str, ...] = ()

    def split(self, name: str) -> EncodedPairs:
        """Give one split.

        Raises:
            UnknownNameError: The task has no such split.
        """
        if name not in self.splits:
            raise UnknownNameError.of(f"split of task {self.name!r}", name, self.splits)
        return self.splits[name]

    @property
    def direction(self) -> str:
        """`noising`, or `denoising` where prompts and counterfactuals are swapped."""
        return str(self.provenance.get("direction", NOISING))

    def swapped(self) -> TaskData:
        """The task the other way round: counterfactuals are the prompts, with their own answers where they have some.

        The prompts of each split stay in it. A counterfactual may be another pair's prompt, so splits may share prompts
        then.

        Returns:
            A task whose `direction` is the other one.

        Raises:
            PromptFormatError: Answers are numbers, and those of the counterfactuals are not known.

        Examples:
            >>> from circuitgraph import load_model
            >>> task = load_task("gendered-pronoun", load_model("smollm2-135m").tokenizer, sizes={"train": 4})
            >>> pairs, other = task.split("train"), task.swapped().split("train")
            >>> task.swapped().direction, all((a == b).all() for a, b in zip(pairs.corrupted_ids, other.clean_ids))
            ('denoising', True)
        """
        turned = {id(pairs): pairs.swapped() for pairs in self.splits.values()}
        splits = {name: turned[id(pairs)] for name, pairs in self.splits.items()}
        others = {name: value for name, value in self.provenance.items() if name != "direction"}
        told = {} if self.direction == DENOISING else {"direction": DENOISING}
        return replace(self, splits=splits, provenance={**others, **told}, data_hash=_hash(splits))

    def with_spans(self, how: str = "task") -> TaskData:
        """The task with its prompts divided into spans of token positions; see `pruning.tasks.spans`."""
        from pruning.tasks.spans import divided_task

        return divided_task(self, how)

    def towards(self, direction: str) -> TaskData:
        """The task in a direction: itself, or swapped.

        Args:
            direction: `noising` or `denoising`.
        """
        return self if direction == self.direction else self.swapped()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(pairs):,} {name}" for name, pairs in self.splits.items())
        return f"<Task {self.name}: {sizes} prompts; objective {self.objective}>"

    def _repr_html_(self) -> str:
        return task_card(self.name, self.objective, self.splits)


def load_task(
    name: str,
    tokenizer: object,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    chat_template: bool = False,
    bos: str = "auto",
    options: Mapping[str, object] | None = None,
) -> TaskData:
    """Make a task's prompts for a tokenizer.

    Args:
        name: A task's name, see `task_names`, or `jsonl:PATH`.
        tokenizer: The model's tokenizer.
        sizes: Prompts by split; splits not named keep the task's default.
        seed: Which prompts are drawn; the same seed gives the same prompts.
        chat_template: Whether each prompt is wrapped as a user's message; by default it is not.
        bos: `auto` (what the tokenizer itself puts before a text, the default), `yes` or `no`.
        options: The task's own options.

    Returns:
        The splits, which share no prompt (Tracr tasks have all inputs in each and say so).

    Raises:
        UnknownNameError: No such task, split or option.
        ConfigurationError: A size that cannot be reached, or a tokenizer that the task cannot use.
        PromptFormatError: A file of prompts that cannot be read or encoded, or two splits that share a prompt's tokens.

    Examples:
        >>> from circuitgraph import load_model
        >>> task = load_task("tracr-reverse", load_model("tracr:reverse").tokenizer)
        >>> {name: len(pairs) for name, pairs in task.splits.items()}
        {'train': 363, 'validation': 363, 'test': 363}
    """
    task = get_task(name)
    context = TaskContext(
        task=name,
        tokenizer=tokenizer,
        rng=np.random.default_rng(_checked_seed(seed)),
        sizes=_checked_sizes(sizes, task),
        sizes_given=sizes is not None,
        options=_checked_options(options, task),
        chat_template=chat_template,
        bos=bos,
    )
    made = task.function(context)
    splits = cast(Mapping[str, EncodedPairs], made) if isinstance(made, Mapping) else deal(made, context)
    return _task_data(context, splits, seed, task)


def task_from_pairs(
    pairs: Iterable[PromptPair],
    tokenizer: object,
    *,
    name: str = "pairs",
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    chat_template: bool = False,
    bos: str = "auto",
    align: str = "error",
) -> TaskData:
    """Make a task of prompt pairs in memory, as `load_task("jsonl:PATH", …)` does of a file.

    A saved circuit knows where its prompts came from by name. Nobody can make these again from a name, so evaluating
    such a circuit from the command line takes a file: `PromptPairs(pairs).to_jsonl(path)`.

    Args:
        pairs: The pairs. Without splits half train, a quarter each validate and test, dealt by seed, those of the same
            clean prompt or group together.
        tokenizer: The model's tokenizer.
        name: What the task is called in tables and provenance; not the name of another task.
        sizes: Prompts by split: the first so many; by default all.
        seed: How pairs are dealt.
        chat_template: Whether each prompt is wrapped as a user's message.
        bos: `auto` (what the tokenizer itself puts before a text), `yes` or `no`.
        align: What happens to a pair whose sides differ in token length: `error` raises, `drop` leaves it out and
            says so in `notes`.

    Returns:
        The splits that have pairs; splits share no prompt.

    Raises:
        UnknownNameError: No such split in `sizes`.
        ConfigurationError: A name that is taken, a size that cannot be reached, or a tokenizer that knows no text.
        PromptFormatError: No pairs, pairs that cannot be dealt or encoded, or prompts of the same tokens in two splits.

    Examples:
        >>> from circuitgraph import load_model
        >>> cities = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid"}
        >>> pairs = [
        ...     PromptPair(clean=f"The capital of {one} is", corrupted=f"The capital of {other} is", answer=f" {city}")
        ...     for one, city in cities.items() for other in cities if one != other
        ... ]
        >>> task = task_from_pairs(pairs, load_model("smollm2-135m").tokenizer, name="capital-cities")
        >>> {split: len(prompts) for split, prompts in task.splits.items()}
        {'train': 2, 'validation': 2, 'test': 2}
    """
    from pruning.tasks.jsonl import encoded_splits

    listed: Sequence[PromptPair] = list(pairs)
    if not listed:
        raise PromptFormatError("expected at least one prompt pair; got none")
    if name in task_names():
        raise ConfigurationError(f"a task named {name!r} is already registered; choose another name")
    refuse_shared_prompts(listed)
    of_files = get_task("jsonl:PATH")
    context = TaskContext(
        task=name,
        tokenizer=tokenizer,
        rng=np.random.default_rng(_checked_seed(seed)),
        sizes=_checked_sizes(sizes, of_files),
        sizes_given=sizes is not None,
        options={"align": align},
        chat_template=chat_template,
        bos=bos,
    )
    return _task_data(context, encoded_splits(context, listed, "the pairs"), seed, of_files)


def _task_data(context: TaskContext, splits: Mapping[str, EncodedPairs], seed: int, task: Task) -> TaskData:
    """What `load_task` gives back."""
    for split, pairs in splits.items():
        if split not in SPLITS:
            raise UnknownNameError.of(f"split made by task {context.task!r}", split, SPLITS)
        if not isinstance(pairs, EncodedPairs):
            raise ConfigurationError(
                f"task {context.task!r}: expected its split {split!r} to be EncodedPairs; got {type(pairs).__name__}"
            )
    if not task.shares_prompts:
        prompt_rules.refuse_shared_prompts(splits)
    return TaskData(
        name=context.task,
        splits=splits,
        notes=(*context.notes, *(note for split in splits.values() for note in split.notes)),
        provenance=_provenance(context, splits, seed),
        data_hash=_hash(splits),
        objective=task.objective,
        shares_prompts=task.shares_prompts,
    )


def deal(pairs: Iterable[PromptPair], context: TaskContext) -> dict[str, EncodedPairs]:
    """Encode pairs and deal them to the splits until all are full.

    Args:
        pairs: The generator's pairs; no more are drawn than needed.
        context: Sizes, tokenizer and notes.

    Returns:
        The splits, in the order train, validation, test.

    Raises:
        ConfigurationError: The pairs ran out before the splits were full, or thousands in a row did not fit.
    """
    rows: dict[str, list[EncodedRow]] = {split: [] for split in SPLITS}
    wanted = sum(context.sizes.values())
    problems: list[str] = []
    seen: set[Ids] = set()
    in_vain = n_again = 0
    stream = _distinct(pairs)
    while missing := wanted - sum(map(len, rows.values())):
        chunk = list(islice(stream, max(missing, 64)))
        if not chunk or in_vain >= TRIED_IN_VAIN:
            raise _too_few(context, rows, problems)
        good, bad = encode_rows(chunk, context.encoder)
        problems += bad
        fresh = [row for row in good if _is_new(row.prompt, seen)]
        n_again += len(good) - len(fresh)
        in_vain = 0 if fresh else in_vain + len(chunk)
        for row in fresh:
            split = _split_of(row.pair, context.sizes, rows)
            if split is not None:
                rows[split].append(row)
    if problems:
        first = problems[0].partition("; give both the same number")[0]  # what to do is said to those who wrote them
        context.note(f"{len(problems)} generated pairs did not fit this tokenizer; first: {first}")
    if n_again:
        context.note(f"{n_again} generated prompts have the same tokens as another in other words, and were left out")
    for remark in remarks([row for split in SPLITS for row in rows[split]]):
        context.note(remark)
    return {split: columns(rows[split], ()) for split in SPLITS}


def _is_new(prompt: Ids, seen: set[Ids]) -> bool:
    """Say whether a prompt's tokens come for the first time, and remember them."""
    before = len(seen)
    seen.add(prompt)
    return len(seen) > before


def _distinct(pairs: Iterable[PromptPair]) -> Iterator[PromptPair]:
    """Leave out pairs whose clean prompt came before."""
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        prompt = (pair.clean, pair.clean_after)
        if prompt not in seen:
            seen.add(prompt)
            yield pair


def _split_of(pair: PromptPair, sizes: Mapping[str, int], rows: Mapping[str, list[EncodedRow]]) -> str | None:
    """Say which split a pair goes to: its own if it has one and there is room, else the next with room."""
    candidates = _FILL_ORDER if pair.split is None else (pair.split,)
    return next((split for split in candidates if len(rows[split]) < sizes[split]), None)


def _too_few(context: TaskContext, rows: Mapping[str, list[EncodedRow]], problems: list[str]) -> ConfigurationError:
    """Say how many prompts there are where more were asked for."""
    found = sum(map(len, rows.values()))
    asked = ", ".join(f"{split} {context.sizes[split]}" for split in SPLITS)
    reason = f" ({len(problems)} pairs did not fit the tokenizer; first: {problems[0]})" if problems else ""
    return ConfigurationError(
        f"task {context.task!r} has {found} distinct prompts with this tokenizer, but "
        f"{sum(context.sizes.values())} were asked for ({asked}); ask for fewer{reason}"
    )


def _checked_seed(seed: int) -> int:
    """Refuse a seed that numpy would refuse with less to say."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise ConfigurationError(f"seed must be a whole number, got {seed!r}")
    if seed < 0:
        raise ConfigurationError(f"seed must be 0 or more, got {seed}")
    return seed


def _checked_sizes(sizes: Mapping[str, int] | None, task: Task) -> dict[str, int]:
    """Fill in default sizes and refuse unknown splits and negative sizes."""
    for split, size in (sizes or {}).items():
        if split not in SPLITS:
            raise UnknownNameError.of("split", split, SPLITS)
        if not isinstance(size, int | np.integer) or isinstance(size, bool):
            raise ConfigurationError(f"the size of split {split!r} must be a whole number, got {size!r}")
        if size < 0:
            raise ConfigurationError(f"the size of split {split!r} must be 0 or more, got {size}")
    return {**(task.sizes or {}), **(sizes or {})}


def _checked_options(options: Mapping[str, object] | None, task: Task) -> dict[str, object]:
    """Fill in default options and refuse unknown ones."""
    for option in options or {}:
        if option not in task.options:
            raise UnknownNameError.of(f"option of task {task.name!r}", option, task.options)
    return {**task.options, **(options or {})}


def _provenance(context: TaskContext, splits: Mapping[str, EncodedPairs], seed: int) -> dict[str, object]:
    """Say how the prompts were made, in JSON's types."""
    provenance: dict[str, object] = {
        "task": context.task,
        "seed": seed,
        "sizes": {split: len(data) for split, data in splits.items()},
        "options": dict(context.options),
    }
    if not isinstance(context.tokenizer, TracrTokenizer):
        provenance["chat_template"] = context.chat_template
        provenance["bos"] = context.bos
        provenance["bos_ids"] = list(context.encoder.bos_ids)
        if context.encoder.fills_masks:
            provenance["answers"] = "at masks"
    return provenance


def _hash(splits: Mapping[str, EncodedPairs]) -> str:
    """Hash the splits' names and contents."""
    text = "".join(f"{split}:{splits[split].data_hash};" for split in sorted(splits))
    return hashlib.sha256(text.encode()).hexdigest()

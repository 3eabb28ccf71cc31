"""What must hold before any work is begun; what does not is an error.

`require_runnable` guards every run of prompts through a model (`pruning.frozen.runs` asks it), so that training,
evaluation and studies refuse the same prompts, from Python too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from circuitgraph.errors import ConfigurationError, UnsupportedModelError
from pruning.execution.objectives import check_top_k, objective_named, require_wrong_answers
from pruning.findings import Finding
from pruning.methods.method import RefusesModels
from pruning.prompts.runnable import counted, text_of, unrunnable

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from pruning.prompts.encoding import EncodedPairs
    from pruning.runs.run import Run

NUMERIC = ("mse", "position-kl")
"""Objectives of numeric outputs."""


def stretched(compiled: CompiledModel, splits: Mapping[str, EncodedPairs]) -> list[Finding]:
    """Prompts longer than a model with rotary positions was made for: they run, and the model may be at a loss.

    Args:
        compiled: The model.
        splits: The prompts by split.

    Returns:
        A doubt per split that has some.
    """
    made_for, limit = compiled.shape.n_positions, compiled.shape.longest_prompt
    if made_for is None or limit is not None:
        return []
    found = []
    for name, pairs in splits.items():
        long = np.flatnonzero(pairs.lengths > made_for) if len(pairs) else np.zeros(0, dtype=np.int64)
        if len(long):
            text = (
                f"{counted(len(long), f'{name} prompt')} longer than the {made_for:,} tokens the model was made for "
                f"(the first: {text_of(pairs, int(long[0]))}); its outputs there may mean little. Use shorter prompts."
            )
            found.append(Finding(name="prompts-stretched", severity="doubt", text=text))
    return found


def unfit(run: Run, *, training: bool) -> list[Finding]:
    """What stands in the way of training on a task, or of measuring on it.

    Args:
        run: The run.
        training: Whether gates are trained; else only the evaluated splits are run.

    Returns:
        An error for each; empty if nothing does.

    Raises:
        UnknownNameError: No such objective.
    """
    compiled, task, splits = run.compiled, run.task, run.splits
    objective, ablation = run.request.objective, run.request.ablation
    if objective is not None:
        objective_named(objective)
    looked_at = dict.fromkeys((*(("train",) if training else ()), *splits))
    present = {name: task.splits[name] for name in looked_at if name in task.splits and len(task.splits[name])}
    if "train" in task.splits and ablation.startswith("mean"):
        present.setdefault("train", task.splits["train"])
    errors: list[tuple[str, str]] = []
    train = present.get("train")
    if training and train is None:
        errors.append(
            ("no-training-prompts", "there are no training prompts; give --train-size, or lines whose 'split' is train")
        )
    errors += [
        ("no-prompts", f"there are no {name} prompts to measure on; give some, or measure on another split")
        for name in splits
        if name not in present
    ]
    if training and train is not None and objective is not None:
        errors += _objective(compiled, train, objective, run.request.teacher_top_k)
    if training:
        errors += _method(run)
    if ablation == "counterfactual":
        errors += _all_the_same(present)
    errors += [(one.name, one.text) for name, pairs in present.items() for one in unrunnable(compiled, pairs, name)]
    return [Finding(name=name, severity="error", text=f"task {task.name}: {text}") for name, text in errors]


def _method(run: Run) -> Iterator[tuple[str, str]]:
    """What a method cannot do with this model and these settings."""
    try:
        method = run.method
        if isinstance(method, RefusesModels):
            method.require_model(run.compiled)
    except (ConfigurationError, UnsupportedModelError) as error:
        yield ("method-does-not-fit", str(error))


def _objective(
    compiled: CompiledModel, train: EncodedPairs, objective: str, teacher_top_k: int | None
) -> Iterator[tuple[str, str]]:
    numeric = train.answer_values is not None
    if numeric != (objective in NUMERIC):
        fit = "mse or position-kl" if numeric else "kl, kl-top1, logit-diff, negative-logit-diff or cross-entropy"
        answers = "numbers" if numeric else "tokens"
        yield (
            "objective-does-not-fit",
            f"objective {objective!r} does not fit: the answers are {answers}; use {fit}",
        )
    for check in (
        lambda: require_wrong_answers(objective, train),
        lambda: check_top_k(teacher_top_k, objective, compiled.shape.d_vocab),
    ):
        try:
            check()
        except ConfigurationError as error:
            yield ("objective-does-not-fit", str(error))


def _all_the_same(present: Mapping[str, EncodedPairs]) -> Iterator[tuple[str, str]]:
    for name, pairs in present.items():
        if all(same_tokens(pairs)):
            yield (
                "same-tokens",
                (
                    f"every {name} prompt has the same tokens as its counterfactual, so that cutting edges "
                    "changes nothing there; give counterfactuals that differ in tokens (texts that differ may not), "
                    "or --ablation "
                    "zero or mean"
                ),
            )


def same_tokens(pairs: EncodedPairs) -> list[bool]:
    """Which prompts have the same tokens as their counterfactual."""
    return (~pairs.differs).tolist()


def raise_errors(findings: Iterable[Finding], *, strict: bool = False) -> None:
    """Refuse to go on where there are errors.

    Args:
        findings: What was found.
        strict: Whether doubts count as errors.

    Raises:
        ConfigurationError: There are some.
    """
    bad = [one.text for one in findings if one.severity == "error" or strict]
    if bad:
        raise ConfigurationError("\n".join(bad))

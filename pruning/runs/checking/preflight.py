"""Before any training: whether model, task and settings can give a result that means something, and what it costs.

In this order, each only where those before found no error:

1. settings and tokens: what cannot run, or cannot be compared, is an error (`requirements`, `memory`);
2. tokens: pairs that do not differ, unknown words, prompts in two splits, answers of unlike spacing (`tokens`);
3. the model on a sample of the prompts: accuracy, probability of the answer, its likeliest wrong tokens, what cutting
   everything changes (`behaviour`);
4. the time that a run will take (`duration`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from circuitgraph.html import card, html_table
from circuitgraph.memory.estimate import DEVICES
from pruning.findings import Finding
from pruning.frozen.constants import AblationData, begun_at
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.runs.checking.behaviour import Behaviour, behaviour, sample_of
from pruning.runs.checking.duration import Duration, estimate_duration, time_passes
from pruning.runs.checking.memory import FREE
from pruning.runs.checking.requirements import raise_errors, same_tokens, stretched, unfit
from pruning.runs.checking.tokens import token_doubts
from pruning.runs.progress import Progress
from pruning.runs.run import EVALUATED, Run, RunChoices, run_of

if TYPE_CHECKING:
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.memory.plan import MemoryPlan
    from pruning.prompts.encoding import EncodedPairs
    from pruning.tasks import TaskData

SAMPLE = 48
FEW_EVALUATED, FEW_TRAINING = 20, 20
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """The prompts of a split.

    Attributes:
        n: How many.
        shortest: Tokens of the shortest; 0 without prompts.
        longest: Tokens of the longest.
        n_same: Prompts of the same tokens as their counterfactual.
    """

    n: int
    shortest: int
    longest: int
    n_same: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Preflight:
    """What was found before a run.

    Attributes:
        task: The task's name.
        model: The model's name.
        objective: What is compared, or None where the method compares nothing.
        ablation: What cut edges carry.
        splits: The prompts by split.
        findings: Errors and doubts, errors first.
        behaviour: The model on a sample of the prompts, or None where it was not run.
        duration: What the run will take, or None where it was not timed or nothing is trained.
        memory: What it will hold, or None where nothing is trained, or on a device whose memory nobody has measured.
        seconds: What this check took.
    """

    task: str
    model: str
    objective: str | None
    ablation: str
    splits: Mapping[str, SplitCount]
    findings: tuple[Finding, ...]
    behaviour: Behaviour | None
    duration: Duration | None
    memory: MemoryPlan | None
    seconds: float

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stands in the way of any work."""
        return tuple(one for one in self.findings if one.severity == "error")

    @property
    def doubts(self) -> tuple[Finding, ...]:
        """What may make a result mean less than it seems to."""
        return tuple(one for one in self.findings if one.severity == "doubt")

    def require(self, *, strict: bool = False) -> None:
        """Refuse to go on where there are errors.

        Args:
            strict: Whether doubts are errors.

        Raises:
            ConfigurationError: There are some; the message has all of them.
        """
        raise_errors(self.findings, strict=strict)

    def rows(self) -> list[tuple[str, str]]:
        """What was looked at, and what was seen, in words."""
        found = [
            (name, f"{count.n:,} prompts of {_lengths(count)}" + _same(count, self.ablation))
            for name, count in self.splits.items()
            if count.n
        ]
        if self.behaviour is not None:
            found += _behaviour_rows(self.behaviour, self.ablation)
        if self.memory is not None:
            total = self.memory.estimate.total / _GIB
            found.append(("memory", f"about {total:.1f} GiB at most; {self.memory.describe()}"))
        if self.duration is not None:
            found.append(("time", self.duration.describe()))
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "task": self.task,
            "model": self.model,
            "objective": self.objective,
            "ablation": self.ablation,
            "splits": {name: asdict(count) for name, count in self.splits.items()},
            "findings": [one.to_dict() for one in self.findings],
            "behaviour": None if self.behaviour is None else _plain(self.behaviour),
            "duration": None if self.duration is None else self.duration.to_dict(),
            "memory": None if self.memory is None else self.memory.to_dict(),
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        lines = [f"{name}: {text}" for name, text in self.rows()]
        lines += [f"{one.severity} ({one.name}): {one.text}" for one in self.findings]
        counted = f"{len(self.errors)} errors, {len(self.doubts)} doubts"
        return f"<Preflight of {self.task} on {self.model}: {counted}>\n" + "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [*self.rows(), *((f"{one.severity}: {one.name}", one.text) for one in self.findings)]
        return card(f"Preflight of {self.task} on {self.model}", [], html_table(["", "found"], rows))


def _lengths(count: SplitCount) -> str:
    if count.shortest == count.longest:
        return f"{count.longest:,} tokens"
    return f"{count.shortest:,} to {count.longest:,} tokens"


def _same(count: SplitCount, ablation: str) -> str:
    if ablation != "counterfactual":
        return ""
    return f"; {count.n_same:,} like their counterfactual" if count.n_same else "; all unlike their counterfactuals"


def _behaviour_rows(seen: Behaviour, ablation: str) -> list[tuple[str, str]]:
    rows = [("model run on", f"{seen.n:,} of the prompts"), ("accuracy", seen.accuracy_text())]
    if seen.answer_probability is not None:
        rows.append(("probability of the answer", f"{seen.answer_probability:.3f} on average"))
    if seen.wrong_tokens:
        rows.append(("likeliest wrong tokens", ", ".join(f"{token!r} {n}×" for token, n in seen.wrong_tokens)))
    if seen.cut is not None:
        what = "KL(clean ‖ corrupted)" if (seen.metric, ablation) == ("kl", "counterfactual") else (
            f"{seen.metric.upper()} with all edges cut"
        )  # fmt: skip
        rows.append((what, f"{seen.cut:.3g}" + (" nats" if seen.metric == "kl" else "")))
    return rows


def _plain(seen: Behaviour) -> dict[str, Any]:
    named = {"wrong_tokens": [{"token": token, "n": n} for token, n in seen.wrong_tokens]}
    return {**asdict(seen), **named, "spacing_example": list(seen.spacing_example) if seen.spacing_example else None}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How closely a run is looked at before any work.

    Attributes:
        sample: Prompts that the model is run on, about, spread over the splits; 0 runs it on none.
        training: Whether edges are to be found; else only the evaluated splits are looked at.
        estimate_time: Whether a few passes are timed.
    """

    sample: int = SAMPLE
    training: bool = True
    estimate_time: bool = True


def preflight(
    compiled: CompiledModel,
    task: TaskData,
    recipe: Recipe | str | None = None,
    *,
    sample: int = SAMPLE,
    training: bool = True,
    estimate_time: bool = True,
    **choices: Unpack[RunChoices],
) -> Preflight:
    """Check a model, a task and settings before any work.

    Args:
        compiled: The model.
        task: The prompts.
        recipe: The settings, or the name of a recipe; by default as of `pruning.discover`.
        sample: Prompts that the model is run on, about, spread over the splits; 0 runs it on none.
        training: Whether gates are to be trained; else only `splits` are looked at.
        estimate_time: Whether a few passes are timed.
        choices: Settings of the run by name, as of `pruning.discover`: `objective`, `ablation`, `n_random`,
            `memory_bytes`, `cache_bytes` …; `splits` are validation and test by default, and one without prompts is an
            error.

    Returns:
        What was found. It raises nothing for errors among it: see `Preflight.require`.

    Raises:
        UnknownNameError: No such setting, recipe, objective or ablation.
        ConfigurationError: A value that makes no sense.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> task = load_task("tracr-reverse", compiled.tokenizer, options={"max_length": 3})
        >>> found = preflight(compiled, task, estimate_time=False)
        >>> found.behaviour.accuracy, [one.name for one in found.findings]
        (1.0, [])
        >>> [one.name for one in preflight(compiled, task, ablation="counterfactual").errors]
        ['same-tokens', 'same-tokens', 'same-tokens']
    """
    run = run_of(compiled, task, recipe, {"splits": EVALUATED, **choices})
    return look_at(run, Look(sample=sample, training=training, estimate_time=estimate_time))


def look_at(run: Run, look: Look | None = None) -> Preflight:
    """Check a run before any work; see `preflight`.

    Args:
        run: The run.
        look: How closely.
    """
    look, began = look or Look(), time.perf_counter()
    compiled, task, request, splits = run.compiled, run.task, run.request, run.splits
    ablation = request.ablation
    names = dict.fromkeys((*(("train",) if look.training else ()), *splits))
    looked_at = {name: task.splits[name] for name in names if name in task.splits}
    train = task.splits.get("train")
    findings = unfit(run, training=look.training)
    memory = seen = duration = None
    trains = look.training and request.recipe is not None
    if trains and train is not None and len(train) and compiled.device.type in DEVICES:
        memory = run.memory
        findings += _memory(memory, run.settings.memory_bytes)
    findings += stretched(compiled, looked_at)
    findings += token_doubts(looked_at, compiled.tokenizer, ablation=ablation)
    findings += _few(looked_at, splits) if look.training else []
    if look.sample and not any(one.severity == "error" for one in findings):
        chosen = sample_of(looked_at, look.sample)
        seen = behaviour(
            compiled, chosen, ablation=ablation, ablation_data=_for_means(compiled, train, ablation, look.sample)
        )
        findings += seen.doubts()
    unhindered = not any(one.severity == "error" for one in findings)
    if look.estimate_time and memory is not None and train is not None and unhindered:
        duration = _duration(run, memory, looked_at)
    return Preflight(
        task=task.name,
        model=compiled.name,
        objective=request.objective,
        ablation=ablation,
        splits={name: _count(pairs) for name, pairs in looked_at.items()},
        findings=tuple(sorted(findings, key=lambda one: one.severity != "error")),
        behaviour=seen,
        duration=duration,
        memory=memory,
        seconds=time.perf_counter() - began,
    )


def _duration(run: Run, memory: MemoryPlan, looked_at: Mapping[str, EncodedPairs]) -> Duration:
    """What the run will take."""
    request, recipe, train = run.request, run.recipe, run.task.splits["train"]
    timed = time_passes(
        run.compiled, train, recipe, objective=run.objective, ablation=request.ablation, plan=memory,
        teacher_top_k=request.teacher_top_k,
    )  # fmt: skip
    estimated = estimate_duration(
        timed,
        recipe,
        n_train=len(train),
        evaluated=[pairs.lengths for name, pairs in looked_at.items() if name in run.splits],
        n_random=request.n_random,
        n_random_prompts=request.n_random_prompts,
        n_kept=round(max(0.0, 1 - recipe.target_sparsity) * run.compiled.universe.n_edges),
    )
    return estimated if request.n_effects else replace(estimated, effects=0.0)


def look_before(run: Run, progress: Progress) -> Preflight:
    """Check before a training from Python: errors are raised, doubts are told. No time is estimated.

    Args:
        run: The run.
        progress: Told of each doubt.

    Raises:
        ConfigurationError: Something stands in the way; the message has all of it.
    """
    found = look_at(run, Look(estimate_time=False))
    found.require()
    for one in found.doubts:
        progress.say(f"doubt ({one.name}): {one.text}")
    return found


def _for_means(compiled: CompiledModel, train: EncodedPairs | None, ablation: str, sample: int) -> AblationData | None:
    """Prompts to take means over here, or the means that learning begins at; a sample of the prompts will do."""
    if train is None or not len(train) or not ablation.startswith(("mean", "optimal")):
        return None
    return begun_at(compiled, ablation, sample_of({"train": train}, sample)["train"])


def _count(pairs: EncodedPairs) -> SplitCount:
    lengths = pairs.lengths.tolist()
    return SplitCount(
        n=len(pairs), shortest=min(lengths, default=0), longest=max(lengths, default=0), n_same=sum(same_tokens(pairs))
    )


def _memory(plan: MemoryPlan, memory_bytes: int | None) -> list[Finding]:
    """A run that does not fit."""
    from circuitgraph.errors import ConfigurationError

    try:
        plan.require(FREE if memory_bytes is None else "what --memory-gib lets it take")
    except ConfigurationError as error:
        return [Finding(name="does-not-fit", severity="error", text=str(error))]
    return []


def _few(looked_at: Mapping[str, EncodedPairs], splits: Sequence[str]) -> list[Finding]:
    """Splits too small for what is to be said of them."""
    sizes = {name: len(pairs) for name, pairs in looked_at.items()}
    found = []
    measured = [name for name in splits if sizes.get(name)]
    if not measured:
        found.append("there are no validation or test prompts: nothing will be known of the circuit. Give some.")
    elif max(sizes[name] for name in measured) < FEW_EVALUATED:
        told = ", ".join(f"{sizes[name]} {name}" for name in measured)
        found.append(
            f"{told} prompts to measure on: a share of so few may be off by some 20 percentage points. Give more."
        )
    if 0 < sizes.get("train", 0) < FEW_TRAINING:
        found.append(
            f"{sizes['train']} training prompts: the circuit will fit these rather than the task. Give more than a "
            "hundred if you can."
        )
    return [Finding(name="few-prompts", severity="doubt", text=text) for text in found]

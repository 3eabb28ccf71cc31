"""`circuitgraph steer` and `circuitgraph suppress`: interventions that are learnt on a task's prompts."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.option_groups import GraphOptions, grouped
from circuitgraph.cli.rank import WhereOptions
from circuitgraph.cli.settings import named_values, plan_model, settle_sizes, task_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.interventions.intervention import Intervention
    from pruning.tasks import TaskData

InterventionOut = Annotated[
    Path, typer.Option("--out", "-o", show_default=False, help="The file to write, such as steer.json.")
]
_MEASURES = {
    "strength": ">strength", "right_wins": ">right wins", "logit_difference": ">logit difference",
    "kl_others": ">KL, others", "kl": ">KL", "same_top": ">same top token",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SteeredPrompts:
    """The prompts that an intervention is learnt on, and judged on."""

    train_size: options.TrainSize = None
    validation_size: options.ValidationSize = None
    test_size: options.TestSize = None
    chat_template: options.ChatTemplate = False
    bos: options.Bos = "auto"
    task_option: options.TaskOption = None
    seed: options.Seed = 0

    def load(self, task: str, tokenizer: Any) -> TaskData:
        """Make them.

        Args:
            task: The task.
            tokenizer: The model's.
        """
        from circuitgraph.cli.output import say
        from pruning.tasks import load_task

        named = task_options(task, named_values("--task-option", self.task_option or []))
        sizes = settle_sizes(train=self.train_size, validation=self.validation_size, test=self.test_size)
        data = load_task(
            task, tokenizer, sizes=sizes, seed=self.seed, options=named, chat_template=self.chat_template, bos=self.bos
        )
        for text in data.notes:
            say(f"note: {text}")
        return data


@dataclass(frozen=True, kw_only=True)
class SteerOptions:
    """How scalings are learnt."""

    unit: Annotated[
        str,
        typer.Option(
            help="writers: one number per head, MLP or embedding; edges: one per edge.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "writers"
    steps: Annotated[int, typer.Option(help="Optimiser steps.", rich_help_panel=options.SETTINGS)] = 150
    batch_size: Annotated[int, typer.Option(help="Prompts per step.", rich_help_panel=options.SETTINGS)] = 8
    learning_rate: Annotated[float, typer.Option(help="Adam's step size.", rich_help_panel=options.SETTINGS)] = 0.02
    faithfulness: Annotated[
        float,
        typer.Option(help="What a nat of KL over all other tokens costs.", rich_help_panel=options.SETTINGS),
    ] = 1.0
    sparsity: Annotated[
        float,
        typer.Option(
            help="How strongly changes are drawn to 0, from 0 to 1; more leaves fewer parts changed.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 0.5
    strengths: Annotated[
        str,
        typer.Option(
            metavar="S[,S…]",
            help="At which strengths it is judged on test prompts; 0 is the model as it is.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "-1,-0.5,0,0.5,1"


@grouped
def steer(
    model: options.Model,
    task: options.Task,
    out: InterventionOut,
    how: SteerOptions,
    graph: GraphOptions,
    prompts: SteeredPrompts,
    where: WhereOptions,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Learn by how much to turn parts of a model up or down, so that right answers win, or wrong ones.

    Writes an intervention: at strength 1 the right answers gain on the wrong ones, at -1 they lose. It is judged on
    test prompts, and applied to other prompts by `circuitgraph run --with FILE`.
    """
    from circuitgraph.cli.output import print_json, say
    from pruning.runs.shown_progress import counting
    from pruning.steering.judged import judge_intervention
    from pruning.steering.scaling import ScalingSettings, learn_scalings

    asked = dict(vars(how))
    strengths = _numbers(asked.pop("strengths"))
    settings = ScalingSettings(**asked)
    splits = ("train", "test")
    with _prepared(out, model, task, splits, graph, prompts, where, overwrite=overwrite, as_json=as_json) as given:
        compiled, data = given
        train = data.split("train")
        say(f"learning one number per {how.unit.removesuffix('s')}, on {len(train):,} training prompts")
        with counting("steps") as tick:
            found = learn_scalings(compiled, train, settings, seed=prompts.seed, tick=tick, say=say)
        judged = judge_intervention(compiled, found, data.split("test"), strengths=strengths)
        made = {"method": "scaling", "settings": vars(settings)}
        told = {**made, "seed": prompts.seed, "judged": judged.to_dict("records")}
        saved = _saved(found, out, compiled, data, told, graph.vectors)
    if as_json:
        print_json({"out": str(out), "n_edges": len(saved), "writers": saved.writers, **saved.provenance})
        return
    _show(saved, judged, title=f"On {len(data.split('test')):,} test prompts")
    print(f"Written to {out}")


@dataclass(frozen=True, kw_only=True)
class SuppressOptions:
    """How heads are searched."""

    steps: Annotated[int, typer.Option(help="Optimiser steps.", rich_help_panel=options.SETTINGS)] = 100
    batch_size: Annotated[int, typer.Option(help="Prompts per step.", rich_help_panel=options.SETTINGS)] = 8
    learning_rate: Annotated[float, typer.Option(help="AdamW's step size.", rich_help_panel=options.SETTINGS)] = 0.3
    keep: Annotated[
        float,
        typer.Option(
            help="What keeping all heads is worth, in nats of right against wrong; more cuts fewer heads.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 1.0
    n_random: Annotated[
        int,
        typer.Option(
            help="As many heads drawn at random are cut so many times, for comparison; 0 for none.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = 5


_RIGHT = 0.95
"""From this share of prompts with the right answer on, there is hardly anything to suppress."""


@grouped
def suppress(
    model: options.Model,
    task: options.Task,
    out: InterventionOut,
    how: SuppressOptions,
    graph: GraphOptions,
    prompts: SteeredPrompts,
    where: WhereOptions,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Find the fewest heads without which a model's wrong answers lose.

    Writes an intervention that cuts them at strength 1. The task has prompts on which a wrong answer tempts the model.
    """
    from circuitgraph.cli.output import print_json, say
    from circuitgraph.errors import ConfigurationError
    from pruning.runs.shown_progress import counting
    from pruning.steering.judged import judge_intervention
    from pruning.steering.random_heads import judge_random_heads
    from pruning.steering.suppression import SuppressionSettings, find_suppression

    asked = dict(vars(how))
    n_random = asked.pop("n_random")
    settings = SuppressionSettings(**asked)
    if n_random < 0:
        raise ConfigurationError(f"--n-random must be at least 0; got {n_random}")
    splits = ("train", "validation", "test")
    with _prepared(out, model, task, splits, graph, prompts, where, overwrite=overwrite, as_json=as_json) as given:
        compiled, data = given
        train = data.split("train")
        say(f"searching heads to cut, on {len(train):,} training prompts")
        with counting("steps") as tick:
            found = find_suppression(
                compiled, train, data.split("validation"), settings, seed=prompts.seed, tick=tick
            )  # fmt: skip
        test = data.split("test")
        judged = judge_intervention(compiled, found.intervention, test, strengths=(0.0, 1.0))
        random = judge_random_heads(
            compiled, len(found.heads), test, n_draws=n_random if found.heads else 0, seed=prompts.seed
        )
        about = {
            "method": "suppression", "settings": vars(settings), "seed": prompts.seed, "heads": found.heads,
            "judged": judged.to_dict("records"), "random_heads": random.to_dict("records"),
        }  # fmt: skip
        saved = _saved(found.intervention, out, compiled, data, about, graph.vectors)
    if as_json:
        print_json({"out": str(out), "n_edges": len(saved), **saved.provenance})
        return
    print(f"{len(found.heads)} heads to cut: {', '.join(found.heads) or 'none'}")
    if not found.heads:
        wins = float(judged["right_wins"].iloc[0])
        say(
            f"note: with all heads the right answer wins on {100 * wins:.0f} % of the test prompts. "
            + (
                "There is hardly a wrong answer to suppress; take prompts that tempt the model."
                if wins > _RIGHT
                else "Lower --keep to cut more heads, or raise --steps."
            )
        )
    _show(saved, judged, title=f"On {len(test):,} test prompts")
    _show_random(random, len(found.heads))
    print(f"Written to {out}")


# -------------------------------------------------------------------- both


@contextlib.contextmanager
def _prepared(
    out: Path,
    model: str,
    task: str,
    splits: Sequence[str],
    graph: GraphOptions,
    prompts: SteeredPrompts,
    where: WhereOptions,
    *,
    overwrite: bool,
    as_json: bool,
) -> Iterator[tuple[CompiledModel, TaskData]]:
    """The model and the prompts, of which some splits have to be there, and the place reserved."""
    import os

    from circuitgraph.cli.output import only_json, say
    from circuitgraph.errors import OutputError
    from circuitgraph.files.reservation import reserved
    from pruning.steering.two_answers import require_two_answers
    from pruning.tasks import get_task

    place = Path(os.path.realpath(out.expanduser()))
    with only_json(as_json), reserved(place) as note:
        if place.is_dir() or (place.exists() and not overwrite):
            raise OutputError(f"{out} exists; choose another file, or add --overwrite to replace it")
        get_task(task)
        if note:
            say(f"note: {note}")
        plan = plan_model(
            model, embeddings=graph.embeddings, kv_heads=graph.kv_heads, qkv=graph.qkv, vectors=graph.vectors
        )
        say(f"loading {model}")
        loaded = plan.load(dtype=where.dtype, device=where.device)
        data = prompts.load(task, loaded.tokenizer)
        for split in splits:
            require_two_answers(data.split(split), split)
        yield plan.compile(loaded, verify=not where.no_verify), data


def _saved(
    found: Intervention,
    out: Path,
    compiled: CompiledModel,
    data: TaskData,
    about: Mapping[str, object],
    vectors: str | Path | None,
) -> Intervention:
    """The intervention with where it came from, written, and beside it the vectors that were added to its model."""
    from dataclasses import replace

    from circuitgraph.circuits.provenance import provenance_text
    from circuitgraph.cli.circuit_files import keep_vectors
    from pruning.runs.provenance import model_provenance

    told = {**model_provenance(compiled), "task": data.name, "data_hash": data.data_hash, **about}
    whole = replace(found, provenance_json=provenance_text(told))
    whole.save(out.expanduser())
    keep_vectors(out.expanduser(), whole.universe, [] if vectors is None else [Path(vectors)])
    return whole


def _show(found: Intervention, judged: pd.DataFrame, *, title: str) -> None:
    from circuitgraph.cli.output import figure, print_table

    rows: Sequence[Sequence[object]] = [[figure(value) for value in row] for row in judged[[*_MEASURES]].to_numpy()]
    print_table(list(_MEASURES.values()), rows, title=title)
    print(found)


def _show_random(random: pd.DataFrame, n_heads: int) -> None:
    """The draws in a table, none where there was nothing to compare."""
    from circuitgraph.cli.output import figure, print_table

    if not len(random):
        return
    measures = list(_MEASURES)[1:]
    found = random[measures]
    rows = [[name, *(figure(value) for value in row)] for name, row in
            (("mean", found.mean()), ("lowest", found.min()), ("highest", found.max()))]  # fmt: skip
    title = f"{n_heads} heads drawn at random, {len(random)} times"
    print_table(["over draws", *(_MEASURES[name] for name in measures)], rows, title=title)


def _numbers(text: str) -> list[float]:
    """Numbers separated by commas."""
    from circuitgraph.errors import ConfigurationError

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ConfigurationError(f"--strengths: expected numbers separated by commas, got {text!r}")
    return numbers

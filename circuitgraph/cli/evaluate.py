"""`circuitgraph evaluate`: a saved circuit's faithfulness, next to what it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.cli.found_circuit import FoundCircuit
    from pruning.evaluation.effects import Effects
    from pruning.frozen.constants import AblationData
    from pruning.prompts.encoding import EncodedPairs
    from pruning.tasks import TaskData


def evaluate(
    circuit: options.CircuitFile,
    model: options.ModelOfCircuit = None,
    task: options.TaskOfCircuit = None,
    ablation: options.AblationOfCircuit = None,
    direction: options.DirectionOfCircuit = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    n_random: Annotated[int, typer.Option(min=0, help="Random circuits of the same size to compare with.")] = 10,
    n_random_prompts: options.RandomPrompts = 32,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the prompts and the random circuits. Another than the circuit's may draw prompts that it "
            "was trained on.",
            show_default="the circuit's",
        ),
    ] = None,
    n_effects: Annotated[
        int | None,
        typer.Option(
            "--effects",
            min=0,
            metavar="K",
            help="Measure as well what cutting each head, each MLP and each of the K strongest edges alone costs.",
        ),
    ] = None,
    n_effect_prompts: Annotated[
        int, typer.Option("--effect-prompts", min=1, help="On how many prompts effects and minimality are measured.")
    ] = 16,
    n_minimal: Annotated[
        int | None,
        typer.Option(
            "--minimality",
            min=1,
            metavar="K",
            help="Measure as well whether each of the K weakest edges is idle: cut alone, and beside random subsets of "
            "the others. It takes (K + 1) x (subsets + 1) runs.",
        ),
    ] = None,
    n_subsets: Annotated[
        int, typer.Option("--minimality-subsets", min=0, help="Random subsets; 0 cuts each edge alone.")
    ] = 4,
    subset_share: Annotated[
        float, typer.Option("--minimality-share", help="The share of the circuit's edges that a subset has.")
    ] = 0.1,
    constants: Annotated[
        Path | None,
        typer.Option(
            help="Ablation optimal: a file of learnt constants.",
            show_default="the circuit's own, beside it; learnt and written there where there are none",
        ),
    ] = None,
    constants_steps: Annotated[
        int, typer.Option(min=1, help="Ablation optimal: steps in which constants are learnt.")
    ] = 200,
    hit_at: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="K", help="Measure as well how often a right answer is among the K likeliest tokens (Hit@K)."
        ),
    ] = None,
    head_scale: Annotated[
        str,
        typer.Option(
            help="Whose scale heads behind a norm have (Gemma 2 and 3, OLMo 2 and 3): shared by those of a layer in "
            "this run, or anew for each reader, as in EAP-IG's evaluation, which is slow."
        ),
    ] = "shared",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 16,
    device: options.Device = "cpu",
    dtype: options.DtypeOfCircuit = None,
    no_verify: options.NoVerify = False,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Measure a circuit on a task's prompts.

    Model, task, prompts and ablation are those the circuit was found with, unless others are given; the graph's
    universe is always the circuit's.
    """
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.evaluated import Evaluated
    from circuitgraph.cli.found_circuit import load_found_circuit
    from circuitgraph.cli.learnt import constants_to_evaluate
    from circuitgraph.cli.output import only_json, say
    from circuitgraph.cli.settings import ablation_of_circuit
    from circuitgraph.errors import ConfigurationError
    from circuitgraph.graph.spans import refuse_spans
    from pruning.evaluation.minimality import require_share
    from pruning.prompts.swapped import BOTH
    from pruning.runs.shown_progress import counting

    with only_json(as_json):
        require_share(subset_share)
        loaded = Circuit.load(circuit)
        if n_effects is not None:
            refuse_spans(loaded.universe, "--effects")
        cut = ablation_of_circuit(ablation, loaded)
        if constants is not None and cut != "optimal":
            raise ConfigurationError(f"--constants is for optimal ablation, and cut edges carry {cut} values here")
        found = load_found_circuit(circuit, model=model, device=device, dtype=dtype, verify=not no_verify)
        drawn = found.seed if seed is None else seed
        data, asked = _task(found, task, seed=seed, direction=direction, ablation=cut, split=split)
        _look_first(found, data, split, ablation=cut, strict=strict)
        pairs, carried, learnt = data.split(split), data.splits.get("train"), None
        if cut == "optimal":
            carried, learnt = constants_to_evaluate(found, circuit, data, given=constants, steps=constants_steps)
        say(f"evaluating on {len(pairs):,} {split} prompts")
        from pruning.evaluation.evaluate import evaluate as measure

        with told_as_notes(), counting("evaluation") as tick:
            evaluation = measure(
                found.compiled, found.circuit, pairs, ablation_data=carried, ablation=cut, seed=drawn,
                n_random=n_random, n_random_prompts=n_random_prompts, batch_size=batch_size, hit_at=hit_at,
                head_scale=head_scale, direction=BOTH if asked == BOTH else "noising", tick=tick,
            )  # fmt: skip
        some = pairs.first(n_effect_prompts)
        worth = minimal = None
        if n_effects is not None:
            worth = _effects(found, pairs, cut, carried, top=n_effects, n=len(some), seed=drawn)
        if n_minimal is not None:
            minimal = _minimality(
                found, some, cut, carried, n_edges=n_minimal, n_subsets=n_subsets, share=subset_share, seed=drawn
            )
        result = Evaluated(
            found=found, data=data, split=split, ablation=cut, direction=asked, evaluation=evaluation,
            constants=learnt, effects=worth, minimality=minimal,
        )  # fmt: skip
    result.show(as_json=as_json)


def _task(
    found: FoundCircuit, task: str | None, *, seed: int | None, direction: str | None, ablation: str, split: str
) -> tuple[TaskData, str]:
    """The prompts, turned as the direction takes them, and the direction.

    Raises:
        ConfigurationError: A direction that the ablation does not have, or no prompts to measure on.
    """
    from circuitgraph.cli.output import say
    from circuitgraph.cli.split_prompts import prompts_to_measure
    from pruning.prompts.swapped import begins_with, require_direction

    data = found.task(task, seed=seed)
    asked = direction or data.direction
    require_direction(asked, ablation)
    data = data.towards(begins_with(asked))
    prompts_to_measure(data, split)
    for note in data.notes:
        say(f"note: {note}")
    return data, asked


def _look_first(found: FoundCircuit, data: TaskData, split: str, *, ablation: str, strict: bool) -> None:
    """Say what is doubtful about model and prompts, and which of these the circuit was trained on.

    Raises:
        ConfigurationError: What cannot be measured, or with `strict` any doubt.
    """
    from circuitgraph.cli.findings import print_findings
    from circuitgraph.cli.found_circuit import warn_of_trained
    from pruning.runs.checking.preflight import preflight

    checked = preflight(found.compiled, data, splits=(split,), ablation=ablation, sample=0, training=False)
    checked.require(strict=strict)
    print_findings([one.to_dict() for one in checked.doubts], to_stderr=True)
    warn_of_trained({"": found.circuit}, found.compiled.tokenizer, data, split)


def _effects(
    found: FoundCircuit,
    pairs: EncodedPairs,
    ablation: str,
    carried: AblationData | None,
    *,
    top: int,
    n: int,
    seed: int,
) -> Effects:
    """What cutting each head, each MLP and each of the strongest edges alone costs."""
    from circuitgraph.cli.output import say
    from pruning.evaluation.effects import measure_effects
    from pruning.runs.shown_progress import counting

    edges = f"each of the {min(top, len(found.circuit)):,} strongest edges"
    say(f"measuring what cutting each head, each MLP and {edges} alone costs, on {n:,} prompts")
    with counting("effects") as tick:
        return measure_effects(
            found.compiled, found.circuit, pairs, top=top, n=n, ablation=ablation, tick=tick, seed=seed,
            ablation_data=carried,
        )  # fmt: skip


def _minimality(
    found: FoundCircuit,
    pairs: EncodedPairs,
    ablation: str,
    carried: AblationData | None,
    *,
    n_edges: int,
    n_subsets: int,
    share: float,
    seed: int,
) -> dict[str, Any]:
    """What each of the weakest edges is worth, as JSON has it."""
    from circuitgraph.cli.output import say
    from circuitgraph.cli.tables import records
    from pruning.evaluation.minimality import measure_minimality
    from pruning.runs.shown_progress import counting

    n_edges = min(n_edges, len(found.circuit))
    beside = f" and beside {n_subsets:,} subset{'s' * (n_subsets > 1)} of the others" if n_subsets else ""
    say(f"cutting each of the {n_edges:,} weakest edges alone{beside}, on {len(pairs):,} prompts")
    with counting("runs") as tick:
        table = measure_minimality(
            found.compiled, found.circuit, pairs, n_edges=max(1, n_edges), n_subsets=n_subsets, share=share, seed=seed,
            ablation=ablation, ablation_data=carried, tick=tick,
        )  # fmt: skip
    measure = "mse" if pairs.answer_values is not None else "kl"
    how = {"n_edges": n_edges, "n_subsets": n_subsets, "share": share, "seed": seed, "n": len(pairs)}
    return {**how, "measure": measure, "edges": records(table)}

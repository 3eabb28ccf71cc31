"""`circuitgraph evaluate`: a saved circuit's faithfulness, next to what it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.cli.found_circuit import FoundCircuit
    from pruning.frozen.constants import AblationData
    from pruning.prompts.encoding import EncodedPairs


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
    from circuitgraph.cli.figures import print_effects, print_metrics, print_minimality
    from circuitgraph.cli.findings import print_findings
    from circuitgraph.cli.found_circuit import load_found_circuit, warn_of_trained
    from circuitgraph.cli.learnt import constants_to_evaluate
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.cli.settings import ablation_of_circuit
    from circuitgraph.errors import ConfigurationError
    from circuitgraph.graph.spans import refuse_spans
    from pruning.evaluation.minimality import require_share
    from pruning.prompts.swapped import BOTH, begins_with, require_direction
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
        data = found.task(task, seed=seed)
        asked = direction or data.direction
        require_direction(asked, cut)
        data = data.towards(begins_with(asked))
        pairs = data.split(split)
        if not len(pairs):
            raise ConfigurationError(f"task {data.name} has no {split} prompts; choose another --split")
        for note in data.notes:
            say(f"note: {note}")
        from pruning.evaluation.evaluate import evaluate as measure
        from pruning.runs.checking.preflight import preflight
        from pruning.runs.verdicts import verdicts

        checked = preflight(found.compiled, data, splits=(split,), ablation=cut, sample=0, training=False)
        checked.require(strict=strict)
        print_findings([one.to_dict() for one in checked.doubts], to_stderr=True)
        warn_of_trained({"": found.circuit}, found.compiled.tokenizer, data, split)
        carried, learnt = data.splits.get("train"), None
        if cut == "optimal":
            carried, learnt = constants_to_evaluate(found, circuit, data, given=constants, steps=constants_steps)
        say(f"evaluating on {len(pairs):,} {split} prompts")
        with told_as_notes(), counting("evaluation") as tick:
            evaluation = measure(
                found.compiled,
                found.circuit,
                pairs,
                ablation_data=carried,
                n_random=n_random,
                n_random_prompts=n_random_prompts,
                seed=found.seed if seed is None else seed,
                batch_size=batch_size,
                ablation=cut,
                hit_at=hit_at,
                head_scale=head_scale,
                direction=BOTH if asked == BOTH else "noising",  # the prompts are turned already
                tick=tick,
            )
        worth, other = None, evaluation.denoising
        if n_effects is not None:
            from pruning.evaluation.effects import measure_effects

            n = min(n_effect_prompts, len(pairs))
            edges = f"each of the {min(n_effects, len(found.circuit)):,} strongest edges"
            say(f"measuring what cutting each head, each MLP and {edges} alone costs, on {n:,} prompts")
            with counting("effects") as tick:
                worth = measure_effects(
                    found.compiled, found.circuit, pairs, top=n_effects, n=n, ablation=cut, tick=tick,
                    seed=found.seed if seed is None else seed, ablation_data=carried,
                )  # fmt: skip
        minimal = None
        if n_minimal is not None:
            minimal = _minimality(
                found, pairs.subset(range(min(n_effect_prompts, len(pairs)))), cut, carried,
                n_edges=n_minimal, n_subsets=n_subsets, share=subset_share, seed=found.seed if seed is None else seed,
            )  # fmt: skip
        judged = verdicts({"sparsity": found.circuit.sparsity, "splits": {split: evaluation.metrics}})
    if as_json:
        print_json(
            {
                **found.compiled.identity,
                "dtype": str(found.compiled.dtype).removeprefix("torch."),
                "found_with_dtype": found.provenance.get("dtype"),
                "task": data.name,
                "split": split,
                "data_hash": data.data_hash,
                "ablation": cut,
                "direction": asked,
                "head_scale": evaluation.head_scale,
                "found_with_ablation": found.circuit.ablation,
                "sparsity": found.circuit.sparsity,
                "metrics": evaluation.metrics,
                **({} if other is None else {"denoising": {"metrics": other.metrics}}),
                "verdicts": judged,
                **({} if learnt is None else {"constants": learnt}),
                **({} if worth is None else {"effects": worth.to_dict(split)}),
                **({} if minimal is None else {"minimality": minimal}),
            }
        )
        return
    counts = found.circuit.sparsity
    print(f"{len(found.circuit):,} of {counts['n_universe']:,} edges ({100 * counts['effective']:.2f} % cut)")
    if cut != found.circuit.ablation:
        print(f"measured under {cut} ablation; found, and its dangling edges dropped, under {found.circuit.ablation}")
    if head_scale == "anew":
        print("each reader normed the heads that it keeps anew: not the numbers of the universe's shared scale")
    told = "" if asked == "noising" else f", {begins_with(asked)}"
    print_metrics(f"{data.name} {split}{told}", evaluation.metrics)
    if other is not None:
        print_metrics(f"{data.name} {split}, denoising", other.metrics)
    if worth is not None:
        print_effects(worth)
    if minimal is not None:
        print_minimality(minimal)
    print_findings(judged)


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

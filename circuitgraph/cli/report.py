"""`circuitgraph report`: the parts of a saved result that are missing, made from those that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.failures import FAILURE
from circuitgraph.stopping import exit_code

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.compiled.model import CompiledModel
    from pruning.runs.measuring import Constants, Measuring
    from pruning.runs.parts import Parts
    from pruning.runs.result_folder import ResultFolder

EVALUATION, VERDICTS = "evaluation", "verdicts"
CHOICES = (EVALUATION, "curve", "drawings", "explorer", "report")


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A result's folder, as discover --out makes it.", show_default=False),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help=f"Make this part again, there or not: {', '.join(CHOICES)}. May be given several times.",
            show_default="what is missing",
        ),
    ] = None,
    model: options.ModelOfCircuit = None,
    device: options.Device = "cpu",
    dtype: options.DtypeOfCircuit = None,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Complete a result: make what a run left out or could not make.

    Pictures and report come from circuit.json, metrics.json and curve.csv alone. The evaluation needs the model and the
    prompts, which are loaded as the circuit says. The circuit and its gates cannot be made again but by training.
    """
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.cli.result_writer import ended_at_once, is_loss, showable, tell_missing, write_shown
    from circuitgraph.graph.spans import refuse_spans
    from circuitgraph.stopping import stopping
    from pruning.runs.result_files import CIRCUIT, METRICS
    from pruning.runs.result_folder import ResultFolder, report_command

    chosen = _chosen(only or [])
    with only_json(as_json), ResultFolder.completing(folder) as result, stopping() as stop, ended_at_once(result):
        circuit = Circuit.load(result.place / CIRCUIT)
        if "explorer" in chosen:
            refuse_spans(circuit.universe, "the explorer")
        metrics = _metrics(result.read_json(METRICS), circuit)
        splits = _splits(result, metrics, again=EVALUATION in chosen)
        measured, errors, making = splits if not chosen or EVALUATION in chosen else (), {}, None
        planned = _names(measured, result) if not chosen or EVALUATION in chosen else []
        if planned:
            making = _loaded(result, circuit, metrics, model=model, device=device, dtype=dtype, verify=not no_verify)
        with stop.held():
            lacking = dict(_still_missing(result, splits))
            if making is not None:
                parts = _measured(making, planned, stop)
                errors |= parts.errors
                lacking = {**lacking, **dict.fromkeys(planned, ""), **parts.missing}
                lacking = {part: reason for part, reason in lacking.items() if reason}
                circuit = making.described()
            elif VERDICTS in result.missing():
                judged = _judged_again(result, metrics, stop)
                errors, lacking, planned = errors | judged.errors, {**lacking, **judged.missing}, [*planned, VERDICTS]
            shown = showable(circuit, _shown(result, chosen, measured))
            made = write_shown(result, circuit, metrics, _curve(result), missing=lacking, wanted=shown)
        errors |= made.errors
        tell_missing(result, made.missing, errors)
    done = [*planned, *shown]
    done = [part for part in done if part not in made.missing]
    if as_json:
        again = report_command(result.path) if made.missing else None
        print_json({"out": str(result.path), "made": done, "missing": made.missing, "again": again})
    else:
        print(f"Made in {result.path}: {', '.join(done) or 'nothing'}")
        if not made.missing:
            say("nothing is missing now")
    if made.missing and stop.asked:
        raise typer.Exit(exit_code(stop.name))
    if is_loss(made.missing):
        raise typer.Exit(FAILURE)


def _chosen(only: Sequence[str]) -> tuple[str, ...]:
    """The parts asked for.

    Raises:
        UnknownNameError: No such part.
    """
    from circuitgraph.errors import UnknownNameError

    for part in only:
        if part not in CHOICES:
            raise UnknownNameError.of("part of a result", part, CHOICES)
    return tuple(only)


def _metrics(found: dict[str, Any], circuit: Circuit) -> dict[str, Any]:
    """What `metrics.json` says; where it is missing or damaged, what the circuit says of itself."""
    known = {"sparsity": dict(circuit.sparsity), "splits": dict(circuit.provenance.get("metrics") or {})}
    metrics = {**known, "diagnoses": [], **found}
    if not isinstance(metrics["splits"], dict):
        metrics["splits"] = {}
    return metrics


def _splits(result: ResultFolder, metrics: dict[str, Any], *, again: bool) -> tuple[str, ...]:
    """The splits to evaluate on: of those that were asked for, the ones that are missing, or all."""
    asked = result.how_evaluated().get("splits")
    names = [str(name) for name in asked] if isinstance(asked, list) else list(metrics["splits"])
    return tuple(name for name in names if again or name not in metrics["splits"])


def _names(splits: Sequence[str], result: ResultFolder) -> list[str]:
    """The parts to measure: splits that are, and effects with them or where they are missing."""
    from pruning.runs.measuring import EFFECTS, FRONT, measured_parts

    missing = result.missing()
    front = list(_front(result))
    return list(measured_parts(splits, _n_effects(result), front)) or [p for p in (FRONT, EFFECTS) if p in missing]


def _front(result: ResultFolder) -> dict[float, Circuit]:
    """Further circuits of the same ranking, by sparsity; those whose file is gone are left out."""
    from circuitgraph.circuits.circuit import Circuit
    from pruning.runs.result_files import front_file

    asked = result.how_evaluated().get("sparsities")
    sparsities = [float(one) for one in asked if isinstance(one, int | float)] if isinstance(asked, list) else []
    there = {sparsity: result.place / front_file(sparsity) for sparsity in sparsities}
    return {sparsity: Circuit.load(path) for sparsity, path in there.items() if path.is_file()}


def _n_effects(result: ResultFolder) -> int:
    """Of how many edges effects were asked for; results of older versions do not say."""
    from pruning.runs.request import N_EFFECTS

    asked = result.how_evaluated().get("n_effects")
    return asked if isinstance(asked, int) else N_EFFECTS


def _still_missing(result: ResultFolder, splits: Sequence[str]) -> list[tuple[str, str]]:
    """What is missing before anything is made, of what is not shown."""
    from pruning.runs.parts import NOT_MADE_YET
    from pruning.runs.result_files import CURVE, GATES, SCORES

    known = result.missing()
    rows = [(part, known.get(part, NOT_MADE_YET)) for part in _names(splits, result)]
    if SCORES in result:
        return rows
    if GATES not in result or CURVE not in result:
        rows.append(("gates", known.get("gates", "gates.safetensors or curve.csv is gone; only training makes them")))
    return rows


def _loaded(
    result: ResultFolder,
    circuit: Circuit,
    metrics: dict[str, Any],
    *,
    model: str | None,
    device: str,
    dtype: str | None,
    verify: bool,
) -> Measuring:
    """The circuit with the very model and prompts that it was found with, ready to be measured as was asked at first.

    Raises:
        ConfigurationError: The prompts are others now: their figures would stand under the names of the first.
        GraphMismatchError: The model is another.
    """
    import numpy as np

    from circuitgraph.cli.found_circuit import load_found_circuit
    from circuitgraph.cli.output import say
    from pruning.evaluation.sampled import N_RANDOM_PROMPTS
    from pruning.runs.measuring import N_EFFECTS, Measuring
    from pruning.runs.result_files import CIRCUIT
    from pruning.runs.shown_progress import ShownProgress

    found = load_found_circuit(
        result.place / CIRCUIT, model=model, device=device, dtype=dtype, verify=verify, exact=True
    )
    task = found.own_task(exact=True)
    for note in task.notes:
        say(f"note: {note}")
    how = result.how_evaluated()
    dangling = [circuit.universe.edge_index(*name.split("->", 1)) for name in how.get("dangling_edges") or []]
    n_random, n_prompts = how.get("n_random"), how.get("n_random_prompts", N_RANDOM_PROMPTS)
    return Measuring(
        compiled=found.compiled,
        task=task,
        circuit=circuit,
        raw_edges=np.sort(np.concatenate([circuit.edge_ids, np.asarray(dangling, dtype=circuit.edge_ids.dtype)])),
        n_random=n_random if isinstance(n_random, int) else 10,
        n_random_prompts=n_prompts if isinstance(n_prompts, int) else None,
        n_effects=_n_effects(result) or N_EFFECTS,
        seed=found.seed,
        provenance=dict(circuit.provenance),
        metrics=metrics,
        folder=result,
        progress=ShownProgress(),
        front=_front(result),
        constants=_constants(found.compiled, result, circuit),
    )


def _constants(compiled: CompiledModel, result: ResultFolder, circuit: Circuit) -> Constants:
    """What cut edges carry, where that was learnt."""
    from circuitgraph.cli.learnt import stored_constants
    from pruning.runs.measuring import Constants
    from pruning.runs.result_files import CIRCUIT, front_file

    if circuit.ablation != "optimal":
        return Constants()
    front = [
        stored_constants(compiled, one, result.place / front_file(sparsity))
        for sparsity, one in list(_front(result).items())[:1]  # trained with the gates, the same for all
    ]
    return Constants(
        of_circuit=stored_constants(compiled, circuit, result.place / CIRCUIT), of_front=front[0] if front else None
    )


def _measured(making: Measuring, planned: Sequence[str], stop: Any) -> Parts:
    """Measure, judge, and keep it."""
    from pruning.runs.parts import Parts
    from pruning.runs.verdicts import verdicts

    parts = Parts(stop, planned)
    making.run(parts)

    def judge() -> None:
        making.metrics["verdicts"] = verdicts(making.metrics)

    parts.attempt(VERDICTS, judge, cheap=True)
    parts.attempt("circuit", making.keep, cheap=True)
    return parts


def _judged_again(result: ResultFolder, metrics: dict[str, Any], stop: Any) -> Parts:
    """Judge what was measured, and keep it: nothing else was missing."""
    from pruning.runs.parts import Parts
    from pruning.runs.result_files import METRICS
    from pruning.runs.verdicts import verdicts

    parts = Parts(stop, (VERDICTS,))

    def judge() -> None:
        metrics["verdicts"] = verdicts(metrics)
        result.write_json(METRICS, metrics)

    parts.attempt(VERDICTS, judge, cheap=True)
    return parts


def _shown(result: ResultFolder, chosen: Sequence[str], measured: Sequence[str]) -> tuple[str, ...]:
    """The parts to show: those asked for, or those that are missing; the report tells of every other, and is last."""
    from circuitgraph.cli.result_writer import FILES_OF, SHOWN
    from pruning.runs.measuring import FRONT
    from pruning.runs.result_files import CURVE

    known = result.missing()
    missing = {
        part
        for part in SHOWN
        if part in known or (part != "curve" or CURVE in result) and any(name not in result for name in FILES_OF[part])
    }
    wanted = {part for part in SHOWN if part in chosen} if chosen else missing
    if FRONT in known:
        wanted.add("curve")
    if measured or wanted or known:
        wanted.add("report")
    return tuple(part for part in SHOWN if part in wanted)


def _curve(result: ResultFolder) -> pd.DataFrame:
    """The curve's rows; none where the file is gone or damaged."""
    import pandas as pd

    from pruning.runs.result_files import CURVE

    try:
        return pd.read_csv(result.place / CURVE)
    except (OSError, ValueError):
        return pd.DataFrame()

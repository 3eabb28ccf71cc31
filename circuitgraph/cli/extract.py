"""`circuitgraph extract`: a saved circuit as a small model of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.batch import TokenBatch
    from circuitgraph.cli.found_circuit import FoundCircuit
    from circuitgraph.extract import ExtractedCircuit, SpeedUp
    from circuitgraph.forward.ablation_values import AblationValues
    from pruning.prompts.encoding import EncodedPairs


def extract(
    circuit: options.CircuitFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", show_default=False)],
    model: options.ModelOfCircuit = None,
    task: options.TaskOfCircuit = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What cut edges carry: zero, mean, mean-positional (means over the training prompts) or optimal "
            "(constants that lie beside the circuit).",
            show_default="the one the circuit was found with",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of the speed measurement.")] = 15,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older extracted circuit.")] = False,
    device: options.Device = "cpu",
    dtype: options.DtypeOfCircuit = None,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Make a circuit a small model: live heads and MLPs, constants for the rest.

    The folder holds safetensors and JSON; read it back with circuitgraph.extract.load_extracted. Speeds are medians of
    forward passes that the model and the circuit take in turn.
    """
    from circuitgraph.cli.found_circuit import load_found_circuit
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.extract.extraction import extract_circuit, largest_difference, settle_ablation
    from circuitgraph.extract.saving import check_free, save_extracted
    from circuitgraph.extract.speed import measure_speed_up

    with only_json(as_json):
        check_free(out, overwrite=overwrite)
        settle_ablation(_circuit(circuit), ablation)
        found = load_found_circuit(
            circuit, model=model, device=device, dtype=dtype, verify=not no_verify, without_spans="an extracted model"
        )
        ablation = settle_ablation(found.circuit, ablation)
        pairs = _prompts(found, task)
        values = _values(found, circuit, ablation, pairs, batch_size)
        extracted = extract_circuit(found.circuit, found.compiled, values=values, verify=not no_verify)
        batch = _batch(found, pairs, batch_size)
        difference = largest_difference(extracted, found.circuit, found.compiled, batch, values)
        say(f"timing {repeats} turns on {batch.input_ids.shape[0]} prompts")
        speed = measure_speed_up(extracted, found.compiled, batch, repeats=repeats)
        folder = save_extracted(extracted, out, overwrite=overwrite)
        if ablation != found.circuit.ablation:
            say(
                f"note: the circuit was found under {found.circuit.ablation} ablation; how faithful it is under "
                f"{ablation} ablation is another question: circuitgraph evaluate CIRCUIT --ablation {ablation}"
            )
    if as_json:
        print_json(_as_json(found, extracted, speed, difference, folder))
        return
    if not extracted.embeddings:
        say(
            "note: nothing that is left reads an embedding, so it says the same on every prompt, and its speed means "
            f"nothing; under {ablation} ablation these edges are no circuit of this task"
        )
    print(extracted)
    _print_speed(speed)
    print(f"\nlargest difference from the masked run: {difference:.1e} of the largest logit\nwritten to {folder}")


def _circuit(path: Path) -> Any:
    from circuitgraph.circuits.circuit import Circuit

    return Circuit.load(path)


def _prompts(found: FoundCircuit, task: str | None) -> EncodedPairs:
    """The training prompts; the test prompts where there are none.

    Raises:
        ConfigurationError: No prompts.
    """
    from circuitgraph.cli.output import say
    from circuitgraph.errors import ConfigurationError

    data = found.task(task)
    for note in data.notes:
        say(f"note: {note}")
    for split in ("train", "test"):
        pairs = data.splits.get(split)
        if pairs is not None and len(pairs):
            return pairs
    raise ConfigurationError(f"task {data.name} has neither training nor test prompts")


def _values(found: FoundCircuit, file: Path, ablation: str, pairs: EncodedPairs, batch_size: int) -> AblationValues:
    """What cut edges carry.

    Raises:
        ConfigurationError: Learnt constants that are not beside the circuit.
    """
    from circuitgraph.cli.learnt import stored_constants

    if ablation == "optimal":
        return stored_constants(found.compiled, found.circuit, file)
    chunks = [range(first, min(first + batch_size, len(pairs))) for first in range(0, len(pairs), batch_size)]
    compiled = found.compiled
    batches = (pairs.batch(chunk, device=compiled.device).clean for chunk in chunks)
    return compiled.ablation_values(ablation, batches)


def _batch(found: FoundCircuit, pairs: EncodedPairs, batch_size: int) -> TokenBatch:
    """One batch of the commonest prompt length."""
    import numpy as np

    lengths = pairs.lengths
    members = np.flatnonzero(lengths == np.bincount(lengths).argmax())[:batch_size]
    return pairs.batch(members, device=found.compiled.device).clean


def _as_json(
    found: FoundCircuit, extracted: ExtractedCircuit, speed: SpeedUp, difference: float, folder: Path
) -> dict[str, Any]:
    return {
        **found.compiled.identity,
        "out": str(folder),
        "ablation": extracted.ablation,
        "n_edges": extracted.origin.n_edges,
        "n_universe": extracted.origin.n_universe,
        "live_heads": extracted.live_heads,
        "live_mlps": extracted.live_mlps,
        "n_parameters": extracted.n_parameters,
        "n_parameters_model": extracted.origin.n_parameters,
        "n_constants": extracted.n_constants,
        "largest_difference": difference,
        "speed_up": speed.to_dict(),
    }


def _print_speed(speed: SpeedUp) -> None:
    from circuitgraph.cli.output import print_table

    def row(what: str, model: float, circuit: float, ratio: float) -> list[str]:
        return [what, f"{1000 * model:.1f} ms", f"{1000 * circuit:.1f} ms", f"{ratio:.2f}"]

    print(
        f"\none forward pass of {speed.n_prompts} prompts of {speed.n_tokens} tokens, medians of {speed.repeats} turns:"
    )
    print_table(
        ["logits", ">model", ">circuit", ">model / circuit"],
        [
            row("at every position", speed.model_seconds, speed.circuit_seconds, speed.ratio),
            row("at the asked positions", speed.model_asked_seconds, speed.circuit_asked_seconds, speed.ratio_asked),
        ],
    )

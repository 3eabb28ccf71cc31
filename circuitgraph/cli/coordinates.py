"""`circuitgraph coordinates`: which neurons and value dimensions a saved circuit needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitgraph.cli import options
from circuitgraph.cli.table_options import Csv, TablesOut


def coordinates(
    circuit: options.CircuitFile,
    writer: Annotated[
        list[str] | None,
        typer.Option("--writer", metavar="WRITER", help="Whose; give it again for more.", show_default="all it reads"),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Share of coordinates to cut.", show_default="as --price has it")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 200,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 0.02,
    price: Annotated[float, typer.Option(help="What an open coordinate costs, in the objective's units.")] = 5e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per step.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the order of prompts, and of the random coordinates.")] = 0,
    model: options.ModelOfCircuit = None,
    task: options.TaskOfCircuit = None,
    split: Annotated[str, typer.Option(help="The prompts they are measured on.")] = "test",
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep them, as JSON.", dir_okay=False, show_default=False)
    ] = None,
    out: TablesOut = None,
    as_csv: Csv = False,
    device: options.Device = "cpu",
    dtype: options.DtypeOfCircuit = None,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Learn which coordinates of its heads and MLPs a circuit needs, its edges as they are, and measure that.

    Trained on the task's train prompts; measured beside the circuit whole, the other coordinates, and as many drawn at
    random.
    """
    from circuitgraph.cli.found_circuit import load_found_circuit
    from circuitgraph.cli.output import say
    from circuitgraph.cli.tables import ResultTable, TableFormat, refuse_to_replace
    from circuitgraph.errors import ConfigurationError, OutputError
    from pruning.coordinates.learning import CoordinateSettings, learn_coordinates
    from pruning.coordinates.measuring import measure_coordinates
    from pruning.runs.shown_progress import counting

    shape = TableFormat.of(
        as_json=as_json, as_csv=as_csv, as_latex=False, as_markdown=False, out=out, inputs=[circuit]
    )  # fmt: skip
    with shape.alone():
        if save is not None:
            refuse_to_replace([circuit, *([] if out is None else [out])], save)
            if not save.parent.is_dir():
                raise OutputError(f"--save {save}: there is no folder {save.parent}; make it first")
        settings = CoordinateSettings(steps=steps, rate=rate, price=price, batch_size=batch_size)
        loaded = load_found_circuit(
            Path(circuit), model=model, device=device, dtype=dtype, verify=not no_verify,
            without_spans="learning coordinates",
        )  # fmt: skip
        data = loaded.task(task)
        train, pairs = data.split("train"), data.split(split)
        if not len(pairs) or not len(train):
            raise ConfigurationError(f"task {data.name} has no {split} or no train prompts; choose another --split")
        say(f"learning on {len(train):,} train prompts")
        with counting("steps") as tick:
            found = learn_coordinates(
                loaded.compiled, loaded.circuit, train, settings, writers=writer or None, sparsity=sparsity, seed=seed,
                tick=tick,
            )  # fmt: skip
        if save is not None:
            say(f"written to {found.save(save)}")
        say(f"measuring on {len(pairs):,} {split} prompts")
        measured = measure_coordinates(
            loaded.compiled, loaded.circuit, found, pairs, ablation_data=train, seed=seed
        )  # fmt: skip
    about = {
        **loaded.compiled.identity, "task": data.name, "split": split, "n_prompts": len(pairs),
        "ablation": found.ablation, "n_kept": found.n_kept, "n_coordinates": found.n_coordinates, "seed": seed,
    }  # fmt: skip
    rows = measured.rename_axis("run").reset_index()
    kept = f"{found.n_kept:,} of {found.n_coordinates:,} coordinates kept, by writer"
    names = ["writer", "n_kept", "n_coordinates", "share"]
    tables = [
        ResultTable(
            name="coordinates", title=kept, frame=found.table(), shown={name: name.replace("_", " ") for name in names}
        ),
        ResultTable(
            name="measures",
            title=f"Against the full model, on {len(pairs):,} {split} prompts",
            frame=rows,
            shown={str(name): str(name).replace("_", " ") for name in rows},
        ),
    ]
    if found.n_kept == found.n_coordinates:
        say(
            "note: no coordinate was closed, so this says nothing yet. Raise --price or --steps, or say with "
            "--sparsity which share to cut"
        )
    shape.write(tables, about=about)

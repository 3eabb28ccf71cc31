"""`circuitgraph trace`: where a reader of a circuit gets its information from, as a tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitgraph.cli import options
from circuitgraph.cli.table_options import Csv, TablesOut


def trace(
    circuit: options.CircuitFile,
    reader: Annotated[
        str, typer.Argument(metavar="READER", help="A reader, such as logits, m5 or a3.h7<q>.", show_default=False)
    ],
    follow: Annotated[int, typer.Option(min=0, help="Edges that are followed from each reader, at most.")] = 3,
    depth: Annotated[int, typer.Option(min=1, help="Edges of the longest way back.")] = 3,
    least: Annotated[float, typer.Option(help="What an edge has to restore to be followed, a share.")] = 0.05,
    model: options.ModelOfCircuit = None,
    task: options.TaskOfCircuit = None,
    ablation: options.AblationOfCircuit = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    n_prompts: Annotated[int, typer.Option("--prompts", min=1, help="Prompts at most.")] = 16,
    out: TablesOut = None,
    as_csv: Csv = False,
    device: options.Device = "cpu",
    dtype: options.DtypeOfCircuit = None,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Rank the edges into one reader, each restored alone, and follow the strongest back, reader by reader.

    All edges into the reader are cut; an edge restores the share of what is lost that comes back with it alone. Edges
    that restore less than 1 % are counted here; --csv, --json and --out have all.
    """
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.found_circuit import load_found_circuit
    from circuitgraph.cli.learnt import stored_constants
    from circuitgraph.cli.output import say
    from circuitgraph.cli.settings import ablation_of_circuit
    from circuitgraph.cli.split_prompts import prompts_to_measure
    from circuitgraph.cli.tables import ResultTable, TableFormat
    from pruning.evaluation.trace import trace as traced
    from pruning.runs.shown_progress import counting

    shape = TableFormat.of(
        as_json=as_json, as_csv=as_csv, as_latex=False, as_markdown=False, out=out, inputs=[circuit]
    )  # fmt: skip
    with shape.alone():
        cut = ablation_of_circuit(ablation, Circuit.load(circuit))
        found = load_found_circuit(Path(circuit), model=model, device=device, dtype=dtype, verify=not no_verify)
        data = found.task(task)
        pairs = prompts_to_measure(data, split).first(n_prompts)
        carried = stored_constants(found.compiled, found.circuit, circuit) if cut == "optimal" else None
        carried = data.splits.get("train") if carried is None else carried
        say(f"tracing {reader} on {len(pairs):,} {split} prompts")
        with counting("readers") as tick:
            made = traced(
                found.compiled, found.circuit, reader, pairs, follow=follow, depth=depth, least=least, ablation=cut,
                ablation_data=carried, tick=tick,
            )  # fmt: skip
    about = {
        **found.compiled.identity, "task": data.name, "split": split, "n_prompts": len(pairs), "ablation": cut,
        "reader": reader, "measure": made.measure, "distance": made.distance, "readers": made.readers,
    }  # fmt: skip
    shown = {"depth": "depth", "edge": "edge", "restored": "restored", "distance": made.measure}
    told = made.table.loc[[made.matters(row) for row in made.table.to_dict("records")], :]
    n_more = len(made.table) - len(told)
    title = "The edges in the order of the tree" + (f"; the files have {n_more:,} more" if n_more else "")
    table = ResultTable(name="edges", title=title, frame=made.table, for_people=told, shown=shown)
    shape.write([table], about=about, first=made.text)

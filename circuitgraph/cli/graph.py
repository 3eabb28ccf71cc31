"""`circuitgraph graph`: a model's graph in numbers, from its config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from circuitgraph.graph.universe import Universe
    from circuitgraph.memory.plan import MemoryPlan


def graph(
    model: options.Model,
    embeddings: options.Embeddings = None,
    kv_heads: options.KvHeads = None,
    qkv: options.Qkv = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per step, for the memory estimate.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens a prompt, for the memory estimate.")] = 32,
    prompts: Annotated[int, typer.Option(min=1, help="Training prompts, for the memory estimate.")] = 200,
    cache_gib: Annotated[float, typer.Option(min=0, help="Cache, in GiB, for the memory estimate.")] = 2.0,
    memory_gib: options.MemoryGib = None,
    only_memory: Annotated[
        bool, typer.Option("--memory", help="Show the memory plan alone, without counting nodes and edges.")
    ] = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    as_json: options.Json = False,
) -> None:
    """Count a model's nodes and edges, and plan the memory of a run.

    Only the config is read: a folder with nothing but config.json will do. The device need not be there.
    """
    from circuitgraph.cli.output import only_json, print_json
    from circuitgraph.cli.settings import plan_model
    from circuitgraph.errors import UnknownNameError
    from circuitgraph.memory.estimate import DEVICES
    from circuitgraph.memory.numbers import BYTES
    from circuitgraph.memory.sizes import ModelSizes, count_parameters

    kind = device.partition(":")[0]
    for what, asked, choices in (("dtype", dtype, BYTES), ("device", kind, DEVICES)):
        if asked not in choices:
            raise UnknownNameError.of(what, asked, choices)
    with only_json(as_json):
        plan = plan_model(model, embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
        sizes = ModelSizes(shape=plan.shape, universe=plan.universe, n_parameters=count_parameters(plan.config))
    if plan.shape.n_positions is not None:
        tokens = min(tokens, plan.shape.n_positions)

    memory = sizes.plan(
        batch_size,
        seq=tokens,
        limit_bytes=None if memory_gib is None else round(memory_gib * 2**30),
        dtype=dtype,
        device=device,
        n_prompts=prompts,
        cache_bytes=round(cache_gib * 2**30),
    )
    counts = {} if only_memory else count(plan.universe)
    if as_json:
        asked = {"batch_size": batch_size, "tokens": tokens, "prompts": prompts, "device": device, "dtype": dtype}
        counted = {"universe": plan.universe.to_dict(), "n_parameters": sizes.n_parameters, **counts}
        print_json({"model": model, **counted, "memory": {**memory.to_dict(), **asked}})
        return
    if not only_memory:
        _print(model, sizes.n_parameters, counts, plan.universe)
    sizes_told = f"{batch_size} prompts of {tokens} tokens per step, {prompts} in all"
    _print_memory(memory, f"{sizes_told}, {dtype} on {device}")


def count(universe: Universe) -> dict[str, Any]:
    """Nodes and edges by kind and layer, without building the graph.

    Args:
        universe: What fixes them.

    Returns:
        `nodes` and `edges` by kind, with a `total`; `layers`, a row per layer with its edges by kind.

    Examples:
        >>> from circuitgraph.graph.universe import Universe
        >>> counts = count(Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12))
        >>> counts["edges"]["total"], counts["nodes"]["head"], counts["layers"][0]["mlp"]
        (32491, 144, 13)
    """
    import numpy as np

    sizes = np.diff(universe.reader_offsets)
    kinds, layers = universe.reader_kinds, universe.reader_layers
    names = list(dict.fromkeys(kinds.tolist()))
    nodes = {
        "embedding": universe.n_embeddings,
        **({"vector": len(universe.virtual)} if universe.virtual else {}),
        "head": universe.n_layers * universe.n_heads,
        **{kind: int((kinds == kind).sum()) for kind in names},
    }
    edges = {kind: int(sizes[kinds == kind].sum()) for kind in names}
    rows = []
    for layer in range(universe.n_layers):
        here = {kind: int(sizes[(kinds == kind) & (layers == layer)].sum()) for kind in names if kind != "logits"}
        rows.append({"layer": layer, **here, "total": sum(here.values())})
    return {
        "nodes": {**nodes, "total": sum(nodes.values())},
        "edges": {**edges, "total": universe.n_edges},
        "layers": rows,
    }


_NAMES = {
    "embedding": "embeddings",
    "head": "heads",
    "mlp": "MLPs",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "qkv": "queries, keys and values",
    "logits": "logits",
}


def _print(model: str, n_parameters: int, counts: dict[str, Any], universe: Universe) -> None:
    from circuitgraph.cli.output import print_table

    told = ", ".join(f"{name} {value}" for name, value in universe.to_dict().items())
    print(f"{model}: {n_parameters:,} parameters\nuniverse: {told}\n")
    nodes, edges = counts["nodes"], counts["edges"]
    rows = [
        [_NAMES[kind], f"{n:,}", f"{edges[kind]:,}" if kind in edges else "–"]
        for kind, n in nodes.items()
        if kind != "total"
    ]
    print_table(["kind", ">nodes", ">edges into them"], [*rows, ["all", f"{nodes['total']:,}", f"{edges['total']:,}"]])
    kinds = [kind for kind in edges if kind not in ("logits", "total")]
    print()
    print_table(
        ["layer", *(f">{_NAMES[kind]}" for kind in kinds), ">edges"],
        [[row["layer"], *(f"{row[kind]:,}" for kind in kinds), f"{row['total']:,}"] for row in counts["layers"]],
    )


def _print_memory(plan: MemoryPlan, asked: str) -> None:
    from circuitgraph.cli.output import bytes_text, print_table

    print(f"\nestimated memory of a training run, {asked}:")
    parts = plan.estimate.to_dict()
    print_table(["part", ">memory"], [[part.replace("_", " "), bytes_text(n)] for part, n in parts.items()])
    print(f"\n{plan.describe()}")

"""`circuitgraph models`, `tasks` and `recipes`: what names there are."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from circuitgraph.cli import options


def models(
    check: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Say whether a model compiles, from its config.json alone: a folder or a hub name."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the packaged models, and say what else can be given as one.

    With --check, say whether a model's config is understood, with its counts and what a training step takes of memory;
    or else which fields stand in the way. The exit code is then 2.
    """
    from circuitgraph.architectures import supported_model_types
    from circuitgraph.cli.output import print_json, print_table
    from circuitgraph.models import PACKAGED

    if check is not None:
        _check(check, as_json=as_json)
        return
    families = supported_model_types()
    if as_json:
        listed = [{"name": name, "description": text} for name, text in PACKAGED.items()]
        print_json({"models": listed, "families": families})
        return
    print_table(["model", "what it is"], PACKAGED.items())
    print(f"\nAlso a local folder made with save_pretrained, or a hub name, of a family among: {', '.join(families)}.")


@contextmanager
def _collecting_nothing() -> Iterator[None]:
    """Pause the garbage collector, which takes an eighth of the time of importing torch."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check(model: str, *, as_json: bool) -> None:
    """Whether a model compiles, and what it would take."""
    from circuitgraph.cli.output import bytes_text, only_json, print_json
    from circuitgraph.errors import UnsupportedModelError

    try:
        with only_json(as_json), _collecting_nothing():
            from circuitgraph.cli.settings import plan_model
            from circuitgraph.memory.sizes import model_sizes

            sizes = model_sizes(model, embeddings=plan_model(model).universe.embeddings)
    except UnsupportedModelError as error:
        if not as_json:
            raise
        print_json({"model": model, "compiles": False, "why": str(error)})
        raise typer.Exit(2) from None
    universe, memory = sizes.universe, sizes.estimate(8, seq=32)
    told = {
        "model": model, "compiles": True, "family": universe.family, "n_parameters": sizes.n_parameters,
        "n_writers": universe.n_writers, "n_readers": universe.n_readers, "n_edges": universe.n_edges,
        "step_bytes": memory.total,
    }  # fmt: skip
    if as_json:
        print_json({**told, "universe": universe.to_dict()})
        return
    print(f"{model} compiles: {universe.description}")
    print(f"{sizes.n_parameters:,} parameters; {universe.n_writers:,} writers, {universe.n_readers:,} readers")
    print(f"a training step of 8 prompts of 32 tokens takes about {bytes_text(memory.total)} in float32")
    print("Whether its weights are those of its config is seen when they are loaded.")


def tasks(as_json: options.Json = False) -> None:
    """List the tasks, with an example each; the answer stands between <predict> and </predict>."""
    from dataclasses import asdict

    from circuitgraph.cli.output import only_json, print_json
    from pruning.tasks import describe_tasks

    with only_json(as_json):
        described = describe_tasks()
    if as_json:
        print_json([asdict(task) for task in described])
        return
    for task in described:
        sizes = ", ".join(f"{n} {split}" for split, n in task.sizes.items()) or "all of its own"
        print(f"{task.name}: {task.description}")
        print(f"    compared by {task.objective}; prompts: {sizes}")
        if task.options:
            print("    --task-option " + ", ".join(f"{name}={value}" for name, value in task.options.items()))
        for line in task.example.splitlines():
            print(f"    {line}")
        print()


def recipes(as_json: options.Json = False) -> None:
    """List the recipes with all their settings."""
    from circuitgraph.cli.output import print_json, print_table
    from pruning.methods.edge_pruning.recipes import RECIPES

    if as_json:
        print_json([recipe.to_dict() for recipe in RECIPES.values()])
        return
    for recipe in RECIPES.values():
        settings = recipe.to_dict()
        print(f"{settings.pop('name')}: {settings.pop('summary')}")
        told = [[name, "the default" if value is None else value] for name, value in settings.items()]
        half = (len(told) + 1) // 2
        pairs = [[*left, *(told[half + i] if half + i < len(told) else ("", ""))] for i, left in enumerate(told[:half])]
        print_table(["    setting", "value", "setting", "value"], [["    " + row[0], *row[1:]] for row in pairs])
        print()

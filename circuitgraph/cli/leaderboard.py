"""`circuitgraph leaderboard`: methods × tasks × seeds on the same graph, prompts and measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pruning.methods.method import Method

_SEPARATE = "Several, separated by commas."


def leaderboard(
    model: options.Model,
    task: Annotated[
        list[str],
        typer.Option("--task", "-t", help="A task; give the option again for each.", rich_help_panel=options.SETTINGS),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write, or that of a leaderboard to go on with."),
    ],
    methods: Annotated[
        str,
        typer.Option(help=f"Methods that rank edges, see `circuitgraph rank`. {_SEPARATE}", metavar="NAME[,NAME…]"),
    ] = "nested,eap,gate-importance",
    seeds: Annotated[str, typer.Option(help=f"Seeds of the methods. {_SEPARATE}", metavar="SEED[,SEED…]")] = "0",
    objective: Annotated[
        str | None,
        typer.Option(
            help="What every method minimises.", show_default="what suits each", rich_help_panel=options.SETTINGS
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="A method that the others are compared with: how many times its edges they need to be as close to the "
            "model.",
            show_default="the first of --methods",
        ),
    ] = None,
    train_size: options.TrainSize = None,
    test_size: options.TestSize = None,
    embeddings: options.Embeddings = None,
    kv_heads: options.KvHeads = None,
    qkv: options.Qkv = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    no_verify: options.NoVerify = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Compare methods: every method on every task, ranked on training prompts and measured on test prompts.

    Writes table.csv (a row per circuit), summary.csv, a figure per task and leaderboard.md. Each method, task and
    seed is a cell that is kept as soon as it is done: stopped at any moment, the same command goes on with what is
    missing, and methods, tasks and seeds can be added.
    """
    from analysis.leaderboard import write_leaderboard
    from circuitgraph.cli.cache import told_as_notes
    from circuitgraph.cli.failures import telling_what_is_there
    from circuitgraph.cli.invocation import command_line
    from circuitgraph.cli.output import only_json, print_json, say, warn
    from circuitgraph.cli.settings import parse_seeds, plan_model, settle_sizes
    from circuitgraph.errors import ConfigurationError
    from pruning.execution.objectives import objective_named
    from pruning.leaderboard.board import run_leaderboard
    from pruning.methods.registry import method_named
    from pruning.tasks import load_task

    with only_json(as_json):
        chosen: dict[str, Method] = {name: method_named(name) for name in _names(methods, "--methods")}
        if objective is not None:
            objective_named(objective)
        compared = reference or next(iter(chosen))
        if compared not in chosen:
            raise ConfigurationError(f"--reference {compared} is none of the methods: {', '.join(chosen)}")
        numbers = parse_seeds(seeds)
        plan = plan_model(model, embeddings=embeddings, kv_heads=kv_heads, qkv=qkv)
        say(f"loading {model}")
        loaded = plan.load(dtype=dtype, device=device)
        compiled = plan.compile(loaded, verify=not no_verify)
        sizes = settle_sizes(train=train_size, test=test_size)
        tasks = {name: load_task(name, loaded.tokenizer, sizes=sizes) for name in dict.fromkeys(task)}
        with told_as_notes(), telling_what_is_there(lambda: _what_is_there(out, overwrite=overwrite)):
            found = run_leaderboard(
                compiled, tasks, chosen, out=out, seeds=numbers, objective=objective, overwrite=overwrite, say=say
            )
        for cell, reason in found.failed.items():
            warn(f"missing: {cell}: {reason}")
        if found.table.empty:
            raise ConfigurationError("no cell could be run; the reasons are above")
        page = write_leaderboard(
            out, found.table, found.costs, command=command_line() or "",
            reference=compared if compared in set(found.table["method"]) else None,
        )  # fmt: skip
    if as_json:
        print_json({"out": str(page.parent), "cells": len(found.costs), "failed": dict(found.failed)})
        return
    print(f"{len(found.costs)} cells; written to {page.parent}; begin with {page}")


def _what_is_there(out: Path, *, overwrite: bool) -> str:
    """What there is of a leaderboard that was ended early, and how to go on."""
    n_cells = len(list(out.expanduser().glob("cells/*.json")))
    again = "the same command without --overwrite" if overwrite else "the same command"
    return f"{n_cells} cells are in {out}; {again} goes on with the rest" if n_cells else "no cell was done"


def _names(text: str, option: str) -> Sequence[str]:
    """Names separated by commas, each once.

    Raises:
        ConfigurationError: None is there.
    """
    from circuitgraph.errors import ConfigurationError

    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigurationError(f"{option}: expected a name, or several separated by commas; got {text!r}")
    return list(dict.fromkeys(names))

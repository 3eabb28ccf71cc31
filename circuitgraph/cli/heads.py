"""`circuitgraph heads`: how the heads of a model, or of a circuit, attend, what they say, and what that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.option_groups import grouped

if TYPE_CHECKING:
    import pandas as pd

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.compiled.model import CompiledModel
    from pruning.heads.capture import Capture
    from pruning.heads.roles import HeadRoles
    from pruning.prompts.encoding import EncodedPairs
    from pruning.tasks import TaskData

HEADS, RULES, WRITERS, APPEARING = "heads.csv", "rules.csv", "writers.csv", "appearing.csv"
ALL, GRAPH, FIGURE = "heads.json", "graph.json", "attention.png"
_PANELS, _SHOWN = 4, 12


@dataclass(frozen=True, kw_only=True)
class LookingOptions:
    """What is looked at, and what counts."""

    circuit_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="CIRCUIT",
            help="A circuit file: its heads and MLPs alone, in its model and on its task unless others are given.",
            show_default="all of the model",
        ),
    ] = None
    circuit: Annotated[
        Path | None,
        typer.Option(help="The same as CIRCUIT.", show_default=False, rich_help_panel=options.SETTINGS),
    ] = None
    span: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT",
            help='A text in the prompts whose places are looked for, such as relation="capital of"; rules speak of '
            "subject and relation. May be repeated.",
            show_default="the subject is the answer where prompts hold it, else what the counterfactual changes",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    share: Annotated[
        float,
        typer.Option(help="What share of its attention makes a head look there.", rich_help_panel=options.SETTINGS),
    ] = 0.5
    before: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Another task, such as the same questions without a demonstration: say too which heads speak up "
            "with --task and not with this.",
            show_default=False,
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    split: Annotated[str, typer.Option(help="train, validation or test.", rich_help_panel=options.PROMPTS)] = "test"
    n_prompts: Annotated[
        int, typer.Option("--prompts", min=1, help="Prompts at most.", rich_help_panel=options.PROMPTS)
    ] = 64
    examples: Annotated[
        int,
        typer.Option(min=0, help="Prompts whose attention heads.json holds whole.", rich_help_panel=options.PROMPTS),
    ] = 3
    task_option: options.TaskOption = None
    seed: options.Seed = 0

    @property
    def the_circuit(self) -> Path | None:
        """The circuit file, whichever way it was given.

        Raises:
            ConfigurationError: Both ways.
        """
        from circuitgraph.errors import ConfigurationError

        if self.circuit is not None and self.circuit_file is not None:
            raise ConfigurationError(f"two circuits were given, {self.circuit_file} and {self.circuit}; give one")
        return self.circuit_file or self.circuit

    @property
    def spans(self) -> dict[str, str]:
        """Texts by name; a text may begin and end with spaces.

        Raises:
            ConfigurationError: No `=`, or nothing on one side of it, or a name with two texts.
        """
        from circuitgraph.cli.settings import named_values, parse_named

        named_values("--span", self.span or [])
        names = [name for name, _ in parse_named("--span", self.span or [])]
        return dict(zip(names, (text.partition("=")[2] for text in self.span or []), strict=True))


@grouped
def heads(
    how: LookingOptions,
    out: options.ResultOut,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help=options.MODEL_HELP, show_default="the circuit's")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help=options.TASK_HELP, show_default="the circuit's")
    ] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    no_verify: options.NoVerify = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Say what heads do: where they look, what they say to the logits, and which roles that makes, by stated rules.

    Writes a folder: heads.csv (a row per head), rules.csv (the rules with their baselines), writers.csv (what each
    writer adds to the logits), heads.json (all of it, with attention on a few prompts) and attention.png; of a circuit
    also graph.json, its graph with roles as attributes.
    """
    from circuitgraph.cli.output import only_json, print_json
    from circuitgraph.files.reservation import reserved
    from circuitgraph.files.whole_folder import check_free, write_folder
    from pruning.heads.roles import require_share

    place = Path(out.expanduser()).resolve()
    names = (HEADS, RULES, WRITERS, APPEARING, ALL, GRAPH, FIGURE)
    with only_json(as_json), reserved(place):
        check_free(place, overwrite=overwrite, names=names, what="result of heads")
        spans = how.spans
        require_share(how.share)
        compiled, data, circuit = _loaded(how, model, task, device=device, dtype=dtype, verify=not no_verify)
        pairs = _prompts(data, how)
        found, roles = _looked(compiled, circuit, pairs, how, spans)
        appearing = _appearing(compiled, found, how)
        about = {
            **compiled.identity, "dtype": str(compiled.dtype).removeprefix("torch."),
            "universe": compiled.universe.to_dict(), "task": data.name, "split": how.split, "data_hash": data.data_hash,
            "n_prompts": len(pairs), "share": how.share, "spans": spans,
            "circuit": None if circuit is None else circuit.digest,
        }  # fmt: skip
        write_folder(place, _files(found, roles, appearing, about, how.examples, circuit))
    tables = {"rules": roles.rules, "heads": roles.table} | ({} if appearing is None else {"appearing": appearing})
    if as_json:
        from circuitgraph.cli.tables import records

        print_json({"out": str(place), **about, **{name: records(frame) for name, frame in tables.items()}})
        return
    _show(roles, appearing, len(pairs))
    print(f"Written to {place}")


def _loaded(
    how: LookingOptions, model: str | None, task: str | None, *, device: str, dtype: str, verify: bool
) -> tuple[CompiledModel, TaskData, Circuit | None]:
    """The model, the task, and the circuit where there is one.

    Raises:
        ConfigurationError: Neither a circuit nor model and task.
    """
    from circuitgraph.cli.found_circuit import load_found_circuit
    from circuitgraph.cli.output import say
    from circuitgraph.cli.settings import named_values, plan_model, task_options
    from circuitgraph.errors import ConfigurationError
    from pruning.tasks import load_task

    if how.the_circuit is not None:
        if how.task_option:
            raise ConfigurationError("--task-option is for --task without --circuit: a circuit brings its task's own")
        given = load_found_circuit(
            how.the_circuit, model=model, device=device, dtype=dtype, verify=verify, without_spans="the look at heads"
        )
        return given.compiled, given.task(task), given.circuit
    if model is None or task is None:
        raise ConfigurationError("give --model and --task, or a circuit with --circuit")
    named = task_options(task, named_values("--task-option", how.task_option or []))
    plan = plan_model(model, embeddings=None, kv_heads=None, qkv=None)
    say(f"loading {model}")
    loaded = plan.load(dtype=dtype, device=device)
    data = load_task(task, loaded.tokenizer, seed=how.seed, options=named)
    return plan.compile(loaded, verify=verify), data, None


def _prompts(data: TaskData, how: LookingOptions) -> EncodedPairs:
    from circuitgraph.cli.split_prompts import prompts_to_measure

    return prompts_to_measure(data, how.split).first(how.n_prompts)


def _looked(
    compiled: CompiledModel, circuit: Circuit | None, pairs: EncodedPairs, how: LookingOptions, spans: dict[str, str]
) -> tuple[Capture, HeadRoles]:
    from circuitgraph.cli.output import say
    from circuitgraph.errors import ConfigurationError
    from pruning.heads.capture import capture
    from pruning.heads.landmarks import require_spans
    from pruning.heads.roles import head_roles
    from pruning.heads.tokens import tokens_of
    from pruning.runs.shown_progress import counting

    require_spans(spans, tokens_of(compiled, pairs))
    nodes = None if circuit is None else [*circuit.heads, *circuit.mlps]
    if circuit is not None and not circuit.heads:
        raise ConfigurationError("the circuit has no heads; there is nothing to say of them")
    n_heads = compiled.shape.n_layers * compiled.shape.n_heads if circuit is None else len(circuit.heads)
    say(f"looking at {n_heads:,} heads on {len(pairs):,} prompts")
    with counting("prompts") as tick:
        found = capture(compiled, pairs, nodes, tick=tick)
    return found, head_roles(found, pairs, spans=spans, share=how.share, seed=how.seed)


def _appearing(compiled: CompiledModel, found: Capture, how: LookingOptions) -> pd.DataFrame | None:
    """Which heads speak up on these prompts and not on those of another task; None where none was named."""
    from circuitgraph.cli.output import say
    from pruning.heads.appearing import appearing_heads
    from pruning.heads.capture import capture
    from pruning.runs.shown_progress import counting
    from pruning.tasks import load_task

    if how.before is None:
        return None
    pairs = _prompts(load_task(how.before, compiled.tokenizer, seed=how.seed), how)
    say(f"looking at them on {len(pairs):,} prompts of {how.before}")
    with counting("prompts") as tick:
        before = capture(compiled, pairs, found.nodes, tick=tick)
    return appearing_heads(before, found, seed=how.seed)


def _files(
    found: Capture,
    roles: HeadRoles,
    appearing: pd.DataFrame | None,
    about: dict[str, Any],
    n_examples: int,
    circuit: Circuit | None,
) -> dict[str, str | bytes]:
    """The content of every file by its name."""
    import networkx as nx

    from analysis.roles import label_roles
    from circuitgraph.cli.tables import records
    from circuitgraph.files.csv_text import csv_text
    from circuitgraph.files.plain_json import json_text

    tables = {HEADS: roles.table, RULES: roles.rules, WRITERS: found.table}
    if appearing is not None:
        tables[APPEARING] = appearing
    files: dict[str, str | bytes] = {name: csv_text(frame) for name, frame in tables.items()}
    examples = [_example(found, prompt) for prompt in range(min(n_examples, len(found.ids)))]
    named = {name.partition(".")[0]: records(frame) for name, frame in tables.items()}
    files[ALL] = json_text({"format_version": 1, **about, **named, "examples": examples})
    if circuit is not None:
        files[GRAPH] = json_text(nx.node_link_data(label_roles(circuit.graph, roles.table), edges="edges"))
    drawing = _figure(found, roles)
    return files if drawing is None else {**files, FIGURE: drawing}


def _example(found: Capture, prompt: int) -> dict[str, Any]:
    """One prompt's tokens, with every head's attention and the tokens that it says most at each asked position."""
    return {
        "tokens": list(found.tokens[prompt]),
        "asked": found.asked[found.asked[:, 0] == prompt, 1].tolist(),
        "attention": {
            head: [[round(float(value), 4) for value in row] for row in pattern]
            for head, pattern in zip(found.heads, found.patterns[prompt], strict=True)
        },
        "says": {
            head: [[[token, round(value, 4)] for token, value in said] for said in found.top_tokens(head, prompt)]
            for head in found.heads
        },
    }


def _figure(found: Capture, roles: HeadRoles) -> bytes | None:
    """Attention of one head a role, that which looks most; None where none has a role or prompts are long."""
    from analysis.figures.attention import MOST_TOKENS, attention_figure
    from analysis.figures.style import figure_bytes
    from circuitgraph.cli.tables import records

    fitting = [prompt for prompt, tokens in enumerate(found.tokens) if len(tokens) <= MOST_TOKENS]
    titles: dict[str, str] = {}
    rows = records(roles.table)
    for rule in records(roles.rules):
        by = rule["looks_at"].partition(" or ")[0]
        passing = [row for row in rows if rule["role"] in row["roles"].split(", ") and row["head"] not in titles]
        if passing:
            head = max(passing, key=lambda row: row[by] or 0.0)["head"]
            titles[head] = f"{head}: {rule['role']}"
    if not titles or not fitting:
        return None
    prompt = fitting[0]
    chosen = list(titles.items())[:_PANELS]
    patterns = {title: found.patterns[prompt][found.heads.index(head)] for head, title in chosen}
    return figure_bytes(attention_figure(found.tokens[prompt], patterns), "png")


def _show(roles: HeadRoles, appearing: pd.DataFrame | None, n_prompts: int) -> None:
    """The rules with their baselines, and the heads that have a role, for people."""
    from circuitgraph.cli.output import figure, print_table
    from circuitgraph.cli.tables import records

    def rows(frame: list[dict[str, Any]], *names: str) -> list[list[object]]:
        return [
            [row[name] if isinstance(row[name], (str, int)) else figure(row[name]) for name in names] for row in frame
        ]

    print(f"{n_prompts:,} prompts; a head looks at what gets {roles.share:g} of its attention or more")
    print_table(
        ["role", "looks at", ">prompts", ">uniform head", ">heads", ">by chance", ">by place"],
        rows(records(roles.rules), "role", "looks_at", "n_prompts", "uniform", "n_pass", "by_chance", "by_place"),
    )
    named = sorted((row for row in records(roles.table) if row["roles"]), key=lambda row: -abs(row["direct"] or 0.0))
    more = f", {_SHOWN} of {len(named)}" if len(named) > _SHOWN else ""
    title = f"\nHeads with a role{more}, those first that say most for or against the answer"
    if named:
        print_table(
            ["head", "roles", ">says of the answer", ">its rank"],
            rows(named[:_SHOWN], "head", "roles", "direct", "rank"), title=title,
        )  # fmt: skip
    else:
        print("no head has a role")
    if appearing is not None:
        speaking = [row for row in records(appearing) if row["appears"]]
        if not speaking:
            print("no head speaks up")
            return
        print_table(
            ["head", ">before", ">after", ">place", ">place after"],
            rows(speaking, "head", "before", "after", "place_before", "place_after"), title="\nHeads that speak up",
        )  # fmt: skip

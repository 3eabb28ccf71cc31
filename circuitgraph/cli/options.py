"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

GRAPH = "The graph"
MACHINE = "Machine and output"
SETTINGS = "Settings of the run"
PROMPTS = "Prompts"

MODEL_HELP = "A packaged model (see `circuitgraph models`), a local folder, or a hub name."
TASK_HELP = "A task (see `circuitgraph tasks`), or jsonl:PATH for prompts of your own."

Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, show_default=False)]
ModelOfCircuit = Annotated[
    str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default="the one the circuit was found in")
]
TaskOfCircuit = Annotated[
    str | None, typer.Option("--task", "-t", help=TASK_HELP, show_default="the one the circuit was found for")
]
CircuitFile = Annotated[
    Path, typer.Argument(metavar="CIRCUIT", help="A circuit file, such as DIR/circuit.json.", show_default=False)
]

Embeddings = Annotated[
    str | None,
    typer.Option(
        help="joint: one writer for the embeddings; split: token and position embeddings apart (models with "
        "learned positions).",
        show_default="joint; Tracr models: split",
        rich_help_panel=GRAPH,
    ),
]
KvHeads = Annotated[
    str | None,
    typer.Option(
        help="native: a key and a value reader per key-value head; per_query: per query head.",
        show_default="native",
        rich_help_panel=GRAPH,
    ),
]
Qkv = Annotated[
    str | None,
    typer.Option(
        help="split: a head reads its query, key and value apart; joint: all in one.",
        show_default="split",
        rich_help_panel=GRAPH,
    ),
]
Vectors = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Vectors that are added to the model, each a writer with edges of its own (circuitgraph.save_vectors).",
        show_default=False,
        rich_help_panel=GRAPH,
    ),
]

MemoryGib = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Memory that a run has to fit into, in GiB; it decides how many prompts run at once.",
        show_default="no limit",
        rich_help_panel=MACHINE,
    ),
]

_DEVICES, _DTYPES = "cpu, cuda, cuda:N or mps.", "float32, float64, bfloat16 or float16."
DeviceOfRun = Annotated[
    str | None, typer.Option("--device", help=_DEVICES, show_default="cpu", rich_help_panel=MACHINE)
]
DtypeOfRun = Annotated[
    str | None, typer.Option("--dtype", help=_DTYPES, show_default="float32", rich_help_panel=MACHINE)
]
Device = Annotated[str, typer.Option(help=_DEVICES, rich_help_panel=MACHINE)]
Dtype = Annotated[str, typer.Option(help=_DTYPES, rich_help_panel=MACHINE)]
DtypeOfCircuit = Annotated[
    str | None,
    typer.Option(
        help="float32, float64, bfloat16 or float16.",
        show_default="the one the circuit was found with",
        rich_help_panel=MACHINE,
    ),
]
_DIRECTIONS = (
    "noising (the clean prompt, cut edges carry the corrupted one), denoising (the pairs swapped: the corrupted "
    "prompt, cut edges carry the clean one) or both."
)
Direction = Annotated[
    str, typer.Option(help=_DIRECTIONS + " Scores of both are added up by their size.", rich_help_panel=SETTINGS)
]
DirectionOfRun = Annotated[
    str | None,
    typer.Option(
        "--direction",
        help=_DIRECTIONS + " For both, scores are added up by size, trained masks averaged; the circuit is as large.",
        show_default="noising",
        rich_help_panel=SETTINGS,
    ),
]
DirectionOfCircuit = Annotated[
    str | None,
    typer.Option("--direction", help=_DIRECTIONS, show_default="how the circuit was found; both: noising"),
]
AblationOfCircuit = Annotated[
    str | None,
    typer.Option(
        "--ablation",
        help="What cut edges carry: counterfactual, zero, mean, mean-positional (means over the training prompts) or "
        "optimal (constants learnt on them for this circuit, read from beside it where they are).",
        show_default="what the circuit was found with",
    ),
]
DiskCacheGibOfRun = Annotated[
    float | None,
    typer.Option(
        "--disk-cache-gib",
        min=0,
        help="Disk for frozen runs (of the full and the ablated model), in GiB, so that the next run starts at once; "
        "the oldest go first. "
        "0 neither reads nor writes any.",
        show_default="2.0",
        rich_help_panel=MACHINE,
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="The folder for them.",
        show_default="frozen in ~/.cache/circuitgraph, or $CIRCUITGRAPH_FROZEN_CACHE",
        rich_help_panel=MACHINE,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Write JSON, and nothing else, to standard output.", rich_help_panel=MACHINE),
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        help="Skip the check that the compiled graph reproduces the model.",
        rich_help_panel=MACHINE,
    ),
]

# -------------------------------------------------------------------- what a run is to do

Task = Annotated[str, typer.Option("--task", "-t", help=TASK_HELP, show_default=False)]
ModelOfRun = Annotated[
    str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default="the one that --like names")
]
TaskOfRun = Annotated[
    str | None, typer.Option("--task", "-t", help=TASK_HELP, show_default="the one that --like names")
]
ResultOut = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", show_default=False)]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Settings of the method: a name (see `circuitgraph recipes`), or a TOML file of your own; with "
        'base = "quick" in it, it holds what differs from that recipe.',
        show_default="quick; Tracr models: tracr",
        rich_help_panel=SETTINGS,
    ),
]
TargetSparsity = Annotated[
    str | None,
    typer.Option(
        help="Share of edges to cut, in (0, 2]; above 1 pushes harder. Several, separated by commas, take the recipe "
        "nested unless another recipe or a --method is named: one ranking, cut at each; circuit.json is then the "
        "first, and all are measured.",
        metavar="SHARE[,SHARE…]",
        show_default="the recipe's; 0.97 with a --method",
        rich_help_panel=SETTINGS,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(help="Training steps.", show_default="the recipe's or method's", rich_help_panel=SETTINGS),
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Prompts per step.", show_default="the recipe's or method's", rich_help_panel=SETTINGS),
]
Ablation = Annotated[
    str | None,
    typer.Option(
        help="What cut edges carry: counterfactual, zero, mean, mean-positional or optimal (learnt constants).",
        show_default="the recipe's, else counterfactual; Tracr models: zero",
        rich_help_panel=SETTINGS,
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="What is minimised: kl, kl-top1, logit-diff, negative-logit-diff, cross-entropy, mse or position-kl.",
        show_default="the recipe's, else the task's; what suits a --method",
        rich_help_panel=SETTINGS,
    ),
]
Seed = Annotated[int, typer.Option(help="Of prompts and training.", rich_help_panel=SETTINGS)]
SeedOfRun = Annotated[
    int | None, typer.Option(help="Of prompts and training.", show_default="0", rich_help_panel=SETTINGS)
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="S[,S…]",
        help="Instead of --seed, seeds of several trainings on the same prompts, such as 0,1,2: each in a folder of "
        "its own, with circuits of all of them, tables over seeds and how much they agree.",
        show_default=False,
        rich_help_panel=SETTINGS,
    ),
]
NRandomOfRun = Annotated[
    int | None,
    typer.Option(
        "--n-random",
        min=0,
        help="Random circuits of the same size to compare with.",
        show_default="10",
        rich_help_panel=SETTINGS,
    ),
]
RandomPromptsOfRun = Annotated[
    str | None,
    typer.Option(
        "--random-prompts",
        metavar="N|all",
        help="On how many prompts of each split random circuits run, drawn once.",
        show_default="32",
        rich_help_panel=SETTINGS,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting by its name, as in a result's run.toml: steps=300, recipe.learning_rate=0.1, "
        "task.sizes.train=50, settings.micro_batch=2, and those of the --method. Wins over the other options; may be "
        "repeated.",
        show_default=False,
        rich_help_panel=SETTINGS,
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like",
        metavar="RESULT",
        help="Take every setting, model and task included, from an earlier result's folder or a run.toml; other "
        "options win over it.",
        show_default=False,
        rich_help_panel=SETTINGS,
    ),
]


def count_or_all(text: str | int | None) -> int | None:
    """A number of prompts; None for all.

    Raises:
        typer.BadParameter: Something else.

    Examples:
        >>> count_or_all("32"), count_or_all("0"), count_or_all("all")
        (32, None, None)
    """
    if text is None or text == "all":
        return None
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        raise typer.BadParameter(f"expected a number of prompts, or all (0 is the same); got {text!r}")
    return count or None


RandomPrompts = Annotated[
    int | None,
    typer.Option(
        "--random-prompts",
        parser=count_or_all,
        metavar="N|all",
        help="On how many prompts of each split random circuits run, drawn once.",
        rich_help_panel=SETTINGS,
    ),
]
TrainSize = Annotated[
    int | None,
    typer.Option(min=0, help="Training prompts.", show_default="the task's", rich_help_panel=PROMPTS),
]
ValidationSize = Annotated[
    int | None,
    typer.Option(min=0, help="Validation prompts.", show_default="the task's", rich_help_panel=PROMPTS),
]
TestSize = Annotated[
    int | None,
    typer.Option(min=0, help="Test prompts.", show_default="the task's", rich_help_panel=PROMPTS),
]
ChatTemplate = Annotated[
    bool,
    typer.Option(
        "--chat-template",
        help="Wrap each prompt as a user's message; by default it is not.",
        rich_help_panel=PROMPTS,
    ),
]
Bos = Annotated[
    str,
    typer.Option(
        help="BOS before each prompt: auto (as the tokenizer does), yes or no.",
        rich_help_panel=PROMPTS,
    ),
]
ChatTemplateOfRun = Annotated[
    bool | None,
    typer.Option(
        "--chat-template",
        help="Wrap each prompt as a user's message; by default it is not.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
BosOfRun = Annotated[
    str | None,
    typer.Option(
        help="BOS before each prompt: auto (as the tokenizer does), yes or no.",
        show_default="auto",
        rich_help_panel=PROMPTS,
    ),
]
TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task-option",
        metavar="NAME=VALUE",
        help="An option of the task, such as align=drop for a prompts file; `tasks` lists them. May be repeated.",
        show_default=False,
        rich_help_panel=PROMPTS,
    ),
]
CacheGib = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Memory for frozen runs (of the full and the ablated model), in GiB; 0 keeps none of them in memory.",
        show_default="2.0",
        rich_help_panel=MACHINE,
    ),
]
TeacherTopK = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of the full model, keep the top K tokens and the mass of all others as one; for "
        "vocabularies too large for the cache.",
        show_default="the whole vocabulary",
        rich_help_panel=MACHINE,
    ),
]
MemoryGibOfRun = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Memory that the run has to fit into, in GiB; it decides how many prompts run at once.",
        show_default="what is free",
        rich_help_panel=MACHINE,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything and show what would run; train and write nothing.",
        rich_help_panel=MACHINE,
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Doubts of the check before a run are errors.", rich_help_panel=MACHINE),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an older result in the folder.", rich_help_panel=MACHINE),
]

# -------------------------------------------------------------------- saved circuits, compared and tabulated

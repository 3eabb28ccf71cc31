"""`circuitgraph rank`: a score per edge of a model's graph, by a named method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options
from circuitgraph.cli.option_groups import GraphOptions, grouped
from circuitgraph.cli.prompt_options import Spans
from circuitgraph.cli.settings import named_values, plan_model, settle_sizes, task_options

if TYPE_CHECKING:
    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.circuits.edge_scores import EdgeScores
    from circuitgraph.compiled.model import CompiledModel
    from circuitgraph.forward.ablation_values import AblationValues
    from circuitgraph.graph.universe import Universe
    from pruning.methods.method import Method
    from pruning.tasks import TaskData

CIRCUIT, CONSTANTS = "circuit.json", "constants.safetensors"
HALVES = ("noising", "denoising")
"""Folders in the result of `--direction both`, with the scores of each direction alone."""
_SHOWN = 10
_KEPT = (
    "model", "revision", "config_hash", "weights", "dtype", "task", "data_hash", "split", "n_prompts", "objective",
    "settings", "seed", "seconds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """The method, and what it is told."""

    method: Annotated[
        str,
        typer.Option(
            help="eap, eap-ig, eap-ig-activations, clean-corrupted, conductance, exact, gate-gradients, "
            "gate-importance, head-importance, acdc, greedy-nodes, ugs, subnetwork-probing, nested, edge-pruning, "
            "information-flow, "
            "activation-magnitude, weight-magnitude or random.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = "eap"
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the method, such as steps=30 or backward=relp; may be repeated.",
            show_default="the method's own",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    direction: options.Direction = "noising"
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is minimised: kl, kl-top1, logit-diff, negative-logit-diff, cross-entropy, mse or position-kl. "
            "eap takes kl-top1, negative-logit-diff or cross-entropy.",
            show_default="negative-logit-diff where prompts have wrong answers, else cross-entropy; gate methods: the "
            "task's",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What cut edges carry: counterfactual, zero, mean, mean-positional or optimal (learnt first).",
            show_default="counterfactual; Tracr models: zero",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    constants: Annotated[
        Path | None,
        typer.Option(
            help="Ablation optimal: a file of learnt constants.",
            show_default="learnt first, for sets of edges drawn at random",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    top: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Also write circuit.json: the N strongest edges, less those that dangle without the others.",
            show_default="no circuit",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts run at once at most.", rich_help_panel=options.SETTINGS)
    ] = 8
    seed: options.Seed = 0

    def made(self) -> Method:
        """The method with its settings, its objective checked.

        Raises:
            UnknownNameError: No such method, setting, direction or objective.
            ConfigurationError: A value that makes no sense, or an objective that the method can make nothing of.
        """
        from pruning.execution.objectives import objective_named
        from pruning.methods.method import require_one_direction
        from pruning.prompts.swapped import require_direction
        from pruning.runs.method_settings import method_with, read_settings

        made = method_with(self.method, read_settings(self.method, named_values("--set", self.set_ or [])))
        if self.objective is not None:
            objective_named(self.objective)
            made.require(self.objective)
        require_direction(self.direction, self.ablation or "counterfactual")
        require_one_direction(made, self.direction)
        return made

    def learnt(self, made: Method, compiled: CompiledModel, data: TaskData) -> AblationValues | None:
        """What cut edges carry under optimal ablation, from a file or learnt; None under any other.

        Args:
            made: The method.
            compiled: The model.
            data: The prompts.
        """
        from circuitgraph.cli.output import say
        from circuitgraph.compiled.constants import load_constants
        from circuitgraph.errors import ConfigurationError
        from pruning.execution.learning import STEPS, learn_constants
        from pruning.methods.method import require_ablation
        from pruning.runs.shown_progress import counting

        if self.ablation != "optimal":
            if self.constants is not None:
                raise ConfigurationError("--constants is for optimal ablation; add --ablation optimal")
            return None
        require_ablation(made, self.ablation)
        if self.constants is not None:
            return load_constants(compiled, self.constants)
        say(f"learning one constant per writer, {STEPS} steps on sets of edges drawn at random")
        with counting("constants") as tick:
            return learn_constants(compiled, data.split("train"), seed=self.seed, tick=tick)

    def ranked(
        self, made: Method, compiled: CompiledModel, data: TaskData, constants: AblationValues | None
    ) -> tuple[EdgeScores, dict[str, EdgeScores]]:
        """Score the edges, in both directions also each alone, by the direction.

        Args:
            made: The method.
            compiled: The model.
            data: The prompts.
            constants: What `learnt` gave.
        """
        from circuitgraph.cli.cache import told_as_notes
        from circuitgraph.cli.output import say
        from pruning.runs.rank import rank_edges

        n_edges, n_prompts = compiled.universe.n_edges, len(data.split("train"))
        say(f"ranking {n_edges:,} edges by {self.method}, on {n_prompts:,} training prompts")
        halves: list[EdgeScores] = []
        with told_as_notes():
            found = rank_edges(
                compiled, data, made, direction=self.direction, objective=self.objective, ablation=self.ablation,
                batch_size=self.batch_size, seed=self.seed, say=say, constants=constants,
                each=lambda first, second: halves.extend((first, second)),
            )  # fmt: skip
        return found, dict(zip(HALVES, halves, strict=False))


@dataclass(frozen=True, kw_only=True)
class RankedPrompts:
    """The prompts that edges are ranked by."""

    train_size: options.TrainSize = None
    chat_template: options.ChatTemplate = False
    bos: options.Bos = "auto"
    task_option: options.TaskOption = None
    spans: Spans = None

    def require(self, method: str, direction: str, *, alone: bool) -> None:
        """Refuse spans where something does not know them, before anything is loaded.

        Args:
            method: How edges are ranked.
            direction: In which.
            alone: Whether a file of EAP-IG is written.
        """
        from circuitgraph.errors import ConfigurationError
        from pruning.prompts.swapped import BOTH
        from pruning.runs.request import SPANNED

        if self.spans is None:
            return
        if method not in SPANNED:
            raise ConfigurationError(
                f"method {method!r} does not know spans of token positions; take one of {', '.join(SPANNED)}, or leave "
                "--spans out"
            )
        if direction == BOTH or alone:
            what = "a file of EAP-IG" if alone else "--direction both"
            raise ConfigurationError(f"{what} does not know spans of token positions; leave --spans out")

    def load(self, task: str, tokenizer: Any, named: dict[str, object], seed: int) -> TaskData:
        """Make them.

        Args:
            task: The task.
            tokenizer: The model's.
            named: The task's options.
            seed: Which prompts are drawn.
        """
        from circuitgraph.cli.output import say
        from pruning.tasks import load_task

        data = load_task(
            task, tokenizer, sizes=settle_sizes(train=self.train_size), seed=seed, options=named,
            chat_template=self.chat_template, bos=self.bos,
        )  # fmt: skip
        for text in data.notes:
            say(f"note: {text}")
        return data if self.spans is None else data.with_spans(self.spans)


@dataclass(frozen=True, kw_only=True)
class WhereOptions:
    """Where the model lies, and in which number format."""

    device: options.Device = "cpu"
    dtype: options.Dtype = "float32"
    no_verify: options.NoVerify = False


@grouped
def rank(
    model: options.Model,
    task: options.Task,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            show_default=False,
            help="The folder to write; FILE.json holds the scores alone, in the layout of EAP-IG.",
        ),
    ],
    how: RankingOptions,
    graph: GraphOptions,
    prompts: RankedPrompts,
    where: WhereOptions,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Score every edge of a model's graph by the task's training prompts.

    Writes scores.safetensors (a number per edge), scores.json (what they are and where they came from) and, with
    --top, circuit.json into a new folder; with --direction both, the folders noising and denoising too, which have the
    scores of each alone. With --out FILE.json it writes the scores alone, in EAP-IG's layout.
    """
    import os

    from circuitgraph.circuits.conversion import save_as
    from circuitgraph.circuits.edge_scores import ABOUT, NUMBERS
    from circuitgraph.circuits.file import circuit_text
    from circuitgraph.circuits.formats.file_format import FileChoices
    from circuitgraph.cli.output import only_json, print_json, say
    from circuitgraph.compiled.constants import constants_bytes
    from circuitgraph.compiled.vector_files import vectors_bytes
    from circuitgraph.files.reservation import reserved
    from circuitgraph.files.whole_folder import check_free, write_folder
    from circuitgraph.graph.virtual import VECTOR_FILE
    from pruning.tasks.spans import with_spans_of

    place = Path(os.path.realpath(out.expanduser()))
    with only_json(as_json), reserved(place) as note:
        alone = place.suffix == ".json" and not place.is_dir()
        if not alone:
            check_free(
                place,
                overwrite=overwrite,
                names=(NUMBERS, ABOUT, CIRCUIT, CONSTANTS, VECTOR_FILE, *HALVES),
                what="result of rank",
            )
        method = how.made()
        if note:
            say(f"note: {note}")
        named = task_options(task, named_values("--task-option", prompts.task_option or []))
        plan = plan_model(
            model, embeddings=graph.embeddings, kv_heads=graph.kv_heads, qkv=graph.qkv, vectors=graph.vectors
        )
        prompts.require(how.method, how.direction, alone=alone)
        if prompts.spans is None:
            _require_top(how.top, plan.universe.n_edges)
        if alone:
            _require_a_file_of_eap_ig(place, plan.universe, how.top, overwrite=overwrite)
        say(f"loading {model}")
        loaded = plan.load(dtype=where.dtype, device=where.device)
        compiled = plan.compile(loaded, verify=not where.no_verify)
        data = prompts.load(task, loaded.tokenizer, named, how.seed)
        compiled = with_spans_of(compiled, data)
        _require_top(how.top, compiled.universe.n_edges)
        constants = how.learnt(method, compiled, data)
        scores, halves = how.ranked(method, compiled, data, constants)
        circuit = _circuit(scores, how.top)
        files: dict[str, str | bytes] = {} if alone else dict(scores.files())
        if not alone:
            files |= {f"{way}/{name}": text for way, half in halves.items() for name, text in half.files().items()}
        if circuit is not None:
            files[CIRCUIT] = circuit_text(circuit)
        if constants is not None and not alone:
            about = {"task": data.name, "data_hash": data.data_hash}
            files[CONSTANTS] = constants_bytes(compiled, constants, about)
        if plan.vectors and not alone:
            own = vectors_bytes(plan.vectors)
            files |= dict.fromkeys((VECTOR_FILE, *(f"{way}/{VECTOR_FILE}" for way in halves)), own)
        if alone:
            save_as(scores, place, "eap-ig", choices=FileChoices(d_model=plan.shape.d_model), overwrite=overwrite)
        else:
            write_folder(place, files)
    if as_json:
        print_json({"out": str(place), "files": sorted(files), **_summary(scores, circuit)})
        return
    _show(scores, circuit)
    print(f"Written to {place}")


def _show(scores: EdgeScores, circuit: Circuit | None) -> None:
    """The strongest edges, for people."""
    from circuitgraph.cli.output import print_table

    rows = [(name, f"{scores[name]:.6g}") for name in scores.top(_SHOWN)]
    print_table(("edge", ">score"), rows, title="The strongest edges")
    compared = scores.provenance["objective"]
    print(f"score: {scores.estimates} (objective {compared or 'none'}, {scores.ablation} ablation, {scores.direction})")
    if circuit is not None:
        chosen = f"{len(circuit):,} of {circuit.n_raw:,} chosen edges kept"
        print(f"{chosen}, {len(circuit.heads)} heads, {len(circuit.mlps)} MLPs")


def _require_top(top: int | None, n_edges: int) -> None:
    """Refuse more edges than there are before anything is run."""
    from circuitgraph.errors import ConfigurationError

    if top is not None and top > n_edges:
        raise ConfigurationError(f"--top {top:,}: the model's graph has {n_edges:,} edges; ask for that many at most")


def _require_a_file_of_eap_ig(place: Path, universe: Universe, top: int | None, *, overwrite: bool) -> None:
    """Refuse what a file of scores alone cannot hold, before anything is run."""
    from circuitgraph.circuits.formats.eap_ig import eap_ig_universe
    from circuitgraph.errors import ConfigurationError, OutputError

    if place.exists() and not overwrite:
        raise OutputError(f"{place} exists; choose another place, or allow it to be overwritten")
    if top is not None:
        raise ConfigurationError(f"--top writes a circuit beside the scores, and {place.name} holds scores alone")
    wanted = eap_ig_universe(universe)
    if universe != wanted:
        raise ConfigurationError(
            f"a file of EAP-IG has one writer for the embeddings, and readers for each query head; add "
            f"--embeddings {wanted.embeddings} --kv-heads {wanted.kv_heads} --qkv {wanted.qkv}, or choose a folder "
            "with --out and convert the scores"
        )


def _circuit(scores: EdgeScores, top: int | None) -> Circuit | None:
    from pruning.selection.top import top_edges

    return None if top is None else top_edges(scores, top)


def _summary(scores: EdgeScores, circuit: Circuit | None) -> dict[str, Any]:
    """What JSON says of them."""
    provenance = scores.provenance
    return {
        **{name: provenance[name] for name in _KEPT},
        **scores.about,
        "universe": scores.universe.to_dict(),
        "n_edges": len(scores),
        "sha256": scores.digest,
        "strongest": {name: scores[name] for name in scores.top(_SHOWN)},
        "sparsity": None if circuit is None else circuit.sparsity,
    }

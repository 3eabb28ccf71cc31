"""`circuitgraph bench`: what a training step costs, in time and memory, next to the plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from circuitgraph.cli import options

_TRAINED = "Trained gates"


def bench(
    model: Annotated[
        str, typer.Option("--model", "-m", help="gpt2-random, smollm2-135m, a local folder, or a hub name.")
    ] = "gpt2-random",
    batch: Annotated[int, typer.Option(help="Prompts per step.")] = 8,
    seq: Annotated[
        int | None,
        typer.Option(help="Tokens a prompt.", show_default="32; IOI: the commonest length of its prompts"),
    ] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    rounds: Annotated[int, typer.Option(help="How often each stage is timed; medians are told.")] = 7,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's own choice")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="ioi or random.", show_default="ioi with smollm2-135m, else random"),
    ] = None,
    differ: Annotated[
        str, typer.Option(help="In how many tokens random prompts and their counterfactuals differ: three or all.")
    ] = "three",
    control: Annotated[str, typer.Option(help="How the step holds the sparsity: lagrangian or budget.")] = "lagrangian",
    micro_batch: Annotated[
        int | None, typer.Option(help="Prompts run at once within a training step.", show_default="all of them")
    ] = None,
    replay: Annotated[
        bool | None,
        typer.Option("--replay/--no-replay", help="Record training steps and replay them.", show_default="on CUDA"),
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Run MLPs again on the way back: less memory.")
    ] = False,
    trained_98: Annotated[
        Path | None,
        typer.Option(
            "--trained-98", help="Gates trained to 98 %: gates.safetensors of a run.", rich_help_panel=_TRAINED
        ),
    ] = None,
    trained_995: Annotated[
        Path | None,
        typer.Option("--trained-995", help="Gates trained to 99.5 %.", rich_help_panel=_TRAINED),
    ] = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, stage by stage.")] = True,
    as_json: options.Json = False,
) -> None:
    """Time whole training steps, and evaluation, as ratios to the plain model's forward and backward.

    Stages: plain (Hugging Face, logits at the answer only, backward to the embeddings); forward (that without the
    backward, for evaluate); start (all gates nearly 1, one undecided a reader); middle (α ~ N(0, 2)); trained and
    evaluate, from gates trained to 98 and 99.5 %.
    """
    from circuitgraph.cli.output import only_json, print_json, say
    from pruning.bench.settings import BenchSettings

    settings = BenchSettings(
        model=model, batch=batch, seq=seq, device=device, dtype=dtype, rounds=rounds, threads=threads,
        prompts=prompts, differ=differ, control=control, micro_batch=micro_batch, replay=replay,
        recompute=recompute,
        trained_98=None if trained_98 is None else str(trained_98),
        trained_995=None if trained_995 is None else str(trained_995),
    )  # fmt: skip
    with only_json(as_json):
        from pruning.bench.running import run_bench

        found = run_bench(settings, memory=memory, watch=say)
    if as_json:
        print_json(found)
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    """Print the table, and under which conditions it holds."""
    from circuitgraph.cli.output import bytes_text, figure, print_table, warn

    told = found["conditions"]
    print(
        f"{told['model']}, {told['batch']} x {told['seq']} tokens, {told['dtype']}, {told['device']} ({told['card']}), "
        f"{told['threads']} CPU threads, median of {told['rounds']}\n"
        f"{told['prompts']}; from the first token that differs to the answer lie {told['share_reached']:.0%}\n"
    )
    rows = [
        [
            name, figure(row["seconds"]), f"{row['ratio']:.2f}",
            "–" if row["peak_bytes"] is None else bytes_text(row["peak_bytes"]),
            "–" if row["memory_ratio"] is None else f"{row['memory_ratio']:.2f}",
            f"{row['undecided']:,}",
        ]
        for name, row in found.items() if name != "conditions"
    ]  # fmt: skip
    print_table(["stage", ">seconds", ">ratio", ">peak above weights", ">ratio", ">undecided gates"], rows)
    print()
    for tag, about in told["trained"].items():
        whose = "comes along" if about["comes_along"] else "given"
        print(
            f"trained_{tag}: {about['file']} ({whose}), {about['expected_sparsity']:.2%} cut in expectation; "
            f"evaluate_{tag}: its best {about['kept_edges']:,} edges, {about['effective_sparsity']:.2%} cut"
        )
    for name, reason in told["left_out"].items():
        print(f"{name}: left out, {reason}")
    print(f"versions: {', '.join(f'{name} {value}' for name, value in told['versions'].items() if value)}")
    for note in told["notes"]:
        warn(note)

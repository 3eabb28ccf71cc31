"""`circuitgraph run`: what a circuit, or a model with an intervention, says to a prompt, next to the full model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitgraph.cli import options

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.cli.found_circuit import FoundCircuit
    from circuitgraph.interventions.intervention import Intervention
    from pruning.prompts.encoding import EncodedPairs

Output = list[dict[str, Any]]


def run(
    prompt: Annotated[str, typer.Option(help="The prompt.", show_default=False)],
    circuit: Annotated[
        Path | None,
        typer.Argument(
            metavar="CIRCUIT",
            help="A circuit file, such as DIR/circuit.json; with --with it may be left out, for the whole model.",
            show_default=False,
        ),
    ] = None,
    corrupted: Annotated[
        str | None,
        typer.Option(
            help="Its counterfactual, of the same length in tokens; needed where the circuit was found under "
            "counterfactual ablation.",
            show_default=False,
        ),
    ] = None,
    with_: Annotated[
        Path | None,
        typer.Option(
            "--with",
            metavar="FILE",
            help="An intervention, as `circuitgraph steer` and `circuitgraph suppress` write it: parts are turned up "
            "or down.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option(help="How much of the intervention; negative goes the other way.", show_default="1")
    ] = 1.0,
    top: Annotated[int, typer.Option(min=1, help="Tokens to show.")] = 10,
    model: options.ModelOfCircuit = None,
    device: options.Device = "cpu",
    dtype: options.DtypeOfCircuit = None,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Show the top next tokens of a circuit beside the full model's.

    Cut edges carry what they carried when the circuit was found. A Tracr program's prompt is its tokens with
    spaces between, and every position's output is shown. With an intervention and no circuit it is the whole model
    that is changed.
    """
    from circuitgraph.cli.found_circuit import found_circuit
    from circuitgraph.cli.output import only_json, print_json

    with only_json(as_json):
        kept, runs = _what_runs(circuit, with_, strength)
        file = circuit or with_
        assert file is not None
        found = found_circuit(kept, file, model=model, device=device, dtype=dtype, verify=not no_verify)
        pairs = _pair(found, prompt, corrupted)
        positions = _positions(found, file, runs, pairs, top)
    if as_json:
        print_json(
            {
                **found.compiled.identity,
                "ablation": found.circuit.ablation,
                "intervention": None if with_ is None else str(with_),
                "strength": None if with_ is None else strength,
                "prompt": prompt,
                "corrupted": corrupted,
                "n_tokens": int(pairs.lengths[0]),
                "positions": positions,
            }
        )
        return
    for row in positions:
        _print(row, what="circuit" if circuit is not None else "changed model", only_one=len(positions) == 1)


def _what_runs(
    circuit: Path | None, intervention: Path | None, strength: float
) -> tuple[Circuit, np.ndarray | tuple[Intervention, float]]:
    """The edges that are there, and one gate per edge of the universe; or, at some positions alone, what changes them.

    Raises:
        ConfigurationError: Neither a circuit nor an intervention, or two that do not go together.
        GraphMismatchError: They are of different universes.
    """
    import numpy as np

    from circuitgraph.circuits.circuit import Circuit
    from circuitgraph.errors import ConfigurationError
    from circuitgraph.graph.spans import refuse_spans
    from circuitgraph.interventions.intervention import Intervention

    if intervention is None:
        if circuit is None:
            raise ConfigurationError("nothing to run: give a circuit file, or an intervention with --with FILE")
        if strength != 1:
            raise ConfigurationError("--strength is that of an intervention; give one with --with FILE")
        kept = Circuit.load(circuit)
        refuse_spans(kept.universe, "a single --prompt")
        return kept, kept.mask.astype(float)
    change = Intervention.load(intervention)
    refuse_spans(change.universe, "a single --prompt")
    if circuit is not None:
        kept = Circuit.load(circuit)
        return kept, change.on_circuit(kept, strength)
    everything = np.ones(change.universe.n_edges, dtype=bool)
    whole = Circuit.from_edges(
        change.universe, everything, ablation=change.ablation, provenance=change.provenance
    )  # fmt: skip
    return whole, (change, strength) if change.at_positions else change.gates(strength)


def _pair(found: FoundCircuit, prompt: str, corrupted: str | None) -> EncodedPairs:
    """Turn the prompt and its counterfactual into tokens, and ask for what comes next.

    Raises:
        ConfigurationError: A counterfactual is missing, or was given where none is used.
        PromptFormatError: An empty or too long prompt, or sides of different length or of the same tokens.
    """
    import numpy as np

    from circuitgraph.cli.output import warn
    from circuitgraph.errors import ConfigurationError, PromptFormatError
    from pruning.prompts.encoding import EncodedPairs
    from pruning.prompts.prompt_rules import refuse_equal_sides

    counterfactual = found.circuit.ablation == "counterfactual"
    if counterfactual and corrupted is None:
        raise ConfigurationError(
            "the circuit was found under counterfactual ablation, so its cut edges carry what they say on "
            "another prompt; give one with --corrupted"
        )
    if corrupted is not None and not counterfactual:
        warn(f"--corrupted is not used: the circuit's cut edges carry {found.circuit.ablation} values")
        corrupted = None
    texts = [prompt] if corrupted is None else [prompt, corrupted]
    ids = [np.array(_tokens(found, text), dtype=np.int64) for text in texts]
    if not ids[0].size:
        raise PromptFormatError("the prompt is empty; give some text with --prompt")
    if len(ids[0]) != len(ids[-1]):
        raise PromptFormatError(
            f"the prompt has {len(ids[0])} tokens and the corrupted prompt {len(ids[-1])}; both must have the "
            f"same number.\n  prompt:    {_pieces(found, ids[0])}\n  corrupted: {_pieces(found, ids[-1])}"
        )
    limit = found.plan.shape.longest_prompt
    if limit is not None and len(ids[0]) > limit:
        raise PromptFormatError(f"the prompt has {len(ids[0])} tokens; the model takes at most {limit}")
    asked = np.arange(1, len(ids[0])) if found.plan.is_tracr else _asked(found, ids)
    if not asked.size:
        raise PromptFormatError("the prompt is empty; give some tokens with --prompt")
    pair = EncodedPairs(
        clean_ids=(ids[0],), corrupted_ids=(ids[-1],), predict_positions=(asked,),
        texts=(prompt,), corrupted_texts=(texts[-1],),
    )  # fmt: skip
    if counterfactual:
        refuse_equal_sides(pair)
    return pair


def _tokens(found: FoundCircuit, text: str) -> list[int]:
    """Turn text into tokens as the circuit's task does; what the tokenizer does not know is warned of."""
    tokenizer = found.compiled.tokenizer
    if found.plan.is_tracr:
        tokens = text.split()
        return tokenizer.encode_tokens(tokens[1:] if tokens[:1] == [tokenizer.bos_token] else tokens)
    from circuitgraph.cli.output import warn
    from pruning.prompts.encoder import PromptEncoder

    made = found.task_options
    encoder = PromptEncoder(
        tokenizer=tokenizer, chat_template=made.get("chat_template", False), bos=made.get("bos", "auto")
    )
    prepared = encoder.prompt_text(text)
    ids = encoder.ids([prepared])[prepared]
    if encoder.n_unknown(prepared, ids):
        named = ", ".join(map(repr, encoder.unknown_words(prepared)[:5])) or "some of the words"
        warn(
            f"the tokenizer does not know {named} in {text!r}: the model reads the same token for every unknown "
            "word, or nothing at all; use words of its vocabulary"
        )
    return [*ids, *encoder.back_ids] if encoder.fills_masks else list(ids)


def _asked(found: FoundCircuit, ids: list[np.ndarray]) -> np.ndarray:
    """Where a language model is asked: after the prompt, or at its masks."""
    import numpy as np

    from circuitgraph.errors import PromptFormatError

    if not found.compiled.family.fills_masks:
        return np.array([len(ids[0]) - 1])
    tokenizer = found.compiled.tokenizer
    places = [np.flatnonzero(one == tokenizer.mask_token_id) for one in ids]
    if not len(places[0]) or not np.array_equal(places[0], places[-1]):
        raise PromptFormatError(
            f"this model fills in masks: write {tokenizer.mask_token} where it is to, on both sides at the same token; "
            f"found at {[place.tolist() for place in places]}"
        )
    return places[0]


def _pieces(found: FoundCircuit, ids: np.ndarray) -> str:
    """Tokens as text, parted by bars."""
    tokenizer = found.compiled.tokenizer
    one = tokenizer.decode_token if found.plan.is_tracr else lambda token: tokenizer.decode([token])
    return "|".join(one(int(token)) for token in ids)


def _positions(
    found: FoundCircuit,
    file: Path,
    what: np.ndarray | tuple[Intervention, float],
    pairs: EncodedPairs,
    top: int,
) -> list[dict[str, Any]]:
    """Run both and list their outputs at each asked position."""
    import numpy as np
    import torch

    from circuitgraph.cli.learnt import stored_constants
    from circuitgraph.interventions.applied import intervene
    from pruning.execution.objectives import kl_divergence
    from pruning.frozen.runs import FrozenRuns

    compiled, ablation = found.compiled, found.circuit.ablation
    data = found.own_task(exact=False).split("train") if ablation.startswith("mean") else None
    if ablation == "optimal":
        data = stored_constants(compiled, found.circuit, file)
    runs = FrozenRuns(compiled, pairs, ablation=ablation, budget_bytes=0, ablation_data=data)
    frozen = runs.batch(np.array([0]))
    with torch.no_grad():
        if isinstance(what, tuple):
            change, strength = what
            ours = intervene(compiled, change, strength=strength).logits(frozen.pairs.clean)
        else:
            gates = torch.from_numpy(what).to(torch.promote_types(compiled.dtype, torch.float32))
            ours = compiled.masked(gates, frozen.pairs.clean, frozen.values).logits
        kl: list[float | None] = [None] * len(ours)
        if ours.shape[-1] > 1:
            kl = kl_divergence(ours, frozen.teacher_logits).clamp(min=0).tolist()  # rounding may fall below zero
    _require_finite(frozen.teacher_logits, ours)
    return [
        {
            "position": int(position),
            "kl": kl[row],
            "full": _outputs(found, frozen.teacher_logits[row], top),
            "circuit": _outputs(found, ours[row], top),
        }
        for row, position in enumerate(pairs.predict_positions[0])
    ]


def _require_finite(full: Tensor, ours: Tensor) -> None:
    """Refuse outputs in which no token is the likeliest.

    Raises:
        NotFiniteError: The model's own outputs are NaN or infinite, or those of what runs.
    """
    from circuitgraph.errors import NotFiniteError

    if not bool(full.isfinite().all()):
        raise NotFiniteError("the full model's outputs are NaN or infinite on this prompt; try --dtype float32")
    if not bool(ours.isfinite().all()):
        raise NotFiniteError(
            "with what is cut or changed the outputs are NaN or infinite; take a smaller --strength, or --dtype float32"
        )


def _outputs(found: FoundCircuit, logits: Tensor, top: int) -> Output:
    """The likeliest tokens, or the number."""
    import torch

    if len(logits) == 1:
        return [{"value": float(logits[0])}]
    tokenizer = found.compiled.tokenizer
    probabilities = torch.softmax(logits.float(), -1)
    best = torch.topk(logits, min(top, len(logits))).indices.tolist()
    return [
        {
            "token": tokenizer.output_symbols[index] if found.plan.is_tracr else tokenizer.decode([index]),
            "id": index,
            "logit": float(logits[index]),
            "probability": float(probabilities[index]),
        }
        for index in best
    ]


def _print(row: dict[str, Any], *, what: str, only_one: bool) -> None:
    """Print one position."""
    from circuitgraph.cli.output import figure, print_table

    full, ours = row["full"], row["circuit"]
    if "value" in full[0]:
        print(f"position {row['position']}: full model {figure(full[0]['value'])}, {what} {figure(ours[0]['value'])}")
        return
    place = "" if only_one else f"position {row['position']}: "
    print(f"{place}KL(full, {what}) {figure(row['kl'])} nats")
    cells = [
        [rank, repr(a["token"]), figure(a["probability"]), repr(b["token"]), figure(b["probability"])]
        for rank, (a, b) in enumerate(zip(full, ours, strict=True), start=1)
    ]
    print_table([">", "full model", ">p", what, ">p "], cells)

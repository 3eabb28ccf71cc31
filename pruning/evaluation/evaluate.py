"""How faithful a circuit is: its outputs next to the full model's, and next to what chance would give.

What is measured of each prompt is in `pruning.evaluation.scores`, how prompts are summed up in
`pruning.evaluation.summary`, and how sure a mean is in `pruning.evaluation.intervals`.

Roles, each a set of kept edges: the `circuit`; the `full` model, which is the model as it was loaded, whatever was
edited; `empty` (no edge); the `complement` (all edges but the circuit's: its KL is completeness, D(G∖C ‖ G), the
more the better); `random` (the mean of random circuits of that
size); `raw` (the circuit with its dangling edges).

Where the model's graph was edited (`CompiledModel.with_graph`), removed edges are kept in no role but `full`, and
frozen ones in every role, `empty` and `complement` as well; `edited` is then the most that a circuit of that graph
could keep, all edges that were not removed. So what removing edges costs is the KL of `edited`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.normed_anew import ANEW, SHARED
from circuitgraph.torch_state import with_gradients
from pruning.evaluation.card import evaluation_card, metrics_line
from pruning.evaluation.masks import n_edges_run
from pruning.evaluation.matching import require_edits, require_universe
from pruning.evaluation.measured import Measured, measure_prompts
from pruning.evaluation.random_circuits import random_circuit
from pruning.evaluation.sampled import N_RANDOM_PROMPTS, sampled_prompts
from pruning.evaluation.summary import difference_to, summary, summary_of_random, warn_of_undefined
from pruning.evaluation.tables import metrics_table
from pruning.frozen.constants import AblationData
from pruning.prompts.encoding import EncodedPairs
from pruning.prompts.swapped import DENOISING, NOISING, require_direction
from pruning.whole_numbers import whole_number


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """Figures for a circuit and for what it is compared with.

    Attributes:
        metrics: By role, then by metric, see `evaluate`.
        examples: A row per prompt, for the circuit and the full model; a cell is missing where a prompt has no such
            value, as without a wrong answer it has no `logit_diff`.
        denoising: The same on the swapped pairs, where both directions were asked for; else None.
        head_scale: Whose scale heads had: their `own`, one `shared` behind a norm, or one `anew` for each reader.
    """

    metrics: dict[str, dict[str, Any]]
    examples: pd.DataFrame
    denoising: Evaluation | None = None
    head_scale: str = "own"

    @property
    def table(self) -> pd.DataFrame:
        """The metrics as a table, see `metrics_table`."""
        return metrics_table(self.metrics)

    def __repr__(self) -> str:
        return f"<Evaluation: {metrics_line(self.metrics)}>"

    def _repr_html_(self) -> str:
        return evaluation_card(self.metrics)


@with_gradients
def evaluate(
    compiled: CompiledModel,
    circuit: Circuit,
    pairs: EncodedPairs,
    *,
    ablation_data: AblationData | None = None,
    n_random: int = 10,
    n_random_prompts: int | None = N_RANDOM_PROMPTS,
    seed: int = 0,
    batch_size: int = 16,
    ablation: str | None = None,
    raw_edges: np.ndarray | None = None,
    hit_at: int | None = None,
    direction: str = NOISING,
    head_scale: str = SHARED,
    tick: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a circuit on prompts, next to the full model, nothing, its complement and random circuits.

    Args:
        compiled: The model.
        circuit: The circuit.
        pairs: The prompts.
        ablation_data: The prompts that means are taken over, `pairs` by default; or constants (`learn_constants`).
        n_random: How many random circuits of the same size a layer pair; 0 for none.
        n_random_prompts: On how many prompts random circuits run, drawn once from `pairs`; all where there are not
            more, and with None.
        seed: Of the random circuits, and of the prompts that they run on.
        batch_size: Prompts per batch; halved when memory runs out.
        ablation: What cut edges carry; by default what the circuit was found with.
        raw_edges: Flat indices of the edges kept before dangling ones were dropped, to be measured as role `raw`.
        hit_at: Measure as well whether a right answer is among so many likeliest tokens (`hit_at_K`).
        direction: `noising`: the clean prompts run, cut edges carry the corrupted ones; `denoising`: the pairs are
            swapped, and all figures are about the full model on the corrupted prompts; `both`: noising, and denoising
            beside it as `denoising`.
        head_scale: Whose scale heads behind a norm have (Gemma 2, OLMo 2): `shared` in this run, or `anew` for each
            reader as in EAP-IG's evaluation, which is slow; see `circuitgraph.forward.normed_anew`.
        tick: Called with the number of runs done and of all, after every batch: one per prompt and set of edges.

    Returns:
        Metrics by role, and a row per prompt. A role has `n` (prompts; of `random` those that random circuits ran on,
        of all others all), `n_edges` (kept, dangling ones not counted; of
        `random` the mean, with `n_edges_min`, `n_edges_max` and the mean shortfall `n_missing`), `n_undefined` (prompts
        with NaN or infinite logits, left out of every mean), the means of `pruning.evaluation.scores`, with `n_METRIC`
        where fewer prompts have it than `n`, `intervals` (`METRIC: [low, high]`, 95 %, a bootstrap over prompts; None
        of fewer than two), and, but for the circuit, `difference` (`METRIC: {mean, low, high}`, the circuit minus that
        role, paired by prompt, on the prompts that both ran on).

    Raises:
        GraphMismatchError: The circuit is of another universe, or not of the model's edited graph.
        ConfigurationError: No prompts, random circuits on fewer than one, Hit@k of prompts without right tokens, or
            denoising without counterfactual ablation.
        UnknownNameError: No such direction.
        PromptFormatError: Counterfactual ablation, and no prompt differs from its counterfactual in any token.

    Warns:
        UndefinedWarning: Prompts were left out because of NaN or infinite logits.

    Examples:
        >>> from circuitgraph import Circuit, compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> pairs = load_task("tracr-reverse", compiled.tokenizer).split("test")
        >>> found = evaluate(compiled, circuit, pairs, n_random=2)
        >>> found.metrics["circuit"]["exact_match"], found.metrics["empty"]["exact_match"] < 1
        (1.0, True)
    """
    ablation = ablation or circuit.ablation
    require_direction(direction, ablation)
    if direction != NOISING:
        one_way = partial(
            evaluate, compiled, circuit, ablation_data=ablation_data, n_random=n_random,
            n_random_prompts=n_random_prompts, seed=seed, batch_size=batch_size, ablation=ablation,
            raw_edges=raw_edges, hit_at=hit_at, head_scale=head_scale, tick=tick,
        )  # fmt: skip
        turned = one_way(pairs.swapped())
        return turned if direction == DENOISING else replace(one_way(pairs), denoising=turned)
    if not len(pairs):
        raise ConfigurationError("there is nothing to evaluate on: the split has no prompts")
    n_random = whole_number("n_random", n_random)
    require_universe(compiled, circuit)
    require_edits(compiled, circuit)
    masks = _masks(compiled, circuit, raw_edges)
    randoms = [random_circuit(circuit, seed=seed + index, gate_map=compiled.gate_map) for index in range(n_random)]
    named = {f"random {index}": one.mask for index, one in enumerate(randoms)}
    sample = sampled_prompts(len(pairs), n_random_prompts, seed)
    measured = measure_prompts(
        compiled,
        {**masks, **named},
        pairs,
        ablation=ablation,
        ablation_data=ablation_data,
        batch_size=batch_size,
        only_on=dict.fromkeys(named, sample),
        hit_at=hit_at,
        head_scale=head_scale,
        tick=tick,
    )
    columns = {role: measured.columns[role] for role in ("full", *masks)}
    metrics = {role: summary(scores, columns["full"]) for role, scores in columns.items()}
    for role, mask in masks.items():
        metrics[role]["n_edges"] = n_edges_run(compiled, mask, ablation)
        if role != "circuit":
            metrics[role]["difference"] = difference_to(columns["circuit"], columns[role])
    metrics["full"] |= {
        "n_edges": compiled.universe.n_edges,
        "difference": difference_to(columns["circuit"], columns["full"]),
    }
    if n_random:
        found, together = summary_of_random([measured.columns[name] for name in named], measured.at("full", "random 0"))
        metrics["random"] = {
            **found,
            **_sizes_of(compiled, randoms, ablation),
            "difference": difference_to(measured.at("circuit", "random 0"), together),
        }
    warn_of_undefined(metrics, measured.undefined(), pairs.texts)
    return Evaluation(
        metrics=metrics, examples=_examples(measured, pairs, compiled),
        head_scale=head_scale if head_scale == ANEW else compiled.universe.head_scale,
    )  # fmt: skip


def _masks(compiled: CompiledModel, circuit: Circuit, raw_edges: np.ndarray | None) -> dict[str, np.ndarray]:
    """The edges that each role keeps, as the graph was edited; without the full model and random circuits."""
    gate_map = compiled.gate_map
    masks = {"circuit": circuit.mask, "empty": np.zeros_like(circuit.mask), "complement": ~circuit.mask}
    if gate_map.n_removed:
        masks["edited"] = np.ones_like(circuit.mask)
    if raw_edges is not None:
        masks["raw"] = np.zeros_like(circuit.mask)
        masks["raw"][raw_edges] = True
    return {role: gate_map.settled(mask) for role, mask in masks.items()}


def _sizes_of(compiled: CompiledModel, randoms: list[Circuit], ablation: str) -> dict[str, float | int]:
    sizes = [n_edges_run(compiled, one.mask, ablation) for one in randoms]
    missing = [one.provenance.get("missing", 0) for one in randoms]
    return {
        "n_edges": float(np.mean(sizes)),
        "n_edges_min": min(sizes),
        "n_edges_max": max(sizes),
        "n_missing": float(np.mean(missing)),
    }


def _examples(measured: Measured, pairs: EncodedPairs, compiled: CompiledModel) -> pd.DataFrame:
    columns = measured.columns

    def tops(role: str) -> list[object]:
        values, missing = measured.tops[role], np.isnan(columns[role]["exact_match"])
        decode = getattr(compiled.tokenizer, "decode", None)
        if values.dtype.kind == "f" or decode is None:
            told = values.tolist()
        else:
            told = [decode([int(token)]) for token in values]
        return [None if gone else one for one, gone in zip(told, missing, strict=True)]

    frame: dict[str, object] = {"prompt": list(pairs.texts) if pairs.texts else [""] * len(pairs)}
    frame["corrupted"] = list(pairs.corrupted_texts) if pairs.corrupted_texts else [""] * len(pairs)
    frame["group"] = list(pairs.groups)
    frame["full_top"], frame["circuit_top"] = tops("full"), tops("circuit")
    for name, values in columns["circuit"].items():
        frame[name] = values
    for name in ("accuracy", "logit_diff"):
        if name in columns["full"]:
            frame[f"full_{name}"] = columns["full"][name]
    return pd.DataFrame(frame)

"""How faithful a circuit is: its outputs next to the full model's, and next to what chance would give.

Definitions. KL is KL(full ‖ circuit) in nats over the full vocabulary, averaged over a prompt's answer
tokens, then over prompts. *Accuracy*: the right answers are more probable than the wrong ones where a task
has wrong answers, otherwise the most probable token is a right one, at every answer token; for numeric
outputs, within 0.05 of the right number. *Exact match*: the most probable token of the full vocabulary is
the full model's, at every answer token; for numeric outputs, within 0.05 of the full model's. Agreement is
exact match among the prompts that the full model gets right, and among those that it gets wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.circuit import Circuit
from circuitgraph.compile import CompiledModel
from circuitgraph.errors import ConfigurationError, GraphMismatchError
from pruning.baselines import random_circuit
from pruning.cards import evaluation_card, metrics_line
from pruning.encoding import EncodedPairs
from pruning.frozen_runs import FrozenBatch, FrozenRuns
from pruning.objectives import first_asked, kl_divergence, log_softmax, logit_difference, per_prompt_mean
from pruning.portions import Portions

NEAR = 0.05


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """Figures for a circuit and for what it is compared with.

    Attributes:
        metrics: By role (`circuit`, `full`, `empty`, `complement`, `random`), then by metric.
        examples: A row a prompt, for the circuit and the full model.
    """

    metrics: dict[str, dict[str, float | int | None]]
    examples: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """The metrics as a table, see `metrics_table`."""
        return metrics_table(self.metrics)

    def __repr__(self) -> str:
        return f"<Evaluation: {metrics_line(self.metrics)}>"

    def _repr_html_(self) -> str:
        return evaluation_card(self)


def metrics_table(metrics: Mapping[str, Mapping[str, float | int | None]]) -> pd.DataFrame:
    """Metrics by role as a table to look at.

    Args:
        metrics: By role, then by metric, as in `Evaluation.metrics`.

    Returns:
        A row a role, in the order given, a column a metric (float64), NaN where a role lacks it.

    Examples:
        >>> table = metrics_table({"circuit": {"kl": 0.25}, "random": {"kl": 3.0, "kl_sd": None}})
        >>> table["kl"].to_dict()
        {'circuit': 0.25, 'random': 3.0}
    """
    return pd.DataFrame.from_dict(dict(metrics), orient="index").astype(float)


def score_prompts(logits: Tensor, teacher: Tensor, batch: PairBatch) -> dict[str, Tensor]:
    """Measure a batch of outputs.

    Args:
        logits: The circuit's, at the asked positions `[asked d_vocab]`.
        teacher: The full model's.
        batch: The prompts.

    Returns:
        One value a prompt for each metric: `kl` or `mse`, `accuracy`, `exact_match`, and `logit_diff` where
        the task has wrong answers.
    """
    prompt, n = batch.clean.predict_prompt, batch.clean.input_ids.shape[0]

    def everywhere(right: Tensor) -> Tensor:
        return per_prompt_mean(right.double(), prompt, n) == 1

    if batch.answer_values is not None:
        error = (logits - teacher)[:, 0].double()
        return {
            "mse": per_prompt_mean(error.pow(2), prompt, n),
            "accuracy": everywhere((logits[:, 0] - batch.answer_values).abs() <= NEAR),
            "exact_match": everywhere(error.abs() <= NEAR),
        }
    scores = {
        "kl": per_prompt_mean(kl_divergence(logits, teacher).double(), prompt, n),
        "exact_match": everywhere(logits.argmax(-1) == teacher.argmax(-1)),
    }
    if batch.correct_ids is not None and batch.wrong_ids is not None:
        first = log_softmax(logits[first_asked(batch)])
        scores["accuracy"] = _set_log_probability(first, batch.correct_ids) > _set_log_probability(
            first, batch.wrong_ids
        )
        scores["logit_diff"] = logit_difference(logits, batch).double()
    elif batch.answer_ids is not None:
        scores["accuracy"] = everywhere(logits.argmax(-1) == batch.answer_ids)
    return scores


def _set_log_probability(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    chosen = log_probabilities.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    return chosen.logsumexp(-1)


def evaluate(
    compiled: CompiledModel,
    circuit: Circuit,
    pairs: EncodedPairs,
    *,
    ablation_data: EncodedPairs | None = None,
    n_random: int = 10,
    seed: int = 0,
    batch_size: int = 16,
    ablation: str | None = None,
    raw_edges: np.ndarray | None = None,
) -> Evaluation:
    """Measure a circuit on prompts, next to the full model, nothing, its complement and random circuits.

    Args:
        compiled: The model.
        circuit: The circuit.
        pairs: The prompts.
        ablation_data: The prompts that means are taken over; `pairs` by default.
        n_random: How many random circuits of the same size a layer pair; 0 for none.
        seed: Of the random circuits.
        batch_size: Prompts a batch; halved when memory runs out.
        ablation: What cut edges carry; by default what the circuit was found with.
        raw_edges: Flat indices of the edges kept before dangling ones were dropped, to be measured as role `raw`.

    Returns:
        Metrics by role, and a row a prompt.

    Raises:
        GraphMismatchError: The circuit is of another universe.
        ConfigurationError: No prompts.
    """
    if not len(pairs):
        raise ConfigurationError("there is nothing to evaluate on: the split has no prompts")
    require_universe(compiled, circuit)
    masks: dict[str, np.ndarray] = {
        "circuit": circuit.mask,
        "empty": np.zeros_like(circuit.mask),
        "complement": ~circuit.mask,
    }
    if raw_edges is not None:
        masks["raw"] = np.zeros_like(circuit.mask)
        masks["raw"][raw_edges] = True
    for index in range(n_random):
        masks[f"random {index}"] = random_circuit(circuit, seed=seed + index).mask
    measured = _measure(
        compiled,
        masks,
        pairs,
        ablation=ablation or circuit.ablation,
        ablation_data=ablation_data,
        batch_size=batch_size,
    )
    columns = measured.columns
    metrics = {role: _summary(columns[role], columns["full"]) for role in columns if not role.startswith("random")}
    if n_random:
        randoms = [_summary(columns[f"random {i}"], columns["full"]) for i in range(n_random)]
        metrics["random"] = _mean_and_spread(randoms)
    return Evaluation(metrics=metrics, examples=_examples(measured, pairs, compiled))


def require_universe(compiled: CompiledModel, circuit: Circuit, name: str = "the circuit's universe") -> None:
    """Refuse a circuit of another universe than the model's.

    Args:
        compiled: The model.
        circuit: The circuit.
        name: What the message calls its universe.

    Raises:
        GraphMismatchError: They differ; the message says in what first.
    """
    difference = circuit.universe.first_difference(compiled.universe)
    if difference is not None:
        raise GraphMismatchError(
            f"{name} is not the compiled model's: {difference}; compile the model with the "
            "circuit's choices of embeddings, kv_heads and qkv"
        )


def evaluate_masks(
    compiled: CompiledModel,
    masks: Mapping[str, Circuit | np.ndarray],
    pairs: EncodedPairs,
    *,
    ablation: str | None = None,
    ablation_data: EncodedPairs | None = None,
    batch_size: int = 16,
    tick: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float | int | None]]:
    """Measure many circuits, or sets of kept edges, on the same prompts; what never changes is run once for all.

    Args:
        compiled: The model.
        masks: By name, a circuit, or one boolean an edge of the universe, true where kept `[edge]`; the name `full`
            is taken. Circuits have lost their dangling edges; a mask is run as it is.
        pairs: The prompts, at least one.
        ablation: What cut edges carry; by default what the circuits were found with.
        ablation_data: The prompts that means are taken over; `pairs` by default.
        batch_size: Prompts a batch; halved when memory runs out.
        tick: Called with the number of prompts done and of all, after every batch.

    Returns:
        Metrics by name, those of the full model as `full`; `metrics_table` makes them a table.

    Raises:
        GraphMismatchError: A circuit is of another universe.
        ConfigurationError: No prompts, a mask that is not one boolean an edge, the name `full`, or no ablation where
            the circuits have none in common.

    Examples:
        >>> from circuitgraph import compile_model, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> from pruning import load_task
        >>> compiled = compile_model(load_model("tracr:xproportion"), embeddings="split")
        >>> inputs = load_task("tracr-xproportion", compiled.tokenizer, options={"max_length": 3}).split("test")
        >>> truth = Circuit.from_edges(compiled.universe, ground_truth_edges("xproportion"), ablation="zero")
        >>> measured = evaluate_masks(compiled, {"truth": truth, "rest": ~truth.mask}, inputs)
        >>> metrics_table(measured)["accuracy"].round(2).to_dict()
        {'full': 1.0, 'truth': 1.0, 'rest': 0.46}
    """
    if not len(pairs):
        raise ConfigurationError("there is nothing to evaluate on: the split has no prompts")
    columns = _measure(
        compiled,
        {name: _mask_of(compiled, name, one) for name, one in masks.items()},
        pairs,
        ablation=ablation or _common_ablation(masks),
        ablation_data=ablation_data,
        batch_size=batch_size,
        tick=tick,
    ).columns
    return {name: _summary(scores, columns["full"]) for name, scores in columns.items()}


def _mask_of(compiled: CompiledModel, name: str, one: Circuit | np.ndarray) -> np.ndarray:
    """The kept edges of a circuit, or of a mask that is one."""
    if name == "full":
        raise ConfigurationError("the name 'full' is that of the whole model, which is measured in any case")
    if isinstance(one, Circuit):
        require_universe(compiled, one, f"the universe of {name!r}")
        return one.mask
    n_edges = compiled.universe.n_edges
    if one.dtype != np.bool_ or one.shape != (n_edges,):
        raise ConfigurationError(
            f"{name!r}: expected a circuit, or one boolean for each of the universe's {n_edges:,} edges; "
            f"got {one.dtype} of shape {one.shape}"
        )
    return one


def _common_ablation(masks: Mapping[str, Circuit | np.ndarray]) -> str:
    """What the cut edges of all circuits among them carry."""
    found = {one.ablation for one in masks.values() if isinstance(one, Circuit)}
    if len(found) != 1:
        told = f"the circuits differ in it ({', '.join(sorted(found))})" if found else "masks do not say"
        raise ConfigurationError(f"ablation: {told}; say what cut edges carry, with ablation=")
    return found.pop()


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Prompts by what sets of kept edges, and the full model, say of them.

    Attributes:
        columns: One value a prompt, by set and metric, in the order of the prompts.
        scores: The same as it was collected, with the most probable tokens.
        places: Where each prompt is in what was collected.
    """

    columns: dict[str, dict[str, np.ndarray]]
    scores: dict[str, _Collected]
    places: np.ndarray


def _measure(
    compiled: CompiledModel,
    masks: Mapping[str, np.ndarray],
    pairs: EncodedPairs,
    *,
    ablation: str,
    ablation_data: EncodedPairs | None,
    batch_size: int,
    tick: Callable[[int, int], None] | None = None,
) -> _Measured:
    runs = FrozenRuns(
        compiled, pairs, ablation=ablation, budget_bytes=0, batch_size=batch_size, ablation_data=ablation_data
    )
    scores = {role: _Collected() for role in ("full", *masks)}
    order: list[np.ndarray] = []
    portions = Portions(compiled, batch_size)

    def measured(prompts: np.ndarray) -> dict[str, _Scored]:
        frozen = runs.batch(prompts)
        found = {"full": _Scored.of(frozen.teacher_logits, frozen)}
        for role, mask in masks.items():
            gates = torch.from_numpy(mask).float()
            ran = compiled.masked(gates, frozen.pairs.clean, frozen.values, ablation=ablation)
            found[role] = _Scored.of(ran.logits, frozen)
        return found

    with torch.no_grad():
        for chunk in batches_by_length(runs.by_length, batch_size):
            order.append(chunk)
            for found in portions.run(measured, chunk):
                for role, scored in found.items():
                    scores[role].add(scored)
            if tick is not None:
                tick(sum(map(len, order)), len(pairs))
    places = np.argsort(np.concatenate(order))
    columns = {role: collected.columns(places) for role, collected in scores.items()}
    return _Measured(columns=columns, scores=scores, places=places)


def batches_by_length(by_length: Mapping[int, np.ndarray], batch_size: int) -> list[np.ndarray]:
    """All prompts once, in batches of one length each."""
    return [
        members[start : start + batch_size]
        for members in by_length.values()
        for start in range(0, len(members), batch_size)
    ]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One value a prompt by metric, and the most probable first token (or the number) of each; on the host."""

    values: dict[str, Tensor]
    top: Tensor

    @staticmethod
    def of(logits: Tensor, frozen: FrozenBatch) -> _Scored:
        scores = score_prompts(logits, frozen.teacher_logits, frozen.pairs)
        first = logits[first_asked(frozen.pairs)]
        return _Scored(
            values={name: values.double().cpu() for name, values in scores.items()},
            top=(first.argmax(-1) if first.shape[-1] > 1 else first[:, 0]).cpu(),
        )


class _Collected:
    """Scores of one role, batch after batch."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}
        self.top: list[Tensor] = []

    def add(self, scored: _Scored) -> None:
        for name, values in scored.values.items():
            self._parts.setdefault(name, []).append(values)
        self.top.append(scored.top)

    def columns(self, places: np.ndarray) -> dict[str, np.ndarray]:
        return {name: torch.cat(parts).numpy()[places] for name, parts in self._parts.items()}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _summary(columns: Mapping[str, np.ndarray], full: Mapping[str, np.ndarray]) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {"n": len(columns["exact_match"])}
    found.update({name: _mean(values) for name, values in columns.items()})
    if "accuracy" in full:
        right = full["accuracy"] == 1
        found["n_full_right"] = int(right.sum())
        found["agreement_full_right"] = _mean(columns["exact_match"][right])
        found["agreement_full_wrong"] = _mean(columns["exact_match"][~right])
    return found


def _mean_and_spread(randoms: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {"n": randoms[0]["n"], "n_circuits": len(randoms)}
    for name in randoms[0]:
        if name in ("n", "n_full_right"):
            continue
        values = [row[name] for row in randoms if row[name] is not None]
        found[name] = float(np.mean(values)) if values else None
        found[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return found


def _examples(measured: _Measured, pairs: EncodedPairs, compiled: CompiledModel) -> pd.DataFrame:
    columns = measured.columns

    def tops(role: str) -> list[object]:
        values = torch.cat(measured.scores[role].top).numpy()[measured.places]
        decode = getattr(compiled.tokenizer, "decode", None)
        if values.dtype.kind == "f" or decode is None:
            return values.tolist()
        return [decode([int(token)]) for token in values]

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

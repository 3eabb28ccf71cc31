"""What is timed: the plain model, training steps from several states of the gates, and circuits evaluated.

- `plain`: the Hugging Face model forward to the logits at the answer only, backward to the embeddings, weights
  without gradient, no attention mask, no cache of keys.
- `forward`: its forward alone, without gradients.
- `start`, `middle`, `trained_*`: the whole of `Trainer.step` (gates drawn, masked forward, backward, Lagrangian
  or budget, optimiser) from given α, which are put back before every turn.
- `evaluate_*`: a circuit's masked pass without gradients, and its scores against the full model.

All take the same tokens. The frozen runs are warm: kept in memory, drawn anew in every turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitgraph.batch import PairBatch
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.graph.universe import Universe
from circuitgraph.models import LoadedModel
from pruning.bench.models import load
from pruning.bench.prompts import BenchPrompts, make_prompts
from pruning.bench.settings import SPARSITIES, STAGES, BenchSettings
from pruning.bench.trained import TrainedGates, read_trained, why_none
from pruning.evaluation.scores import score_prompts
from pruning.execution.step_settings import StepSettings
from pruning.frozen.runs import FrozenRuns
from pruning.methods.edge_pruning.budget import expected_gate
from pruning.methods.edge_pruning.gates import EPSILON, Gates
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.methods.edge_pruning.train import Trainer
from pruning.selection.best import discretize, edges_to_keep

START, MIDDLE_SPREAD = 10.0, 2.0
_ALL_IN_MEMORY = 1 << 62


@runtime_checkable
class Stage(Protocol):
    """Something to be timed."""

    def prepare(self, turn: int) -> None:
        """Bring it into the state from which a turn is taken; not timed."""

    def run(self) -> int:
        """Take the turn.

        Returns:
            How many gates were undecided.
        """
        ...


# ---------------------------------------------------------------- the plain model


def plain_step(model: Any, batch: PairBatch, asked: Tensor) -> Float[Tensor, "batch seq d_model"]:
    """The Hugging Face model's forward, and its backward to the embeddings.

    Args:
        model: The model, its weights without gradient.
        batch: Prompts of one length, without padding.
        asked: The positions asked, the same in every prompt.

    Returns:
        The gradient of the answers' mean negative log-probability in the embeddings.
    """
    embedded = model.get_input_embeddings()(batch.clean.input_ids).detach().requires_grad_()
    assert batch.answer_ids is not None
    logits = model(inputs_embeds=embedded, logits_to_keep=asked, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.answer_ids).backward()
    assert embedded.grad is not None
    return embedded.grad


class PlainStage:
    """The plain model.

    Args:
        model: The Hugging Face model.
        prompts: The prompts.
        device: Where it runs.
    """

    def __init__(self, model: Any, prompts: BenchPrompts, device: torch.device) -> None:
        self.model = model
        self.batch = prompts.pairs.batch(range(len(prompts.pairs)), device=device)
        self.asked = torch.from_numpy(prompts.pairs.predict_positions[0]).to(device)

    def prepare(self, turn: int) -> None:
        """Nothing: every turn is the same."""

    def run(self) -> int:
        """Forward and backward."""
        plain_step(self.model, self.batch, self.asked)
        return 0


class ForwardStage(PlainStage):
    """The plain model's forward to the logits at the answer, without gradients: what `evaluate_*` is faster than."""

    @torch.no_grad()
    def run(self) -> int:
        """Forward."""
        self.model(input_ids=self.batch.clean.input_ids, logits_to_keep=self.asked, use_cache=False)
        return 0


# ---------------------------------------------------------------- training steps


def start_alpha(universe: Universe, noise: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """α = 10 everywhere, but for one gate per reader, set so that this draw leaves it half open.

    It is the reader's gate whose noise u lies nearest one half, so that its α = −logit u lies near 0. A layer
    whose readers see one writer only has no choice.

    Args:
        universe: The universe.
        noise: The uniform numbers that the gates will be drawn with.

    Returns:
        α.
    """
    u = noise.double().clamp(EPSILON, 1 - EPSILON).cpu()
    chosen = np.concatenate(
        [
            block.first_edge
            + np.arange(block.n_readers) * block.n_writers
            + (u[block.edges].numpy().reshape(block.n_readers, block.n_writers) - 0.5).__abs__().argmin(1)
            for block in universe.blocks
        ]
    )
    log_alpha = torch.full((universe.n_edges,), START)
    log_alpha[chosen] = -u[chosen].logit().float()
    return log_alpha


def middle_alpha(universe: Universe, seed: int) -> Float[Tensor, " edge"]:
    """α from a normal distribution of mean 0 and standard deviation 2."""
    return torch.randn(universe.n_edges, generator=torch.Generator().manual_seed(seed)) * MIDDLE_SPREAD


def bench_recipe(control: str, batch: int, sparsity: float) -> Recipe:
    """Settings under which a step does all that training does.

    Args:
        control: `lagrangian` or `budget`.
        batch: Prompts per step.
        sparsity: Asked for from the first step on. Under `budget` all α are shifted to hold it, so it has to be
            what the stage's α have anyhow.
    """
    return Recipe(
        name="bench", steps=1, ramp_steps=0, warmup_steps=0, learning_rate=0.1, multiplier_rate=0.1,
        target_sparsity=min(max(sparsity, 1e-6), 1 - 1e-6), control=control, batch_size=batch,
    )  # fmt: skip


class StepStage:
    """A training step from given α.

    Args:
        compiled: The model, with buffers of its own.
        frozen: The prompts' frozen runs.
        alpha_of: The α of a turn, from the noise that the turn's gates will be drawn with.
        control: `lagrangian` or `budget`.
        micro_batch: Prompts run at once; None for all of them.
        recompute: Whether MLPs are run again on the way back.
        replay: Whether steps are recorded and replayed where that pays; by default on CUDA.
        seed: Of the gates drawn.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        frozen: FrozenRuns,
        alpha_of: Callable[[Tensor], Tensor],
        *,
        control: str = "lagrangian",
        micro_batch: int | None = None,
        recompute: bool = False,
        replay: bool | None = None,
        seed: int = 0,
    ) -> None:
        self.alpha_of, self.seed = alpha_of, seed
        sparsity = 1 - float(expected_gate(alpha_of(self._noise(compiled.universe.n_edges, 0))).double().mean())
        recipe = bench_recipe(control, len(frozen.pairs), sparsity)
        self.trainer = Trainer(
            compiled, frozen, recipe, objective="kl", seed=seed,
            how=StepSettings(micro_batch=micro_batch, recompute=recompute, replay=replay),
        )  # fmt: skip

    def _noise(self, n_edges: int, turn: int) -> Tensor:
        """What `Gates.sample` will draw in a turn."""
        return torch.rand(n_edges, generator=torch.Generator().manual_seed(self.seed + turn))

    def prepare(self, turn: int) -> None:
        """Put the α back, and seed the turn's draw."""
        self.trainer.generator.manual_seed(self.seed + turn)
        log_alpha = self.trainer.gates.log_alpha
        log_alpha.data.copy_(self.alpha_of(self._noise(len(log_alpha), turn)))

    def run(self) -> int:
        """Take the step."""
        return self.trainer.step(0).undecided


# ---------------------------------------------------------------- circuits


def circuit_of(compiled: CompiledModel, trained: TrainedGates) -> Circuit:
    """The best edges of trained gates, as many as the stage's sparsity leaves, dangling ones dropped."""
    gates = Gates(compiled.gate_map, init_mean=0.0, init_std=0.0, generator=torch.Generator())
    gates.log_alpha.data.copy_(trained.log_alpha)
    keep = edges_to_keep(gates, rule="target", target_sparsity=SPARSITIES[trained.tag])
    edges, scores = discretize(gates, keep=keep)
    return Circuit.from_edges(compiled.universe, edges, scores=scores)


class EvaluateStage:
    """A circuit's outputs and scores.

    Args:
        compiled: The model.
        frozen: The prompts' frozen runs.
        circuit: The circuit.
    """

    def __init__(self, compiled: CompiledModel, frozen: FrozenRuns, circuit: Circuit) -> None:
        self.compiled, self.frozen, self.circuit = compiled, frozen, circuit
        self.gates = torch.from_numpy(circuit.mask).float()

    def prepare(self, turn: int) -> None:
        """Nothing: every turn is the same."""

    @torch.no_grad()
    def run(self) -> int:
        """Draw the batch, run the circuit, score it."""
        batch = self.frozen.batch(np.arange(len(self.frozen.pairs)))
        ran = self.compiled.masked(self.gates, batch.pairs.clean, batch.values)
        score_prompts(ran.logits, batch.teacher_logits, batch.pairs)
        return 0


# ---------------------------------------------------------------- all of them


@dataclass(kw_only=True)
class Workbench:
    """What the stages of one benchmark share.

    Attributes:
        settings: What is asked for.
        loaded: The model.
        compiled: The model compiled; each stage has buffers of its own.
        prompts: The prompts.
        trained: Trained gates by tag; those that could not be had are missing.
        left_out: Why, by stage.
    """

    settings: BenchSettings
    loaded: LoadedModel
    compiled: CompiledModel
    prompts: BenchPrompts
    trained: dict[str, TrainedGates]
    left_out: dict[str, str]
    _frozen: FrozenRuns | None = None

    @staticmethod
    def of(settings: BenchSettings, loaded: LoadedModel | None = None) -> Workbench:
        """Load what the settings name.

        Args:
            settings: What is asked for.
            loaded: The model, where it is at hand.

        Raises:
            ConfigurationError: Prompts or trained gates do not fit the model.
        """
        loaded = loaded if loaded is not None else load(settings)
        compiled = compile_model(loaded, verify=False)
        trained, left_out = {}, {}
        for tag in SPARSITIES:
            gates = read_trained(settings, tag, compiled.universe.n_edges)
            if gates is not None:
                trained[tag] = gates
            else:
                left_out |= {f"{kind}_{tag}": why_none(settings, tag) for kind in ("trained", "evaluate")}
        return Workbench(
            settings=settings, loaded=loaded, compiled=compiled, prompts=make_prompts(settings, compiled),
            trained=trained, left_out=left_out,
        )  # fmt: skip

    @property
    def names(self) -> list[str]:
        """The stages that can be measured, in order."""
        return [name for name in STAGES if name not in self.left_out]

    @property
    def replay(self) -> bool:
        """Whether training steps are recorded and replayed where that pays."""
        asked = self.settings.replay
        return self.compiled.device.type == "cuda" if asked is None else asked

    @property
    def frozen(self) -> FrozenRuns:
        """The prompts' frozen runs, in memory."""
        if self._frozen is None:
            self._frozen = FrozenRuns(
                self.compiled, self.prompts.pairs, ablation="counterfactual", budget_bytes=_ALL_IN_MEMORY,
                batch_size=len(self.prompts.pairs),
            )  # fmt: skip
        return self._frozen

    def stage(self, name: str) -> Stage:
        """Make a stage.

        Args:
            name: One of `names`.
        """
        plain = {"plain": PlainStage, "forward": ForwardStage}.get(name)
        if plain is not None:
            return plain(self.loaded.model, self.prompts, self.compiled.device)
        compiled = self.compiled.with_own_buffers()
        kind, _, tag = name.partition("_")
        if kind == "evaluate":
            return EvaluateStage(compiled, self.frozen, circuit_of(compiled, self.trained[tag]))
        asked = self.settings
        return StepStage(
            compiled, self.frozen, self._alpha_of(kind, tag), control=asked.control, seed=asked.seed,
            micro_batch=asked.micro_batch, recompute=asked.recompute, replay=self.replay,
        )  # fmt: skip

    def _alpha_of(self, kind: str, tag: str) -> Callable[[Tensor], Tensor]:
        universe, seed = self.compiled.universe, self.settings.seed
        if kind == "start":
            return lambda noise: start_alpha(universe, noise)
        log_alpha = middle_alpha(universe, seed) if kind == "middle" else self.trained[tag].log_alpha
        return lambda noise: log_alpha

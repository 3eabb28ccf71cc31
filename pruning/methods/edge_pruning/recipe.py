"""A recipe: all settings of a training, checked. Those with names are in `pruning.methods.edge_pruning.recipes`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.graph.ablations import ABLATIONS
from circuitgraph.graph.universe_rules import CHOICES
from pruning.methods.edge_pruning.schedule import RAMPS, target_at

CONTROLS = ("lagrangian", "budget", "nested", "continuous")
KEEP_RULES = ("paper", "target", "open", "faithful", "minimal")
OWN_WARM_STARTS = ("none", "gate-importance")
"""What a training makes itself; it begins with any other scores too (`pruning.methods.score_source`)."""
OBJECTIVE_NAMES = ("kl", "kl-top1", "logit-diff", "negative-logit-diff", "cross-entropy", "mse", "position-kl")
_VALID: dict[str, tuple[str, ...]] = {
    "ramp": RAMPS,
    "control": CONTROLS,
    "keep": KEEP_RULES,
    "objective": OBJECTIVE_NAMES,
    "ablation": ABLATIONS,
    "embeddings": CHOICES["embeddings"],
    "kv_heads": CHOICES["kv_heads"],
    "qkv": CHOICES["qkv"],
}
_LARGEST = 1e6
"""Of rates and of α: sigmoid(α) is 0 or 1 in float32 long before."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a run.

    Attributes:
        name: The recipe's name.
        summary: What it is, in a line.
        steps: Optimiser steps.
        ramp_steps: Steps over which the target sparsity rises.
        warmup_steps: Steps over which the learning rate rises; it then falls linearly to 0.
        ramp: `linear` or `logarithmic`.
        learning_rate: Of the gates' α (AdamW).
        multiplier_rate: Learning rate of the Lagrange multipliers (gradient ascent).
        damping: AdamW's ε: α whose gradients are smaller than this move by less than the learning rate, in proportion.
            At torch's default nearly all α move by the learning rate, those of edges that hardly matter by chance.
        weight_decay: Of AdamW, on α and multipliers. The released code leaves it at the library's default of
            0.01; that is what moves gates away from α = 10, where they have no gradient.
        target_sparsity: Where the ramp ends; above 1 is allowed and pushes harder.
        control: How the sparsity is held: `lagrangian` as published, or `budget`: α are shifted together so
            that the expected sparsity *is* the scheduled one at every step; or `nested`: every step keeps other
            numbers of edges, so that one run ranks the edges for all sparsities between `start_sparsity` and
            `end_sparsity` (see `pruning.methods.edge_pruning.nested`), and `target_sparsity` only says where the
            ranking is cut in the end; or `continuous`: gates are no hard-concrete ones but sigmoids that grow steeper,
            under a `price` per open gate (see `pruning.methods.edge_pruning.continuous`).
        sharpen: Control `budget`: by what factor α grow, as seen from the threshold, between the end of the ramp and
            the last step; it settles undecided gates while the others can still adapt. Control `nested`: by what factor
            the range of α that gives gates between 0 and 1 narrows from the first step to the last. Control
            `continuous`: how steep gates are in the last step; 1 in the first.
        price: Control `continuous` only: what an open gate costs, in the objective's unit.
        settle_steps: Control `lagrangian` only: how many of the last steps follow the objective alone. Gates that it
            needs open for good, and those that it has no use for stay closed.
        start_sparsity: Where the ramp begins; with control `nested` the lowest sparsity that is trained.
        end_sparsity: Control `nested` only: the highest sparsity that is trained.
        warm_start: `none`: α start from `init_mean` and `init_std`; `gate-importance`: from how much each gate
            matters on the way from 0 to 1 (`pruning.methods.gate_gradients`), as `init_mean + init_std · z`, z being
            the standardised logarithm; or from the strength of any scores in the same way: the name of a method that
            ranks edges, or the place of saved scores (a path with a `/` in it, or a JSON file).
        warm_start_batches: Warm start `gate-importance` only: batches of prompts at each of its five levels. More of
            them make the start, and with it the circuit, depend less on the seed.
        init_mean: Mean of the α to start from.
        init_std: Their standard deviation.
        batch_size: Prompts a step.
        draws: How often gates are drawn a step, each time for an equal share of the batch. A gate drawn closed says
            nothing of what it is good for, nor do those behind it; more draws hear from all of them in every step.
        balance_lengths: Whether each epoch has as many batches of every prompt length.
        keep: How gates become edges: `paper`, `target` or, with control `continuous`, `open` (see
            `pruning.selection.best`); `faithful` or `minimal` (see `pruning.selection.faithful`).
        tolerance: Keep `faithful` and `minimal` only: the KL in nats, or the mean squared error, on the training
            prompts up to which fewer edges are still enough.
        writer_gates: Whether writers have gates too.
        writer_target: Their target sparsity.
        node_price: What a head or MLP costs beside its edges, in units of the objective (nats of KL); 0 counts edges
            alone (see `pruning.methods.edge_pruning.node_pressure`).
        ablation: `counterfactual`, `zero`, `mean`, `mean-positional` or `optimal`; None is counterfactual.
        constants_rate: Ablation `optimal` only: step size of the constants (Adam), in standard deviations of what each
            writer says; it rises and falls as that of the gates does.
        refine_steps: Ablation `optimal` only: steps in which the found circuit's constants are learnt on, its gates
            fixed.
        objective: Name of the objective; None takes the task's own.
        embeddings: Choice of universe, or None for the default.
        kv_heads: Choice of universe, or None for the default.
        qkv: Choice of universe, or None for the default.

    Raises:
        ConfigurationError: A setting makes no sense.
        UnknownNameError: A setting has no such choice.

    Examples:
        >>> from pruning import recipe_named
        >>> recipe_named("quick").changed(target_sparsity=0.9).target_sparsity
        0.9
    """

    name: str
    summary: str = ""
    steps: int
    ramp_steps: int
    warmup_steps: int
    ramp: str = "linear"
    learning_rate: float
    multiplier_rate: float = 0.0
    damping: float = 1e-8
    weight_decay: float = 0.0
    target_sparsity: float
    control: str = "lagrangian"
    sharpen: float = 1.0
    price: float = 0.0
    settle_steps: int = 0
    start_sparsity: float = 0.0
    end_sparsity: float = 0.0
    warm_start: str = "none"
    warm_start_batches: int = 6
    init_mean: float = 10.0
    init_std: float = 0.01
    batch_size: int
    draws: int = 1
    balance_lengths: bool = False
    keep: str = "paper"
    tolerance: float = 1e-4
    writer_gates: bool = False
    writer_target: float = 0.0
    node_price: float = 0.0
    ablation: str | None = None
    constants_rate: float = 0.05
    refine_steps: int = 200
    objective: str | None = None
    embeddings: str | None = None
    kv_heads: str | None = None
    qkv: str | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in ("steps", "batch_size", "warm_start_batches"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("ramp_steps", "warmup_steps", "settle_steps", "refine_steps"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must be at least 0; got {getattr(self, name)}")
        if not 1 <= self.draws <= self.batch_size:
            raise ConfigurationError(
                f"draws must be from 1 to batch_size ({self.batch_size}), a prompt a draw; got {self.draws}"
            )
        if self.settle_steps and self.control != "lagrangian":
            raise ConfigurationError(f"control={self.control!r} holds the sparsity to the end; settle_steps must be 0")
        if not 0 < self.target_sparsity <= 2:
            percent = f"; did you mean {self.target_sparsity / 100:g}?" if 2 < self.target_sparsity <= 100 else ""
            raise ConfigurationError(f"target sparsity must be in (0, 2]; got {self.target_sparsity:g}{percent}")
        for name in ("weight_decay", "multiplier_rate", "init_std", "node_price", "price"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must be at least 0; got {getattr(self, name)}")
        for name in (
            "learning_rate",
            "constants_rate",
            "multiplier_rate",
            "weight_decay",
            "init_mean",
            "init_std",
            "sharpen",
        ):
            if abs(getattr(self, name)) > _LARGEST:
                raise ConfigurationError(f"{name} must be at most {_LARGEST:g}; got {getattr(self, name):g}")
        if self.tolerance <= 0:
            raise ConfigurationError(f"tolerance must be positive; got {self.tolerance}")
        for name in ("learning_rate", "constants_rate", "damping"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be positive; got {getattr(self, name)}")
        if self.sharpen < 1:
            raise ConfigurationError(f"sharpen must be at least 1; got {self.sharpen}")
        if not 0 <= self.writer_target <= 2:
            raise ConfigurationError(f"writer_target must be in [0, 2]; got {self.writer_target}")
        for name, valid in _VALID.items():
            value = getattr(self, name)
            if value is not None and value not in valid:
                raise UnknownNameError.of(name.replace("_", " "), value, valid)
        if self.warm_start not in OWN_WARM_STARTS:
            from pruning.methods.score_source import check_source  # its methods know recipes

            check_source("warm start", self.warm_start, OWN_WARM_STARTS)
        if not 0 <= self.start_sparsity < 1:
            raise ConfigurationError(f"start_sparsity must be in [0, 1); got {self.start_sparsity}")
        if self.control == "nested":
            self._check_nested()
        self._check_continuous()
        if self.control != "lagrangian" and (self.target_sparsity >= 1 or self.writer_gates):
            raise ConfigurationError(
                f"control={self.control!r} holds a number of edges, so the target sparsity must be below 1, and has no "
                f"writer gates; got target {self.target_sparsity}, writer_gates={self.writer_gates}. "
                "Use control='lagrangian'."
            )

    def _check_continuous(self) -> None:
        is_it = self.control == "continuous"
        if (self.price > 0) != is_it or self.keep == ("paper" if is_it else "open") or (is_it and self.draws > 1):
            raise ConfigurationError(
                "control='continuous' has a price above 0, one draw, and keeps edges by 'open', 'target', 'faithful' "
                "or 'minimal'; other controls have no price, and other keep rules than 'open'; got control "
                f"{self.control!r}, price {self.price:g}, draws {self.draws}, keep {self.keep!r}"
            )

    def _check_nested(self) -> None:
        if not self.start_sparsity < self.end_sparsity < 1:
            raise ConfigurationError(
                "control='nested' trains all sparsities from start_sparsity up to end_sparsity, which must be above it "
                f"and below 1; got {self.start_sparsity:g} and {self.end_sparsity:g}"
            )
        if self.keep == "paper":
            raise ConfigurationError(
                "control='nested' gives a ranking, of which keep='paper' cannot say how many edges to keep; use "
                "keep='target', 'faithful' or 'minimal'"
            )

    def scheduled(self, step: int) -> float:
        """The sparsity asked for at a step; with control `nested` that of the circuit in the end.

        Args:
            step: The step, from 0.
        """
        if self.control in ("nested", "continuous"):
            return self.target_sparsity
        return target_at(
            step, target=self.target_sparsity, ramp_steps=self.ramp_steps, ramp=self.ramp,
            start=min(self.start_sparsity, self.target_sparsity),
        )  # fmt: skip

    def changed(self, **changes: Any) -> Recipe:
        """The recipe with some settings changed; a change of `steps` scales ramp, warm-up and settling with it.

        Raises:
            UnknownNameError: No such setting.
        """
        names = [field.name for field in fields(self)]
        given = {name: value for name, value in changes.items() if value is not None}
        for name in given:
            if name not in names:
                raise UnknownNameError.of("recipe setting", name, names)
        steps = given.get("steps")
        if steps is not None and steps != self.steps:
            for name in ("ramp_steps", "warmup_steps", "settle_steps"):
                given.setdefault(name, round(getattr(self, name) * steps / self.steps))
        return replace(self, **given)

    def to_dict(self) -> dict[str, object]:
        """Every setting as a JSON value."""
        return asdict(self)

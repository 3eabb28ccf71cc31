"""What a benchmark is asked for, checked before anything is loaded, and passed on to its subprocesses as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.models import DTYPES
from pruning.methods.edge_pruning.recipe import CONTROLS

GPT2_RANDOM = "gpt2-random"
SMOLLM2 = "smollm2-135m"
STAGES = ("plain", "forward", "start", "middle", "trained_98", "trained_995", "evaluate_98", "evaluate_995")
SPARSITIES = {"98": 0.98, "995": 0.995}
"""What a trained run's tag means: the share of edges it cut."""

PROMPTS = ("ioi", "random")
DIFFER = ("three", "all")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What a benchmark is asked for.

    Attributes:
        model: `gpt2-random`, `smollm2-135m`, a local folder or a hub name.
        batch: Prompts per step.
        seq: Tokens a prompt; None for 32 random ones, or for the commonest length of the IOI prompts.
        device: Where it runs.
        dtype: The model's number format.
        rounds: How often each stage is timed.
        threads: CPU threads; None leaves them as they are.
        prompts: `ioi` or `random`; None for IOI with SmolLM2 and random tokens with all others.
        differ: In how many tokens a random prompt and its counterfactual differ: `three` or `all`.
        control: How the step holds the sparsity, `lagrangian` or `budget`.
        micro_batch: Prompts run at once within a training step; None runs all of them.
        replay: Whether training steps are recorded and replayed where that pays; None for on CUDA (see
            `pruning.execution.replay`).
        recompute: Whether a training step runs MLPs again on the way back instead of keeping what is inside them.
        trained_98: A file of gates trained to 98 %, instead of the one that comes along.
        trained_995: A file of gates trained to 99.5 %.
        seed: Of weights, prompts and gates.

    Raises:
        ConfigurationError: A value that makes no sense.
        UnknownNameError: There is no such choice.

    Examples:
        >>> BenchSettings(model="gpt2-random", batch=0)
        Traceback (most recent call last):
            ...
        circuitgraph.errors.ConfigurationError: batch: expected 1 or more, got 0
    """

    model: str = GPT2_RANDOM
    batch: int = 8
    seq: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    rounds: int = 7
    threads: int | None = None
    prompts: str | None = None
    differ: str = "three"
    control: str = "lagrangian"
    micro_batch: int | None = None
    replay: bool | None = None
    recompute: bool = False
    trained_98: str | None = None
    trained_995: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        least_of = {"batch": 1, "seq": 2, "rounds": 1, "threads": 1, "micro_batch": 1, "seed": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigurationError(f"{name}: expected {least} or more, got {value}")
        for kind, value, valid in (
            ("dtype", self.dtype, DTYPES),
            ("kind of prompts", self.prompts, PROMPTS),
            ("choice of differ", self.differ, DIFFER),
            ("control", self.control, CONTROLS),
        ):
            if value is not None and value not in valid:
                raise UnknownNameError.of(kind, value, valid)
        if self.model.startswith("tracr:"):
            raise ConfigurationError(
                f"bench: {self.model!r} is no Hugging Face language model, so there is no plain step to compare "
                f"with; use {GPT2_RANDOM}, {SMOLLM2} or a model's folder"
            )
        if self.prompt_kind == "ioi":
            if self.model == GPT2_RANDOM:
                raise ConfigurationError(f"prompts: {GPT2_RANDOM} has no tokenizer for IOI; use random prompts")
            if self.differ == "all":
                raise ConfigurationError(
                    "differ: IOI pairs differ in their names alone; for 'all' ask for random prompts"
                )

    @property
    def prompt_kind(self) -> str:
        """`ioi` or `random`."""
        return self.prompts or ("ioi" if self.model == SMOLLM2 else "random")

    def trained_file(self, tag: str) -> str | None:
        """The file given for a trained run.

        Args:
            tag: A key of `SPARSITIES`.
        """
        return self.trained_98 if tag == "98" else self.trained_995

    def to_json(self) -> str:
        """The settings as text.

        Examples:
            >>> asked = BenchSettings(batch=2, seq=5)
            >>> BenchSettings.from_json(asked.to_json()) == asked
            True
        """
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> BenchSettings:
        """The settings that `to_json` wrote."""
        return BenchSettings(**json.loads(text))

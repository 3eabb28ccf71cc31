"""What a run was asked to do, beside its model and its prompts."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.frozen.disk import DiskCache
from pruning.methods.edge_pruning.recipes import Recipe
from pruning.whole_numbers import whole_number


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run, all decided; see `pruning.discover`, whose arguments they are.

    Attributes:
        recipe: The recipe.
        objective: What is compared.
        ablation: What cut edges carry.
        seed: Of everything random.
        splits: Splits to evaluate on.
        n_random: Random circuits to compare with.
        n_random_prompts: On how many prompts of a split they run, at most; None for all.
        n_effects: Of how many edges, and all heads and MLPs, the effects are measured; 0 for none at all.
        cache_bytes: Memory for runs that never change.
        disk_cache: A folder for them, or None.
        teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps the whole vocabulary.
        micro_batch: Prompts run at once in training; None takes all of a batch.
        recompute: Whether MLPs run once more in the backward pass.
        replay: Whether steps are recorded and replayed; None does so where it pays.

    Raises:
        ConfigurationError: A number that is none, or makes no sense.
    """

    recipe: Recipe
    objective: str
    ablation: str
    seed: int
    splits: tuple[str, ...]
    n_random: int
    n_random_prompts: int | None
    n_effects: int
    cache_bytes: int
    disk_cache: DiskCache | None
    teacher_top_k: int | None
    micro_batch: int | None
    recompute: bool
    replay: bool | None

    def __post_init__(self) -> None:
        """Check the numbers, and make them Python's own, which JSON and generators take."""
        for name, least in (("seed", 0), ("n_random", 0), ("n_effects", 0), ("cache_bytes", 0)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=least))
        for name in ("n_random_prompts", "teacher_top_k", "micro_batch"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least=1))

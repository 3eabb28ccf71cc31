"""A model's sizes from its config alone: its universe, its parameters, and what a training run would hold.

No weights are read and no graph is built, so runs of models can be planned on a machine that could not load them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitgraph.architectures.family import ModelShape
from circuitgraph.graph.universe import Universe
from circuitgraph.memory.estimate import MemoryEstimate, estimate_memory
from circuitgraph.memory.plan import MemoryPlan, plan_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """What a config tells of a model and of runs with it. Make one with `model_sizes`.

    Attributes:
        shape: The model's sizes: layers, heads, widths.
        universe: What fixes which edges exist, `universe.n_edges` of them.
        n_parameters: How many numbers its weights are; tied weights count once.

    Examples:
        >>> sizes = model_sizes("smollm2-135m")
        >>> sizes.shape.n_layers, sizes.universe.n_writers
        (30, 301)
    """

    shape: ModelShape
    universe: Universe
    n_parameters: int

    def estimate(
        self,
        batch_size: int,
        *,
        seq: int = 32,
        dtype: str = "float32",
        device: str = "cpu",
        n_asked: int = 1,
        share_reached: float = 1.0,
        n_prompts: int = 200,
        cache_bytes: int = 2 << 30,
        ablation: str = "counterfactual",
        recompute: bool = False,
        teacher_top_k: int | None = None,
        cpu_kernels: bool | None = None,
    ) -> MemoryEstimate:
        """What a training run holds at its peak, in bytes by part.

        Args:
            batch_size: Prompts run at once.
            seq: Tokens a prompt.
            dtype: The model's number format: `float64`, `float32`, `bfloat16` or `float16`.
            device: Where the model lies: `cpu`, `cuda`, `cuda:N` or `mps`. On CUDA its memory alone is estimated.
            n_asked: Answer tokens a prompt.
            share_reached: The share of tokens from the first in which a prompt differs from its counterfactual to the
                last one asked; 1 where prompts are not known.
            n_prompts: Training prompts.
            cache_bytes: The budget of the cache of frozen runs.
            ablation: What cut edges carry; only counterfactual values differ from prompt to prompt.
            recompute: Whether MLPs are run again in the backward pass.
            teacher_top_k: How many of the full model's likeliest tokens are kept; None keeps all.
            cpu_kernels: Whether products and norms are the CPU's kernels'; None for what is installed here.

        Raises:
            ConfigurationError: A share that is not from 0 to 1.
            UnknownNameError: No such dtype or device.

        Examples:
            >>> sizes = model_sizes("smollm2-135m")
            >>> sizes.estimate(8).weights == 4 * sizes.n_parameters
            True
            >>> sizes.estimate(8, dtype="bfloat16").total < sizes.estimate(8).total
            True
        """
        return estimate_memory(
            self.shape,
            self.universe,
            n_parameters=self.n_parameters,
            batch_size=batch_size,
            seq=seq,
            dtype=dtype,
            device=device,
            n_asked=n_asked,
            share_reached=share_reached,
            n_prompts=n_prompts,
            cache_bytes=cache_bytes,
            ablation=ablation,
            recompute=recompute,
            teacher_top_k=teacher_top_k,
            cpu_kernels=cpu_kernels,
        )

    def plan(
        self,
        batch_size: int,
        *,
        limit_bytes: int | None,
        seq: int = 32,
        micro_batch: int | None = None,
        recompute: bool | None = None,
        cache_bytes: int = 2 << 30,
        **settings: Any,
    ) -> MemoryPlan:
        """How a run is made to fit, as the command line decides it; `discover` takes its figures.

        Micro-batches are halved while they are large, then MLPs are run again in the backward pass, then the cache
        gets what is left, then micro-batches are halved down to one prompt.

        Args:
            batch_size: Prompts per step.
            limit_bytes: What the run has to fit into; None sets no limit.
            seq: Tokens a prompt.
            micro_batch: Prompts run at once, if that is decided already.
            recompute: Whether MLPs are run again, if that is decided already.
            cache_bytes: The budget of the cache of frozen runs.
            settings: The other arguments of `estimate`.

        Returns:
            The first way that fits, or the smallest one if none does: then `plan.fits` is False.

        Raises:
            ConfigurationError: A micro-batch below 1 prompt, or a share that is not from 0 to 1.
            UnknownNameError: No such dtype or device.

        Examples:
            >>> plan = model_sizes("smollm2-135m").plan(32, seq=64, limit_bytes=5 << 30, cpu_kernels=False)
            >>> plan.micro_batch, plan.recompute, plan.fits
            (16, True, True)
        """

        def estimate(prompts: int, again: bool, cache: int) -> MemoryEstimate:
            return self.estimate(prompts, seq=seq, recompute=again, cache_bytes=cache, **settings)

        return plan_memory(
            estimate,
            batch_size=batch_size,
            seq=seq,
            limit_bytes=limit_bytes,
            cache_bytes=cache_bytes,
            micro_batch=micro_batch,
            recompute=recompute,
        )


def model_sizes(
    model: str | PretrainedConfig, *, embeddings: str = "joint", kv_heads: str = "native", qkv: str = "split"
) -> ModelSizes:
    """Read a model's sizes from its config, without its weights.

    Args:
        model: A name as of `load_model` (of a folder `config.json` will do), or a `transformers` config.
        embeddings: `joint` or `split`, as of `compile_model`.
        kv_heads: `native` or `per_query`, as of `compile_model`.
        qkv: `split` or `joint`, as of `compile_model`.

    Returns:
        The sizes.

    Raises:
        ModelNotFoundError: There is no such model.
        UnsupportedModelError: The architecture or a config field is not understood.
        ConfigurationError: The choices do not fit the model.

    Examples:
        >>> sizes = model_sizes("smollm2-135m")
        >>> f"{sizes.n_parameters:,} parameters, {sizes.universe.n_edges:,} edges"
        '134,515,008 parameters, 70,651 edges'
    """
    from circuitgraph.architectures import family_of
    from circuitgraph.architectures.parameters import n_parameters
    from circuitgraph.architectures.universe import universe_of
    from circuitgraph.models import load_config

    config: Any = load_config(model) if isinstance(model, str) else model
    family = family_of(config.model_type)
    family.check_config(config)
    shape = family.shape(config)
    return ModelSizes(
        shape=shape,
        universe=universe_of(family, shape, embeddings=embeddings, kv_heads=kv_heads, qkv=qkv),
        n_parameters=n_parameters(config, shape) or count_parameters(config),
    )


def count_parameters(config: Any) -> int:
    """Parameters of a model, from its config: the model is made without memory for its weights.

    Args:
        config: A Hugging Face config, or a Tracr program's.

    Returns:
        How many numbers its weights are; tied weights count once.
    """
    import torch

    if config.model_type == "tracr":
        from circuitgraph.tracr.model import TracrModel

        model: torch.nn.Module = TracrModel(config)
    else:
        import transformers

        from circuitgraph.architectures import family_of

        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = getattr(transformers, family_of(config.model_type).auto_class).from_config(config)
    return sum(weights.numel() for weights in model.parameters())

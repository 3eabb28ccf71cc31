"""The model under measurement: one with random weights, or one that is loaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from circuitgraph.models import LoadedModel, check_device, load_model
from pruning.bench.settings import GPT2_RANDOM, BenchSettings

SPREAD = 0.1
"""Standard deviation of the weights of `gpt2-random`."""


def random_model(
    model_class: type[PreTrainedModel],
    config: Any,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Any:
    """A model with the weights that `transformers` draws for a new one, made where it is to run.

    Args:
        model_class: Which architecture.
        config: Its sizes.
        seed: Of the weights. The same seed gives the same weights on the same kind of device.
        dtype: Their number format.
        device: Where they are made; never copied there, so that a model that fills the device can be made.

    Returns:
        The model in evaluation mode, its weights without gradient. The global random state is left alone.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    index = device.index if device.index is not None else (torch.cuda.current_device() if on_gpu else 0)
    with torch.random.fork_rng(devices=[index] if on_gpu else []), device:
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.default_generators[index].manual_seed(seed)
        model: Any = model_class._from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def gpt2_random(seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 small with random weights, float32 on the CPU, the same for a seed wherever it runs later.

    They are five times as large as in a new model, or nothing that it reads would change what it says: with three
    tokens of 32 replaced, the KL of its outputs is 0.003 nats in a new model and about 1.5 in this one.

    Args:
        seed: Of the weights.
    """
    return random_model(GPT2LMHeadModel, GPT2Config(initializer_range=SPREAD), seed=seed)


def load(settings: BenchSettings) -> LoadedModel:
    """The model that the settings name, its weights without gradient.

    Args:
        settings: What is asked for.

    Raises:
        ConfigurationError: The device is not there.
        ModelNotFoundError: There is no such model.
    """
    if settings.model != GPT2_RANDOM:
        loaded = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    else:
        check_device(settings.device)
        model: Any = gpt2_random(settings.seed)
        model.to(device=settings.device, dtype=getattr(torch, settings.dtype))
        loaded = LoadedModel(model=model, tokenizer=None, name=GPT2_RANDOM, revision=f"seed {settings.seed}")
    loaded.model.requires_grad_(False)
    return loaded

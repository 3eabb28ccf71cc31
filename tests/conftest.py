"""What every test shares: runtime checks of types and shapes, no network, and tiny random models.

The checks are of the first calls in a test (tests/sparing_checks.py). Tests marked slow and those of whole runs, which
go round and round what others have gone through with them, do without; and so does all of `make test-fast`, since
`make test` has them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Runs that tests keep on disk never lie in the user's own folder.
os.environ["CIRCUITGRAPH_FROZEN_CACHE"] = tempfile.mkdtemp(prefix="frozen-")
atexit.register(shutil.rmtree, os.environ["CIRCUITGRAPH_FROZEN_CACHE"], ignore_errors=True)

# A test run in the background inherits signals that are ignored, and so would what it tests.
for _name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if signal.getsignal(_number := getattr(signal, _name, signal.SIGINT)) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)

import pytest
from jaxtyping import config as checks

from tests import sparing_checks

if os.environ.get("CIRCUITGRAPH_RUNTIME_CHECKS") != "off":
    sparing_checks.check_imports_of(["circuitgraph", "pruning", "analysis"])

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from circuitgraph.architectures.intact import STAND_INS
from tests.chromium import browser  # noqa: F401  (a fixture)

_LONGEST = ("test_tracr_recovery.py", "test_pages.py")
"""Files of several minutes each."""

_WHOLE_RUNS = ("tests/circuitgraph/cli/", "tests/pruning/runs/")
"""Folders of tests that run whole commands and trainings."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Check no types and shapes while a slow test or one of whole runs goes on, its fixtures included."""
    slow = any(item.get_closest_marker(name) for name in ("slow", "full"))
    sparing_checks.begin_test()
    checks.update("jaxtyping_disable", slow or item.nodeid.startswith(_WHOLE_RUNS))
    try:
        return (yield)
    finally:
        checks.update("jaxtyping_disable", False)


class UncastRMSNorm(nn.Module):
    """Llama's norm without its cast to float32, which would hide what a float64 test looks for."""

    def __init__(self, norm: LlamaRMSNorm):
        super().__init__()
        self.weight = norm.weight
        self.variance_epsilon = norm.variance_epsilon

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


STAND_INS[UncastRMSNorm] = LlamaRMSNorm


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Draw all parameters at a scale where every part of the model matters, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim == 1:
                is_gain = "norm" in name.lower() or ".ln_" in name
                value = 1 + 0.2 * noise if is_gain and name.endswith("weight") else 0.2 * noise
            else:
                value = noise / parameter.shape[-1] ** 0.5
            parameter.copy_(value.to(parameter.dtype))


def finish(model: PreTrainedModel, *, seed: int, dtype: torch.dtype) -> PreTrainedModel:
    """Cast, then draw, so that float64 weights have all their digits."""
    model = model.to(dtype).eval()
    randomise(model, seed)
    return model


@pytest.fixture(scope="session")
def tiny_gpt2() -> Callable[..., GPT2LMHeadModel]:
    """Make a tiny random GPT-2: learned positions, biases, layer norms, tied embeddings."""

    def make(
        *,
        n_layers: int = 2,
        n_heads: int = 3,
        d_head: int = 4,
        vocab_size: int = 29,
        n_positions: int = 16,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> GPT2LMHeadModel:
        config = GPT2Config(
            n_layer=n_layers,
            n_head=n_heads,
            n_embd=n_heads * d_head,
            vocab_size=vocab_size,
            n_positions=n_positions,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="sdpa",
        )
        with torch.random.fork_rng(devices=[]):
            return finish(GPT2LMHeadModel(config), seed=seed, dtype=dtype)

    return make


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Make a tiny random Llama: rotary positions, grouped keys and values, RMS norms.

    `n_kv_heads` equal to `n_heads` is MHA, 1 is MQA, between them GQA. In float64 the norms are
    replaced by ones without a cast to float32.
    """

    def make(
        *,
        n_kv_heads: int = 2,
        n_layers: int = 2,
        n_heads: int = 4,
        d_head: int = 4,
        vocab_size: int = 29,
        n_positions: int = 32,
        tie_word_embeddings: bool = True,
        rope_parameters: dict[str, object] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> LlamaForCausalLM:
        config = LlamaConfig(
            num_hidden_layers=n_layers,
            num_attention_heads=n_heads,
            num_key_value_heads=n_kv_heads,
            hidden_size=n_heads * d_head,
            head_dim=d_head,
            intermediate_size=3 * n_heads * d_head,
            vocab_size=vocab_size,
            max_position_embeddings=n_positions,
            tie_word_embeddings=tie_word_embeddings,
            rope_parameters=rope_parameters or {"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="sdpa",
        )
        with torch.random.fork_rng(devices=[]):
            model = LlamaForCausalLM(config)
        if dtype == torch.float64:
            for module in list(model.modules()):
                for name, child in list(module.named_children()):
                    if isinstance(child, LlamaRMSNorm):
                        setattr(module, name, UncastRMSNorm(child))
        return finish(model, seed=seed, dtype=dtype)

    return make

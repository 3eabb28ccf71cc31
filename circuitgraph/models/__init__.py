"""Loading models: the first step of the flow, a name in, a Hugging Face model and its tokenizer out.

A name is a packaged model (`smollm2-135m`, or a compiled program such as `tracr:reverse`), a local folder, a GGUF
file, or a name on the Hugging Face hub. One file a source: `hub`, `smollm2`, `induction`, `gguf_file`, and
`circuitgraph.tracr.loading`.
Nothing here imports torch before a model is asked for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from circuitgraph.errors import ConfigurationError, ModelWarning, UnknownNameError
from circuitgraph.models import induction
from circuitgraph.tracr.programs import get_program, program_names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["DTYPES", "PACKAGED", "LoadedModel", "load_config", "load_model"]

PACKAGED: Mapping[str, str] = MappingProxyType(
    {
        "smollm2-135m": "SmolLM2-135M-Instruct (Llama, 30 layers, 9 heads), from a pip package",
        induction.NAME: induction.SUMMARY,
        **{f"tracr:{name}": f"Tracr-compiled program: {get_program(name).summary}" for name in program_names()},
    }
)
"""Models that need no hub, with one line about each."""

DTYPES = ("float32", "float64", "bfloat16", "float16")
"""Names of the number formats a model can be loaded in."""


# `model` and `tokenizer` are typed Any: they are a PreTrainedModel with its tokenizer, or a Tracr pair,
# and naming those classes here would import torch.
@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to compile. `load_model` makes one; make your own to give a model in memory its tokenizer and name.

    Attributes:
        model: The `transformers.PreTrainedModel` or Tracr model, in evaluation mode.
        tokenizer: Its tokenizer.
        name: The name as the user gave it.
        revision: The hub commit, or the SHA-256 of the packaged file; None for a local folder and a model in memory.

    Examples:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9)).eval()
        >>> LoadedModel(model=model, tokenizer=None, name="tuned").revision is None
        True
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None = None


def load_model(
    name: str, *, dtype: str = "float32", device: str = "cpu", trust_remote_code: bool = False
) -> LoadedModel:
    """Load a model and its tokenizer by name.

    Args:
        name: A packaged model, a local folder, a GGUF file, or a hub name.
        dtype: One of `DTYPES`.
        device: A torch device, e.g. `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        trust_remote_code: Whether to run Python code that comes with a hub model.

    Returns:
        The model in evaluation mode, on `device`, with its tokenizer and where it came from.

    Raises:
        UnknownNameError: The dtype does not exist.
        ConfigurationError: The device does not exist here, or the model brings code that was not trusted.
        ModelNotFoundError: The model is neither packaged, nor a folder, nor reachable.

    Examples:
        >>> load_model("smollm2-135m", dtype="int3")
        Traceback (most recent call last):
            ...
        circuitgraph.errors.UnknownNameError: unknown dtype 'int3'; valid: float32, float64, bfloat16, float16
    """
    if dtype not in DTYPES:
        raise UnknownNameError.of("dtype", dtype, DTYPES)
    check_device(device)
    from circuitgraph.torch_state import settled

    with settled():  # no weight of inference mode, of another default format or on another default device
        loaded = _load_on_cpu(name, dtype=dtype, trust_remote_code=trust_remote_code)
        loaded.model.to(device)
    warn_of_extra_tokens(loaded)
    return loaded


def warn_of_extra_tokens(loaded: LoadedModel) -> None:
    """Warn of tokens that a model has no embedding for: prompts with them cannot run.

    Args:
        loaded: The model and its tokenizer.
    """
    if loaded.tokenizer is None or loaded.name.startswith("tracr:"):
        return
    size = loaded.model.get_input_embeddings().num_embeddings
    beyond = sorted((index, token) for token, index in loaded.tokenizer.get_vocab().items() if index >= size)
    if beyond:
        few = ", ".join(f"{token!r} ({index})" for index, token in beyond[:5]) + (", …" if len(beyond) > 5 else "")
        warnings.warn(
            f"model {loaded.name!r}: its tokenizer has {len(beyond)} tokens beyond the model's {size}: {few}. Prompts "
            "with them cannot run; if they are meant to be used, train the model with resize_token_embeddings first",
            ModelWarning,
            stacklevel=3,
        )


def load_config(name: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Read a model's configuration without its weights.

    Args:
        name: A packaged model, a local folder, or a hub name.
        trust_remote_code: Whether to run Python code that comes with a hub model.

    Returns:
        The configuration.

    Raises:
        ModelNotFoundError: The model is neither packaged, nor a folder, nor reachable.
    """
    if name == "smollm2-135m":
        from circuitgraph.models.smollm2 import load_smollm2_config

        return load_smollm2_config()
    if name == induction.NAME:
        name = str(induction.FOLDER)
    if name.startswith("tracr:"):
        return _load_on_cpu(name, dtype="float32", trust_remote_code=False).model.config
    if name.lower().endswith(".gguf"):
        from circuitgraph.models.gguf_file import load_gguf_config

        return load_gguf_config(name)
    from circuitgraph.models.hub import load_hub_config

    return load_hub_config(name, packaged=PACKAGED, trust_remote_code=trust_remote_code)


def _load_on_cpu(name: str, *, dtype: str, trust_remote_code: bool) -> LoadedModel:
    """Dispatch on the kind of name."""
    if name == "smollm2-135m":
        from circuitgraph.models.smollm2 import load_smollm2

        model, tokenizer, revision = load_smollm2(dtype=dtype)
    elif name.startswith("tracr:"):
        import torch

        from circuitgraph.tracr.loading import load_tracr

        program = load_tracr(name, dtype=getattr(torch, dtype))
        model, tokenizer, revision = program.model, program.tokenizer, program.revision
    elif name.lower().endswith(".gguf"):
        from circuitgraph.models.gguf_file import load_gguf

        model, tokenizer, revision = load_gguf(name, dtype=dtype)
    else:
        from circuitgraph.models.hub import load_hub_model

        where = str(induction.FOLDER) if name == induction.NAME else name
        model, tokenizer, revision = load_hub_model(
            where, packaged=PACKAGED, dtype=dtype, trust_remote_code=trust_remote_code
        )
        revision = induction.revision() if name == induction.NAME else revision
    return LoadedModel(model=model, tokenizer=tokenizer, name=name, revision=revision)


def check_device(device: str) -> None:
    """Refuse a device that is misspelt or not there, before minutes go into loading.

    Raises:
        ConfigurationError: The device is not one of cpu, cuda, cuda:N, mps, or is not available.
    """
    import torch

    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", device)
    if match is None:
        raise ConfigurationError(f"device: expected cpu, cuda, cuda:N or mps, got {device!r}")
    kind, number = match.group(1), int(match.group(2) or 0)
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[kind]
    if number >= count:
        raise ConfigurationError(
            f"device {device!r} is not there: torch sees {count} {kind} device(s); use device='cpu', "
            f"or install a torch built for {kind}"
        )

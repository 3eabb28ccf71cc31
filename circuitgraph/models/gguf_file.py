"""A model from a GGUF file: its weights dequantised by `transformers`, its config and tokenizer read from it.

Any family that `transformers` reads from GGUF and that compiles here will do. What is loaded is a plain model: the
rounding of the file stays in its weights, nothing else of the quantisation does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from circuitgraph.errors import ModelNotFoundError
from circuitgraph.models.hub import quiet_progress

_NEEDED = "pip install gguf accelerate"


def load_gguf(name: str, *, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load a model and its tokenizer from a GGUF file.

    Args:
        name: The file.
        dtype: Name of a torch dtype.

    Returns:
        The model in evaluation mode on the CPU, its tokenizer, and the SHA-256 of the file.

    Raises:
        ModelNotFoundError: There is no such file, it is of a kind that `transformers` does not read, or the packages
            that read it are not installed.
    """
    path = _file(name)
    with quiet_progress(), torch.random.fork_rng(devices=[]):
        tokenizer = _read(AutoTokenizer, path)
        read = _read(AutoModelForCausalLM, path, dtype=torch.float32)
        config = _plain(read.config)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # A model that was read from GGUF refuses to be cast; the same weights in one of its own class do not.
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    with path.open("rb") as handle:
        revision = hashlib.file_digest(handle, "sha256").hexdigest()
    return model.to(getattr(torch, dtype)).eval(), tokenizer, revision


def load_gguf_config(name: str) -> PretrainedConfig:
    """Read the configuration in a GGUF file.

    Args:
        name: The file.

    Returns:
        The model's configuration.

    Raises:
        ModelNotFoundError: As of `load_gguf`.
    """
    return _plain(_read(AutoConfig, _file(name)))


def _file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"model {name!r}: expected a GGUF file; there is none at that place")
    return path


def _read(what: Any, path: Path, **settings: Any) -> Any:
    """Let one of the classes of `transformers` read the file."""
    try:
        return what.from_pretrained(str(path.parent), gguf_file=path.name, **settings)
    except ImportError as error:
        raise ModelNotFoundError(
            f"reading {path.name} needs the packages gguf and accelerate ({error}). Run: {_NEEDED}"
        ) from error
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(
            f"model {str(path)!r} cannot be read; expected a GGUF file of a kind that transformers knows, whole "
            f"(transformers said: {said})"
        ) from error


def _plain(config: Any) -> PretrainedConfig:
    """A configuration without what says that its weights are quantised."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config

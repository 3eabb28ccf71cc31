"""Read the shipped weights: `load_tracr("tracr:reverse")`.

Each program is a pair of files in `weights/`: `<name>.safetensors` (float32) and `<name>.json` (the
config, the weights' hash and what made them). `compile_program` writes them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors

from circuitgraph.errors import ModelNotFoundError
from circuitgraph.tracr.model import TracrConfig, TracrModel
from circuitgraph.tracr.programs import get_program
from circuitgraph.tracr.tokenizer import TracrTokenizer

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""Where the shipped weights are."""


@dataclass(frozen=True, kw_only=True)
class LoadedTracr:
    """A compiled program, ready to run.

    Attributes:
        model: The transformer, in evaluation mode.
        tokenizer: Its vocabulary.
        name: `tracr:<program>`.
        revision: SHA-256 of the weights file.

    Examples:
        >>> loaded = load_tracr("reverse")
        >>> loaded.name, loaded.tokenizer.bos_token, loaded.model.config.n_layers
        ('tracr:reverse', 'BOS', 4)
    """

    model: TracrModel
    tokenizer: TracrTokenizer
    name: str
    revision: str


def load_tracr(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    folder: Path = WEIGHTS_FOLDER,
) -> LoadedTracr:
    """Load a shipped program.

    Args:
        name: `tracr:reverse` or `tracr:xproportion`; the prefix may be left out.
        dtype: What the weights, stored as float32, become.
        device: Where they go.
        folder: Where the weights are.

    Returns:
        The model with its tokenizer.

    Raises:
        UnknownNameError: There is no such program.
        ModelNotFoundError: The files are missing or damaged.

    Examples:
        >>> loaded = load_tracr("tracr:reverse")
        >>> ids = torch.tensor([loaded.tokenizer.encode_tokens(["1", "2", "3"])])
        >>> best = loaded.model(ids).logits[0, 1:].argmax(-1)
        >>> [loaded.tokenizer.output_symbols[int(column)] for column in best]
        ['3', '2', '1']
    """
    program = get_program(name).name
    payload, revision, config = _read_checked(program, folder)
    model = TracrModel(config)
    model.load_state_dict(load_safetensors(payload))
    model.to(device=device, dtype=dtype).eval()
    tokenizer = TracrTokenizer.from_config(config)
    return LoadedTracr(model=model, tokenizer=tokenizer, name=f"tracr:{program}", revision=revision)


def _read_checked(program: str, folder: Path) -> tuple[bytes, str, TracrConfig]:
    """Read both files and check the weights against their hash."""
    fix = "reinstall the package, or run `python -m circuitgraph.tracr.compile_program`"
    try:
        description = json.loads((folder / f"{program}.json").read_text(encoding="utf-8"))
        payload = (folder / f"{program}.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"expected the packaged weights at {error.filename}, found nothing; {fix}") from error
    digest = hashlib.sha256(payload).hexdigest()
    if digest != description["sha256"]:
        raise ModelNotFoundError(
            f"expected {folder / program}.safetensors to have the SHA-256 {description['sha256']}, "
            f"got {digest}: the file is damaged; {fix}"
        )
    return payload, digest, TracrConfig.from_dict(description["config"])

"""Trained gates from a file, for the stages that need them.

Files that come along lie in `data/`: safetensors with `log_alpha`, one α an edge in the order of the model's
default universe, as float16. The `gates.safetensors` of a run will do as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuitgraph.errors import ConfigurationError
from pruning.bench.settings import GPT2_RANDOM, SMOLLM2, SPARSITIES, BenchSettings
from pruning.methods.edge_pruning.budget import expected_gate

DATA_FOLDER = Path(__file__).parent / "data"
SHIPPED = {SMOLLM2: "smollm2-135m-ioi", GPT2_RANDOM: "gpt2-random"}
"""How the files that come along begin, by model."""

_NEAR = 0.003


@dataclass(frozen=True, kw_only=True)
class TrainedGates:
    """Gates of a trained run.

    Attributes:
        log_alpha: Their α, float32.
        file: Where they were read.
        comes_along: Whether the file is one of ours.
        sha256: Of the file.
        tag: A key of `SPARSITIES`.
    """

    log_alpha: Float[Tensor, " edge"]
    file: Path
    comes_along: bool
    sha256: str
    tag: str

    @property
    def expected_sparsity(self) -> float:
        """The share of edges cut, in expectation over what is drawn."""
        return 1 - float(expected_gate(self.log_alpha.double()).mean())

    @property
    def doubt(self) -> str | None:
        """What to say where the gates are not as sparse as the stage's name has it."""
        wanted = SPARSITIES[self.tag]
        if abs(self.expected_sparsity - wanted) <= _NEAR:
            return None
        return (
            f"trained_{self.tag}: {self.file} holds {self.expected_sparsity:.2%} in expectation, not {wanted:.1%}; "
            f"its step is no figure for {wanted:.1%}. evaluate_{self.tag} keeps the best {1 - wanted:.1%} of its edges."
        )


def file_of(settings: BenchSettings, tag: str) -> tuple[Path, bool] | None:
    """The file of a trained run, and whether it is one of ours; None if there is none.

    Args:
        settings: What is asked for.
        tag: A key of `SPARSITIES`.
    """
    given = settings.trained_file(tag)
    if given is not None:
        return Path(given).expanduser(), False
    if settings.model not in SHIPPED:
        return None
    path = DATA_FOLDER / f"{SHIPPED[settings.model]}-{tag}.safetensors"
    return (path, True) if path.is_file() else None


def why_none(settings: BenchSettings, tag: str) -> str:
    """Why a model has no trained run, and what to do.

    Args:
        settings: What is asked for.
        tag: A key of `SPARSITIES`.
    """
    return f"no gates trained on {settings.model} to {SPARSITIES[tag]:.1%} come along; give --trained-{tag} FILE"


def read_trained(settings: BenchSettings, tag: str, n_edges: int) -> TrainedGates | None:
    """Read a trained run's gates.

    Args:
        settings: What is asked for.
        tag: A key of `SPARSITIES`.
        n_edges: Edges of the model's universe.

    Returns:
        The gates, or None where there is no file.

    Raises:
        ConfigurationError: The file is not there, or holds something else.
    """
    found = file_of(settings, tag)
    if found is None:
        return None
    path, comes_along = found
    what = f"trained gates ({tag}): expected a safetensors file with log_alpha, one α an edge"
    if not path.is_file():
        raise ConfigurationError(f"{what}; there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            log_alpha = file.get_tensor("log_alpha").float() if "log_alpha" in names else None
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(f"{what}; {path} cannot be read ({error})") from error
    if log_alpha is None:
        raise ConfigurationError(f"{what}; {path} holds {', '.join(names) or 'nothing'}")
    if log_alpha.shape != (n_edges,):
        raise ConfigurationError(
            f"{what}, {n_edges:,} for {settings.model}; {path} holds shape {tuple(log_alpha.shape)}. It is another "
            "model's, or was trained at another granularity than the default."
        )
    if not bool(torch.isfinite(log_alpha).all()):
        raise ConfigurationError(f"{what}; in {path} some are not finite")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TrainedGates(log_alpha=log_alpha, file=path, comes_along=comes_along, sha256=digest, tag=tag)


def save_trained(path: Path, log_alpha: Float[Tensor, " edge"], about: dict[str, str]) -> None:
    """Write gates in the form of the files that come along.

    Args:
        path: Where.
        log_alpha: Their α; rounded to float16.
        about: How they were made, kept in the file.
    """
    from safetensors.torch import save_file

    save_file({"log_alpha": log_alpha.detach().cpu().to(torch.float16).contiguous()}, path, metadata=about)

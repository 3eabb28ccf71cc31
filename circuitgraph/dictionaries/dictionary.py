"""A sparse autoencoder of the residual stream, and a vector as a sum of its latents and what they leave.

A vector that is added to a model is one writer. Taken apart by a dictionary it is several: each chosen latent says its
activation times its row of the decoder, and an error says the rest, the decoder's bias and all other latents among it.
Together they are the vector, to the rounding of its numbers; each has edges of its own to all that read later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitgraph.errors import ConfigurationError
from circuitgraph.forward.vectors import Vector

STANDARD, JUMPRELU, TOPK = "standard", "jumprelu", "topk"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dictionary:
    """A sparse autoencoder: `a = f((x − b_dec) W_enc + b_enc)`, `x ≈ a W_dec + b_dec`.

    Attributes:
        kind: What f is: `standard` (ReLU), `jumprelu` (what is above its threshold, never below 0), or `topk` (the k
            largest, never below 0).
        encoder: `W_enc` `[d_model latent]`.
        encoder_bias: `b_enc` `[latent]`.
        decoder: `W_dec` `[latent d_model]`.
        decoder_bias: `b_dec` `[d_model]`.
        centred: Whether `b_dec` is taken off what is encoded.
        less_mean: Whether the mean of the numbers that are encoded is taken off them first: the dictionary of a model
            with centred writing weights, whose residual stream is that of the model less its mean at every token.
        layer: The layer before which it reads the residual stream.
        threshold: Of `jumprelu` `[latent]`.
        k: Of `topk`.
        name: What it is called, for messages.

    Raises:
        ConfigurationError: Parts that do not fit each other.
    """

    kind: str
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    centred: bool
    layer: int
    threshold: Tensor | None = None
    k: int | None = None
    less_mean: bool = False
    name: str = "dictionary"

    def __post_init__(self) -> None:
        if self.kind not in (STANDARD, JUMPRELU, TOPK):
            raise ConfigurationError(f"{self.name}: expected the kind standard, jumprelu or topk; got {self.kind!r}")
        if self.decoder.ndim != 2:
            raise ConfigurationError(f"{self.name}: W_dec has to be [latent d_model]; got {list(self.decoder.shape)}")
        n, width = self.decoder.shape
        wanted = {"W_enc": (self.encoder, (width, n)), "b_enc": (self.encoder_bias, (n,))}
        wanted["b_dec"] = (self.decoder_bias, (width,))
        if self.kind == JUMPRELU:
            if self.threshold is None:
                raise ConfigurationError(f"{self.name}: jumprelu needs a threshold per latent, and there is none")
            wanted["threshold"] = (self.threshold, (n,))
        for part, (tensor, size) in wanted.items():
            if tuple(tensor.shape) != size:
                raise ConfigurationError(
                    f"{self.name}: {part} has to be {list(size)} to fit W_dec; got {list(tensor.shape)}"
                )
        if self.kind == TOPK and (self.k is None or not 1 <= self.k <= n):
            raise ConfigurationError(f"{self.name}: topk needs a k from 1 to {n}, its latents; got {self.k}")

    @property
    def n_latents(self) -> int:
        """How many latents there are."""
        return self.decoder.shape[0]

    @property
    def width(self) -> int:
        """How many numbers it encodes."""
        return self.decoder.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Activations of all latents `[… latent]`.

        Args:
            x: What is encoded `[… d_model]`.

        Raises:
            ConfigurationError: It has another width.
        """
        if x.shape[-1] != self.width:
            raise ConfigurationError(f"{self.name} encodes {self.width} numbers; got {x.shape[-1]}")
        x = x - x.mean(-1, keepdim=True) if self.less_mean else x
        x = x - self.decoder_bias.to(x) if self.centred else x
        before = x @ self.encoder.to(x) + self.encoder_bias.to(x)
        if self.kind == JUMPRELU:
            assert self.threshold is not None
            return before.clamp(min=0) * (before > self.threshold.to(x))
        if self.kind == STANDARD:
            return before.clamp(min=0)
        assert self.k is not None
        values, places = before.topk(self.k, -1)
        return torch.zeros_like(before).scatter(-1, places, values.clamp(min=0))

    def decode(self, activations: Tensor) -> Tensor:
        """What the latents stand for together `[… d_model]`.

        Args:
            activations: Of all latents `[… latent]`.
        """
        return activations @ self.decoder.to(activations) + self.decoder_bias.to(activations)

    def require_layer(self, vector: Vector) -> None:
        """Refuse a vector that is added before another layer than the one at which this reads.

        Raises:
            ConfigurationError: It is.
        """
        if vector.layer != self.layer:
            raise ConfigurationError(
                f"{self.name} reads the residual stream before layer {self.layer}, and {vector.name} is added before "
                f"layer {vector.layer}; take the dictionary of that layer"
            )

    def split(self, vector: Vector, latents: int | Sequence[int] = 16) -> tuple[Vector, ...]:
        """A vector as several, which together are the vector: chosen latents, and an error.

        The vector is read as what the residual stream holds, so that it should be a mean of it (`task_vector`) and no
        difference of means.

        Args:
            vector: Added before the layer at which the dictionary reads.
            latents: Which; or how many, those that say most (activation times length of the decoder's row) first, and
                none that is off.

        Returns:
            Vectors `name_fLATENT@layer`, the one that says most first where they were not named, then
            `name_error@layer`, all at the vector's positions.

        Raises:
            ConfigurationError: A vector of another width or layer, or latents that there are not.
        """
        self.require_layer(vector)
        activations = self.encode(vector.value.double())
        said = activations * self.decoder.double().norm(dim=1)
        chosen = self._chosen(said, latents)
        stem, rest, found = vector.name.partition("@")[0], vector.value.double().clone(), []
        for latent in chosen:
            share = (activations[latent] * self.decoder[latent].double()).to(vector.value.dtype)
            rest = rest - share.double()
            found.append(Vector(name=f"{stem}_f{latent}@{self.layer}", value=share, at=vector.at))
        error = Vector(name=f"{stem}_error@{self.layer}", value=rest.to(vector.value.dtype), at=vector.at)
        return (*found, error)

    def _chosen(self, said: Tensor, latents: int | Sequence[int]) -> list[int]:
        """Latents by number, or as many as were asked for of those that say most."""
        whole = (int, np.integer)
        if isinstance(latents, whole) and not isinstance(latents, bool) and latents >= 0:
            order = said.argsort(descending=True, stable=True)[: int(latents)].tolist()
            return [latent for latent in order if said[latent] > 0]
        named = list(latents) if isinstance(latents, Iterable) and not isinstance(latents, str) else [latents]
        wrong = [
            one for one in named
            if not isinstance(one, whole) or isinstance(one, bool) or not 0 <= one < self.n_latents
        ]  # fmt: skip
        if wrong or len(set(named)) < len(named):
            raise ConfigurationError(
                f"{self.name}: expected how many latents, 0 or more, or different ones from 0 to {self.n_latents - 1}; "
                f"got {wrong or named}"
            )
        return [int(one) for one in named]

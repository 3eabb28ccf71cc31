"""Random circuits, and both answers to each: the extracted module's and the masked run's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitgraph.batch import TokenBatch
from circuitgraph.circuits.circuit import Circuit
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.extract import ExtractedCircuit, extract_circuit
from circuitgraph.forward.reference import AblationValues
from tests.oracles.cases import pair_of_batches

CONSTANT = ("zero", "mean", "mean-positional", "optimal")


def circuit_of(compiled: CompiledModel, share: float, seed: int, ablation: str) -> Circuit:
    """Each edge kept with the same chance, those into the logits with its root, so that not all else dangles.

    A share of 0 is the empty circuit, 1 the full one.
    """
    universe = compiled.universe
    chance = np.full(universe.n_edges, share)
    chance[universe.blocks[-1].edges] = share**0.5
    draws = np.random.default_rng(seed).random(universe.n_edges)
    return Circuit.from_edges(universe, draws < chance, ablation=ablation)


def learnt_values(compiled: CompiledModel, seed: int) -> AblationValues:
    """Any constants, as learnt ones may be: what a layer's heads say adds up to what its attention says."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return 0.5 * torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    zero = compiled.ablation_values("zero")
    heads = tuple(noise(values) for values in zero.heads)
    blocks = compiled.bound.blocks
    return AblationValues(
        ablation="optimal",
        embeddings=tuple(noise(values) for values in zero.embeddings),
        heads=heads,
        attention=tuple(
            bias + said.permute(1, 2, 0, 3).flatten(-2) @ block.output
            for bias, said, block in zip(zero.attention, heads, blocks, strict=True)
        ),
        mlps=tuple(noise(values) for values in zero.mlps),
    )


@dataclass(frozen=True)
class Bench:
    """A compiled model with prompts.

    Attributes:
        compiled: The model.
        side: Where padding lies: `left`, `right` or `none`.
        seed: Of the prompts.
    """

    compiled: CompiledModel
    side: str = "left"
    seed: int = 5

    @property
    def batch(self) -> TokenBatch:
        return self._batches()[0]

    def _batches(self) -> tuple[TokenBatch, TokenBatch]:
        lengths = [4, 4, 4] if self.side == "none" else [5, 2, 4]
        n_tokens = self.compiled.model.config.vocab_size
        return pair_of_batches(lengths=lengths, side=self.side, n_asked=9, n_tokens=n_tokens, seed=self.seed)

    def values(self, ablation: str) -> AblationValues:
        if ablation == "optimal":
            return learnt_values(self.compiled, self.seed)
        return self.compiled.ablation_values(ablation, self._batches())

    def masked(self, circuit: Circuit, values: AblationValues) -> Tensor:
        """The masked run's logits at all real tokens `[asked d_vocab]`."""
        gates = torch.from_numpy(circuit.mask).double()
        with torch.no_grad():
            return self.compiled.masked(gates, self.batch, values).logits

    def extracted(self, circuit: Circuit, values: AblationValues) -> ExtractedCircuit:
        return extract_circuit(circuit, self.compiled, values=values, verify=False)

    def everywhere(self, module: ExtractedCircuit) -> Tensor:
        """The module's logits at all positions, of which the real tokens' are taken `[asked d_vocab]`."""
        batch = self.batch
        logits = module(batch.input_ids, batch.attention_mask)
        assert logits.shape[:2] == batch.input_ids.shape
        return logits.flatten(0, 1)[batch.predict_index]

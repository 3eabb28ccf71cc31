"""An independent slow oracle of the shipped Tracr programs, for the tests of this folder.

The forward pass here is written out reader by reader in numpy, straight from the shipped tensors; it
shares nothing with `TracrModel` nor with the masked executor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import circuitgraph.tracr
from circuitgraph.tracr.programs import get_program, program_names

WEIGHTS = Path(circuitgraph.tracr.__file__).parent / "weights"


class Oracle:
    """One program's weights, and a forward pass in which any edge may be missing."""

    def __init__(self, name: str) -> None:
        self.program = get_program(name)
        self.config = json.loads((WEIGHTS / f"{name}.json").read_text())["config"]
        self.weights = {k: v.astype(np.float64) for k, v in load_file(WEIGHTS / f"{name}.safetensors").items()}

    def edges(self) -> list[str]:
        """Every writer to every later reader."""
        found, writers = [], ["tok", "pos"]
        for layer in range(self.config["n_layers"]):
            heads = [f"a{layer}.h{head}" for head in range(self.config["n_heads"])]
            found += [f"{writer}->{head}<{part}>" for head in heads for part in "qkv" for writer in writers]
            writers += heads
            found += [f"{writer}->m{layer}" for writer in writers]
            writers.append(f"m{layer}")
        return found + [f"{writer}->logits" for writer in writers]

    def prompts(self) -> list[np.ndarray]:
        """Every prompt as token ids, one array a length (so that nothing is padded)."""
        ids = {token: index for index, token in enumerate(self.config["tokens"])}
        encoded = [[ids["BOS"], *(ids[token] for token in tokens)] for tokens in self.program.inputs()]
        return [np.array(list(same)) for _, same in groupby(encoded, key=len)]

    @cached_property
    def answers(self) -> list[list]:
        """What plain Python answers to every prompt."""
        return [self.program.outputs(tokens) for tokens in self.program.inputs()]

    @cached_property
    def asked(self) -> list[np.ndarray]:
        """Which positions after BOS have an answer."""
        defined = [[[said is not None] for said in row] for row in self.answers]
        return [np.array(list(same)) for _, same in groupby(defined, key=len)]

    def expected(self) -> list[np.ndarray]:
        """The answers as output columns, after BOS; 0 where there is none."""
        if self.program.output == "categorical":
            symbols = self.config["output_symbols"]
            columns = [[[float(s == said) for s in symbols] for said in row] for row in self.answers]
        else:
            columns = [[[said] for said in row] for row in self.answers]
        return [np.array(list(same)) for _, same in groupby(columns, key=len)]

    @cached_property
    def single_cuts(self) -> dict[str, list[np.ndarray]]:
        """Outputs on every prompt with one edge cut, for each edge."""
        return {edge: self.run(self.prompts(), {edge}) for edge in self.edges()}

    def run(self, prompts: list[np.ndarray], cut: set[str]) -> list[np.ndarray]:
        """Output columns after BOS, with the `cut` edges' messages replaced by zero; 0 where nothing is asked."""
        asked = {ids.shape[1]: where for ids, where in zip(self.prompts(), self.asked, strict=True)}
        return [self._run_one_length(ids, cut)[:, 1:] * asked[ids.shape[1]] for ids in prompts]

    def _run_one_length(self, ids: np.ndarray, cut: set[str]) -> np.ndarray:
        w = self.weights
        tok = w["tok_embed.weight"][ids]
        said = {"tok": tok, "pos": np.zeros_like(tok) + w["pos_embed.weight"][: ids.shape[1]]}
        always = np.zeros_like(tok)  # the attentions' output biases belong to no head

        def read(reader: str) -> np.ndarray:
            kept = [message for writer, message in said.items() if f"{writer}->{reader}" not in cut]
            return sum(kept, start=always)

        def linear(x: np.ndarray, name: str) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        for layer in range(self.config["n_layers"]):
            prefix, heads = f"blocks.{layer}.attn", {}
            for head in range(self.config["n_heads"]):
                rows = slice(head * self.config["d_head"], (head + 1) * self.config["d_head"])
                q, k, v = (linear(read(f"a{layer}.h{head}<{part}>"), f"{prefix}.{part}")[..., rows] for part in "qkv")
                scores = q @ k.swapaxes(1, 2) / math.sqrt(self.config["d_head"])
                if self.config["causal"]:
                    scores = np.where(np.tri(ids.shape[1], dtype=bool), scores, -np.inf)
                shares = np.exp(scores - scores.max(-1, keepdims=True))
                shares /= shares.sum(-1, keepdims=True)
                heads[f"a{layer}.h{head}"] = shares @ v @ w[f"{prefix}.o.weight"][:, rows].T
            said |= heads
            always = always + w[f"blocks.{layer}.attn.o.bias"]
            hidden = np.maximum(linear(read(f"m{layer}"), f"blocks.{layer}.mlp.fc_in"), 0)
            said[f"m{layer}"] = linear(hidden, f"blocks.{layer}.mlp.fc_out")
        return read("logits") @ w["unembed.weight"].T

    @staticmethod
    def furthest(left: list[np.ndarray], right: list[np.ndarray]) -> float:
        """The largest difference anywhere."""
        return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


def _large(name: str) -> bool:
    """Whether so many edges take a while to cut one by one."""
    config = json.loads((WEIGHTS / f"{name}.json").read_text())["config"]
    return config["n_layers"] * config["n_heads"] > 4


SMALL = [name for name in program_names() if not _large(name)]
LARGE = [name for name in program_names() if _large(name)]


@pytest.fixture(scope="session")
def oracles() -> Callable[[str], Oracle]:
    return cache(Oracle)


_SLOW = {"frac-prevs", "pair-balance"}  # the one is as xproportion, the other has two heads a layer
_PARAMS = [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in SMALL]


@pytest.fixture(params=_PARAMS)
def oracle(request: pytest.FixtureRequest, oracles: Callable[[str], Oracle]) -> Oracle:
    """A small program's."""
    return oracles(request.param)


@pytest.fixture(params=program_names())
def any_oracle(request: pytest.FixtureRequest, oracles: Callable[[str], Oracle]) -> Oracle:
    """Any program's, for what takes only a run or two."""
    return oracles(request.param)

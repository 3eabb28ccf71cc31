"""A compiled program run with some of its edges cut, written out reader by reader.

It shares nothing with the masked executor of `circuitgraph.forward`, nor with `TracrModel`'s forward pass, so that the
ground truths made with it say something about both. A cut edge carries zero: its reader loses what its writer says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitgraph.tracr.loading import load_tracr
from circuitgraph.tracr.programs import get_program


class CutModel:
    """A program's weights in float64, and all its prompts.

    Attributes:
        edges: Every edge as `writer->reader`, `tok` and `pos` being writers apart; readers in the order in which they
            read, a reader's writers in the order in which they write.
        readable: Those whose reader's weights read something that the writer's weights write. To cut any other changes
            nothing, whatever else is cut: reader and writer have no direction of the residual stream in common.
        prompts: All prompts as token ids `[prompt, position]`, one tensor a length, the shortest first.
        weights_sha256: The hash of the weights file.

    Args:
        name: A shipped program, with or without `tracr:` before it.

    Examples:
        >>> model = CutModel("xproportion")
        >>> len(model.edges), len(model.readable), "tok->m0" in model.readable
        (32, 7, True)
        >>> model.change({"tok->m0"}) > 0.9, model.change({"tok->m1"})
        (True, 0.0)
    """

    def __init__(self, name: str) -> None:
        """Load the weights and list edges and prompts."""
        loaded = load_tracr(name, dtype=torch.float64)
        self.config = loaded.model.config
        self.weights_sha256 = loaded.revision
        self._weights: Mapping[str, Tensor] = {key: value.detach() for key, value in loaded.model.state_dict().items()}
        program = get_program(name)
        encode = loaded.tokenizer.encode_tokens
        inputs = list(program.inputs())
        self.prompts = [torch.tensor([encode(text) for text in same]) for _, same in groupby(inputs, key=len)]
        # BOS is never asked, nor is a position whose answer the program leaves open.
        self._asked = [
            torch.tensor([[False, *(said is not None for said in program.outputs(text))] for text in same])
            for _, same in groupby(inputs, key=len)
        ]
        self.edges = [f"{writer}->{reader}" for reader, writers in self._readers() for writer in writers]
        self.readable = {edge for edge in self.edges if self._is_readable(*edge.split("->"))}

    def outputs(self, cut: Collection[str] = ()) -> Iterator[Float[Tensor, "asked d_out"]]:
        """Run every prompt, one length after the other.

        Args:
            cut: The edges that carry zero.

        Yields:
            The output columns at the asked positions of a length's prompts.
        """
        gone = _by_reader(cut)
        with torch.no_grad():
            for ids, asked in zip(self.prompts, self._asked, strict=True):
                yield self._run(ids, gone)[asked]

    def change(self, cut: Collection[str], *, enough: float = math.inf) -> float:
        """How far the outputs move when edges are cut.

        Args:
            cut: The edges that carry zero.
            enough: Stop at the first length of prompts at which they move farther.

        Returns:
            The largest difference of any output column, at any asked position of any prompt.
        """
        largest = 0.0
        for found, full in zip(self.outputs(cut), self._full_outputs(), strict=False):
            largest = max(largest, float((found - full).abs().max()))
            if largest > enough:
                break
        return largest

    def _full_outputs(self) -> list[Tensor]:
        if not hasattr(self, "_full"):
            self._full = list(self.outputs())
        return self._full

    def _readers(self) -> Iterator[tuple[str, list[str]]]:
        """Every reader with the writers before it."""
        writers = ["tok", "pos"]
        for layer in range(self.config.n_layers):
            heads = [f"a{layer}.h{head}" for head in range(self.config.n_heads)]
            yield from ((f"{head}<{part}>", list(writers)) for head in heads for part in "qkv")
            writers += heads
            yield f"m{layer}", list(writers)
            writers.append(f"m{layer}")
        yield "logits", list(writers)

    def _is_readable(self, writer: str, reader: str) -> bool:
        return bool((self._reading(reader) @ self._writing(writer).T).any())

    def _writing(self, writer: str) -> Float[Tensor, "any d_model"]:
        """Vectors of which everything that the writer says is a sum of multiples."""
        if writer in ("tok", "pos"):
            return self._weights[f"{writer}_embed.weight"]
        if writer.startswith("m"):
            prefix = f"blocks.{writer[1:]}.mlp.fc_out"
            return torch.cat([self._weights[f"{prefix}.weight"].T, self._weights[f"{prefix}.bias"][None]])
        layer, head = writer[1:].split(".h")
        return self._weights[f"blocks.{layer}.attn.o.weight"][:, self._rows(int(head))].T

    def _reading(self, reader: str) -> Float[Tensor, "any d_model"]:
        """Vectors of whose products with the stream everything that the reader sees is made."""
        if reader == "logits":
            return self._weights["unembed.weight"]
        if reader.startswith("m"):
            return self._weights[f"blocks.{reader[1:]}.mlp.fc_in.weight"]
        layer, rest = reader[1:].split(".h")
        head, part = rest.removesuffix(">").split("<")
        return self._weights[f"blocks.{layer}.attn.{part}.weight"][self._rows(int(head))]

    def _rows(self, head: int) -> slice:
        return slice(head * self.config.d_head, (head + 1) * self.config.d_head)

    def _run(
        self, ids: Int[Tensor, "batch seq"], gone: Mapping[str, Collection[str]]
    ) -> Float[Tensor, "batch seq d_out"]:
        w = self._weights
        said = {"tok": w["tok_embed.weight"][ids]}
        said["pos"] = w["pos_embed.weight"][: ids.shape[1]].expand_as(said["tok"])
        stream = said["tok"] + said["pos"]

        def read(reader: str) -> Tensor:
            lost = [said[writer] for writer in gone.get(reader, ())]
            seen = stream - sum(lost) if lost else stream
            return seen @ self._reading(reader).T

        for layer in range(self.config.n_layers):
            prefix, heads = f"blocks.{layer}", {}
            for head in range(self.config.n_heads):
                name, rows = f"a{layer}.h{head}", self._rows(head)
                q, k, v = (read(f"{name}<{part}>") + w[f"{prefix}.attn.{part}.bias"][rows] for part in "qkv")
                heads[name] = self._attend(q, k, v) @ w[f"{prefix}.attn.o.weight"][:, rows].T
            said |= heads
            stream = stream + sum(heads.values()) + w[f"{prefix}.attn.o.bias"]
            hidden = (read(f"m{layer}") + w[f"{prefix}.mlp.fc_in.bias"]).relu()
            said[f"m{layer}"] = hidden @ w[f"{prefix}.mlp.fc_out.weight"].T + w[f"{prefix}.mlp.fc_out.bias"]
            stream = stream + said[f"m{layer}"]
        return read("logits")

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT / math.sqrt(self.config.d_head)
        if self.config.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        return scores.softmax(-1) @ v


def _by_reader(edges: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for edge in edges:
        writer, reader = edge.split("->")
        found.setdefault(reader, []).append(writer)
    return found

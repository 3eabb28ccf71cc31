"""The parts of an extracted circuit as torch modules: reads, projections, heads, MLPs, the way out.

Each is built from the layout and a bound model. Weights are copied from the model; constants are made empty, on the
meta device, and filled from outside: by the folding, or from a file.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuitgraph.architectures.activations import GatedMLP
from circuitgraph.architectures.attention import Attention, HeadNorm
from circuitgraph.architectures.family import BoundBlock, BoundModel, Projection, Rotaries
from circuitgraph.architectures.norm import Norm
from circuitgraph.architectures.rms_norm import RMSNorm
from circuitgraph.extract.layout import AttentionLayout, ProjectionLayout, ReadLayout
from circuitgraph.forward.attention import attend, prepared, rotary_for, windowed


def own_copy(part: nn.Module | Norm) -> nn.Module:
    """A copy of a module, or of a norm's, with weights of its own, which can be trained."""
    module = part.module if isinstance(part, Norm) else part
    own: nn.Module = module.own if isinstance(module, RMSNorm | GatedMLP) else module
    return copy.deepcopy(own).requires_grad_(True)


def _wide(x: Tensor) -> Tensor:
    """In float32 where it is less, so that long sums do not round away what they add."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What heads need to know about a batch.

    Attributes:
        batch: Number of prompts.
        seq: Their length.
        mask: Which positions a query may see; None where causality says it all.
        rotaries: Cosines and sines of each rotary embedding.
    """

    batch: int
    seq: int
    mask: Bool[Tensor, "1 batch seq seq"] | None
    rotaries: Rotaries


class Stream:
    """What the circuit's writers have said so far.

    Attributes:
        said: By writer, `[batch seq d_model]`, or `[1 asked d_model]` once `at` positions were taken.
        total: Their sum, where some reader starts from it.
        columns: Where constants per position are to be read, or None for all positions in order.
    """

    def __init__(self, *, keeps_total: bool) -> None:
        self.said: dict[str, Tensor] = {}
        self.total: Tensor | None = None
        self.keeps_total = keeps_total
        self.columns: Int[Tensor, " asked"] | None = None

    def write(self, writer: str, said: Float[Tensor, "batch seq d_model"]) -> None:
        """Let a writer say something."""
        self.said[writer] = said
        if self.keeps_total:
            self.total = _wide(said) if self.total is None else self.total + said

    def at(self, index: Int[Tensor, " asked"], seq: int) -> Stream:
        """The stream at some positions, as one row.

        Args:
            index: Positions as flat indices `prompt * seq + position`.
            seq: Length of the prompts.
        """
        found = Stream(keeps_total=False)
        found.said = {name: said.flatten(0, 1)[index][None] for name, said in self.said.items()}
        if self.total is not None:
            found.total = self.total.flatten(0, 1)[index][None]
        found.columns = index % seq
        return found


class Read(nn.Module):
    """What one reader sees: a constant, plus what the writers that it keeps say.

    Attributes:
        constant: What its cut writers, and those that always say the same, add up to.
    """

    constant: Tensor

    def __init__(self, layout: ReadLayout, *, n_columns: int, like: Tensor) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("constant", like.new_empty(1, n_columns, like.shape[-1], device="meta"))

    def forward(self, stream: Stream) -> Float[Tensor, "batch seq d_model"]:
        """Add up; the result has size 1 where a constant is all there is."""
        constant = self.constant
        if stream.columns is not None and constant.shape[1] > 1:
            constant = constant[:, stream.columns]
        seen = _wide(constant)
        if self.layout.all_but:
            assert stream.total is not None
            seen = seen + stream.total
            for writer in self.layout.writers:
                seen -= stream.said[writer]
        elif self.layout.writers:
            first, *others = self.layout.writers
            seen = seen + stream.said[first]
            for writer in others:
                seen += stream.said[writer]
        return seen.to(constant.dtype)

    def extra_repr(self) -> str:
        """Say what is added up."""
        names = ", ".join(self.layout.writers)
        if self.layout.all_but:
            return "everything so far" + (f" but {names}" if names else "")
        return names or "nothing that runs"


class HeadProjection(nn.Module):
    """The queries of one layer's running heads, or their keys or values.

    Attributes:
        weight: Weights, one a head of the model that is needed.
        bias: Biases, or None.
        constant: The rows whose reader sees a constant, projected; None where there are none.
    """

    constant: Tensor | None
    _read: Tensor
    _weight_of_row: Tensor
    _row_of_head: Tensor

    def __init__(self, layout: ProjectionLayout, projection: Projection, *, n_columns: int) -> None:
        super().__init__()
        self.layout = layout
        heads = sorted(set(layout.weights))
        weights, bias = projection.per_head, projection.bias_per_head
        self.weight = nn.Parameter(weights[heads].detach().contiguous())
        self.bias = None if bias is None else nn.Parameter(bias[heads].detach().contiguous())
        n_constant = len(layout.readers) - len(layout.reads)
        empty = weights.new_empty(n_constant, 1, n_columns, weights.shape[-1], device="meta") if n_constant else None
        self.register_buffer("constant", empty)
        device = "cpu" if weights.is_meta else weights.device
        for name, places in (
            ("_read", layout.reads),
            ("_weight_of_row", tuple(heads.index(head) for head in layout.weights)),
            ("_row_of_head", layout.row_of_head),
        ):
            index = torch.tensor(places, dtype=torch.int64, device=device)
            self.register_buffer(name, index, persistent=False)
        self._shares_weights = self._weight_of_row.tolist() != list(range(len(heads)))
        first = layout.reads[0] if layout.reads else 0
        run = range(first, first + len(layout.reads))
        self._run_of_reads = slice(run.start, run.stop) if list(layout.reads) == list(run) else None
        self._serves_in_order = list(layout.row_of_head) == list(range(len(layout.readers)))

    def forward(
        self, seen: Float[Tensor, "read batch seq d_model"] | None, prompts: Prompts
    ) -> Float[Tensor, "row batch seq d_head"]:
        """Project what each reader sees, and put the constant rows after them.

        Args:
            seen: The layer's reads, normed; None if all readers see constants.
            prompts: The batch.
        """
        rows: list[Tensor] = []
        if seen is not None and len(self._read):
            weight, bias = self.weight, self.bias
            if self._shares_weights:
                weight = weight.index_select(0, self._weight_of_row)
                bias = None if bias is None else bias.index_select(0, self._weight_of_row)
            run = self._run_of_reads
            flat = (seen.index_select(0, self._read) if run is None else seen[run]).flatten(1, 2)
            said = torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias[:, None], flat, weight)
            rows.append(said.unflatten(1, (prompts.batch, prompts.seq)))
        if self.constant is not None:
            rows.append(self.constant.expand(-1, prompts.batch, prompts.seq, -1))
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def of_heads(self, rows: Float[Tensor, "row batch seq d_head"]) -> Float[Tensor, "head batch seq d_head"]:
        """Give each running head the row of its reader."""
        return rows if self._serves_in_order else rows.index_select(0, self._row_of_head)

    def extra_repr(self) -> str:
        """Say which readers there are."""
        return ", ".join(self.layout.readers)


class OwnHeadNorm(nn.Module):
    """A norm of queries or keys, with weights of its own, one row a reader where heads differ.

    Args:
        norm: The model's.
        heads: Of which head of the model each row is.
    """

    def __init__(self, norm: HeadNorm, heads: np.ndarray) -> None:
        super().__init__()
        self._norm = replace(norm, weight=None, bias=None)  # the model's own would neither be copied nor moved
        self.weight, self.bias = (_own(_rows_of(part, heads)) for part in (norm.weights, norm.bias))

    @property
    def declared(self) -> HeadNorm:
        """The norm with these weights."""
        return replace(self._norm, weight=self.weight, bias=self.bias)


class OwnAttention(nn.Module):
    """How a layer's running heads attend, with weights of its own.

    Args:
        attention: The layer's.
        heads: The running heads.
        query_heads: Of which head of the model each row of queries is.
        key_heads: Of which key-value head of the model each row of keys is.
    """

    slopes: Tensor | None

    def __init__(self, attention: Attention, heads: np.ndarray, query_heads: np.ndarray, key_heads: np.ndarray) -> None:
        super().__init__()
        self._attention = replace(attention, query_norm=None, key_norm=None, sinks=None, slopes=None)
        query, key = attention.query_norm, attention.key_norm
        self.query_norm = None if query is None else OwnHeadNorm(query, query_heads)
        self.key_norm = None if key is None else OwnHeadNorm(key, key_heads)
        self.sinks = None if attention.sinks is None else _own(attention.sinks[heads])
        self.register_buffer("slopes", None if attention.slopes is None else attention.slopes[heads].clone())

    @property
    def declared(self) -> Attention:
        """The declaration with these weights; heads and rows in their order here."""
        query, key = self.query_norm, self.key_norm
        return replace(
            self._attention,
            query_norm=None if query is None else query.declared,
            key_norm=None if key is None else key.declared,
            sinks=self.sinks,
            slopes=self.slopes,
        )


def _rows_of(values: Tensor | None, heads: np.ndarray) -> Tensor | None:
    return values if values is None or values.ndim == 1 else values[torch.from_numpy(heads).to(values.device)]


def _own(values: Tensor | None) -> nn.Parameter | None:
    return None if values is None else nn.Parameter(values.detach().clone().contiguous())


class SharedScale(nn.Module):
    """The norm behind a layer's heads, on each of them: over the root mean square of their sum.

    Args:
        norm: The model's.
    """

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self._norm = replace(norm, module=nn.Identity(), weight=None, bias=None)  # see OwnHeadNorm
        self.weight = _own(norm.weight)

    def forward(self, said: Float[Tensor, "head batch seq d_model"]) -> Float[Tensor, "head batch seq d_model"]:
        """What each head says behind the norm."""
        scaled = said * self._norm.inverse_scale(said.sum(0))
        return scaled if self.weight is None else scaled * (self.weight + self._norm.offset)


class Heads(nn.Module):
    """The running heads of one layer.

    Attributes:
        reads: What their readers see.
        norm: The model's norm before the attention; an identity where all readers see constants.
        attention: How they attend.
        query: Queries.
        key: Keys.
        value: Values.
        output: Weights from each head back to the residual stream.
        scale: The norm behind them, or None.
    """

    def __init__(
        self,
        layout: AttentionLayout,
        block: BoundBlock,
        *,
        causal: bool,
        n_heads: int,
        n_columns: int,
    ) -> None:
        super().__init__()
        self.layout, self.causal = layout, causal
        heads, times = np.array(layout.heads), n_heads // block.key.n_heads
        self.attention = OwnAttention(
            block.attention, heads, _head_of_row(layout.query, heads), _head_of_row(layout.key, heads // times)
        )
        self.reads = nn.ModuleList(Read(read, n_columns=n_columns, like=block.raw_output) for read in layout.reads)
        self.norm = own_copy(block.attention_norm) if layout.reads else nn.Identity()
        self.query = HeadProjection(layout.query, block.query, n_columns=n_columns)
        self.key = HeadProjection(layout.key, block.key, n_columns=n_columns)
        self.value = HeadProjection(layout.value, block.value, n_columns=n_columns)
        output = (block.raw_output * block.output_factor).unflatten(0, (n_heads, -1))
        self.output = nn.Parameter(output[list(layout.heads)].detach().contiguous())
        self.scale = None if block.heads_norm is None else SharedScale(block.heads_norm)

    def forward(self, stream: Stream, prompts: Prompts) -> Float[Tensor, "head batch seq d_model"]:
        """What each running head says.

        Args:
            stream: What has been said so far.
            prompts: The batch.
        """
        seen = self.norm(torch.stack([read(stream) for read in self.reads])) if len(self.reads) else None
        query, key, value = self.query(seen, prompts), self.key(seen, prompts), self.value(seen, prompts)
        attention = self.attention.declared
        rotary = rotary_for(attention, prompts.rotaries)
        query, key, value = (prepared(attention, kind, part, rotary) for kind, part in enumerate((query, key, value)))
        query, key, value = self.query.of_heads(query), self.key.of_heads(key), self.value.of_heads(value)
        mask = windowed(prompts.mask, attention, prompts.seq, query.device)
        mixed = attend(query, key, value, mask, causal=self.causal, attention=attention)
        said = torch.bmm(mixed.flatten(1, 2), self.output).unflatten(1, (prompts.batch, prompts.seq))
        return said if self.scale is None else self.scale(said)

    def extra_repr(self) -> str:
        """Say which heads there are."""
        return "heads " + " ".join(str(head) for head in self.layout.heads)


def _head_of_row(layout: ProjectionLayout, heads: np.ndarray) -> np.ndarray:
    """Of which head of the model each row is, from that of each running head."""
    found = np.zeros(len(layout.readers), dtype=np.int64)
    found[list(layout.row_of_head)] = heads
    return found


class ReadMLP(nn.Module):
    """One layer's MLP with what it reads.

    Attributes:
        read: What it reads.
        norm: The model's norm before it.
        mlp: The model's MLP.
    """

    def __init__(self, layout: ReadLayout, block: BoundBlock, *, n_columns: int) -> None:
        super().__init__()
        self.read = Read(layout, n_columns=n_columns, like=block.raw_output)
        self.norm = own_copy(block.mlp_norm)
        self.mlp = own_copy(block.mlp)

    def forward(self, stream: Stream) -> Float[Tensor, "batch seq d_model"]:
        """What the MLP says."""
        return self.mlp(self.norm(self.read(stream)))


class Unembedding(nn.Module):
    """The way out: what the logits read, the model's final norm and its output head.

    Attributes:
        read: What the logits read.
        norm: The final norm.
        unembed: The output head.
    """

    def __init__(self, layout: ReadLayout, bound: BoundModel, *, n_columns: int) -> None:
        super().__init__()
        self.read = Read(layout, n_columns=n_columns, like=bound.blocks[0].raw_output)
        self.norm = own_copy(bound.final_norm)
        self.unembed = own_copy(bound.unembed)

    def forward(self, stream: Stream) -> Float[Tensor, "batch seq d_vocab"]:
        """The logits; of size 1 along an axis where they are the same."""
        return self.unembed(self.norm(self.read(stream)))

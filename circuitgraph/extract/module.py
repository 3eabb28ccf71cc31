"""`ExtractedCircuit`: one circuit as a small torch module of its own.

    constants, and what live writers said ──reads──▶ live heads and MLPs, layer after layer ──▶ logits

It holds copies of the weights that its live heads and MLPs need, and constants for everything else. Nothing of the
machinery for gates is in it: a forward pass adds up what each reader keeps and calls the model's own norms and MLPs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitgraph.architectures.family import BoundModel
from circuitgraph.errors import ConfigurationError
from circuitgraph.extract.layout import CircuitLayout, LayerLayout
from circuitgraph.extract.parts import Heads, Prompts, ReadMLP, Stream, Unembedding, own_copy
from circuitgraph.forward.attention import attention_mask as visible_positions


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an extracted circuit comes from.

    Attributes:
        model: What the model was called.
        revision: Its version, if known.
        config_hash: Hash of its config.
        model_type: Its kind, as in its config.
        config: Its config as JSON values.
        n_parameters: Its parameters.
        circuit: Digest of the circuit.
        n_edges: Edges of the circuit.
        n_universe: Edges of its universe.
        ablation: What cut edges carry.
    """

    model: str
    revision: str | None
    config_hash: str
    model_type: str
    config: dict[str, Any]
    n_parameters: int
    circuit: str
    n_edges: int
    n_universe: int
    ablation: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


class Layer(nn.Module):
    """What runs of one layer.

    Attributes:
        heads: Its live heads, or None.
        mlp: Its MLP, or None.
    """

    def __init__(self, layout: LayerLayout, bound: BoundModel, whole: CircuitLayout) -> None:
        super().__init__()
        self.layer, self.parallel = layout.layer, whole.universe.block_order == "parallel"
        block, n_columns = bound.blocks[layout.layer], whole.n_columns
        self.heads = self.mlp = None
        if layout.attention is not None:
            self.heads = Heads(
                layout.attention, block,
                causal=whole.causal, n_heads=whole.universe.n_heads, n_columns=n_columns,
            )  # fmt: skip
        if layout.mlp is not None:
            self.mlp = ReadMLP(layout.mlp, block, n_columns=n_columns)

    def forward(self, stream: Stream, prompts: Prompts) -> None:
        """Let the layer's heads and MLP say what they have to say.

        Args:
            stream: What has been said so far.
            prompts: The batch.
        """
        # A parallel MLP reads before its own layer's heads have written.
        early = self.mlp(stream) if self.mlp is not None and self.parallel else None
        if self.heads is not None:
            for head, said in zip(self.heads.layout.heads, self.heads(stream, prompts), strict=True):
                stream.write(f"a{self.layer}.h{head}", said)
        if self.mlp is not None:
            stream.write(f"m{self.layer}", self.mlp(stream) if early is None else early)


class ExtractedCircuit(nn.Module):
    """A circuit as a small model. Get one from `extract_circuit` or `load_extracted`.

    It is an ordinary module: it can be moved, cast, differentiated, trained, hooked and saved. `layers` holds only
    layers of which something runs.

    Attributes:
        layout: What runs, and what each part reads.
        origin: The circuit and the model it comes from.
        embeddings: Token embeddings `tok` and position embeddings `pos`, where they are read.
        rotaries: The model's rotary embeddings, where there are some and heads run.
        layers: Layers with live heads or a live MLP.
        unembedding: From the residual stream to the logits.

    Examples:
        >>> from circuitgraph import Circuit, compile_model, extract_circuit, load_model
        >>> from circuitgraph.tracr import ground_truth_edges
        >>> compiled = compile_model(load_model("tracr:reverse"), embeddings="split")
        >>> circuit = Circuit.from_edges(compiled.universe, ground_truth_edges("reverse"), ablation="zero")
        >>> extract_circuit(circuit, compiled).live_mlps
        ('m0', 'm1', 'm2')
    """

    def __init__(self, layout: CircuitLayout, bound: BoundModel, origin: Origin) -> None:
        super().__init__()
        self.layout, self.origin = layout, origin
        self.embeddings = nn.ModuleDict()
        for name, table in _embedding_tables(layout, bound).items():
            self.embeddings[name] = table
        turns = any(part.attention for part in layout.layers)
        self.rotaries = nn.ModuleList(own_copy(rotary) for rotary in bound.rotaries if turns)
        self.layers = nn.ModuleList(Layer(part, bound, layout) for part in layout.layers)
        self.unembedding = Unembedding(layout.logits, bound, n_columns=layout.n_columns)
        self._keeps_total = any(read.all_but for read in layout.reads())
        self.eval()

    def tie_embeddings(self) -> bool:
        """Share the token embedding with the output head where they are the same, as the model does."""
        unembed = self.unembedding.unembed
        if "tok" not in self.embeddings or not isinstance(unembed, nn.Linear):
            return False
        table: Any = self.embeddings["tok"]
        if table.weight.shape != unembed.weight.shape or not torch.equal(table.weight, unembed.weight):
            return False
        unembed.weight = table.weight
        return True

    @property
    def ablation(self) -> str:
        """What cut edges carry."""
        return self.origin.ablation

    @property
    def live_heads(self) -> tuple[str, ...]:
        """Heads that run, such as `a3.h7`."""
        return self.layout.live_heads

    @property
    def live_mlps(self) -> tuple[str, ...]:
        """MLPs that run, such as `m3`."""
        return self.layout.live_mlps

    @property
    def n_parameters(self) -> int:
        """Weights held; constants are not among them."""
        return sum(weight.numel() for weight in self.parameters())

    @property
    def n_constants(self) -> int:
        """Numbers that stand for what does not run."""
        return sum(values.numel() for name, values in self.named_buffers() if name.endswith(".constant"))

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        *,
        at: Int[Tensor, " asked"] | None = None,
    ) -> Float[Tensor, "batch seq d_vocab"] | Float[Tensor, "asked d_vocab"]:
        """Run the circuit.

        Args:
            input_ids: Token ids.
            attention_mask: 1 at real tokens, 0 at padding on either side; all 1 by default.
            at: Positions whose logits are wanted, as flat indices `prompt * seq + position`; by default all.

        Returns:
            The logits at every position, or at the wanted ones; at padding they mean nothing.

        Raises:
            ConfigurationError: The constants are for prompts of another length.
        """
        batch, seq = input_ids.shape
        if self.layout.n_columns not in (1, seq):
            raise ConfigurationError(
                f"the circuit's constants are per position, for prompts of {self.layout.n_columns} tokens; got "
                f"{seq}. Extract it with ablation='mean' for prompts of any length"
            )
        padded = attention_mask is not None and bool((attention_mask == 0).any())
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        stream = Stream(keeps_total=self._keeps_total)
        self._embed(stream, input_ids, positions)
        prompts = Prompts(
            batch=batch,
            seq=seq,
            mask=visible_positions(attention_mask, self.layout.causal, padded=padded),
            # The first argument says the number format and the device, no more.
            rotaries=tuple(rotary(self.unembedding.read.constant, positions) for rotary in self.rotaries),
        )
        for layer in self.layers:
            layer(stream, prompts)
        if at is None:
            return self.unembedding(stream).expand(batch, seq, -1)
        return self.unembedding(stream.at(at, seq))[0].expand(len(at), -1)

    def _embed(self, stream: Stream, ids: Tensor, positions: Tensor) -> None:
        said = [table(ids if name == "tok" else positions) for name, table in self.embeddings.items()]
        if said and self.layout.universe.embeddings == "joint":
            said = [said[0] if len(said) == 1 else said[0] + said[1]]
        for name, tensor in zip(self.layout.embeddings, said, strict=True):
            stream.write(name, tensor)

    def __repr__(self) -> str:
        origin, share = self.origin, self.n_parameters / self.origin.n_parameters
        edges = f"{origin.n_edges:,} of {origin.n_universe:,} edges of {origin.model}"
        weights = f"{self.n_parameters:,} of {origin.n_parameters:,} parameters ({100 * share:.1f} %)"
        lines = [
            f"ExtractedCircuit of {edges} ({origin.ablation} ablation)",
            f"  {weights}, {self.n_constants:,} constants",
            f"  embeddings: {' '.join(self.layout.embeddings) or 'none'}",
        ]
        for part in self.layout.layers:
            heads = "heads " + " ".join(map(str, part.attention.heads)) if part.attention else ""
            running = ", ".join(text for text in (heads, "MLP" if part.mlp else "") if text)
            lines.append(f"  layer {part.layer}: {running}")
        if self.layout.folded:
            lines.append(f"  constant: {' '.join(self.layout.folded)}")
        return "\n".join(lines)


def _embedding_tables(layout: CircuitLayout, bound: BoundModel) -> dict[str, nn.Embedding]:
    """What each embedding that is read says to every token or position, as tables."""
    device = bound.blocks[0].raw_output.device
    found: dict[str, nn.Embedding] = {}
    for place, (name, size) in enumerate((("tok", layout.n_tokens), ("pos", layout.n_positions))):
        if size and (name in layout.embeddings or "input" in layout.embeddings):
            every = torch.arange(size, device=device)[None]
            nothing = torch.zeros_like(every)
            with torch.no_grad():
                said = bound.embed(*((every, nothing) if name == "tok" else (nothing, every)))[place][0]
            found[name] = nn.Embedding.from_pretrained(said.clone(), freeze=False)
    return found

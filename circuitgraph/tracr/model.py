"""A Tracr-compiled transformer as an ordinary torch module.

Stands where a Hugging Face model stands elsewhere: `loading` fills it, an architecture file binds its
modules, `compile_model` makes its graph. It computes what Tracr's own Haiku model computes, plus a mask
for padding, which Tracr's lacks: no layer norms, attention in both directions (unless the program was
compiled causal), ReLU in the MLP, and a projection onto the output directions in place of a vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuitgraph.errors import ConfigurationError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class TracrConfig:
    """Shape and vocabulary of a Tracr-compiled transformer.

    Attributes:
        program: Name of the RASP program.
        n_layers: Blocks, each an attention and an MLP.
        n_heads: Heads a layer; Tracr fills layers that need fewer with zero heads.
        d_head: Width of a head (Tracr's key size); `n_heads * d_head` need not be `d_model`.
        d_model: Width of the residual stream.
        d_mlp: Width of the MLP's hidden layer.
        n_positions: Positions, BOS included.
        d_out: Output columns: one per symbol, or a single number.
        output: Whether the output columns are the scores of symbols or a number.
        tokens: The input vocabulary, by token id, with BOS and padding.
        bos_token: The token before every prompt.
        pad_token: The token that stands for padding.
        output_symbols: The symbol of each output column; empty for a number.
        residual_labels: What each direction of the residual stream stands for.
        causal: Whether a position sees only itself and what is before it.
        model_type: Always `tracr`; the family's name, as in Hugging Face configs.

    Examples:
        >>> from circuitgraph.tracr import load_tracr
        >>> config = load_tracr("reverse").model.config
        >>> config.program, config.output, config.output_symbols[:3]
        ('reverse', 'categorical', ('1', '2', '3'))
    """

    program: str
    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    n_positions: int
    d_out: int
    output: Literal["categorical", "numeric"]
    tokens: tuple[str, ...]
    bos_token: str
    pad_token: str
    output_symbols: tuple[str, ...]
    residual_labels: tuple[str, ...]
    causal: bool = False
    model_type: str = "tracr"

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        expected_symbols = self.d_out if self.output == "categorical" else 0
        if len(self.output_symbols) != expected_symbols:
            raise ConfigurationError(
                f"expected {expected_symbols} output_symbols for {self.output} output with "
                f"d_out={self.d_out}, got {len(self.output_symbols)}"
            )
        if self.output == "numeric" and self.d_out != 1:
            raise ConfigurationError(f"expected d_out=1 for numeric output, got {self.d_out}")
        if len(self.residual_labels) != self.d_model:
            raise ConfigurationError(
                f"expected {self.d_model} residual_labels (d_model), got {len(self.residual_labels)}"
            )
        for token in (self.bos_token, self.pad_token):
            if token not in self.tokens:
                raise ConfigurationError(f"expected {token!r} among tokens, got {list(self.tokens)}")

    @property
    def vocab_size(self) -> int:
        """Input tokens, BOS and padding included."""
        return len(self.tokens)

    def to_dict(self) -> dict[str, object]:
        """Give every field in JSON's types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> TracrConfig:
        """Read what `to_dict` wrote.

        Raises:
            UnknownNameError: A field that no config has.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownNameError.of("field of a Tracr config", name, known)
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**plain)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class TracrOutput:
    """What a forward pass returns.

    Attributes:
        logits: The output columns at each position: about 1 for the right symbol and 0 for the others
            (categorical), or the number itself (numeric).
    """

    logits: Float[Tensor, "batch seq d_out"]


class TracrAttention(nn.Module):
    """Multi-head attention with a bias on every projection.

    Attributes:
        q: Queries, `[n_heads * d_head, d_model]`, one head after the other.
        k: Keys, likewise.
        v: Values, likewise.
        o: The heads' values back to the residual stream, `[d_model, n_heads * d_head]`.
    """

    def __init__(self, config: TracrConfig) -> None:
        """Make the projections."""
        super().__init__()
        self.n_heads = config.n_heads
        self.d_head = config.d_head
        width = config.n_heads * config.d_head
        self.q = nn.Linear(config.d_model, width)
        self.k = nn.Linear(config.d_model, width)
        self.v = nn.Linear(config.d_model, width)
        self.o = nn.Linear(width, config.d_model)

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], visible: Bool[Tensor, "batch query key"]
    ) -> Float[Tensor, "batch seq d_model"]:
        """Let each position look at the positions that are visible to it."""
        q, k, v = (
            projection(x).unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.d_head)
        scores = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min)
        heads = scores.softmax(dim=-1) @ v
        return self.o(heads.transpose(1, 2).flatten(-2))


class TracrMLP(nn.Module):
    """Two linear maps with a ReLU between them."""

    def __init__(self, config: TracrConfig) -> None:
        """Make the two maps."""
        super().__init__()
        self.fc_in = nn.Linear(config.d_model, config.d_mlp)
        self.act = nn.ReLU()
        self.fc_out = nn.Linear(config.d_mlp, config.d_model)

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        """Map each position by itself."""
        return self.fc_out(self.act(self.fc_in(x)))


class TracrBlock(nn.Module):
    """Attention, then MLP, each added to the residual stream, without norms."""

    def __init__(self, config: TracrConfig) -> None:
        """Make the two halves."""
        super().__init__()
        self.attn = TracrAttention(config)
        self.mlp = TracrMLP(config)

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], visible: Bool[Tensor, "batch query key"]
    ) -> Float[Tensor, "batch seq d_model"]:
        """Add what the block says."""
        x = x + self.attn(x, visible)
        return x + self.mlp(x)


class TracrModel(nn.Module):
    """The whole transformer, its weights zero until they are loaded.

    Attributes:
        config: Its shape and vocabulary.
        tok_embed: Token embedding.
        pos_embed: Embedding of positions, zero at BOS.
        blocks: The layers.
        unembed: The projection onto the output directions.

    Examples:
        >>> from circuitgraph.tracr import load_tracr
        >>> loaded = load_tracr("reverse")
        >>> ids = torch.tensor([loaded.tokenizer.encode_tokens(("1", "2", "2"))])
        >>> best = loaded.model(ids).logits[0].argmax(-1)
        >>> [loaded.tokenizer.output_symbols[index] for index in best[1:]]
        ['2', '2', '1']
    """

    def __init__(self, config: TracrConfig) -> None:
        """Make the modules; the global random state is left as it was."""
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # "meta" would take two seconds here
            self.tok_embed = nn.Embedding(config.vocab_size, config.d_model)
            self.pos_embed = nn.Embedding(config.n_positions, config.d_model)
            self.blocks = nn.ModuleList(TracrBlock(config) for _ in range(config.n_layers))
            self.unembed = nn.Linear(config.d_model, config.d_out, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.unembed.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.unembed.weight.device

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        position_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> TracrOutput:
        """Run the program.

        Args:
            input_ids: Token ids, BOS first.
            attention_mask: 1 at real tokens, 0 at padding, which may be on either side; all 1 by default.
            position_ids: Positions, 0 at BOS; counted over the real tokens by default.

        Returns:
            The output columns at every position. At BOS and at padding they mean nothing.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if position_ids is None:
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        x = self.tok_embed(input_ids) + self.pos_embed(position_ids)
        visible = attention_mask.bool()[:, None, :].expand(-1, input_ids.shape[1], -1)
        if self.config.causal:
            visible = visible.tril()
        for block in self.blocks:
            x = block(x, visible)
        return TracrOutput(logits=self.unembed(x))
